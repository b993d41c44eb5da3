"""The server's half of a fake WebSocket: what Hypercorn's Trio worker does with one.

Laws of this file:

* It behaves as ``hypercorn/protocol/ws_stream.py``, faults included: a client's close code is lost,
  and when the call returns without a close, the server's own waits behind a write that is stuck.
* Bytes are counted as on the wire: a server's frames have no mask (RFC 6455, section 5.2).
* Its client keeps the protocol: it sends no frame before the handshake is over, which on this worker
  would leave the application deaf. Frames against the protocol belong to tests on sockets.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import trio
from starlette.types import ASGIApp, Message, Scope

from ._client_wire import Hangup
from ._connection import SERVER_HEADERS, FakeConnection, Piece, UnexpectedMessage

HANDSHAKE_HEADERS = (
    (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    (b"upgrade", b"WebSocket"),
    (b"connection", b"Upgrade"),
)
"""What the worker adds to an accept; the first is always 28 bytes long (RFC 6455, section 4.2.2)."""


class Stage(enum.Enum):
    """Hypercorn's ``ASGIWebsocketState``, without what lasts no time."""

    HANDSHAKE = "handshake"
    CONNECTED = "connected"
    CLOSED = "closed"
    REFUSED = "refused"


class FakeWebSocketConnection(FakeConnection):
    """One WebSocket on a connection of its own; see `FakeConnection`.

    What a client sends is fed as ``websocket.receive`` messages, and its close frame as
    ``{"type": "close", "code": ..., "reason": ...}``.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stage: Stage = Stage.HANDSHAKE
        self._response: Message = {}
        self._own_close: Piece | None = None  # the server's, not the application's
        self._closing = False  # a close frame was sent or received: wsproto sends no data after it

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        self._to_app.send_nowait({"type": "websocket.connect"})
        await super().run(app, scope)

    # -- reading ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            while not self._incoming:
                if self.closed:
                    return
                self._came = trio.Event()
                await self._came.wait()
            event = self._incoming.popleft()
            if isinstance(event, str):
                await self._close_stream()
                return
            if event["type"] == "close":
                await self._take_close(event)
            elif not self._stream_closed:
                await self._to_app.send(event)

    async def _take_close(self, event: Message) -> None:
        if self._stream_closed:
            return
        if not self._closing:
            self._closing = True
            await self._write_close(event["code"], "", own=True)  # wsproto repeats the code
        await self._close_stream()
        self._close()

    async def _lose_client(self, how: Hangup) -> None:
        await self._close_stream()

    async def _close_stream(self) -> None:
        if not self._stream_closed:
            self._stream_closed = True
            over = self.stage in (Stage.CLOSED, Stage.REFUSED)
            await self._to_app.send(
                {"type": "websocket.disconnect", "code": 1000 if over else 1006}
            )

    # -- the application's call ------------------------------------------------------------------

    async def _after_call(self) -> None:
        if self._stream_closed:
            return
        if self.stage is Stage.HANDSHAKE:
            await self._write_error(500)
        elif self.stage is Stage.CONNECTED and not self._closing:
            await self._write_close(1011, "", own=True)
        await self._close_stream()
        self._close()

    async def _send(self, message: Message) -> None:
        if self._stream_closed:
            return
        kind = message["type"]
        match self.stage, kind:
            case Stage.HANDSHAKE, "websocket.accept":
                self.stage = Stage.CONNECTED
                await self._write_accept(message)
            case Stage.HANDSHAKE, "websocket.http.response.start":
                self._response = message
            case Stage.HANDSHAKE, "websocket.http.response.body":
                await self._write_refusal(message)
            case Stage.HANDSHAKE, "websocket.close":
                self.stage = Stage.REFUSED
                await self._write_error(403)
            case Stage.CONNECTED, "websocket.send":
                await self._write_data(message)
            case Stage.CONNECTED, "websocket.close":
                self.stage = Stage.CLOSED
                if not self._closing:
                    self._closing = True
                    await self._write_close(message["code"], message.get("reason") or "")
            case _:
                raise UnexpectedMessage(f"{kind} in state {self.stage.value}")

    # -- writing ---------------------------------------------------------------------------------

    async def _write_accept(self, message: Message) -> None:
        self._takes("a second head" if self._head_begun else None)
        pairs = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            pairs.insert(0, (b"sec-websocket-protocol", subprotocol.encode()))
        sent = [*pairs, *HANDSHAKE_HEADERS, *SERVER_HEADERS]
        size = len(b"HTTP/1.1 101 \r\n\r\n") + sum(len(n) + len(v) + 4 for n, v in sent)
        await self._write(Piece("head", (101, pairs), before=size))

    async def _write_refusal(self, message: Message) -> None:
        headers: Iterable[tuple[bytes, bytes]] = self._response.get("headers", ())
        await self._write_head(self._response["status"], headers)
        await self._write_body(bytes(message.get("body", b"")))
        self.stage = Stage.REFUSED
        await self._write_end()

    async def _write_data(self, message: Message) -> None:
        if self._closing:
            return
        data = message.get("bytes")
        data = message["text"] if data is None else bytes(data)
        size = len(data.encode() if isinstance(data, str) else data)
        framing = 2 if size < 126 else 4 if size < 2**16 else 10
        await self._write(Piece("message", data, framing, size))

    async def _write_close(self, code: int | None, reason: str, *, own: bool = False) -> None:
        size = 0 if code is None else 2 + len(reason.encode())
        piece = Piece("close", (code, reason), 2, size)
        self._own_close = piece if own else None
        await self._write(piece)

    async def _wait_for_room(self, piece: Piece) -> None:
        if piece is self._own_close:
            await self._room.wait()  # the server waits, and no handler with it
        else:
            await super()._wait_for_room(piece)
