"""A nursery that is opened only where it is needed.

Law of this file: it is opened and closed in one task, and between the two its scopes nest as if it had
been opened where the ``async with`` is.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import trio


class NurseryOnDemand:
    """Stands where a nursery would be opened; without `open` it costs nothing, nor takes a turn."""

    __slots__ = ("_opened",)

    def __init__(self) -> None:
        self._opened: AbstractAsyncContextManager[trio.Nursery, bool | None] | None = None

    async def __aenter__(self) -> Self:
        return self

    def open(self) -> trio.Nursery:
        """Open it, in the task that has entered it, and outside of all scopes it has entered since.

        A nursery does not block on entry, as `trio.open_nursery` says: so a function can enter one.
        """
        opened = trio.open_nursery()
        try:
            next(opened.__aenter__().__await__())
        except StopIteration as entered:
            self._opened = opened
            nursery: trio.Nursery = entered.value
            return nursery
        raise AssertionError("a nursery of this Trio blocks on entry")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._opened is None:
            return None
        return await self._opened.__aexit__(kind, error, traceback)
