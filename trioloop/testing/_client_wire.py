"""What a client writes and reads, as bytes: for the fake clients of a real server.

Laws of this file:

* It knows what `trioloop serve` writes, and nothing else: what does not look like that is an error,
  so a fault of the server is not read over.
* Frames are masked with zeros, so that the same run writes the same bytes. Real clients must not be
  as predictable, for the sake of proxies (RFC 6455, section 5.3).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, Literal, TypeAlias

from starlette.types import Message

Sight: TypeAlias = tuple[str, Any]
"""``"head"`` with ``(status, headers)``, ``"body"`` with bytes, ``"end"``; of a WebSocket
``"message"``, ``"ping"`` with bytes, ``"close"`` with ``(code, reason)``."""

Hangup: TypeAlias = Literal["end", "reset"]
"""What a client's kernel says of its leaving: the end of its stream, or a reset."""

OWN_HEADERS: Final = frozenset(
    b"date server transfer-encoding connection upgrade sec-websocket-accept".split()
)
"""What the server adds for itself, and the application knows nothing of."""

_FINAL = 0x80
_MASKED = 0x80
_NO_MASK = b"\0\0\0\0"


class Opcode(enum.IntEnum):
    """What a frame is (RFC 6455, section 5.2)."""

    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class ServerError(AssertionError):
    """The server has written what no client understands."""


def frame_of(event: Message) -> bytes:
    """A client's frame.

    Args:
        event: ``websocket.receive``, as the application will get it, or ``close`` or ``pong``.
    """
    match event["type"]:
        case "close":
            code, reason = event["code"], event["reason"]
            payload = b"" if code is None else code.to_bytes(2) + reason.encode()
            return _frame(Opcode.CLOSE, payload)
        case "pong":
            return _frame(Opcode.PONG, event["bytes"])
        case _:
            text = event["text"]
            return (
                _frame(Opcode.BINARY, event["bytes"])
                if text is None
                else _frame(Opcode.TEXT, text.encode())
            )


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes([_FINAL | opcode])
    if size < 126:
        head += bytes([_MASKED | size])
    elif size < 2**16:
        head += bytes([_MASKED | 126]) + size.to_bytes(2)
    else:
        head += bytes([_MASKED | 127]) + size.to_bytes(8)
    return head + _NO_MASK + payload


class ResponseReader:
    """Reads one response, or a WebSocket's frames behind its handshake.

    Args:
        method: of the request.
    """

    def __init__(self, method: str) -> None:
        self._bodyless = method == "HEAD"
        self._buffer = bytearray()
        self._step: Callable[[], Iterator[Sight]] | None = self._head
        self._left = 0  # bytes of the body, or of a chunk

    def feed(self, data: bytes) -> Generator[Sight]:
        """Read some more; gives what the client sees.

        Raises:
            ServerError: it is no response.
        """
        self._buffer += data
        while self._buffer:
            if self._step is None:
                raise ServerError(f"{bytes(self._buffer)!r} behind the end")
            before = len(self._buffer), self._step
            yield from self._step()
            if before == (len(self._buffer), self._step):
                return

    def _line(self, end: bytes = b"\r\n") -> bytes | None:
        size = self._buffer.find(end)
        if size < 0:
            return None
        line = bytes(self._buffer[:size])
        del self._buffer[: size + len(end)]
        return line

    def _taken(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _head(self) -> Iterator[Sight]:
        head = self._line(b"\r\n\r\n")
        if head is None:
            return
        line, *fields = head.split(b"\r\n")
        if not line.startswith(b"HTTP/1.1 "):
            raise ServerError(f"{line!r} is no response's first line")
        status = int(line[9:12])
        if 100 <= status < 200 and status != 101:
            return
        headers: list[tuple[bytes, bytes]] = []
        length = -1
        for field in fields:
            name, _, value = field.partition(b": ")
            lower = name.lower()
            if lower == b"content-length":
                length = int(value)
            if lower not in OWN_HEADERS:
                headers.append((lower, value))
        if status == 101:
            self._step = self._frames
        elif self._bodyless or status in (204, 304) or length == 0:
            self._step = None
        else:
            self._left = length
            self._step = self._chunk_size if length < 0 else self._body
        yield "head", (status, headers)
        if self._step is None:
            yield "end", None

    def _body(self) -> Iterator[Sight]:
        data = self._taken(self._left)
        self._left -= len(data)
        if not self._left:
            self._step = None
        yield "body", data
        if not self._left:
            yield "end", None

    def _chunk_size(self) -> Iterator[Sight]:
        line = self._line()
        if line is not None:
            self._left = int(line, 16)
            self._step = self._chunk if self._left else self._last_line
        yield from ()

    def _chunk(self) -> Iterator[Sight]:
        data = self._taken(self._left)
        self._left -= len(data)
        if not self._left:
            self._step = self._chunk_end
        yield "body", data

    def _chunk_end(self) -> Iterator[Sight]:
        line = self._line()
        if line:
            raise ServerError(f"{line!r} where a chunk ends")
        if line is not None:
            self._step = self._chunk_size
        yield from ()

    def _last_line(self) -> Iterator[Sight]:
        line = self._line()
        if line:
            raise ServerError(f"{line!r} where a body ends")
        if line is not None:
            self._step = None
            yield "end", None

    def _frames(self) -> Iterator[Sight]:
        buffer = self._buffer
        if len(buffer) < 2:
            return
        head, size = 2, buffer[1]
        if size > 125:
            head = 4 if size == 126 else 10
            if len(buffer) < head:
                return
            size = int.from_bytes(buffer[2:head])
        if len(buffer) < head + size:
            return
        opcode = self._taken(head)[0] ^ _FINAL
        yield _sight_of(opcode, self._taken(size))
        if opcode == Opcode.CLOSE:
            self._step = None


def _sight_of(opcode: int, payload: bytes) -> Sight:
    match opcode:
        case Opcode.TEXT:
            return "message", payload.decode()
        case Opcode.BINARY:
            return "message", payload
        case Opcode.CLOSE:
            code = int.from_bytes(payload[:2]) if payload else None
            return "close", (code, payload[2:].decode())
        case Opcode.PING:
            return "ping", payload
        case _:
            raise ServerError(f"a frame with opcode {opcode:#x}")
