"""Plain ASGI applications for tests of a server, and connections to it that write raw bytes."""

from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from support.sockets import StockServer, request_bytes, stock_server

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def start(status=200, headers=()):
    """``http.response.start``."""
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data=b"", *, more=False):
    """``http.response.body``."""
    return {"type": "http.response.body", "body": data, "more_body": more}


async def answer(send, data=b"", status=200, headers=()):
    """Send a whole response."""
    await send(start(status, headers))
    await send(body(data))


async def read_body(receive) -> bytes:
    """Read the body of a request to its end."""
    data, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        data += message["body"]
        more = message["more_body"]
    return data


class Application:
    """An application made of functions.

    Args:
        http: called for each request but ``/alive``, which is answered with 200.
        websocket: called for each WebSocket.
    """

    def __init__(self, http: Any = None, websocket: Any = None) -> None:
        self._http = http or answer_with_body
        self._websocket = websocket or echo

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["path"] == "/alive":
            await answer(send, b"alive")
        else:
            await self._http(scope, receive, send)


async def answer_with_body(scope, receive, send):
    """Answers with the body of the request."""
    data = await read_body(receive)
    await answer(send, data)


async def echo(scope, receive, send):
    """Sends back what it receives."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({**message, "type": "websocket.send"})


@asynccontextmanager
async def serving_app(http=None, websocket=None, *, receive_buffer=None, **settings):
    """A server of an `Application`, and a client of it."""
    async with (
        stock_server(Application(http, websocket), **settings) as server,
        server.client(receive_buffer=receive_buffer) as client,
    ):
        yield server, client


async def is_alive(server: StockServer) -> bool:
    """Whether the server serves somebody else."""
    if server.ended.is_set():
        return False
    try:
        async with server.client() as other:
            await other.request(path="/alive")
            return (await other.answer()).body == b"alive"
    except OSError:
        return False


def handshake_bytes(path="/", headers=(), *, key=KEY):
    """An opening handshake."""
    return request_bytes(
        path=path,
        headers=[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", key),
            *headers,
        ],
    )


def frame(opcode, data=b"", *, fin=True, rsv=0, mask=b"\x01\x02\x03\x04"):
    """A frame of a client; ``mask=None`` for one that is not masked."""
    head = bytes([(0x80 if fin else 0) | (rsv << 4) | opcode])
    masked = 0x80 if mask is not None else 0
    if len(data) < 126:
        head += bytes([masked | len(data)])
    elif len(data) < 65536:
        head += bytes([masked | 126]) + len(data).to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + len(data).to_bytes(8, "big")
    if mask is None:
        return head + data
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


class Frames:
    """The frames that a server sends after its 101."""

    def __init__(self, client) -> None:
        self._client = client
        self._buffer = b""

    async def head(self) -> bytes:
        """Read the answer to the handshake."""
        while b"\r\n\r\n" not in self._buffer:
            data = await self._client.receive()
            assert data, self._buffer
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    async def next(self) -> Any:
        """The next frame as (opcode, payload); `None` at the end of the connection."""
        while True:
            if len(self._buffer) >= 2:
                length, start = self._buffer[1], 2
                if length == 126 and len(self._buffer) >= 4:
                    length, start = int.from_bytes(self._buffer[2:4], "big"), 4
                elif length == 127 and len(self._buffer) >= 10:
                    length, start = int.from_bytes(self._buffer[2:10], "big"), 10
                end = start + length
                if (self._buffer[1] < 126 or start > 2) and len(self._buffer) >= end:
                    opcode = self._buffer[0]
                    payload = self._buffer[start:end]
                    self._buffer = self._buffer[end:]
                    return opcode & 0x0F, payload
            data = await self._client.receive()
            if not data:
                return None
            self._buffer += data


async def opened(client, path="/", headers=(), early=b"") -> Frames:
    """Open a WebSocket on a connection, with bytes in the same packet behind the handshake."""
    await client.send(handshake_bytes(path, headers) + early)
    frames = Frames(client)
    assert (await frames.head()).startswith(b"HTTP/1.1 101 ")
    return frames


async def logged(server: StockServer, text: str) -> None:
    """Wait for a line of the error log with this text in it."""
    while text not in await server.errors.next():
        pass


async def settle() -> None:
    """Let all tasks of this process do what they can."""
    await trio.testing.wait_all_tasks_blocked(0.01)
