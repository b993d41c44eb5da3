"""Alarms: one clock for everything of a hub that has a time to look at.

Laws of this file:

* An alarm is two numbers and a place in a heap. To move it to a later time costs nothing: it is
  looked at when the earlier one comes, and put off.
* What an alarm does must not raise: it runs in a task of the hub.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

import trio

MANY: Final = 16
"""Places in the heap that may wait for a time that is no alarm's any more."""


class Alarm:
    """A function to be called at a time that moves.

    Args:
        clock: what looks at it.
        ring: what it does. Stopped alarms let go of it.
    """

    __slots__ = ("_clock", "_ring", "_seen_at", "due")

    def __init__(self, clock: Clock, ring: Callable[[], object]) -> None:
        self._clock = clock
        self._ring: Callable[[], object] | None = ring
        self._seen_at = math.inf  # when it is looked at, at the latest
        self.due: float = math.inf

    def ring_at(self, when: float) -> None:
        """Ring at this time (Trio's clock), and at no other."""
        self.due = when
        if when < self._seen_at and self._ring is not None:
            if self._seen_at < math.inf:
                self._clock.forget()
            self._seen_at = when
            self._clock.look_at(self, when)

    def stop(self) -> None:
        """Ring no more."""
        self.due = math.inf
        self._ring = None
        if self._seen_at < math.inf:
            self._seen_at = math.inf
            self._clock.forget()

    def look(self, when: float, now: float) -> None:
        """The time has come at which it wanted to be looked at."""
        if when != self._seen_at or self._ring is None:
            return  # it has been moved to an earlier time, or was stopped
        self._seen_at = math.inf
        if self.due <= now:
            self.due = math.inf
            self._ring()
        elif self.due < math.inf:
            self.ring_at(self.due)

    def is_seen_at(self, when: float) -> bool:
        """Whether this is its place in the heap."""
        return when == self._seen_at


class Clock:
    """Looks at alarms, in a task of its own."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._serial = 0  # alarms of one time ring in the order of setting
        self._left = 0  # places, since they were last cleared away
        self._nap: trio.CancelScope | None = None

    def look_at(self, alarm: Alarm, when: float) -> None:
        """Look at an alarm at this time."""
        self._serial += 1
        heappush(self._heap, (when, self._serial, alarm))
        if self._nap is not None and when < self._nap.deadline:
            self._nap.deadline = when

    def forget(self) -> None:
        """An alarm has left its place: it is not looked at there. Those are cleared away together."""
        self._left += 1
        if self._left > MANY and self._left > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].is_seen_at(entry[0])]
            heapify(self._heap)
            self._left = 0

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                when, _, alarm = heappop(self._heap)
                alarm.look(when, now)
            next_look = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=next_look) as self._nap:
                await trio.sleep_forever()
