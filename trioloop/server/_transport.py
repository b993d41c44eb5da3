"""The bytes of one connection: over a plain socket, or over TLS.

The laws of this file:

* A write is tried at once, without the event loop; only what the system does not take is waited
  for, and never for longer than ``timeout`` seconds without progress.
* A write that was not finished, because of its time or of a cancellation, leaves a stream that
  nobody can use: the transport is aborted, and every later use of it fails.
* A reader can be woken without being cancelled, by `interrupt`.
* Whatever goes wrong with the peer is a `ClientGone`, which is an `OSError` (ASGI 2.4).
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

import trio

RECEIVE_SIZE: Final = 64 * 1024
"""Bytes that are read at once."""

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s
_HANG_UP: Final = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere it is seen by reading only
_CLOSE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.5  # between two looks whether a client has left, where nobody says so


class ClientGone(ConnectionError):
    """The client is no longer there, or does not read, or was cut off.

    Attributes:
        why: what a disconnect message would say of it.
    """

    why: Mapping[str, Any] = MappingProxyType({})


class Interrupted(Exception):
    """Somebody woke the reader; nothing was read."""


class SendTimedOut(ClientGone):
    """The client took nothing for too long.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the client took nothing for {seconds:g} s")
        self.why = {"send_timeout": seconds}


def says_client_gone(error: BaseException | None) -> bool:
    """Whether an error only says that the client has gone, however deep: no application's fault."""
    while error is not None:
        if isinstance(error, ClientGone):
            return True
        if isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            return all(says_client_gone(inner) for inner in group.exceptions)
        error = error.__cause__ or error.__context__
    return False


class Transport(Protocol):
    """What a connection reads from and writes to.

    Attributes:
        can_push: whether `watch` works.
    """

    can_push: bool

    def watch(self, tell: Callable[[], None] | None) -> None:
        """Have a function called whenever something may have come, instead of `receive`."""
        raise NotImplementedError

    def watch_again(self) -> None:
        """Have that function called in the next turn, so that others have theirs."""
        raise NotImplementedError

    async def receive(self) -> bytes:
        """Wait for bytes.

        Returns:
            Some; none at the end of the stream, in whichever way it came.

        Raises:
            Interrupted: `interrupt` was called meanwhile.
        """
        raise NotImplementedError

    def receive_nowait(self) -> bytes | None:
        """Take bytes that have come; none at the end, `None` if there is nothing new."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Wake whoever is in `receive`."""
        raise NotImplementedError

    def has_ended(self) -> bool:
        """Whether the client has said that it sends nothing more, behind whatever is unread."""
        raise NotImplementedError

    async def wait_for_end(self) -> None:
        """Wait until `has_ended` may have changed, or `interrupt` was called."""
        raise NotImplementedError

    def send_nowait(self, data: bytes) -> int:
        """Write without waiting.

        Returns:
            How many bytes were taken.

        Raises:
            ClientGone: none ever will be.
        """
        raise NotImplementedError

    async def send_rest(self, data: bytes, timeout: float) -> None:
        """Write all of it. One task at a time.

        Args:
            data: the bytes.
            timeout: seconds that it may make no progress.

        Raises:
            ClientGone: it cannot be written.
            SendTimedOut: it made no progress.
        """
        raise NotImplementedError

    def send_end(self) -> bool:
        """Say that nothing more will be written, if that can be said and the rest still be read."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close in good order; what was written is still delivered. Takes a second at most."""
        raise NotImplementedError

    def close(self) -> None:
        """Close without a word; what was written is still delivered."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close so that the client can tell (RST); what it has not read may be lost."""
        raise NotImplementedError

    def release(self) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        """Give the open connection to somebody else, who has to close it."""
        raise NotImplementedError


