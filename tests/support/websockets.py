"""A WebSocket client that writes its frames by hand, so that it can misbehave (RFC 6455, section 5)."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

from .sockets import Client, connected

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The nonce of RFC 6455, section 1.3; the answer to it is `ACCEPT`."""
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def handshake(path: str = "/", headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A client's opening handshake (RFC 6455, section 4.1)."""
    lines = [
        f"GET {path} HTTP/1.1",
        "host: test",
        "upgrade: websocket",
        "connection: Upgrade",
        f"sec-websocket-key: {KEY}",
        "sec-websocket-version: 13",
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True) -> bytes:
    """One frame of a client, whatever its sense (RFC 6455, section 5.2)."""
    first = opcode | (0x80 if final else 0)
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, bit | len(payload))
    elif len(payload) < 2**16:
        head = struct.pack("!BBH", first, bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(payload))
    return head + (b"\0\0\0\0" if masked else b"") + payload  # a mask of zeros changes nothing


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    """A client's close frame (RFC 6455, section 5.5.1)."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


class Frame(NamedTuple):
    """One frame of the server."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int | None:
        """The code of a close frame."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None


class RawWebSocket:
    """A WebSocket whose frames are written and read one by one.

    Attributes:
        head: the server's answer to the handshake.
        connection: what is beneath.
    """

    def __init__(self, connection: Client) -> None:
        self.connection = connection
        self.head = b""
        self._buffer = b""

    async def open(self, path: str = "/", headers: Iterable[tuple[str, str]] = ()) -> int:
        """Shake hands; the status."""
        await self.connection.send(handshake(path, headers))
        while b"\r\n\r\n" not in self._buffer:
            data = await self.connection.receive()
            assert data, "no answer to the handshake"
            self._buffer += data
        self.head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return int(self.head.split()[1])

    async def send(self, *frames: bytes) -> None:
        await self.connection.send(b"".join(frames))

    async def next(self) -> Frame | None:
        """The next frame; `None` when the connection has ended."""
        while True:
            found = _split(self._buffer)
            if found is not None:
                frame_, self._buffer = found
                return frame_
            data = await self.connection.receive()
            if not data:
                return None
            self._buffer += data

    async def until_close(self) -> list[Frame]:
        """All frames up to the close frame, or to the end of the connection."""
        frames: list[Frame] = []
        while (one := await self.next()) is not None:
            frames.append(one)
            if one.opcode == CLOSE:
                break
        return frames


def _split(data: bytes) -> tuple[Frame, bytes] | None:
    if len(data) < 2:
        return None
    start, length = 2, data[1] & 0x7F
    if length == 126:
        start = 4
    elif length == 127:
        start = 10
    if len(data) < start:
        return None
    if start > 2:
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        return None
    return Frame(data[0] & 0x0F, data[start : start + length]), data[start + length :]


@asynccontextmanager
async def raw_websocket(
    port: int,
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    *,
    receive_buffer: int | None = None,
) -> AsyncIterator[RawWebSocket]:
    """An open WebSocket, which is gone at the end."""
    async with connected(port, receive_buffer=receive_buffer) as connection:
        websocket = RawWebSocket(connection)
        assert await websocket.open(path, headers) == 101, websocket.head
        yield websocket
