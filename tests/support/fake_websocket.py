"""A WebSocket of the fake server, as Hypercorn's Trio worker serves one.

What it models of ``hypercorn/protocol/ws_stream.py``:

* a client's close code is lost: the application hears 1006, unless ``true_codes``;
* after the application's close frame the client answers, and the application hears 1000;
* when the call returns and nothing was closed, the server writes a close frame with 1011, which
  waits behind a write that is stuck; only then the connection is closed;
* a second head, or a message that is not due, is an `AssertionError`: it would end the server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from trioloop import WebSocketHandler

from .fake import Call, Message, _Remembers


class FakeWebSocket(Call):
    """One handshake and what follows.

    Attributes:
        taken: how many messages of the client the application has taken from the server.
        answers_close: whether the client answers a close frame.
    """

    def __init__(self, scope: Message, *, true_codes: bool) -> None:
        super().__init__(scope)
        self.taken = 0
        self.answers_close = True
        self.server_code: int | None = None  # of the close frame that the server writes by itself
        self._true_codes = true_codes
        self._state = "handshake"
        self._response: Message = {}
        self._writing = trio.Lock()
        self._to_app.send_nowait({"type": "websocket.connect"})

    # -- what the client sees --------------------------------------------------------------------

    @property
    def accepted(self) -> bool:
        return any(message["type"] == "websocket.accept" for _, message in self.messages)

    @property
    def subprotocol(self) -> str | None:
        return self.messages[0][1]["subprotocol"]

    @property
    def status(self) -> int | None:
        """The status of a refusal."""
        if self._gone or self.accepted or self._state == "handshake":
            return None
        return self._response.get("status", 403)

    @property
    def headers(self) -> dict[str, str]:
        pairs = self.messages[0][1]["headers"] if self.accepted else self._response["headers"]
        return {name.decode(): value.decode() for name, value in pairs}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for _, message in self.messages)

    @property
    def received(self) -> list[str | bytes]:
        """The data that the client got."""
        return [data for _, data in self.received_at]

    @property
    def received_at(self) -> list[tuple[float, str | bytes]]:
        """The data that the client got, with its times."""
        return [
            (time, message["text"] if "text" in message else message["bytes"])
            for time, message in self.messages
            if message["type"] == "websocket.send"
        ]

    @property
    def pings(self) -> list[tuple[float, bytes]]:
        pings = [(time, m) for time, m in self.messages if m["type"] == "websocket.ping"]
        return [(time, ping["bytes"]) for time, ping in pings]

    @property
    def close(self) -> tuple[int, str] | None:
        """Code and reason of the application's close frame."""
        for _, message in self.messages:
            if self.accepted and message["type"] == "websocket.close":
                return message["code"], message["reason"]
        return None

    # -- what the client does --------------------------------------------------------------------

    def send(self, data: str | bytes) -> None:
        kind = "text" if isinstance(data, str) else "bytes"
        self._to_app.send_nowait(
            {"type": "websocket.receive", "text": None, "bytes": None, kind: data}
        )

    def pong(self) -> None:
        """For servers that pass it on."""
        self._to_app.send_nowait({"type": "websocket.pong", "bytes": b""})

    def violate(self, code: int) -> None:
        """Break the protocol, under a server that says so."""
        self._gone = True
        event = {"type": "websocket.disconnect", "code": code, "violation": "that was no frame"}
        self._to_app.send_nowait(event)

    def disconnect(self, code: int = 1006, reason: str = "") -> None:
        """Close with a code, or without a word."""
        self._gone = True
        self._window.set()
        event: Message = {"type": "websocket.disconnect", "code": 1006}
        if self._true_codes:
            event |= {"code": code, "reason": reason}
        self._to_app.send_nowait(event)

    def stall(self) -> None:
        """Stop reading."""
        self._window = trio.Event()

    # -- what the server does --------------------------------------------------------------------

    async def _after_call(self) -> None:
        if self._call.cancel_called:
            return
        if self._state == "connected" and not self._gone:
            await self._write()
            self.server_code = 1011
        if self._state == "handshake" and not self._gone:
            self._response = {"status": 500, "headers": []}
            self._state = "refused"

    async def _receive(self) -> Message:
        message = await super()._receive()
        self.taken += message["type"] == "websocket.receive"
        return message

    async def _write(self) -> None:
        async with self._writing:
            with trio.CancelScope(shield=True):
                await self._window.wait()

    async def _send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if self._send_error is not None:
            raise self._send_error
        if self._gone or self.returned:
            return
        kind = message["type"]
        assert kind in _DUE[self._state], f"{message} in state {self._state}"
        if kind == "websocket.http.response.start":
            self._response = message
            return
        if kind == "websocket.close":
            self._state = "closed" if self._state == "connected" else "refused"
        await self._write()
        if self.returned:
            return  # it was stuck, and the connection was closed under it
        if kind == "websocket.accept":
            self._state = "connected"
        if kind == "websocket.http.response.body":
            self._state = "refused"
        self.messages.append((trio.current_time(), message))
        if self._state == "refused" or (self._state == "closed" and self.answers_close):
            self._to_app.send_nowait({"type": "websocket.disconnect", "code": 1000})


_DUE = {
    "handshake": (
        "websocket.accept",
        "websocket.close",
        "websocket.http.response.start",
        "websocket.http.response.body",
    ),
    "connected": ("websocket.send", "websocket.close", "websocket.ping"),
    "closed": (),
    "refused": (),
}


class Socket(_Remembers, WebSocketHandler[Any]):
    """A `WebSocketHandler` that remembers, and echoes.

    Attributes:
        received: the data that ``receive`` got, in order.
    """

    def __init__(self, answer: Callable[[Any], Any] | None = None, **attributes: Any) -> None:
        super().__init__(answer, **attributes)
        self.received: list[str | bytes] = []

    def receive(self, data: str | bytes) -> Any:
        self.received.append(data)