class SocketTransport:
    """A transport over a stream socket, TCP or Unix.

    Args:
        sock: a non-blocking socket, which is closed with the transport.
    """

    __slots__ = ("_closed", "_reading", "_sock")

    can_push = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._closed = False
        self._reading = False

    def watch(self, tell: Callable[[], None] | None) -> None:
        raise NotImplementedError

    def watch_again(self) -> None:
        raise NotImplementedError

    async def receive(self) -> bytes:
        self._reading = True
        try:
            while not self._closed:
                await trio.lowlevel.wait_readable(self._sock)
                try:
                    return self._sock.recv(RECEIVE_SIZE)
                except BlockingIOError:
                    continue
        except trio.ClosedResourceError:
            if not self._closed:
                raise Interrupted from None
        except OSError:
            return b""
        finally:
            self._reading = False
        return b""

    def receive_nowait(self) -> bytes | None:
        try:
            return self._sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def interrupt(self) -> None:
        if self._reading and not self._closed:
            # Also wakes a writer, who looks at what it waits for and waits again.
            trio.lowlevel.notify_closing(self._sock)

    def has_ended(self) -> bool:
        if self._closed:
            return True
        poll = select.poll()
        poll.register(self._sock, _HANG_UP)
        return bool(poll.poll(0))

    async def wait_for_end(self) -> None:
        await trio.sleep(_LOOK_SECONDS)

    def send_nowait(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone(*error.args) from None

    async def send_rest(self, data: bytes, timeout: float) -> None:
        rest = memoryview(data)
        try:
            while rest:
                await self._wait_writable(timeout)
                try:
                    rest = rest[self._sock.send(rest) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise ClientGone(*error.args) from None
        finally:
            if rest:
                self.abort()

    async def _wait_writable(self, timeout: float) -> None:
        with trio.CancelScope(deadline=trio.current_time() + timeout):
            while not self._closed:
                try:
                    await trio.lowlevel.wait_writable(self._sock)
                except trio.ClosedResourceError:
                    continue  # a reader was interrupted
                return
            raise ClientGone("the connection was closed")
        raise SendTimedOut(timeout)

    def send_end(self) -> bool:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def abort(self) -> None:
        if not self._closed:
            with suppress(OSError):  # it has gone
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()

    def release(self) -> trio.SocketStream:
        self._closed = True
        return trio.SocketStream(trio.socket.from_stdlib_socket(self._sock))


class TLSTransport:
    """A transport over TLS.

    Args:
        stream: a stream whose handshake is done; it is closed with the transport.
    """

    __slots__ = ("_closed", "_reading", "_stream")

    can_push = False

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self._closed = False
        self._reading: trio.CancelScope | None = None

    def watch(self, tell: Callable[[], None] | None) -> None:
        raise NotImplementedError

    def watch_again(self) -> None:
        raise NotImplementedError

    async def receive(self) -> bytes:
        self._reading = trio.CancelScope()
        with self._reading:
            try:
                return bytes(await self._stream.receive_some(RECEIVE_SIZE))
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError):
                return b""
            finally:
                self._reading = None
        raise Interrupted

    def receive_nowait(self) -> bytes | None:
        return None

    def interrupt(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    def has_ended(self) -> bool:
        return self._closed

    async def wait_for_end(self) -> None:
        await trio.sleep(_LOOK_SECONDS)

    def send_nowait(self, data: bytes) -> int:
        if self._closed:
            raise ClientGone("the connection was closed")
        return 0

    async def send_rest(self, data: bytes, timeout: float) -> None:
        done = False
        try:
            for start in range(0, len(data), RECEIVE_SIZE):
                await self._send_piece(data[start : start + RECEIVE_SIZE], timeout)
            done = True
        finally:
            if not done:
                self.abort()

    async def _send_piece(self, data: bytes, timeout: float) -> None:
        with trio.CancelScope(deadline=trio.current_time() + timeout):
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
                raise ClientGone(str(error)) from None
            return
        raise SendTimedOut(timeout)

    def send_end(self) -> bool:
        return False

    async def aclose(self) -> None:
        if not self._closed:
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                try:
                    await self._stream.unwrap()  # a close_notify, and theirs: RFC 8446, 6.1
                except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError):
                    pass  # it has gone
                except trio.BusyResourceError:
                    pass  # somebody is still writing
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stream.transport_stream.socket.close()

    def abort(self) -> None:
        if not self._closed:
            with suppress(OSError, trio.ClosedResourceError):  # it has gone
                self._stream.transport_stream.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                )
            self.close()

    def release(self) -> trio.SSLStream[trio.SocketStream]:
        self._closed = True
        return self._stream
