"""A WebSocket client that writes its frames by hand, so that it can misbehave (RFC 6455, section 5)."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from .sockets import Client, connected, request_bytes

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The nonce of RFC 6455, section 1.3; the answer to it is `ACCEPT`."""
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def handshake_bytes(
    path: str = "/", headers: Iterable[tuple[str, str]] = (), *, key: str = KEY
) -> bytes:
    """A client's opening handshake (RFC 6455, section 4.1)."""
    own = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", key),
    ]
    return request_bytes(path=path, headers=[*own, *headers])


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x01\x02\x03\x04",
) -> bytes:
    """One frame of a client, whatever its sense (RFC 6455, section 5.2).

    Args:
        opcode: of the frame.
        payload: of the frame.
        fin: whether it is the last, or the only one, of its message.
        rsv: the reserved bits, as a number.
        mask: `None` for a frame that is not masked.
    """
    first = (0x80 if fin else 0) | (rsv << 4) | opcode
    bit = 0 if mask is None else 0x80
    if len(payload) < 126:
        head = struct.pack("!BB", first, bit | len(payload))
    elif len(payload) < 2**16:
        head = struct.pack("!BBH", first, bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(payload))
    return head + (payload if mask is None else mask + _masked(payload, mask))


def _masked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(repeated)).to_bytes(size)


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

    async def open(
        self, path: str = "/", headers: Iterable[tuple[str, str]] = (), *, early: bytes = b""
    ) -> int:
        """Shake hands; the status.

        Args:
            path: what is asked for.
            headers: more of them.
            early: what is sent in the same packet, behind the handshake.
        """
        await self.connection.send(handshake_bytes(path, headers) + early)
        return int((await self.read_head()).split()[1])

    async def read_head(self) -> bytes:
        """Read the answer to a handshake."""
        while b"\r\n\r\n" not in self._buffer:
            data = await self.connection.receive()
            assert data, self._buffer
            self._buffer += data
        self.head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return self.head

    async def send(self, *frames: bytes) -> None:
        await self.connection.send(b"".join(frames))

    async def next(self) -> Any:
        """The next `Frame`; `None` when the connection has ended."""
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


async def opened(
    client: Client, path: str = "/", headers: Iterable[tuple[str, str]] = (), *, early: bytes = b""
) -> RawWebSocket:
    """A WebSocket on a connection, see `RawWebSocket.open`."""
    websocket = RawWebSocket(client)
    assert await websocket.open(path, headers, early=early) == 101, websocket.head
    return websocket


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
        yield await opened(connection, path, headers)
