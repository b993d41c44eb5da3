"""The bytes of one connection over a plain socket that `Readiness` watches.

The laws of this file:

* What is known of the socket is noted when it is told, so nobody asks the system in vain: it may
  have something to read; the client has hung up.
* Whoever waits is parked, and woken by what is told; to interrupt a reader is to wake it.
* A reader lets others run before it reads, whether it had to wait or not. Only the first one need not:
  its task has just begun, in its turn.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ._readiness import BROKEN, HUNG_UP, READABLE, WRITABLE, Readiness
from ._transport import (
    RECEIVE_SIZE,
    ClientGone,
    Interrupted,
    SendTimedOut,
    SocketTransport,
)


class EpollTransport(SocketTransport):
    """A transport over a stream socket, TCP or Unix.

    Args:
        sock: a non-blocking socket, which is closed with the transport.
        readiness: what watches it.
    """

    __slots__ = (
        "_begins",
        "_hung_up",
        "_interrupted",
        "_number",
        "_readable",
        "_reader",
        "_readiness",
        "_watching",
        "_writer",
    )

    can_push = True

    def __init__(self, sock: socket.socket, readiness: Readiness) -> None:
        super().__init__(sock)
        self._number = sock.fileno()
        self._readiness = readiness
        self._begins = True  # nobody has read yet
        self._readable = True  # most clients begin at once
        self._hung_up = False
        self._interrupted = False
        self._reader: trio.lowlevel.Task | None = None  # parked
        self._writer: trio.lowlevel.Task | None = None  # parked
        self._watching: Callable[[], None] | None = None
        readiness.register(self._number, self)

    # -- what is told ----------------------------------------------------------------------------

    def tell(self, events: int) -> None:
        """There may be news, see `Watcher`."""
        if events & HUNG_UP:
            self._hung_up = True
        if events & (READABLE | HUNG_UP):
            self._readable = True
        if events & (WRITABLE | BROKEN):
            self._wake_writer()
        if self._reader is not None:
            self._wake_reader()
        elif self._watching is not None:
            self._watching()

    def wake(self) -> None:
        """There will be no news any more: nobody can wait, and it is as if the client had left."""
        self._hung_up = self._readable = True
        self._wake_reader()
        self._wake_writer()

    def watch(self, tell: Callable[[], None] | None) -> None:
        self._watching = tell

    def watch_again(self) -> None:
        self._readiness.call_again(self)

    # -- reading ---------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        self._reading, self._interrupted = True, False
        waited, self._begins = self._begins, False
        try:
            if waited:
                await trio.lowlevel.checkpoint_if_cancelled()
            while not self._closed:
                if not self._readable:
                    await self._park_reader()
                elif not waited:
                    await trio.lowlevel.checkpoint()
                else:
                    data = self.receive_nowait()
                    if data is not None:
                        return data
                waited = True
                if self._interrupted:
                    raise Interrupted
        finally:
            self._reading = False
        if not waited:
            await trio.lowlevel.checkpoint()
        return b""

    def receive_nowait(self) -> bytes | None:
        if not self._readable:
            return None
        try:
            data = self._sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            self._readable = False
            return b"" if self._hung_up else None  # ... which is then nobody's news but `wake`'s
        except OSError:
            return b""
        if len(data) < RECEIVE_SIZE and not self._hung_up:  # epoll(7): it is empty
            self._readable = False
        return data

    def interrupt(self) -> None:
        if self._reading:
            self._interrupted = True
            self._wake_reader()

    def has_ended(self) -> bool:
        return self._closed or self._hung_up

    async def wait_for_end(self) -> None:
        self._reading, self._interrupted = True, False
        try:
            await trio.lowlevel.checkpoint()
            while not (self._closed or self._hung_up or self._interrupted):
                await self._park_reader()
        finally:
            self._reading = False

    def _park_reader(self) -> Awaitable[Any]:
        self._reader = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._leave)  # noqa: ASYNC105 - the reader does

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake_reader(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            trio.lowlevel.reschedule(reader)

    # -- writing ---------------------------------------------------------------------------------

    async def send_rest(self, data: bytes, timeout: float) -> None:
        try:
            await super().send_rest(data, timeout)
        finally:
            if not self._closed:
                self._readiness.expect_room(self._number, expected=False)

    async def _wait_writable(self, timeout: float) -> None:
        with trio.CancelScope(deadline=trio.current_time() + timeout):
            if not (self._closed or self._readiness.closed):
                # Each time anew: then it is told what is so already, too.
                self._readiness.expect_room(self._number, expected=True)
                await self._park_writer()
            if not (self._closed or self._readiness.closed):
                return
            raise ClientGone("the connection was closed")
        raise SendTimedOut(timeout)

    async def _park_writer(self) -> None:
        def abort(_: Any) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake_writer(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            trio.lowlevel.reschedule(writer)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._readiness.unregister(self._number)
            self._sock.close()
            self._wake_reader()
            self._wake_writer()

    def release(self) -> trio.SocketStream:
        self._readiness.unregister(self._number)
        return super().release()
