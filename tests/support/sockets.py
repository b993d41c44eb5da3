"""Real sockets: an application under Hypercorn's Trio worker or ours, and a client of raw bytes.

Laws of this file:

* Nothing waits for ever: all that happens with a server happens within `DEADLINE`.
* Nothing sleeps for a fixed time: what is waited for is a handler's word, a log line or a byte.
* The client shows what came over the wire: a response that ended early is not one that is complete.
"""

import logging
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import h11
import hypercorn.trio
import trio
from hypercorn.config import Config
from trio.testing import wait_all_tasks_blocked

import trioloop
from trioloop import (
    App,
    Chunk,
    EventStreamHandler,
    HandlerRef,
    LoopHandler,
    Reply,
    ServerSentEvent,
    StartResponse,
    TerminateReason,
)
from trioloop.server._settings import OWN

DEADLINE = 60.0
"""Seconds after which a test has failed: for machines that are busy with something else."""

MORE_THAN_BUFFERS = 16 * 2**20
"""Bytes that do not fit into the buffers of both ends of a socket, whatever the system allows."""

WORKER = "stock"
"""Whose worker serves: ``stock`` for Hypercorn's, ``trioloop`` for ours. A fixture changes it."""

T = TypeVar("T")


class Arrivals(Generic[T]):
    """Values in the order of their arrival; one task waits for them.

    Attributes:
        all: every value so far.
    """

    def __init__(self) -> None:
        self.all: list[T] = []
        self._taken = 0
        self._changed = trio.Event()

    def put(self, value: T) -> None:
        self.all.append(value)
        self._changed.set()

    async def next(self) -> T:
        """The first value that was not taken yet."""
        while self._taken == len(self.all):
            self._changed = trio.Event()
            await self._changed.wait()
        self._taken += 1
        return self.all[self._taken - 1]


class Watch:
    """What a test learns from its handlers.

    Attributes:
        ended: takes a reason; ``terminate = watch.ended`` in a class body makes it ``terminate``.
        reasons: why handlers have ended so far.
        starts: how many have started.
    """

    def __init__(self) -> None:
        self._refs: Arrivals[HandlerRef[Any]] = Arrivals()
        self._reasons: Arrivals[TerminateReason] = Arrivals()
        self.ended: Any = self._reasons.put  # Any: bound already, it needs no handler

    def started(self, handler: LoopHandler[Any]) -> None:
        """To be called in ``init``."""
        self._refs.put(handler.ref)

    async def ref(self) -> HandlerRef[Any]:
        """The next handler that has started."""
        return await self._refs.next()

    async def reason(self) -> TerminateReason:
        """Why the next handler has ended."""
        return await self._reasons.next()

    @property
    def reasons(self) -> list[TerminateReason]:
        return self._reasons.all

    @property
    def starts(self) -> int:
        return len(self._refs.all)


class Alive(LoopHandler[Any]):
    """Shows that a server, or a connection, still works."""

    def init(self, request: Any) -> Reply:
        return Reply(200, body="alive")


def obedient(kind: str, watch: Watch) -> Any:
    """A handler class whose messages are functions of the handler.

    Args:
        kind: ``waiting``, ``open`` for a response that has begun, or ``event stream``.
        watch: is told of each handler.
    """

    class Waiting(LoopHandler[Any]):
        def init(self, request: Any) -> Any:
            watch.started(self)

        def info(self, message: Any) -> Any:
            return message(self)

        terminate = watch.ended

    class Open(Waiting):
        def init(self, request: Any) -> Any:
            watch.started(self)
            return [StartResponse(200), Chunk("first\n")]

    class Events(EventStreamHandler[Any]):
        methods = None

        def init(self, request: Any) -> Any:
            watch.started(self)
            return ServerSentEvent("first")

        def info(self, message: Any) -> Any:
            return message(self)

        terminate = watch.ended

    return {"waiting": Waiting, "open": Open, "event stream": Events}[kind]


# -- the server -----------------------------------------------------------------------------------


