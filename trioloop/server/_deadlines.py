"""One clock for all the connections of a worker.

The laws of this file:

* To set a deadline or to lift it is one operation on a dictionary, whatever the number of
  connections: a request sets two, and a cancel scope each would cost more than parsing it.
* All deadlines of one group are equally long, so the order of setting is the order of coming.
* A deadline may be told up to `GRAIN` late, never early.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

GRAIN: Final = 0.02
"""Seconds between two looks at the clock."""

T = TypeVar("T")


class Group(Generic[T]):
    """Deadlines that are equally long.

    Args:
        clock: what looks at them.
        seconds: how long they are; ``math.inf`` for none.
        tell: called with each whose deadline has come. It is lifted by then.
    """

    __slots__ = ("_clock", "_due", "_tell", "seconds")

    def __init__(self, clock: Clock, seconds: float, tell: Callable[[T], object]) -> None:
        self._clock = clock
        self._due: dict[T, float] = {}
        self._tell = tell
        self.seconds: float = seconds

    def start(self, item: T) -> None:
        """Set the deadline of an item, anew if it has one."""
        if self.seconds != math.inf:
            due = trio.current_time() + self.seconds
            self._due.pop(item, None)  # to the end
            self._due[item] = due
            if due < self._clock.next_look:
                self._clock.look_at(due)

    def stop(self, item: T) -> None:
        """Lift the deadline of an item, if it has one."""
        self._due.pop(item, None)

    def sweep(self, now: float) -> float:
        """Tell what has come; returns when the next will."""
        come: list[T] = []
        following = math.inf
        for item, due in self._due.items():
            if due > now:
                following = due
                break
            come.append(item)
        for item in come:
            self._due.pop(item, None)
        for item in come:
            self._tell(item)
        return following


class Clock:
    """Looks at all groups, in a task of its own.

    Args:
        start: runs that task, as soon as there is a deadline.
    """

    def __init__(self, start: Callable[[Callable[[], Awaitable[None]]], object]) -> None:
        self._start = start
        self._started = False
        self._groups: list[Group[object]] = []
        self._nap: trio.CancelScope | None = None
        self.next_look: float = math.inf

    def group(self, seconds: float, tell: Callable[[T], object]) -> Group[T]:
        """A new group of deadlines, see `Group`."""
        group = Group(self, seconds, tell)
        self._groups.append(group)  # type: ignore[arg-type] # it only sweeps
        return group

    def look_at(self, when: float) -> None:
        """Look no later than at this time."""
        self.next_look = when
        if not self._started:
            self._started = True
            self._start(self._run)
        elif self._nap is not None:
            self._nap.deadline = when

    async def _run(self) -> None:
        while True:
            now = trio.current_time()
            self.next_look = math.inf  # lowered by who is told, and sets another deadline
            following = min((group.sweep(now) for group in self._groups), default=math.inf)
            self.next_look = max(min(self.next_look, following), now + GRAIN)
            with trio.CancelScope(deadline=self.next_look) as self._nap:
                await trio.sleep_forever()
