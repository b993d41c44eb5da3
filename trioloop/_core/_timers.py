"""A handler's own timers: a heap that is looked at, never a task.

Laws of this file:

* A timer belongs to one handler and fires by being asked: the loop asks when its alarm rings, the
  mailbox before it accepts anybody else's message. So a due timer is accepted before whatever
  comes later, and at its own instant before the idle timeout.
* The same key replaces: at most one timer of a key is alive.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator


class Timers:
    """Pending messages of one handler to itself."""

    __slots__ = ("_heap", "_keys", "_live", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable, object]] = []
        self._keys: dict[Hashable, int] = {}
        self._serial = 0
        self._live: set[int] = set()

    def start(self, when: float, message: object, key: Hashable) -> None:
        """Fire at the time ``when`` (Trio's clock, seconds)."""
        self.cancel(key)
        self._serial += 1
        self._live.add(self._serial)
        if key is not None:
            self._keys[key] = self._serial
        heapq.heappush(self._heap, (when, self._serial, key, message))

    def cancel(self, key: Hashable) -> None:
        """Forget the timer of this key, if there is one."""
        serial = None if key is None else self._keys.pop(key, None)
        if serial is None:
            return
        self._live.discard(serial)
        if len(self._heap) > 2 * len(self._live) + 16:  # a key that is often replaced
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapq.heapify(self._heap)

    def next_deadline(self) -> float:
        """When the next timer fires, ``math.inf`` when none is set."""
        while self._heap and self._heap[0][1] not in self._live:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[object]:
        """Take out the messages whose time has come, in the order of their times."""
        while self.next_deadline() <= now:
            _, serial, key, message = heapq.heappop(self._heap)
            self._live.discard(serial)
            if key is not None:
                del self._keys[key]
            yield message

    def __len__(self) -> int:
        return len(self._live)