class _LogLines(logging.Handler):
    def __init__(self, lines: Arrivals[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(self.format(record))


def _logger(lines: Arrivals[str]) -> logging.Logger:
    logger = logging.Logger("hypercorn under test")  # noqa: LOG001 - nobody else shall find it
    logger.addHandler(_LogLines(lines))
    return logger


async def _serve(app: Any, config: Config, **options: Any) -> None:
    if WORKER == "stock":
        await hypercorn.trio.serve(app, config, mode="asgi", **options)
    else:
        await trioloop.serve(app, config, **options)


class StockServer:
    """A running server. Made by `stock_server`.

    Attributes:
        port: where it listens on 127.0.0.1.
        errors: lines of its error log, with tracebacks.
        accesses: lines of its access log, each written before the application hears that its
            connection is gone.
        ended: set when ``serve`` has returned or raised.
    """

    def __init__(self) -> None:
        self.port = 0
        self.errors: Arrivals[str] = Arrivals()
        self.accesses: Arrivals[str] = Arrivals()
        self.ended = trio.Event()
        self._stop = trio.Event()

    def shut_down(self) -> None:
        """Do what SIGTERM does."""
        self._stop.set()

    async def is_alive(self) -> bool:
        """Whether it serves somebody else, see `Client.is_served`."""
        if self.ended.is_set():
            return False
        try:
            async with self.client() as other:
                return await other.is_served()
        except OSError:
            return False

    async def run(self, app: Any, config: Config, *, task_status: Any) -> None:
        trigger: Any = self._stop.wait
        try:
            await _serve(app, config, shutdown_trigger=trigger, task_status=task_status)
        finally:
            self.ended.set()

    @asynccontextmanager
    async def client(self, *, receive_buffer: int | None = None) -> AsyncIterator["Client"]:
        """A connected client, which is gone at the end."""
        async with connected(self.port, receive_buffer=receive_buffer) as client:
            yield client


@asynccontextmanager
async def stock_server(app: Any, **settings: Any) -> AsyncIterator[StockServer]:
    """Serve an application in this process, with the worker of `WORKER`.

    Args:
        app: an ASGI application.
        settings: attributes of Hypercorn's configuration. ``graceful_timeout`` is 0.2 s unless given.
    """
    server = StockServer()
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 0.2
    config.errorlog = _logger(server.errors)
    config.accesslog = _logger(server.accesses)
    for name, value in settings.items():
        assert hasattr(config, name) or name in OWN
        setattr(config, name, value)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            binds: list[str] = await nursery.start(partial(server.run, app, config))
            server.port = int(binds[0].rpartition(":")[2])
            yield server
            server.shut_down()


@asynccontextmanager
async def serving(handler: Any, **options: Any) -> AsyncIterator[tuple[StockServer, App]]:
    """Serve one handler at ``/`` and `Alive` at ``/alive``."""
    app = App()
    app.route("/", handler, **options)
    app.route("/alive", Alive)
    async with stock_server(app) as server:
        yield server, app


# -- the client -----------------------------------------------------------------------------------


class Cut(Exception):
    """The connection ended before the response was complete."""


class Answer(NamedTuple):
    """A complete response."""

    status: int
    headers: dict[str, str]
    body: bytes


def request_bytes(
    method: str = "GET",
    path: str = "/",
    body: bytes | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """A whole request; with ``body=None`` one that has none."""
    lines = [f"{method} {path} HTTP/1.1", "host: test"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Client:
    """One connection of an HTTP/1.1 client that can misbehave.

    Attributes:
        received: the body so far of the response that is being read.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = h11.Connection(h11.CLIENT)
        self.received = bytearray()

    # -- writing ---------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def flood(self, data: bytes) -> int:
        """Send this again and again until the server takes no more; how much it has taken."""
        sent, before = 0, -1

        async def send() -> None:
            nonlocal sent
            while True:
                await self.send(data)
                sent += len(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while sent != before:
                before = sent
                await wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
        return sent

    async def request(self, method: str = "GET", path: str = "/", **parts: Any) -> None:
        """Send a whole request, see `request_bytes`."""
        await self.send(request_bytes(method, path, **parts))

    # -- reading ---------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Some bytes; none when the connection has ended, in whichever way."""
        try:
            return bytes(await self._stream.receive_some(2**16))
        except trio.BrokenResourceError:
            return b""

    async def head(self, method: str = "GET") -> h11.Response:
        """Read the head of the next response."""
        unread, ended = self._reader.trailing_data
        self._reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * MORE_THAN_BUFFERS)
        self._reader.send(h11.Request(method=method, target="/", headers=[("host", "test")]))
        self._reader.send(h11.EndOfMessage())
        if unread:
            self._reader.receive_data(unread)
        if ended:
            self._reader.receive_data(b"")
        self.received = bytearray()
        event = await self._next_event()
        assert isinstance(event, h11.Response)
        return event

    async def _next_event(self) -> Any:
        while True:
            try:
                event = self._reader.next_event()
            except h11.RemoteProtocolError as error:
                raise Cut(str(error)) from error
            if event is not h11.NEED_DATA:
                return event
            self._reader.receive_data(await self.receive())

    async def piece(self) -> bytes | None:
        """The next piece of the body; `None` when it is complete.

        Raises:
            Cut: it never will be.
        """
        event = await self._next_event()
        if isinstance(event, h11.EndOfMessage):
            return None
        assert isinstance(event, h11.Data)
        self.received += event.data
        return bytes(event.data)

    async def until(self, text: str) -> None:
        """Read until the body has this text."""
        wanted = text.encode()
        searched = 0
        while self.received.find(wanted, searched) < 0:
            searched = max(0, len(self.received) - len(wanted))
            assert await self.piece() is not None, f"complete without {text!r}"

    async def rest(self) -> bytes:
        """Read until the body is complete; all of it.

        Raises:
            Cut: it never will be.
        """
        while await self.piece() is not None:
            pass
        return bytes(self.received)

    async def answer(self, method: str = "GET") -> Answer:
        """Read a whole response.

        Raises:
            Cut: there is no whole one.
        """
        head = await self.head(method)
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        return Answer(head.status_code, headers, await self.rest())

    async def end(self) -> bytes:
        """Wait until the server has closed the connection; what it sent in the meantime."""
        unread, _ = self._reader.trailing_data
        while data := await self.receive():
            unread += data
        return unread

    async def is_served(self) -> bool:
        """Whether this connection serves a request for ``/alive``, as `Alive` answers it."""
        await self.request(path="/alive")
        return (await self.answer()).body == b"alive"

    # -- leaving ---------------------------------------------------------------------------------

    def close(self) -> None:
        self._stream.socket.close()

    def reset(self) -> None:
        """Leave without a good-bye: the peer gets RST."""
        linger = struct.pack("ii", 1, 0)
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    async def half_close(self) -> None:
        """Say that nothing more will be sent; what is received can still be read."""
        await self._stream.send_eof()


@asynccontextmanager
async def connected(port: int, *, receive_buffer: int | None = None) -> AsyncIterator[Client]:
    """A client of whatever listens on this port of 127.0.0.1; it is gone at the end.

    Args:
        port: the port.
        receive_buffer: SO_RCVBUF. Small, the peer soon notices that nobody reads.
    """
    with trio.socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", port))
        yield Client(trio.SocketStream(sock))
