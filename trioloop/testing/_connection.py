"""The server's half of a fake connection: what Hypercorn's Trio worker does with one request.

Laws of this file:

* It behaves as the stock worker does over HTTP/1.1, faults included: ``send`` is shielded, sends
  after the end are swallowed or refused as there, the queue to the application holds ten events,
  half a close looks like a whole one. The tests run the same scenarios against the real one.
* Bytes are counted as they would be on the wire, so that a window of so many bytes means here what
  it means there.
* It decides nothing about time: a write waits for the reader, for ever if need be.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import trio
from starlette.types import ASGIApp, Message, Scope

QUEUE_SIZE: Final = 10
"""Hypercorn's ``max_app_queue_size``: events for the application before the socket is not read."""

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
    """The application sent what ASGI does not allow now; Hypercorn raises likewise."""


class FakeConnection:
    """One request on a connection of its own.

    Args:
        name: for the journal.
        method: the request's method; no body is sent for HEAD.
        note: writes the journal.
        arrived: called when there is something for the client to read.

    Attributes:
        window: bytes that the "socket" takes before a write waits for the reader.
        unread: what was written and not read, oldest first.
        returned: the application's call has returned or raised.
        error: what it raised.
        eof: how the server ended the stream: ``"end"``, ``"cut"``, or `None` as long as it is open.
    """

    def __init__(
        self,
        name: str,
        method: str,
        note: Callable[..., None],
        arrived: Callable[[], None],
    ) -> None:
        self.name = name
        self.method = method
        self.window: float = float("inf")
        self.unread: deque[Piece] = deque()
        self.returned = False
        self.error: BaseException | None = None
        self.eof: str | None = None
        self.gone = False  # nobody reads any more: writes succeed and are lost
        self.state = State.REQUEST
        self._note = note
        self._arrived = arrived
        self._to_app, self._from_client = trio.open_memory_channel[Message](QUEUE_SIZE)
        self._backlog: deque[Message] = deque()  # what the server has not read from the socket yet
        self._room = trio.Event()
        self._chunked = True
        self._head_written = False  # or being written: a second head is a fault of the server's
        self._disconnected = False
        self._waits = False  # a write waits for the reader

    # -- the client's side -----------------------------------------------------------------------

    def feed(self, messages: Iterable[Message]) -> None:
        """Put events into the application's queue, or let them wait in the socket."""
        self._backlog.extend(messages)
        self._fill_queue()

    def _fill_queue(self) -> None:
        while self._backlog:
            try:
                self._to_app.send_nowait(self._backlog[0])
            except (trio.WouldBlock, trio.BrokenResourceError):
                return
            self._backlog.popleft()

    def hang_up(self) -> None:
        """The client's end of stream, or a reset, has reached the server."""
        if not self._disconnected:
            self._disconnected = True
            if self.state is not State.CLOSED:
                self.feed([{"type": "http.disconnect"}])

    def lose_reader(self) -> None:
        """Nobody will read what is written; a stuck write ends."""
        self.gone = True
        self.unread.clear()
        self.make_room()

    def make_room(self) -> None:
        """The client has read, or the window is another one."""
        self._room.set()
        self._room = trio.Event()

    # -- the server's side -----------------------------------------------------------------------

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Call the application, then do what Hypercorn does after it."""
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            self.error = error
            self._note(self.name, "application raised", error)
        finally:
            self.returned = True
            await self._after_call()

    async def _after_call(self) -> None:
        if self.state is State.REQUEST and not self._disconnected and not self._head_written:
            with trio.CancelScope(shield=True):
                await self._write_head(500, [(b"content-length", b"0"), (b"connection", b"close")])
            self.state = State.CLOSED
            self._end("end")
        elif self.state is not State.CLOSED:
            self._end("cut")  # later sends are swallowed: the state stays

    async def _receive(self) -> Message:
        message = await self._from_client.receive()
        self._fill_queue()
        return message

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
                self._end("end")
                self.feed([{"type": "http.disconnect"}])
        elif self._disconnected:
            await trio.lowlevel.checkpoint()
        else:
            raise UnexpectedMessage(f"{kind} in state {self.state.value}")

    async def _write_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._head_written = True
        pairs = [(bytes(name), bytes(value)) for name, value in headers]
        names = {name for name, _ in pairs}
        self._chunked = b"content-length" not in names and status not in (204, 304)
        sent = [*pairs, *SERVER_HEADERS]
        if self._chunked:
            sent.append((b"transfer-encoding", b"chunked"))
        size = len(b"HTTP/1.1 %d \r\n\r\n" % status) + sum(len(n) + len(v) + 4 for n, v in sent)
        await self._write(Piece("head", (status, pairs), before=size))

    async def _write_body(self, data: bytes) -> None:
        if not data or self.method == "HEAD":
            return
        framing = len(b"%x\r\n" % len(data)) if self._chunked else 0
        await self._write(Piece("body", data, framing, len(data), 2 if self._chunked else 0))

    async def _write_end(self) -> None:
        chunked = self._chunked and self.method != "HEAD"
        await self._write(Piece("end", None, before=len(b"0\r\n\r\n") if chunked else 0))

    async def _write(self, piece: Piece) -> None:
        with trio.CancelScope(shield=True):  # as hypercorn/trio/tcp_server.py does
            await trio.lowlevel.checkpoint()
            while not self.gone and self.eof is None:
                room = self.window - sum(waiting.taken - waiting.read for waiting in self.unread)
                if not piece.taken:
                    if piece.size and room <= 0:
                        await self._wait_for_room()
                        continue
                    self.unread.append(piece)
                piece.taken = min(piece.size, piece.taken + max(0, int(min(room, piece.size))))
                self._arrived()
                if piece.taken == piece.size:
                    break
                await self._wait_for_room()
        if self._waits:
            self._waits = False
            self._note(self.name, "write done")

    async def _wait_for_room(self) -> None:
        if not self._waits:
            self._waits = True
            self._note(self.name, "write waits")
        await self._room.wait()

    def _end(self, how: str) -> None:
        """The server closes its side; a stuck write ends with it."""
        if self.eof is None:
            self.eof = how
            self.make_room()
            self._arrived()
