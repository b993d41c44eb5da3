"""The loop: one handler, from ``init`` to ``terminate``.

Laws of this file:

* One task, one callback at a time. Each turn: take a message, call back; when there is none,
  write what is pending; when there is nothing to write, wait.
* Callbacks and writes are shielded from the hub's nursery and the handler's own: only the machine
  cancels them, for a reason that interrupts. One scope serves all turns. Where a handler lives in
  somebody else's task, each has a scope of its own, and what cancels that task ends the handler.
* A wait is not cancelled by the machine but woken, for whatever concerns the handler: a message, its
  end, the alarm, its nursery.
* A handler that hibernates has no task of its own and no nursery: its machine and its mailbox are all
  that is left.
* The alarm belongs to whoever listens to the client. It moves only when it must, and may ring too
  early.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, cast

import trio

from ._machine import Machine
from ._mailbox import NOTHING
from ._reasons import CallbackName, Completed, Failed, ShutDown

MAX_BATCH: Final = 64
"""Messages whose output may share one write, and that are handled between two checkpoints."""
MAX_BATCH_BYTES: Final = 64 * 1024
"""Bytes of output that may share one write."""


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
                async with trio.open_nursery() as m.nursery:
                    if m.resident:
                        await take_turns(m)
                    else:
                        with trio.CancelScope(shield=True) as m.scope:
                            await take_turns(m)
                    m.phase = "running"  # whatever was interrupted
                    if m.used_nursery:
                        m.nursery.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                crash, rest = group.split(Exception)
                if crash is not None:
                    m.child_crashed(crash)
                if rest is not None:
                    raise rest from None
            finally:
                m.nursery, m.used_nursery = None, False
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
    await look_at_clock(m)
    turns = 0
    while m.reason is None and not (m.used_nursery and m.nursery_is_cancelled()):
        message = NOTHING if m.ahead and m.output.pending else m.next_message()  # before a Then
        if message is NOTHING:
            waiting = begin_to_write_or_wait(m)
            if waiting is None:
                return
            await waiting
            m.phase = "running"
            if m.woken:
                m.woken = False
                await look_at_clock(m)
            continue
        awaitable = m.handle(message)
        if awaitable is not None:
            await m.complete(awaitable)
        writing = m.message_done(message)
        turns += 1
        if turns % MAX_BATCH == 0 or m.output.size >= MAX_BATCH_BYTES:
            writing = writing or m.flush(m.note_silence()) or breathe()
        if writing is not None:
            await writing


def breathe() -> Awaitable[None]:
    """Let others have their turn."""
    return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - the loop awaits it


def begin_to_write_or_wait(m: Machine) -> Awaitable[object] | None:
    """Write what is pending; if that takes no time, wait for what comes next.

    Returns:
        What to await; `None` when a handler that hibernates has nothing to do.
    """
    if m.output.pending:
        writing = m.flush(m.note_silence())
        if writing is not None:
            return writing
        if m.ahead or m.reason is not None:
            return NOT_AT_ALL
    if m.called:
        m.note_silence()
    if m.hibernating and not m.has_child_tasks():
        return None
    if m.visits is not None:
        m.meet_visits()
        return NOT_AT_ALL
    m.prepare_to_wait()
    return m.mailbox.wait()


class _Immediately:
    """What takes no time to await, and is no checkpoint."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


NOT_AT_ALL: Final = _Immediately()


async def look_at_clock(m: Machine) -> None:
    """Do what is due: the start, timers, signs of life, the idle timeout."""
    m.phase = "running"
    if m.reason is not None:
        return  # the end has woken a hibernating handler
    if not m.entered:
        m.entered = True
        await call_back(m, "init", m.handler.init, m.handler.request)
        if m.reason is None and m.output.initialised():
            m.end(Completed())
        m.restart_silence()
        return
    now = trio.current_time()
    m.accept_due_timers()
    if m.output.tick_due <= now:
        m.output.tick(now)
    if m.is_idle(now):
        await call_back(m, "idle", m.handler.idle)
        m.restart_silence()


async def call_back(
    m: Machine, callback: CallbackName, function: Callable[..., Any], *args: Any
) -> None:
    """Call a callback that has no message, and carry out what it returns."""
    awaitable = m.begin(callback, function, *args)
    if awaitable is not None:
        await m.complete(awaitable)


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
