"""The server's half of a fake connection: what Hypercorn's Trio worker does with one request.

Laws of this file:

* It behaves as the stock worker does over HTTP/1.1, faults included: ``send`` is shielded, sends
  after the end are swallowed or refused as there, the queue to the application holds ten events,
  half a close looks like a whole one. ``tests/testing/test_faithful.py`` plays thousands of
  scenarios on this and on the real one.
* Bytes are counted as they would be on the wire, so that a window of so many bytes means here what
  it means there.
* It decides nothing about time: a write waits for the reader, for ever if need be.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final

import trio
from starlette.types import ASGIApp, Message, Scope

from ._client_wire import Hangup, Sight

QUEUE_SIZE: Final = 10
"""Hypercorn's ``max_app_queue_size``: events for the application before the socket is not read."""

READ_SIZE: Final = 2**16
"""Hypercorn's ``MAX_RECV``: bytes of a request that one read takes."""

KEEP_ALIVE: Final = 5.0
"""Hypercorn's ``keep_alive_timeout``: seconds for which a connection without a request stays open."""

SERVER_HEADERS: Final = ((b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"server", b"hypercorn-h11"))
"""What Hypercorn adds; the date is always 29 bytes long (RFC 9110, section 5.6.7)."""


class State(enum.Enum):
    """Hypercorn's ``ASGIHTTPState``."""

    REQUEST = "request"
    RESPONSE = "response"
    CLOSED = "closed"


@dataclass(slots=True)
class Piece:
    """What one write puts on the wire.

    Args:
        kind: ``"head"``, ``"body"`` or ``"end"``.
        value: status and headers, or the payload.
        before: bytes of framing before the payload.
        payload: bytes of payload.
        after: bytes of framing after it.
        taken: bytes that the socket has taken from the writer.
        read: bytes that the client has read.
    """

    kind: str
    value: Any
    before: int = 0
    payload: int = 0
    after: int = 0
    taken: int = 0
    read: int = 0

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return self.before + self.payload + self.after


class UnexpectedMessage(RuntimeError):
    """The application sent what cannot be sent now; Hypercorn, or h11 in it, raises likewise."""


