"""A fake ASGI server with its clients, in memory and on virtual time; and handlers that remember.

What it models of Hypercorn's Trio worker:

* the head of a response goes out with the first piece of its body, so only bodies can block;
* a write to a client that does not read blocks; when ``shielded``, nothing but the return of the
  ASGI call frees it;
* what is sent after the client has gone is swallowed;
* after the last piece of a body, ``receive()`` says ``http.disconnect``;
* at a shutdown ASGI calls are cancelled without notice, and then the lifespan is told.

A server must also refuse what ASGI forbids: here that is an `AssertionError` in ``send``.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioloop import App, EventStreamHandler, Hub, LoopHandler, TerminateReason

if TYPE_CHECKING:
    from .fake_websocket import FakeWebSocket

Message = dict[str, Any]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


PATIENCE = 10**5
"""Virtual seconds after which a test that waits for what never comes fails."""


class Call:
    """One ASGI call, and the client behind it.

    Attributes:
        messages: what the application sent and the client got, with its time.
        error: what the application raised.
    """

    def __init__(self, scope: Message) -> None:
        self.scope = scope
        self.messages: list[tuple[float, Message]] = []
        self.error: Exception | None = None
        self._to_app, self._from_client = trio.open_memory_channel[Message](math.inf)
        self._call = trio.CancelScope()
        self._returned = trio.Event()
        self._window = trio.Event()
        self._window.set()
        self._gone = False
        self._send_error: Exception | None = None

    @property
    def returned(self) -> bool:
        """Whether the ASGI call has returned."""
        return self._returned.is_set()

    async def wait_returned(self) -> None:
        """Wait until the connection is closed by the server."""
        await self._returned.wait()

    def resume(self) -> None:
        """Read on."""
        self._window.set()

    def cancel(self) -> None:
        """Cancel the ASGI call, as at a shutdown without notice."""
        self._call.cancel()

    def fail_sends(self, error: Exception) -> None:
        """Let ``send`` raise, as ASGI 2.4 wants it from servers whose client has gone."""
        self._send_error = error

    async def run(self, app: ASGIApp) -> None:
        with self._call:
            try:
                await app(self.scope, self._receive, self._send)
            except Exception as error:
                self.error = error
        await self._after_call()
        self._returned.set()
        self._window.set()

    async def _receive(self) -> Message:
        return await self._from_client.receive()

    async def _send(self, message: Message) -> None:
        raise NotImplementedError  # a request and a WebSocket have their own

    async def _after_call(self) -> None:
        """What the server does when the application has returned."""


class Exchange(Call):
    """One request and its response."""

    def __init__(self, scope: Message) -> None:
        super().__init__(scope)
        self._shielded = False

    # -- what the client sees --------------------------------------------------------------------

    @property
    def status(self) -> int | None:
        return self._head["status"] if self.messages else None

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self._head["headers"]}

    @property
    def _head(self) -> Message:
        return self.messages[0][1]

    @property
    def writes(self) -> list[tuple[float, bytes]]:
        """The pieces of the body that are not empty, with their times."""
        pieces = [(time, message.get("body", b"")) for time, message in self.messages]
        return [(time, piece) for time, piece in pieces if piece]

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.writes)

    @property
    def complete(self) -> bool:
        """Whether the last piece of the body has come."""
        return bool(self.messages) and _is_last(self.messages[-1][1])

    @property
    def aborted(self) -> bool:
        """Whether the connection was cut: the application is through and the body is not."""
        return self.returned and not self.complete

    # -- what the client does --------------------------------------------------------------------

    def send_body(self, chunk: bytes, more: bool = True) -> None:
        self._to_app.send_nowait({"type": "http.request", "body": chunk, "more_body": more})

    def disconnect(self) -> None:
        self._gone = True
        self._window.set()
        self._to_app.send_nowait({"type": "http.disconnect"})

    def stall(self, *, shielded: bool = False) -> None:
        """Stop reading."""
        self._shielded = shielded
        self._window = trio.Event()

    # -- what the server does --------------------------------------------------------------------

    async def _send(self, message: Message) -> None:
        with trio.CancelScope(shield=self._shielded):
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.body":
                await self._window.wait()
        if self._send_error is not None:
            raise self._send_error
        if self._gone or self.returned:
            return
        self._check(message)
        self.messages.append((trio.current_time(), message))
        if self.complete:
            self._to_app.send_nowait({"type": "http.disconnect"})

    def _check(self, message: Message) -> None:
        expected = "http.response.body" if self.messages else "http.response.start"
        assert message["type"] == expected, f"{message} where {expected} is due"
        assert not self.complete, f"{message} after the end of the response"


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


class Client:
    """Where requests are made. Made by `serve`.

    Attributes:
        app: what is served.
    """

    def __init__(self, app: Any, nursery: trio.Nursery) -> None:
        self.app = app
        self._nursery = nursery
        self._exchanges: list[Exchange | FakeWebSocket] = []
        self._to_lifespan, self._from_server = trio.open_memory_channel[Message](math.inf)
        self._lifespan_over = trio.Event()
        self._state: dict[str, Any] = {}

    @property
    def hub(self) -> Hub:
        return self.app.hub

    def open(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        more: bool = False,
        app: ASGIApp | None = None,
    ) -> Exchange:
        """Start an ASGI call, and do not wait for it.

        Args:
            method: of HTTP.
            path: with a query string, if there is one.
            headers: sent as UTF-8.
            body: the first piece of the request's body.
            more: whether `Exchange.send_body` will send more of it.
            app: called in place of the one that is served.
        """
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"test")]
            + [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
            "extensions": {},
            "state": self._state.copy(),
        }
        exchange = Exchange(scope)
        exchange.send_body(body, more)
        self._exchanges.append(exchange)
        self._nursery.start_soon(exchange.run, self.app if app is None else app)
        return exchange

    def websocket(
        self,
        path: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: tuple[str, ...] = (),
        extensions: Mapping[str, Any] | None = None,
        true_codes: bool = False,
        app: ASGIApp | None = None,
        **scope: Any,
    ) -> FakeWebSocket:
        """Start the ASGI call of a WebSocket, and do not wait for it.

        Args:
            path: with a query string, if there is one.
            headers: sent as UTF-8.
            subprotocols: that the client offers.
            extensions: of the server; by default those of Hypercorn.
            true_codes: whether the server passes on a client's close code.
            app: called in place of the one that is served.
            scope: what else is different in the ASGI scope.
        """
        from .fake_websocket import FakeWebSocket

        path, _, query = path.partition("?")
        pairs = {"host": "test", **(headers or {})}
        websocket = FakeWebSocket(
            {
                "type": "websocket",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "scheme": "ws",
                "path": path,
                "raw_path": path.encode(),
                "query_string": query.encode(),
                "root_path": "",
                "headers": [
                    (name.lower().encode(), value.encode()) for name, value in pairs.items()
                ],
                "client": ("127.0.0.1", 50000),
                "server": ("127.0.0.1", 80),
                "subprotocols": list(subprotocols),
                "extensions": {"websocket.http.response": {}} if extensions is None else extensions,
                "state": self._state.copy(),
            }
            | scope,
            true_codes=true_codes,
        )
        self._exchanges.append(websocket)
        self._nursery.start_soon(websocket.run, self.app if app is None else app)
        return websocket

    def run_websocket(self, handler: Any, path: str = "/", **request: Any) -> FakeWebSocket:
        """Serve a WebSocket with this handler, wherever the path leads to."""
        return self.websocket(path, **request, app=self.hub.endpoint(lambda: handler))

    def run(self, handler: Any, method: str = "GET", path: str = "/", **request: Any) -> Exchange:
        """Serve a request with this handler, wherever the path leads to."""
        endpoint = self.hub.endpoint(lambda: handler)
        return self.open(method, path, **request, app=endpoint)

    def forget(self, exchange: Exchange | FakeWebSocket) -> None:
        """Hold nothing of an exchange any more."""
        self._exchanges.remove(exchange)

    async def shut_down(self) -> None:
        """Stop as the stock server does: cancel what runs, then tell the lifespan."""
        for exchange in self._exchanges:
            exchange.cancel()
            await exchange.wait_returned()
        if not self._lifespan_over.is_set():
            self._to_lifespan.send_nowait({"type": "lifespan.shutdown"})
            await self._lifespan_over.wait()

    async def live(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The application's lifespan."""

        async def send(message: Message) -> None:
            assert message["type"] != "lifespan.startup.failed", message["message"]
            if message["type"] == "lifespan.startup.complete":
                task_status.started()

        self._to_lifespan.send_nowait({"type": "lifespan.startup"})
        scope = {"type": "lifespan", "asgi": {}, "state": self._state}
        await self.app(scope, self._from_server.receive, send)
        self._lifespan_over.set()


