"""The journal: who did what, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Args:
        time: virtual seconds.
        who: ``"test"``, or the name of a client or a handler.
        what: a verb.
        detail: with what; any value that has a repr.
    """

    time: float
    who: str
    what: str
    detail: Any = None


class Journal:
    """Entries in the order in which they happened.

    Args:
        now: tells the virtual time.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.entries: list[Entry] = []
        self._now = now

    def note(self, who: str, what: str, detail: Any = None) -> None:
        """Write an entry."""
        self.entries.append(Entry(self._now(), who, what, detail))

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)
