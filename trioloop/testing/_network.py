"""Sockets in memory, and the news of them, for the server's own transport.

Laws of this file:

* A socket does what Linux does: it takes as many bytes as its window has room for, what has come
  before a reset or an end can be read, the first write after the client's leaving is answered by a
  reset.
* News are told as epoll(7) tells them, edge-triggered, and in the order in which they came.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
from collections.abc import Callable
from typing import Any, NoReturn

import trio

from ..server._readiness import BROKEN, HUNG_UP, READABLE, WRITABLE
from ._client_wire import Hangup


class MemorySocket:
    """The server's end of a connection, as far as the server's transport asks.

    Args:
        network: tells its news.
        arrived: called when there is something for the client to read.

    Attributes:
        window: unread bytes that it may hold.
        wanted: ... and more of them, which the client waits for.
        unread: what was written and not read.
        closed: the server has closed it; what it has written can still be read.
        gone: nobody reads any more.
    """

    def __init__(self, network: MemoryNews, arrived: Callable[[], object]) -> None:
        self._network = network
        self.arrived: Callable[[], object] = arrived
        self._number = network.number(self)
        self._incoming = bytearray()
        self._ended = False  # the client sends nothing more
        self._reset = False
        self._told = False  # ... and the server knows
        self.window: float = math.inf
        self.wanted: int = 0
        self.unread: bytearray = bytearray()
        self.closed: bool = False
        self.gone: bool = False

    # -- the client's end ------------------------------------------------------------------------

    def arrive(self, data: bytes) -> None:
        """Let bytes of the client arrive."""
        self._incoming += data
        self._network.post(self._number, READABLE)

    def hang_up(self, how: Hangup) -> None:
        """Let the client's leaving arrive."""
        self._ended = True
        if how == "reset":
            self._reset = True
            self._network.post(self._number, HUNG_UP | READABLE | WRITABLE)
        else:
            self._network.post(self._number, HUNG_UP & ~BROKEN | READABLE)

    def lose_reader(self) -> None:
        """Nobody will read what is written."""
        self.gone = True
        self.unread.clear()
        self.make_room()

    def make_room(self) -> None:
        """The client has read, or the window is another one."""
        if self._network.expects(self._number, WRITABLE) and self._room() > 0:
            self._network.post(self._number, WRITABLE)

    def take(self, most: float) -> bytes:
        """What the client reads."""
        unread = self.unread
        if len(unread) <= most:
            data = bytes(unread)
            unread.clear()
        else:
            data = bytes(unread[: int(most)])
            del unread[: len(data)]
        return data

    # -- the server's end ------------------------------------------------------------------------

    def _room(self) -> float:
        return math.inf if self.gone else self.window + self.wanted - len(self.unread)

    @property
    def events(self) -> int:
        """What is true now."""
        now = READABLE if self._incoming else 0
        if self._ended:
            now |= READABLE | HUNG_UP if self._reset else READABLE | (HUNG_UP & ~BROKEN)
        return now | WRITABLE if self._room() > 0 else now

    def fileno(self) -> int:
        """Its number."""
        return self._number

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive bytes."""
        data = bytes(self._incoming[:bufsize])
        if data:
            del self._incoming[:bufsize]
        elif self._reset:
            self._raise_reset()
        elif not self._ended:
            raise BlockingIOError
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        """Send bytes."""
        if self._reset:
            self._raise_reset()
        if self.gone:  # the answer to the first write after a close
            self.hang_up("reset")
            return len(data)
        room = self._room()
        if room <= 0:
            raise BlockingIOError
        if room < len(data):
            data = data[: int(room)]
        self.unread += data
        self.arrived()
        return len(data)

    def _raise_reset(self) -> NoReturn:
        number = errno.EPIPE if self._told else errno.ECONNRESET
        self._told = True
        raise OSError(number, os.strerror(number))

    def shutdown(self, how: int) -> None:
        """End the sending side."""
        self.closed = True
        self.arrived()

    def setsockopt(self, *args: Any) -> None:
        """It has none."""

    def close(self) -> None:
        """Close it."""
        self.closed = True
        self.arrived()


class MemoryNews:
    """What epoll is to sockets of the system; see ``News`` of the server."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._sockets: dict[int, MemorySocket] = {}
        self._expected: dict[int, int] = {}
        self._news: dict[int, int] = {}
        self._waiting: trio.lowlevel.Task | None = None

    def number(self, sock: MemorySocket) -> int:
        """A number for a new socket."""
        number = next(self._numbers)
        self._sockets[number] = sock
        return number

    def expects(self, number: int, events: int) -> bool:
        """Whether there can be news of them."""
        return bool(self._expected.get(number, 0) & events)

    def post(self, number: int, events: int) -> None:
        """Something has become true."""
        expected = self._expected.get(number)
        if expected is None:
            return
        new = events & (expected | BROKEN)
        if new:
            self._news[number] = self._news.get(number, 0) | new
            self.interrupt()

    def register(self, number: int, events: int) -> None:
        """See ``News``. What has come already is read without news of it."""
        self._expected[number] = events
        hung_up = self._sockets[number].events & HUNG_UP
        if hung_up:
            self.post(number, hung_up)

    def modify(self, number: int, events: int) -> None:
        """See ``News``."""
        self._expected[number] = events
        self.post(number, self._sockets[number].events)

    def unregister(self, number: int) -> None:
        """See ``News``."""
        self._sockets.pop(number, None)
        self._expected.pop(number, None)
        self._news.pop(number, None)

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        """See ``News``."""
        told = list(itertools.islice(self._news.items(), most))
        for number, _ in told:
            del self._news[number]
        return told

    async def wait(self) -> None:
        """See ``News``."""
        if self._news:
            await trio.lowlevel.checkpoint()
            return
        self._waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def interrupt(self) -> None:
        """See ``News``."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            trio.lowlevel.reschedule(waiting)

    def close(self) -> None:
        """See ``News``."""
        self._expected.clear()
        self._news.clear()
