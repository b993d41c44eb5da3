"""Which sockets of a worker have news: one epoll for all of them, and one task that waits for it.

The laws of this file:

* A socket is registered once, edge-triggered, so that to wait for it costs no call of the system.
* Watchers are told synchronously, and nothing that they raise gets out: it is reported, and theirs
  is the only connection that ends.
* However many have news, others get their turn after `SLICE` of them. Within a slice nobody else
  runs, so no descriptor is closed, used again and taken for its predecessor.
* A watcher that has more to do than is fair asks for its next turn, see `call_again`.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import trio

from ._turns import Turns

SLICE: Final = 64
"""Sockets whose news are told between two checkpoints."""

READABLE: Final[int] = getattr(select, "EPOLLIN", 0x1)
WRITABLE: Final[int] = getattr(select, "EPOLLOUT", 0x4)
BROKEN: Final[int] = getattr(select, "EPOLLHUP", 0x10) | getattr(select, "EPOLLERR", 0x8)
HUNG_UP: Final[int] = getattr(select, "EPOLLRDHUP", 0x2000) | BROKEN

_ALWAYS: Final[int] = READABLE | HUNG_UP | getattr(select, "EPOLLET", 0)

available: bool = hasattr(select, "epoll")
"""Whether sockets are watched in this way; elsewhere Trio waits for each."""


class Watcher(Protocol):
    """Somebody who wants to know about a socket."""

    def tell(self, events: int) -> None:
        """There may be news: any of `READABLE`, `WRITABLE` and `HUNG_UP`; 0 if it asked itself."""
        raise NotImplementedError

    def wake(self) -> None:
        """There will be no news any more."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close the socket."""
        raise NotImplementedError


class News(Protocol):
    """Where news of sockets come from: epoll(7), or what stands for it."""

    def register(self, number: int, events: int, /) -> None:
        """Tell of such events of a descriptor, once each time that they become true."""
        raise NotImplementedError

    def modify(self, number: int, events: int, /) -> None:
        """Tell of other events, and of what is true already."""
        raise NotImplementedError

    def unregister(self, number: int, /) -> None:
        """Tell nothing more of it."""
        raise NotImplementedError

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        """What is new: descriptors and events."""
        raise NotImplementedError

    async def wait(self) -> None:
        """Wait until there may be something new, or `interrupt` was called."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Wake whoever waits."""
        raise NotImplementedError

    def close(self) -> None:
        """Tell nothing more at all."""
        raise NotImplementedError


class Epoll:
    """The system's epoll."""

    def __init__(self) -> None:
        epoll = select.epoll()
        self._number = epoll.fileno()
        self.register = epoll.register
        self.modify = epoll.modify
        self.unregister = epoll.unregister
        self.poll = epoll.poll
        self.close = epoll.close

    async def wait(self) -> None:
        """See `News`."""
        with suppress(trio.ClosedResourceError):  # by `interrupt`
            await trio.lowlevel.wait_readable(self._number)

    def interrupt(self) -> None:
        """See `News`."""
        trio.lowlevel.notify_closing(self._number)


class Readiness:
    """Watches the sockets of one worker.

    Args:
        report: told what a watcher has raised.
        turns: what watchers write at the end of the turn goes out when a slice has been told.
        news: where news come from.

    Attributes:
        closed: whether nobody is told anything any more.
    """

    def __init__(self, report: Callable[[Exception], object], turns: Turns, news: News) -> None:
        self._news = news
        self._turns = turns
        self._report = report
        self._watchers: dict[int, Watcher] = {}
        self._again: list[Watcher] = []
        self._waiting = False
        self.closed: bool = False

    def register(self, number: int, watcher: Watcher) -> None:
        """Watch a socket, by the number of its descriptor."""
        self._watchers[number] = watcher
        self._news.register(number, _ALWAYS)

    def unregister(self, number: int) -> None:
        """Forget it, before it is closed."""
        if self._watchers.pop(number, None) is not None and not self.closed:
            self._news.unregister(number)

    def expect_room(self, number: int, *, expected: bool) -> None:
        """Say whether its watcher wants to know when it can write.

        Not always: a Unix socket has that news whenever its peer has read something.
        """
        if not self.closed:
            self._news.modify(number, _ALWAYS | WRITABLE if expected else _ALWAYS)

    def call_again(self, watcher: Watcher) -> None:
        """Tell it again in the next turn, without news."""
        self._again.append(watcher)
        if self._waiting:
            self._waiting = False
            self._news.interrupt()

    async def run(self) -> None:
        """Tell news, until cancelled."""
        try:
            while True:
                await self._wait()
                self._turns.hold()
                self._tell_slice()
                self._turns.release()
        finally:
            self._close()

    def _tell_slice(self) -> None:
        again, self._again = self._again[:SLICE], self._again[SLICE:]
        for watcher in again:
            self._tell(watcher, 0)
        for number, events in self._news.poll(0, SLICE):
            told = self._watchers.get(number)
            if told is not None:  # it may have been closed by one before it
                self._tell(told, events)

    async def _wait(self) -> None:
        if self._again:
            await trio.lowlevel.checkpoint()
            return
        self._waiting = True
        try:
            await self._news.wait()
        finally:
            self._waiting = False

    def _tell(self, watcher: Watcher, events: int) -> None:
        try:
            watcher.tell(events)
        except Exception as error:
            self._report(error)
            with suppress(Exception):
                watcher.abort()

    def _close(self) -> None:
        self.closed = True
        self._news.close()
        for watcher in list(self._watchers.values()):
            watcher.wake()
