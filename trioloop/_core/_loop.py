"""The loop: one handler, from ``init`` to ``terminate``.

Laws of this file:

* One callback at a time. Each turn: take a message, call back; when there is none,
  write what is pending; when there is nothing to write, wait.
* Callbacks and writes are shielded from the hub's nursery and the handler's own: only the machine
  cancels them, for a reason that interrupts. One scope serves all turns. Where a handler lives in
  somebody else's task, each has a scope of its own, and what cancels that task ends the handler.
* A wait is not cancelled by the machine but woken, for whatever concerns the handler: a message, its
  end, the alarm, its nursery. While it lasts, somebody else may do what takes no time (`go_on`).
* A handler that hibernates has no task of its own and no nursery: its machine and its mailbox are all
  that is left.
* The alarm belongs to whoever listens to the client. It moves only when it must, and may ring too
  early.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, cast, final

import trio

from ._callbacks import begin, complete, handle
from ._household import Household
from ._machine import Machine
from ._mailbox import NOTHING
from ._reasons import CallbackName, Completed, Failed, ShutDown

MAX_BATCH: Final = 64
"""Messages whose output may share one write, and that are handled between two checkpoints."""
MAX_BATCH_BYTES: Final = 64 * 1024
"""Bytes of output that may share one write."""


@final
class Pause(enum.Enum):
    """No message can be handled, and nothing is to be awaited."""

    WAIT = "WAIT"
    AGAIN = "AGAIN"


WAIT: Final = Pause.WAIT
AGAIN: Final = Pause.AGAIN


async def run_handler(m: Machine) -> None:
    """Run one handler to its end; or until it hibernates: then whatever wakes it runs it again.

    A handler that is resident hibernates in here.

    Raises:
        BaseException: only what ends the whole run, or the task in which a handler is resident.
    """
    m.awake()
    try:
        while m.reason is None and not m.asleep:
            try:
                async with Household(m) as m.household:
                    if m.resident:
                        await take_turns(m)
                    else:
                        m.household.open()  # around the scope
                        with trio.CancelScope(shield=True) as m.scope:
                            await take_turns(m)
                    m.phase = "running"  # whatever was interrupted
                    m.household.dismiss()
            except BaseExceptionGroup as group:
                crash, rest = group.split(Exception)
                if crash is not None:
                    m.child_crashed(crash)
                if rest is not None:
                    raise rest from None
            except Exception as error:  # bare, for no nursery was opened
                m.crash(error, "nursery")
            finally:
                m.household = None
            if m.hibernating:
                m.fall_asleep()
                if m.asleep and m.resident:
                    await m.sleep()
    finally:
        if not m.asleep:
            m.end(ShutDown())  # unless there is a reason: then the hub itself is being cancelled
            await conclude(m)


async def take_turns(m: Machine) -> None:
    """Handle messages until there is a reason to end, or to leave the nursery."""
    due = look_at_clock(m)
    if due is not None:
        await due
    while (awaitable := go_on(m)) is not None:
        if awaitable is not WAIT:
            await awaitable
            continue
        await m.mailbox.wait()
        if m.left is not None:
            awaitable, m.left = m.left, None
            await awaitable
        m.phase = "running"
        if m.woken:
            m.woken = False
            due = look_at_clock(m)
            if due is not None:
                await due


def go_on(m: Machine) -> Awaitable[object] | Literal[Pause.WAIT] | None:
    """Do what takes no time, in the handler's task or for it.

    Returns:
        What to await; `WAIT` when nothing is left to do; `None` when there is a reason to leave the
        turns.
    """
    household = m.household
    assert household is not None
    while m.reason is None and not (household.used and household.is_cancelled()):
        message = NOTHING if m.ahead and m.output.pending else m.next_message()  # before a Then
        if message is NOTHING:
            left = write_or_pause(m, household)
            if left is not AGAIN:
                return left
            continue
        awaitable = handle(m, message)
        left = end_turn(m, message) if awaitable is None else finish_turn(m, awaitable, message)
        if left is not None:
            return left
    return None


def write_or_pause(m: Machine, household: Household) -> Awaitable[object] | Pause | None:
    """Write what is pending; if that takes no time, there is a pause.

    Returns:
        As of `go_on`; `AGAIN` when that may have given it something to do.
    """
    if m.output.pending:
        writing = m.flush(m.note_silence())
        if writing is not None:
            return writing
        if m.ahead or m.reason is not None:
            return AGAIN
    elif m.called:
        m.note_silence()
    if m.hibernating and not household.has_child_tasks():
        return None
    if m.visits is not None:
        m.meet_visits()
        return AGAIN
    if m.turns and m.resident:
        household.open()  # from now on it is dispatched
    m.prepare_to_wait()
    return WAIT


async def finish_turn(m: Machine, awaitable: Awaitable[object], message: object) -> None:
    """Await the rest of an ``async def`` callback, and what follows from it."""
    await complete(m, awaitable)
    writing = end_turn(m, message)
    if writing is not None:
        await writing


def end_turn(m: Machine, message: object) -> Awaitable[object] | None:
    """A message has been handled; what is to be awaited is returned."""
    writing = m.message_done(message)
    m.turns += 1
    if m.turns % MAX_BATCH == 0 or m.output.size >= MAX_BATCH_BYTES:
        return writing or m.flush(m.note_silence()) or breathe()
    return writing


def breathe() -> Awaitable[None]:
    """Let others have their turn."""
    return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - the loop awaits it


def look_at_clock(m: Machine) -> Awaitable[None] | None:
    """Do what is due: the start, timers, signs of life, the idle timeout.

    Returns:
        What to await.
    """
    m.phase = "running"
    if m.reason is not None:
        return None  # the end has woken a hibernating handler
    if not m.entered:
        m.entered = True
        return call_back(m, "init", m.handler.init, m.handler.request)
    now = m.hub.now()
    m.accept_due_timers()
    if m.output.tick_due <= now:
        m.output.tick(now)
    return call_back(m, "idle", m.handler.idle) if m.is_idle(now) else None


def call_back(
    m: Machine, callback: CallbackName, function: Callable[..., Any], *args: Any
) -> Awaitable[None] | None:
    """Call a callback that has no message; what is to be awaited is returned."""
    awaitable = begin(m, callback, function, *args)
    if awaitable is not None:
        return finish_call(m, callback, awaitable)
    end_call(m, callback)
    return None


async def finish_call(m: Machine, callback: CallbackName, awaitable: Awaitable[object]) -> None:
    """Await the rest of an ``async def`` callback that has no message."""
    await complete(m, awaitable)
    end_call(m, callback)


def end_call(m: Machine, callback: CallbackName) -> None:
    """A callback that has no message is over: the idle time starts anew."""
    if callback == "init" and m.reason is None and m.output.initialised():
        m.end(Completed())
    m.restart_silence()


async def conclude(m: Machine) -> None:
    """Write the ending, bury what is left, ``terminate``, tell the others: in this order."""
    if not m.finish_nowait():
        await m.finish()
    m.phase = "terminating"
    m.bury_all()
    m.report_end()
    tell = m.output.failure(m.reason.error) if isinstance(m.reason, Failed) else None
    if tell is not None:
        await last_call(m, "error", tell)
    if m.entered:
        await last_call(m, "terminate", m.handler.terminate, m.reason)
    m.over()


async def last_call(m: Machine, callback: str, function: Callable[..., Any], *args: Any) -> None:
    """Call a callback that can change nothing any more: shielded, bounded, errors reported."""
    limit = m.handler.terminate_timeout
    try:
        outcome: object = function(*args)
        if hasattr(type(outcome), "__await__"):
            with trio.move_on_after(limit, shield=True) as scope:
                await cast("Awaitable[object]", outcome)
            if scope.cancelled_caught:
                late = trio.TooSlowError(f"not finished after {limit:g} s")
                m.report_crash(late, callback)
    except Exception as error:
        m.report_crash(error, callback)
