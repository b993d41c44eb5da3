"""The journal: who did what, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import starmap
from typing import Any, TypeAlias

Note: TypeAlias = tuple[float, str, str, Any]
"""What an `Entry` is made of. Far more is written than read, and a tuple costs next to nothing."""


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
        self.notes: list[Note] = []
        self._now = now

    def note(self, who: str, what: str, detail: Any = None) -> None:
        """Write an entry."""
        self.notes.append((self._now(), who, what, detail))

    @property
    def entries(self) -> list[Entry]:
        """All of them."""
        return list(self)

    def __len__(self) -> int:
        return len(self.notes)

    def __iter__(self) -> Iterator[Entry]:
        return starmap(Entry, self.notes)