class FakeConnection:
    """One request on a connection of its own.

    Args:
        name: for the journal.
        method: the request's method; no body is sent for HEAD.
        note: writes the journal.
        arrived: called when there is something for the client to read.
        going_down: set when the server begins to shut down.

    Attributes:
        window: bytes that the "socket" takes before a write waits for the reader.
        wanted: bytes that a reader who has stopped still asks for; they come through any window.
        unread: what was written and not read, oldest first.
        returned: the application's call has returned or raised.
        error: what it raised.
        closed: the server has closed its side; what it has written can still be read.
        gone: nobody reads any more: writes succeed and are lost.
    """

    def __init__(
        self,
        name: str,
        method: str,
        note: Callable[..., None],
        arrived: Callable[[], object],
        going_down: trio.Event,
    ) -> None:
        self.name = name
        self.method = method
        self.window: float = float("inf")
        self.wanted: int = 0
        self.unread: deque[Piece] = deque()
        self.returned: bool = False
        self.error: BaseException | None = None
        self.closed: bool = False
        self.gone: bool = False
        self.state: State = State.REQUEST
        self.write_waits: bool = False  # the application waits for the reader
        self._note = note
        self.arrived: Callable[[], object] = arrived
        self._going_down = going_down
        self._to_app, self._from_client = trio.open_memory_channel[Message](QUEUE_SIZE)
        self._incoming: deque[Message | Hangup] = deque()  # what the server has not read yet
        self._came = trio.Event()
        self._room = trio.Event()
        self._lock = trio.Lock()  # one write at a time
        self._reset = False  # a write finds out that nobody reads
        self._chunked = True
        self._owed: int | None = None  # bytes of the body that content-length still promises
        self._empty = False  # the response has no body, whatever the application writes
        self._stream_closed = False  # the application was told that there is no more to come
        # What h11 knows of the two sides.
        self._head_begun = False
        self._end_begun = False
        self._request_complete = False
        self._broken = False  # the application has contradicted itself: nothing more is taken
        self._refused = False  # the request was none: nobody hears of what is not taken

    # -- the client's side -----------------------------------------------------------------------

    def feed(self, events: Iterable[Message | Hangup]) -> None:
        """Let something arrive at the server's socket."""
        self._incoming.extend(events)
        self._came.set()

    def begin(self, head: bytes, body: bytes | None) -> None:
        """Send a request.

        Args:
            head: of the request; the scope says what is in it.
            body: all of it; `None` when it follows in pieces.
        """
        if body is not None:
            self._feed_body(body, after=len(head), more=False)

    def feed_body(self, data: bytes, *, more: bool) -> None:
        """Let a piece of the request's body arrive, as many bytes at a time as the server reads."""
        self._feed_body(data, after=len(b"%x\r\n" % len(data)), more=more)

    def _feed_body(self, data: bytes, *, after: int, more: bool) -> None:
        start, stop = 0, max(1, READ_SIZE - after)
        while start < len(data):
            piece = data[start:stop]
            self.feed([{"type": "http.request", "body": piece, "more_body": True}])
            start, stop = stop, stop + READ_SIZE
        if not more:
            self.feed([{"type": "http.request", "body": b"", "more_body": False}])

    def lose_reader(self, how: Hangup = "reset") -> None:
        """Nobody will read what is written; a stuck write ends."""
        self.gone = True
        self._reset = self._reset or how == "reset"
        self.unread.clear()
        self.make_room()

    def make_room(self) -> None:
        """The client has read, or the window is another one."""
        self._room.set()
        self._room = trio.Event()

    @property
    def has_unread(self) -> bool:
        """Whether something was written that nobody has read."""
        return bool(self.unread)

    def read(self, most: float) -> Generator[Sight]:
        """Read so many bytes at most; gives what the client sees."""
        limited = most < math.inf
        read = 0
        while self.unread and (most or not self.unread[0].size):
            piece = self.unread[0]
            size = int(min(piece.taken - piece.read, most))
            most -= size
            read += size
            if limited:
                self.wanted -= size
            yield from _sights(piece, size)
            if piece.read < piece.taken or (piece.read < piece.size and not self.closed):
                break
            self.unread.popleft()
        if read:
            self.make_room()

    # -- the connection --------------------------------------------------------------------------

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Serve the request as ``TCPServer.run`` does."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._call, app, scope, name=f"call of {self.name}")
                await self._read()
        finally:
            del self._nursery  # the connection is kept for long, and its tasks need not be
            self._close()

    def cancel(self) -> None:
        """The server cancels what is left of it."""
        self._nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        """Take what arrives to the application; wait while its queue is full."""
        while True:
            while not self._incoming:
                if self.closed:
                    return
                self._came = trio.Event()
                await self._came.wait()
            event = self._incoming.popleft()
            if isinstance(event, str):
                await self._lose_client(event)
                return
            if not event["more_body"]:
                self._request_complete = True
            if not self._stream_closed:
                await self._to_app.send(event)

    async def _lose_client(self, how: Hangup) -> None:
        if how == "end" and not self._request_complete and not self.closed:
            self._refused = True
            if not self._head_begun:
                await self._write_error(400)  # half a request is against the protocol
            self._close()
            await trio.lowlevel.checkpoint()  # as aclose() does: a stuck write hears of it first
        await self._close_stream()

    async def _close_stream(self) -> None:
        if not self._stream_closed:
            self._stream_closed = True
            await self._to_app.send({"type": "http.disconnect"})

    def _close(self) -> None:
        """Close the server's side; a stuck write ends with it."""
        if not self.closed:
            self.closed = True
            self._came.set()
            self.make_room()
            self.arrived()

    # -- the application's call ------------------------------------------------------------------

    async def _call(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            self.error = error
            self._note(self.name, "application raised", error)
        finally:
            self.returned = True
            try:
                await self._after_call()  # also when it was cancelled: then the first write is, too
            except UnexpectedMessage:
                # The call has returned while the head is being written. Hypercorn begins a second
                # one, which h11 refuses: an error that nobody catches ends all of the connection.
                self._close()
                self._nursery.cancel_scope.cancel()

    async def _after_call(self) -> None:
        if self._stream_closed:
            return
        if self.state is State.REQUEST:
            await self._write_error(500)
            self.state = State.CLOSED
        await self._recycle()

    async def _recycle(self) -> None:
        """The response is over, complete or not: keep the connection, or close it."""
        await self._close_stream()
        await trio.lowlevel.checkpoint()
        complete = self._end_begun and self._request_complete and not self._broken
        if complete and self.state is not State.CLOSED and not self._going_down.is_set():
            # The call has returned while its last write waits for the client. To h11 the response
            # is complete, so the connection is kept, for as long as any that is not used.
            with trio.move_on_after(KEEP_ALIVE):
                await self._going_down.wait()
        self._close()

    async def _receive(self) -> Message:
        return await self._from_client.receive()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self.state is State.REQUEST:
            await self._write_head(message["status"], message.get("headers", ()))
            self.state = State.RESPONSE
        elif kind == "http.response.body" and self.state is State.RESPONSE:
            await self._write_body(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                await self._write_end()
                self.state = State.CLOSED
                await self._recycle()
        else:
            raise UnexpectedMessage(f"{kind} in state {self.state.value}")

    # -- writing ---------------------------------------------------------------------------------

    async def _write_error(self, status: int) -> None:
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await self._write_head(status, headers)
        await self._write_end()

    async def _write_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if not self._takes("a second head" if self._head_begun else None):
            return
        self._head_begun = True
        pairs = [(bytes(name), bytes(value)) for name, value in headers]
        names = {name for name, _ in pairs}
        self._empty = self.method == "HEAD" or status in (204, 304)
        self._chunked = b"content-length" not in names and status not in (204, 304)
        if b"content-length" in names and not self._empty:
            self._owed = int(dict(pairs)[b"content-length"])
        sent = [*pairs, *SERVER_HEADERS]
        if self._chunked:
            sent.append((b"transfer-encoding", b"chunked"))
        size = len(b"HTTP/1.1 %d \r\n\r\n" % status) + sum(len(n) + len(v) + 4 for n, v in sent)
        await self._write(Piece("head", (status, pairs), before=size))

    async def _write_body(self, data: bytes) -> None:
        if not data or self._empty:
            return
        fault = "a body behind the end" if self._end_begun else None
        if self._owed is not None:
            self._owed -= len(data)
            if self._owed < 0:
                fault = "more than content-length promises"
        if not self._takes(fault):
            return
        framing = len(b"%x\r\n" % len(data)) if self._chunked else 0
        await self._write(Piece("body", data, framing, len(data), 2 if self._chunked else 0))

    async def _write_end(self) -> None:
        fault = "a second end" if self._end_begun else None
        if self._owed:
            fault = "less than content-length promises"
        if not self._takes(fault):
            return
        self._end_begun = True
        chunked = self._chunked and not self._empty
        await self._write(Piece("end", None, before=len(b"0\r\n\r\n") if chunked else 0))

    def _takes(self, fault: str | None) -> bool:
        """Whether h11 takes what is to be written; what it does not take waits for nothing.

        Args:
            fault: what is wrong with it.

        Raises:
            UnexpectedMessage: it does not; after half a request, Hypercorn passes over that.
        """
        if fault is None and self._broken:
            fault = "the connection is broken"
        if fault is None:
            return True
        self._broken = True
        if not self._refused:
            raise UnexpectedMessage(fault)
        return False

    async def _write(self, piece: Piece) -> None:
        async with self._lock:  # here a cancelled call is cancelled; a write that has begun is not
            await trio.lowlevel.cancel_shielded_checkpoint()
            await self._write_whole(piece)
            self._write_is_over()
            if self._reset or (self.closed and piece.taken < piece.size):
                await self._close_stream()
            self._reset = self._reset or self.gone  # the answer to the first write after a close

    async def _write_whole(self, piece: Piece) -> None:
        while not self.gone and not self.closed:
            held = sum(waiting.taken - waiting.read for waiting in self.unread)
            room = self.window + self.wanted - held
            if piece.size and room <= 0:
                await self._wait_for_room(piece)
                continue
            if not piece.taken:
                self.unread.append(piece)
            piece.taken = int(min(piece.size, piece.taken + room))
            self.arrived()
            if piece.taken == piece.size:
                return

    async def _wait_for_room(self, piece: Piece) -> None:
        if not self.write_waits:
            self.write_waits = True
            self._note(self.name, "write waits", piece.kind)
        with trio.CancelScope(shield=True):  # as hypercorn/trio/tcp_server.py does
            await self._room.wait()

    def _write_is_over(self) -> None:
        if self.write_waits:
            self.write_waits = False
            self._note(self.name, "write done")


def _sights(piece: Piece, size: int) -> Generator[Sight]:
    """What a client sees that reads so many bytes of a piece."""
    start = max(0, piece.read - piece.before)
    piece.read += size
    stop = min(piece.payload, max(0, piece.read - piece.before))
    if piece.kind == "body":
        if stop > start:
            yield "body", piece.value[start:stop]
    elif piece.read == piece.size:
        yield piece.kind, piece.value
