"""The worker of ``trioloop serve`` itself, over sockets in memory.

Laws of this file:

* Nothing of the server is modelled: its connections, its transport and its writes at the end of a
  turn are those that it has in production; only sockets, epoll and the clock are others.
* A fault of the server ends the run, whoever would have caught it: what a client reads is written
  inside of the server, and of the application.
* Each request has a connection of its own.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, cast

import trio
from hypercorn.config import Config
from starlette.types import ASGIApp, Message

from ..server._connection import Connection
from ..server._epoll_transport import EpollTransport
from ..server._scope import Surroundings
from ..server._settings import Settings
from ..server._transport import ClientGone
from ..server._worker import Worker
from ._client_wire import Hangup, ResponseReader, ServerError, Sight, frame_of
from ._exchange import ClientSide
from ._network import MemoryNews, MemorySocket

_CONFIG: Final = Config()
_CONFIG.errorlog = _CONFIG.accesslog = None
_CONFIG.keep_alive_max_requests = 1
_CONFIG.keep_alive_timeout = math.inf  # a client asks as soon as it has connected

_current: ContextVar[OwnConnection] = ContextVar("_current")
"""Whose request is served by this task."""


class OwnWorker:
    """One worker.

    Args:
        app: the application.
        notice: set when the server begins to drain.

    Attributes:
        patience: seconds for which a client may take nothing.
    """

    patience: Final = Settings().send_timeout

    def __init__(self, app: ASGIApp, notice: trio.Event) -> None:
        self._app = app
        self._notice = notice
        self._news = MemoryNews()
        self._worker: Worker | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Serve, until cancelled."""
        async with trio.open_nursery() as around:
            worker = _Worker(self._call, _CONFIG, around, self._notice, self._news)
            worker.start()
            async with trio.open_nursery() as self._nursery:
                worker.cancellation.happens_with(self._nursery)
                self._worker = worker
                self._around = Surroundings(
                    tls=False,
                    client=("127.0.0.1", 50000),
                    server=("127.0.0.1", 8000),
                    root_path="",
                    state={},
                    wait_for_shutdown=worker.wait_for_shutdown(),
                )
                await trio.sleep_forever()

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        connection = _current.get()
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            connection.failed(error)
            raise

    @property
    def nursery(self) -> trio.Nursery:
        """Where connections are served."""
        assert self._nursery is not None
        return self._nursery

    def cancel(self) -> None:
        """The grace is over."""
        self.nursery.cancel_scope.cancel()

    def connect(
        self, name: str, method: str, note: Callable[..., None], arrived: Callable[[], None]
    ) -> OwnConnection:
        """A client connects; see `OwnConnection`."""
        assert self._worker is not None
        return OwnConnection(name, method, note, self._news, arrived, self._worker.report)

    async def serve(self, connection: ClientSide) -> None:
        """Serve one connection, from its beginning to its end."""
        assert isinstance(connection, OwnConnection)
        worker = self._worker
        assert worker is not None
        assert worker.readiness is not None
        _current.set(connection)
        transport = EpollTransport(cast("socket.socket", connection), worker.readiness)
        served = _Connection(worker, transport, self._around)
        served.client = connection
        worker.connections[served] = None
        try:
            await served.run()
        finally:
            del worker.connections[served]


class _Worker(Worker):
    """A worker whose faults end the run."""

    def report(self, error: Exception) -> None:
        async def fail() -> None:
            raise error

        self.nursery.start_soon(fail, name="<fault>")


class _Connection(Connection):
    """A connection that tells what no client sees: that its application waits, or it waits no more."""

    __slots__ = ("client",)

    client: OwnConnection

    async def write_slowly(self, data: bytes) -> None:
        if not data:  # nobody but the server waits
            await super().write_slowly(data)
            return
        with self.client.waiting():
            await super().write_slowly(data)

    def lose(self, why: str, more: Mapping[str, Any] = ClientGone.why) -> None:
        if "send_timeout" in more and not self.lost:
            self.client.given_up()
        super().lose(why, more)


class OwnConnection(MemorySocket):
    """One connection: the server's socket and the client behind it; see `FakeConnection`.

    Args:
        name: for the journal.
        method: the request's method.
        note: writes the journal.
        network: tells the server's socket's news.
        arrived: called when there is something to read.
        report: told what no client understands.
    """

    def __init__(
        self,
        name: str,
        method: str,
        note: Callable[..., None],
        network: MemoryNews,
        arrived: Callable[[], None],
        report: Callable[[Exception], object],
    ) -> None:
        super().__init__(network, arrived)
        self.name = name
        self.error: BaseException | None = None
        self.write_waits: bool = False  # the application waits for the reader
        self._note = note
        self._report = report
        self._reader = ResponseReader(method)
        self._waits = 0

    @property
    def has_unread(self) -> bool:
        """Whether something was written that nobody has read."""
        return bool(self.unread)

    # -- the server's side -----------------------------------------------------------------------

    def failed(self, error: Exception) -> None:
        """The application has raised."""
        self.error = error
        self._note(self.name, "application raised", error)

    def given_up(self) -> None:
        """The server does not wait any more for a client that takes nothing."""
        self._note(self.name, "is given up")

    @contextmanager
    def waiting(self) -> Generator[None]:
        """The application waits for the client."""
        self._waits += 1
        if self._waits == 1:
            self.write_waits = True
            self._note(self.name, "write waits", "bytes")
        try:
            yield
        finally:
            self._waits -= 1
            if not self._waits:
                self.write_waits = False
                self._note(self.name, "write done")

    # -- the client's side -----------------------------------------------------------------------

    def begin(self, head: bytes, body: bytes | None) -> None:
        """Send a request.

        Args:
            head: of the request.
            body: all of it; `None` when it follows in chunks.
        """
        self.arrive(head + body if body else head)

    def feed(self, events: Iterable[Message | Hangup]) -> None:
        """Let something arrive at the server's socket."""
        for event in events:
            if isinstance(event, str):
                self.hang_up(event)
            else:
                self.arrive(frame_of(event))

    def feed_body(self, data: bytes, *, more: bool) -> None:
        """Let bytes of the request's body arrive."""
        sent = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self.arrive(sent if more else sent + b"0\r\n\r\n")

    def lose_reader(self, how: Hangup = "reset") -> None:
        """Nobody will read what is written; a stuck write ends."""
        super().lose_reader()
        if how == "reset":
            self.hang_up(how)

    def read(self, most: float) -> list[Sight]:
        """Read so many bytes at most; gives what the client sees."""
        seen: list[Sight] = []
        if self.unread and most:
            data = self.take(most)
            if most < math.inf:
                self.wanted -= len(data)
            try:
                self._reader.feed(data, seen)
            except (ServerError, ValueError) as error:
                self._report(error)
                self.lose_reader()
            self.make_room()
        return seen
