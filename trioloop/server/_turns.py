"""Writes of one turn of the scheduler, joined: one call of the system for each connection.

The laws of this file:

* What is written in a turn goes out at its end, before the event loop waits for anything: nothing
  is held back for the sake of what may follow.
* Where little is written it goes out at once, so that nobody waits for others of the same turn; what
  is saved by joining writes is saved where there are many.
* However many connections have something to write, others get their turn after `SLICE` of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

SLICE: Final = 64
"""Connections that are written to between two checkpoints."""
AT_ONCE: Final = 16
"""Writes within `WINDOW` seconds that do not wait for the end of their turn."""
WINDOW: Final = 0.01


class Flushable(Protocol):
    """Something with bytes to write."""

    def flush(self) -> None:
        """Write them, without waiting and without raising."""


class Turns:
    """Writes at the end of each turn, in a task of its own.

    Args:
        start: runs that task, as soon as there is something to write.
    """

    def __init__(self, start: Callable[[Callable[[], Awaitable[None]]], object]) -> None:
        self._start = start
        self._started = False
        self._waiting: list[Flushable] = []
        self._parked: trio.lowlevel.Task | None = None
        self._held = False
        self._window_ends = 0.0
        self._at_once = 0  # writes, in this window

    def may_write_at_once(self) -> bool:
        """Whether so little is being written that it can go out now. Whoever asks does it."""
        if self._held:
            return False
        if self._at_once < AT_ONCE:
            self._at_once += 1
            return True
        now = trio.current_time()
        if now < self._window_ends:
            return False
        self._window_ends = now + WINDOW
        self._at_once = 1
        return True

    def add(self, item: Flushable) -> None:
        """Flush this one at the end of the turn."""
        self._waiting.append(item)
        if not self._held:
            self._wake()

    def hold(self) -> None:
        """Have `release` flush, without another task."""
        self._held = True

    def release(self) -> None:
        """Flush what was added, at least some of it."""
        self._held = False
        items, self._waiting = self._waiting[:SLICE], self._waiting[SLICE:]
        for item in items:
            item.flush()
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        if not self._started:
            self._started = True
            self._start(self._run)
        elif self._parked is not None:
            parked, self._parked = self._parked, None
            trio.lowlevel.reschedule(parked)

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                self._parked = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            items, self._waiting = self._waiting, []
            for number, item in enumerate(items, 1):
                item.flush()
                if number % SLICE == 0:
                    await trio.lowlevel.checkpoint()

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED
