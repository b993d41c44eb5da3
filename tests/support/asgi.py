"""Plain ASGI applications for tests of a server."""

from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from support.sockets import StockServer, stock_server


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


async def logged(server: StockServer, text: str) -> None:
    """Wait for a line of the error log with this text in it."""
    while text not in await server.errors.next():
        pass


async def settle() -> None:
    """Let all tasks of this process do what they can."""
    await trio.testing.wait_all_tasks_blocked(0.01)
