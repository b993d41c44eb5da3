"""One worker: Hypercorn's, with this package's connections in it.

The laws of this file:

* Hypercorn's ``worker_serve`` does what it always does (lifespan, sockets, TLS, logging, the
  drain); only the names by which it finds its connection class and Trio's accept loop are bound to
  something else, in a copy of its own globals: whoever serves with Hypercorn in the same process is
  not affected.
* Nothing of a connection but cancellation, ``KeyboardInterrupt`` and ``SystemExit`` reaches the
  nursery of the others.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import hypercorn.trio.run
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.statsd import StatsdLogger
from hypercorn.trio.worker_context import WorkerContext

from . import _readiness, _websocket
from ._accepting import serve_listeners
from ._access import AccessLog
from ._cancellation import Cancellation
from ._connection import Connection
from ._deadlines import Clock, Group
from ._epoll_transport import EpollTransport
from ._head import Head
from ._http2 import serve_http2
from ._readiness import Epoll, News, Readiness
from ._response import Fields, chunk, refusal
from ._scope import Address, Surroundings, address_of
from ._settings import Settings
from ._transport import ClientGone, SocketTransport, TLSTransport, Transport
from ._turns import Turns

if TYPE_CHECKING:
    from hypercorn.config import Config, Sockets

    from ._websocket import WebSocket

SERVER: Final = b"trioloop"

_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""What a client that has gone makes of a connection, wherever it is just then."""

Application: TypeAlias = "Callable[[Any, Any, Any], Awaitable[None]]"
TLSStream: TypeAlias = trio.SSLStream[trio.SocketStream]
Stream: TypeAlias = trio.SocketStream | TLSStream


class Worker:
    """What the connections of one worker have in common.

    Args:
        app: the application.
        config: Hypercorn's configuration.
        nursery: where what outlives a call runs, and the worker's own tasks.
        notice: set when the server begins to drain.
        news: where news of sockets come from; `None` where Trio waits for each.

    Attributes:
        app: the application, called with a scope, ``receive`` and ``send``.
        settings: what can be set.
        log: Hypercorn's logger.
        access: the access log.
        turns: writes at the end of a turn.
        cancellation: what is called when connections are cancelled.
        connections: those that are served.
        readiness: watches the sockets, where Trio does not.
        idle: deadlines of connections without a request.
        heads: ... whose request is coming.
        bodies: ... whose request's body is coming.
        pings: WebSockets, by the time of their next ping.
        pumps: WebSockets whose application is busy.
    """

    def __init__(
        self,
        app: Application,
        config: Config,
        nursery: trio.Nursery,
        notice: trio.Event,
        news: News | None = None,
    ) -> None:
        self.app: Application = app
        self.settings: Settings = Settings.of(config)
        self.nursery: trio.Nursery = nursery
        self.log = config.log
        self.access: AccessLog = AccessLog(config.log)
        self.turns: Turns = Turns(self._run_soon)
        self.readiness = None if news is None else Readiness(self.report, self.turns, news)
        self.cancellation: Cancellation = Cancellation(self.report)
        self._notice = notice
        self._own_context = copy_context()
        self._clock = Clock(self._run_soon)
        self._config = config
        self.connections: dict[Connection, None] = {}  # in their order
        self._context: WorkerContext | None = None
        self._wait = self.wait_for_shutdown()
        self._hosts = frozenset(name.encode() for name in config.server_names)
        self._headers: Fields = []
        self._headers_second = 0
        self._framed: tuple[bytes, bytes] = (b"", b"")
        settings = self.settings
        expire = Connection.expire
        self.idle: Group[Connection] = self._clock.group(settings.keep_alive_timeout, expire)
        self.heads: Group[Connection] = self._clock.group(settings.request_timeout, expire)
        self.bodies: Group[Connection] = self._clock.group(settings.read_timeout, expire)
        self.pings: Group[WebSocket] = self._clock.group(settings.ping_interval, _beat)
        self.pumps: Group[WebSocket] = self._clock.group(_websocket.PUMP_SECONDS, _pump)

    def start(self) -> None:
        """Watch the sockets, and wait for the drain, from now on."""
        if self.readiness is not None:
            self.nursery.start_soon(self.readiness.run, name="readiness")
        self.nursery.start_soon(self._drain)

    def _run_soon(self, service: Callable[[], Awaitable[None]]) -> None:
        """Start a task of the worker's own, which is not that request's by which it is needed first."""
        self._own_context.run(self.nursery.start_soon, service)

    @property
    def draining(self) -> bool:
        """Whether the server goes down."""
        return self._notice.is_set()

    def wait_for_shutdown(self) -> Callable[[], Awaitable[None]]:
        """The ``wait`` of ``trioloop.shutdown``: a function, which a copied scope has in common."""
        notice = self._notice

        async def wait() -> None:
            await notice.wait()

        return wait

    # -- connections -----------------------------------------------------------------------------

    async def connect(
        self,
        context: WorkerContext,
        state: dict[str, Any],
        stream: socket.socket | TLSStream,
        client: Address = None,
    ) -> None:
        """Serve one connection, from its beginning to its end.

        Args:
            context: Hypercorn's.
            state: the lifespan's state.
            stream: a plain socket, which is closed here; or one of Trio's streams.
            client: the address of a plain socket's client.
        """
        if self._context is None:
            self._context = context
            self.nursery.start_soon(self._note_the_end, context)
            self.cancellation.happens_with(trio.lowlevel.current_task().parent_nursery)
        connection: Connection | None = None
        try:
            if isinstance(stream, socket.socket):
                server = address_of(stream.family, stream.getsockname())
                transport = self._transport(stream)
            elif await self._speaks_http2(stream):
                await self._speak_http2(context, state, stream, b"")
                return
            else:
                sock = stream.transport_stream.socket
                client = address_of(sock.family, sock.getpeername())
                server = address_of(sock.family, sock.getsockname())
                transport = TLSTransport(stream)
            if len(self.connections) >= self.settings.max_connections:
                await self._turn_away(transport)
                return
            around = Surroundings(
                tls=isinstance(transport, TLSTransport),
                client=client,
                server=server,
                root_path=self._config.root_path,
                state=state,
                wait_for_shutdown=self._wait,
            )
            connection = Connection(self, transport, around)
            self.connections[connection] = None
            first = await connection.run()
            if first:
                released = connection.transport.release()
                await self._speak_http2(context, state, released, first)
        except* _GONE:
            pass
        except* Exception:
            await self.log.exception("A connection has failed")
        finally:
            if connection is not None:
                self.connections.pop(connection, None)
            if isinstance(stream, socket.socket):
                stream.close()

    async def _speaks_http2(self, stream: TLSStream) -> bool:
        """Shake hands; whether the client has chosen HTTP/2 then."""
        with trio.fail_after(self.settings.tls_handshake_timeout):
            await stream.do_handshake()
        chosen: str | None = stream.selected_alpn_protocol()
        return chosen == "h2"

    def _transport(self, sock: socket.socket) -> Transport:
        if self.readiness is None:
            return SocketTransport(sock)
        return EpollTransport(sock, self.readiness)

    async def _speak_http2(
        self, context: WorkerContext, state: dict[str, Any], stream: Stream, first: bytes
    ) -> None:
        await serve_http2(self, self._config, context, state, stream, first)

    async def _turn_away(self, transport: Transport) -> None:
        try:
            headers = [(b"retry-after", b"1")]
            transport.send_nowait(refusal(503, self.default_headers(), headers))
            await transport.aclose()
        except ClientGone:
            transport.close()

    # -- the drain -------------------------------------------------------------------------------

    async def _note_the_end(self, context: WorkerContext) -> None:
        await context.terminated.wait()
        self._notice.set()

    async def _drain(self) -> None:
        await self._notice.wait()
        self.cancellation.drain()
        for connection in list(self.connections):
            connection.drain()

    # -- what exchanges ask ----------------------------------------------------------------------

    def report(self, error: Exception) -> None:
        """Log what an application, or a connection, has raised where nobody can await."""

        async def log() -> None:
            await self.log.error("Error in ASGI Framework", exc_info=error)

        self.nursery.start_soon(log)

    @property
    def counts_requests(self) -> bool:
        """Whether Hypercorn ends this worker after ``max_requests``, and so wants to be told."""
        return self._context is not None and self._context.max_requests is not None

    async def count_request(self) -> None:
        """Tell Hypercorn of a request; only where it wants to be told."""
        assert self._context is not None
        await self._context.mark_request()

    def serves_host(self, head: Head) -> bool:
        """Whether the request is for one of ``server_names``, if there are any."""
        if not self._hosts:
            return True
        return any(name == b"host" and value in self._hosts for name, value in head.headers)

    def default_headers(self) -> Fields:
        """The server's own headers: ``date``, ``server``, ``alt-svc``."""
        second = int(time.time())
        if second != self._headers_second:
            self._headers_second = second
            self._headers = [
                (name, b"%b: %b\r\n" % (name, SERVER if name == b"server" else value))
                for name, value in self._config.response_headers("h11")
            ]
        return self._headers

    def framed(self, body: bytes) -> bytes:
        """A chunk; what is written to many is framed once."""
        if self._framed[0] is not body:
            self._framed = (body, chunk(body))
        return self._framed[1]


