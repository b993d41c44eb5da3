"""Callbacks: they are called, awaited, and what they return is carried out.

Laws of this file:

* Nothing that is pending waits while a callback is awaited: it is written before.
* What is returned is checked whole before any of it is carried out.
* What a callback raises ends its handler, and nobody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import trio

from ._commands import CancelTimer, Continue, Hibernate, Postpone, SendAfter, Stop, Then
from ._errors import BadReturn
from ._machine import Machine
from ._mailbox import NOTHING, Notification, Received
from ._reasons import CallbackName, Completed, Failed, Stopped
from ._timers import Timers


def handle(m: Machine, message: object) -> Awaitable[Any] | None:
    """Call back for a message; what is to be awaited is returned."""
    m.hibernating = False
    if type(message) is Received:
        if m.called:
            m.note_silence()  # of the mailbox: what the client sends does not move it
        return begin(m, "receive", message.callback, message.data)
    m.called = True
    m.handled += 1
    m.current = message
    if type(message) is Notification:
        return begin(m, "notify", m.handler.notify, message.message)
    return begin(m, "info", m.handler.info, message)


def begin(
    m: Machine, callback: CallbackName, function: Callable[..., Any], *args: Any
) -> Awaitable[Any] | None:
    """Call back. What a ``def`` returned is carried out, what is to be awaited is returned."""
    try:
        outcome: object = function(*args)
    except Exception as error:
        m.crash(error, callback)
        return None
    if outcome is None:
        return None
    if type(outcome) in m.output.plain:
        _perform(m, callback, outcome)
    elif hasattr(type(outcome), "__await__"):
        m.callback = callback
        return cast("Awaitable[Any]", outcome)
    else:
        _carry_out(m, callback, outcome)
    return None


async def complete(m: Machine, awaitable: Awaitable[Any]) -> None:
    """Await the rest of an ``async def`` callback; nothing pending waits for it meanwhile."""
    callback = m.callback
    m.awaits = m.awaits or callback != "init"
    assert m.household is not None
    m.household.open()  # before what may enter scopes of its own
    at_once = m.reason is None and not m.output.pending
    if not (at_once or await _write_before(m, awaitable)):
        return
    if callback == "receive":
        m.output.data_done()  # the client is heard while the callback runs
    m.phase = "callback"
    try:
        outcome = await (m.interruptible(awaitable) if m.resident else awaitable)
    except Exception as error:
        m.crash(error, callback)
    except BaseExceptionGroup as group:
        _crash_by(m, group, callback)
    else:
        m.phase = "running"
        if not (outcome is None or outcome is NOTHING):
            _carry_out(m, callback, outcome)
    m.note_silence()
    if m.visits is not None:
        m.meet_visits()


async def _write_before(m: Machine, awaitable: Awaitable[Any]) -> bool:
    """Write what is pending; false when the callback cannot go on after that."""
    goes_on = False
    try:
        writing = m.flush(m.hub.now())
        if writing is not None:
            await writing
        goes_on = m.reason is None
    finally:
        if not goes_on:
            _abandon(m, awaitable)
    return goes_on


def _crash_by(m: Machine, group: BaseExceptionGroup, callback: CallbackName) -> None:
    crash, rest = group.split(Exception)
    if crash is not None:
        m.crash(crash, callback)
    if rest is not None:
        raise rest from None


def _abandon(m: Machine, awaitable: Awaitable[Any]) -> None:
    """The end came before the callback began: its message has not been handled."""
    getattr(awaitable, "close", lambda: None)()
    if m.current is not NOTHING:
        m.put_first(m.current)


def _carry_out(m: Machine, callback: CallbackName, outcome: object) -> None:
    """Check a return value whole, then do what it says."""
    several = type(outcome) in (list, tuple)
    commands = cast("Sequence[object]", outcome) if several else (outcome,)
    try:
        problem = m.output.check(callback, commands)
    except Exception as error:  # of a value whose repr raises
        m.crash(error, callback)
        return
    if problem is not None:
        m.crash(BadReturn(callback, outcome, problem), callback)
        return
    m.put_first(*[command.message for command in commands if type(command) is Then])
    for command in commands:
        if not _perform(m, callback, command):
            return


def _perform(m: Machine, callback: CallbackName, command: object) -> bool:
    """Carry out one command; false when it failed, and the others have no place any more."""
    perform = _FLOW.get(type(command))
    if perform is not None:
        perform(m, command)
        return True
    try:
        if m.output.add(command):
            m.end(Completed() if callback == "init" else Stopped())
    except Exception as error:
        m.end(Failed(error))
        return False
    return True


def _continue(m: Machine, command: Continue) -> None:
    if command.idle_timeout is not None:
        _set_idle_timeout(m, command.idle_timeout)
    if command.receive_timeout is not None or command.receive is not None:
        m.output.regulate(command)
        m.alarm_is_late = True


def _hibernate(m: Machine, command: Hibernate) -> None:
    m.hibernating = True
    if command.idle_timeout is not None:
        _set_idle_timeout(m, command.idle_timeout)


def _set_idle_timeout(m: Machine, seconds: float) -> None:
    m.idle_timeout = seconds
    m.alarm_is_late = True


def _stop(m: Machine, command: Stop) -> None:
    m.end(command.reason)


def _then(_m: Machine, _: Then) -> None:
    """`_carry_out` has put the messages first, all at once, so that they keep their order."""


def _send_after(m: Machine, command: SendAfter) -> None:
    if m.timers is None:
        m.timers = Timers()
        m.mailbox.overdue = m.accept_due_timers
    when = trio.current_time() + command.delay
    m.timers.start(when, command.message, command.key)
    m.alarm_is_late = True


def _cancel_timer(m: Machine, command: CancelTimer) -> None:
    if m.timers is not None:
        m.timers.cancel(command.key)


def _postpone(m: Machine, _: Postpone) -> None:
    m.postpone = True


_FLOW: dict[type, Callable[[Machine, Any], None]] = {
    Continue: _continue,
    Hibernate: _hibernate,
    Stop: _stop,
    Then: _then,
    SendAfter: _send_after,
    CancelTimer: _cancel_timer,
    Postpone: _postpone,
}
