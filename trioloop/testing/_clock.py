"""Time that moves only when it is told to."""

from __future__ import annotations

import math

import trio


class VirtualClock(trio.abc.Clock):
    """A Trio clock that stands still between two calls of `move_to`.

    Pass it to ``trio.run(..., clock=clock)``. Sleeping costs no real time, and nothing ever passes
    a deadline by accident: tests reach exact ties.

    Args:
        threadless: tell Trio that it never needs to wait for I/O; for runs that are stepped.
    """

    def __init__(self, *, threadless: bool = False) -> None:
        self._now = 0.0
        self._threadless = threadless

    def start_clock(self) -> None:
        """Nothing to start: time stands still."""

    def current_time(self) -> float:
        """Virtual seconds since the clock was made."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """How long Trio may wait for I/O, in real seconds."""
        if self._threadless or deadline <= self._now:
            return 0.0
        return math.inf

    def move_to(self, time: float) -> None:
        """Set the time. Trio notices at its next step.

        Args:
            time: virtual seconds; never less than now.
        """
        self._now = max(time, self._now)