@asynccontextmanager
async def serve(app: Any = None, **hub_options: Any) -> AsyncIterator[Client]:
    """Serve an application, by default one that is nothing but a hub with these options."""
    app = App(hub=Hub(**hub_options)) if app is None else app
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            client = Client(app, nursery)
            await nursery.start(client.live)
            yield client
            await client.shut_down()


@asynccontextmanager
async def serve_without_lifespan(app: Any) -> AsyncIterator[Client]:
    """Serve an application as a parent does that forwards no lifespan."""
    async with trio.open_nursery() as nursery:
        yield Client(app, nursery)
        nursery.cancel_scope.cancel()


async def settle() -> None:
    """Let everybody run until all wait for something, without a moment passing."""
    await wait_all_tasks_blocked()


def run_on_virtual_time(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """For ``@given``, where each example needs a clock of its own."""
    return trio.run(function, *args, clock=MockClock(autojump_threshold=0))


# -- handlers that remember ------------------------------------------------------------------------


class _Remembers:
    """Remembers what it handled and why it ended; carries out commands and lists of them.

    Args:
        answer: what ``info`` does with a message, in place of that.
        attributes: callbacks and options of this one handler.

    Attributes:
        handled: the messages that ``info`` got, in order.
        times: when it got them.
        reasons: what ``terminate`` got.
        ended_at: when it got the first.
    """

    def __init__(self, answer: Callable[[Any], Any] | None = None, **attributes: Any) -> None:
        self.handled: list[Any] = []
        self.times: list[float] = []
        self.reasons: list[TerminateReason] = []
        self.ended_at = math.nan
        self._answer = answer
        for name, value in attributes.items():
            setattr(self, name, value)

    def info(self, message: Any) -> Any:
        self.handled.append(message)
        self.times.append(trio.current_time())
        if self._answer is not None:
            return self._answer(message)
        return message if isinstance(message, (list, *self.command_types)) else None

    def terminate(self, reason: TerminateReason) -> Any:
        if not self.reasons:
            self.ended_at = trio.current_time()
        self.reasons.append(reason)


class Poll(_Remembers, LoopHandler[Any]):
    """A `LoopHandler` that remembers."""


class Parent(Poll):
    """A `Poll` with a nursery in use.

    Attributes:
        children: the nursery that it had in ``init``.
    """

    def init(self, request: Any) -> None:
        self.children = self.nursery


class Stream(_Remembers, EventStreamHandler[Any]):
    """An `EventStreamHandler` that remembers."""


class Graveyard:
    """A ``dead_letter`` hook that remembers."""

    def __init__(self) -> None:
        self.letters: list[tuple[Any, Any]] = []

    def __call__(self, ref: Any, message: Any, cause: Any) -> None:
        self.letters.append((message, cause))
