"""What a client writes and reads, as bytes: for the fake clients of a real server.

Laws of this file:

* It knows what `trioloop serve` writes, and nothing else: what does not look like that is an error,
  so a fault of the server is not read over.
* Frames are masked with zeros, so that the same run writes the same bytes. Real clients must not be
  as predictable, for the sake of proxies (RFC 6455, section 5.3).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import lru_cache
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
        self._data = b""
        self._at = 0  # so much of that has been understood
        self._left = 0  # bytes of the body, or of a chunk
        self._step: Callable[[ResponseReader, list[Sight]], bool] = ResponseReader._head

    def feed(self, data: bytes, seen: list[Sight]) -> None:
        """Read some more.

        Args:
            data: what comes next.
            seen: what the client sees of it is added here, and what comes before an error, too.

        Raises:
            ServerError: it is no response.
        """
        self._data = self._data[self._at :] + data
        self._at = 0
        while self._at < len(self._data) and self._step(self, seen):
            pass

    # -- steps: each says whether it has got any further -----------------------------------------

    def _head(self, seen: list[Sight]) -> bool:
        head = self._line(b"\r\n\r\n")
        if head is None:
            return False
        status, headers, length = _parse_head(head)
        if 100 <= status < 200 and status != 101:
            return True
        seen.append(("head", (status, list(headers))))
        if status == 101:
            self._step = ResponseReader._frame
        elif self._bodyless or status in (204, 304) or length == 0:
            self._end(seen)
        else:
            self._left = length
            self._step = ResponseReader._chunk_size if length < 0 else ResponseReader._body
        return True

    def _body(self, seen: list[Sight]) -> bool:
        self._piece(seen)
        if not self._left:
            self._end(seen)
        return True

    def _chunk_size(self, seen: list[Sight]) -> bool:
        line = self._line()
        if line is None:
            return False
        self._left = int(line, 16)
        self._step = ResponseReader._chunk if self._left else ResponseReader._last_line
        return True

    def _chunk(self, seen: list[Sight]) -> bool:
        self._piece(seen)
        if not self._left:
            self._step = ResponseReader._chunk_end
        return True

    def _chunk_end(self, seen: list[Sight]) -> bool:
        line = self._line()
        if line:
            raise ServerError(f"{line!r} where a chunk ends")
        if line is None:
            return False
        self._step = ResponseReader._chunk_size
        return True

    def _last_line(self, seen: list[Sight]) -> bool:
        line = self._line()
        if line:
            raise ServerError(f"{line!r} where a body ends")
        if line is None:
            return False
        self._end(seen)
        return True

    def _frame(self, seen: list[Sight]) -> bool:
        data = self._data[self._at : self._at + 10]
        if len(data) < 2:
            return False
        head, size = 2, data[1]
        if size > 125:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[2:head])
        if len(self._data) < self._at + head + size:
            return False
        self._at += head + size
        opcode = data[0] ^ _FINAL
        seen.append(_sight_of(opcode, self._data[self._at - size : self._at]))
        if opcode == Opcode.CLOSE:
            self._step = ResponseReader._nothing
        return True

    def _nothing(self, seen: list[Sight]) -> bool:
        raise ServerError(f"{self._data[self._at :]!r} behind the end")

    # -- parts of steps --------------------------------------------------------------------------

    def _line(self, end: bytes = b"\r\n") -> bytes | None:
        start, stop = self._at, self._data.find(end, self._at)
        if stop < 0:
            return None
        self._at = stop + len(end)
        return self._data[start:stop]

    def _piece(self, seen: list[Sight]) -> None:
        data = self._data[self._at : self._at + self._left]
        self._at += len(data)
        self._left -= len(data)
        seen.append(("body", data))

    def _end(self, seen: list[Sight]) -> None:
        seen.append(("end", None))
        self._step = ResponseReader._nothing


@lru_cache
def _parse_head(head: bytes) -> tuple[int, tuple[tuple[bytes, bytes], ...], int]:
    """Status, the application's headers and the length of the body, negative if it does not tell.

    A server that is asked the same again answers with the same head, but for its date.
    """
    line, *fields = head.split(b"\r\n")
    if not line.startswith(b"HTTP/1.1 "):
        raise ServerError(f"{line!r} is no response's first line")
    pairs = [(name.lower(), value) for name, _, value in (one.partition(b": ") for one in fields)]
    length = int(dict(pairs).get(b"content-length", -1))
    return int(line[9:12]), tuple(pair for pair in pairs if pair[0] not in OWN_HEADERS), length


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