def _beat(websocket: WebSocket) -> None:
    websocket.heartbeat()


def _pump(websocket: WebSocket) -> None:
    websocket.pump()


async def worker_serve(  # noqa: PLR0913 - Hypercorn's arguments, and two
    app: Application,
    config: Config,
    *,
    lifespan: Application,
    notice: trio.Event,
    sockets: Sockets | None = None,
    shutdown_trigger: Callable[..., Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve with this package's connections, as ``hypercorn.trio.run.worker_serve`` would.

    Args:
        app: what is called for requests and WebSockets.
        config: Hypercorn's configuration.
        lifespan: what is called for the lifespan.
        notice: set when the drain begins, before anybody else knows; or by Hypercorn's own reasons.
        sockets: listening sockets, instead of those that the configuration names.
        shutdown_trigger: the drain begins when it returns.
        task_status: told the addresses.

    Source: ``hypercorn.trio.run.worker_serve``, of which it is a copy with two names bound anew.
    """
    config.set_statsd_logger_class(StatsdLogger)
    async with trio.open_nursery() as nursery:
        news = Epoll() if _readiness.available else None
        worker = Worker(app, config, nursery, notice, news)

        # Not a coroutine function: each is a frame of every connection, for as long as it lives.
        def connect(_app: Any, _config: Any, context: Any, state: Any, *stream: Any) -> Any:
            return worker.connect(context, state, *stream)

        theirs = hypercorn.trio.run.worker_serve
        their_trio = SimpleNamespace(**{**vars(trio), "serve_listeners": serve_listeners})
        names = {**vars(hypercorn.trio.run), "TCPServer": connect, "trio": their_trio}
        ours = FunctionType(theirs.__code__, names, theirs.__name__)
        worker.start()
        await ours(
            ASGIWrapper(lifespan),
            config,
            sockets=sockets,
            shutdown_trigger=shutdown_trigger,
            task_status=task_status,
        )
        nursery.cancel_scope.cancel()
