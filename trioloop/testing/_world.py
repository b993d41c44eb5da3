"""What both faces of the kit share: the application, its clients and its handlers.

Law of this file: nothing here waits for the application; the faces do.
"""

from __future__ import annotations

import dataclasses
import json as json_module
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

import trio
from starlette.types import ASGIApp, Message, Scope

from .._core._hub import DeadLetterCause
from .._core._machine import Machine
from .._core._ref import HandlerRef
from .._web._hub import Hub
from .._web._serving import SHUTDOWN_NOTICE
from ._connection import FakeConnection
from ._exchange import ClientSide, Exchange, Reconnection, Request, reconnection
from ._journal import Journal
from ._observer import Observed, acts_for_the_application
from ._schedule import Schedule
from ._websocket_connection import FakeWebSocketConnection

if TYPE_CHECKING:
    from ._own_worker import OwnWorker

_LOGGER: Final = logging.getLogger("trioloop")

Worker: TypeAlias = Literal["trioloop", "stock"]
"""Whose connections serve, as for ``trioloop serve --worker``."""

_SERVER: Final = "<server>"
"""The task of trioloop's own worker."""

_served: ContextVar[Exchange] = ContextVar("_served")
"""The exchange for which the current task serves; tasks that it starts inherit it."""


class World:
    """An application between its lifespan's start and its end, and everybody in it.

    Args:
        app: an ASGI application with a ``hub``, such as `trioloop.App`.
        now: tells the virtual time.
        schedule: which of several handlers goes first.
        seed: of the hub's random source, so that jitter is the same every time.
        hub: the application's hub, when it hangs somewhere else.
        notice: whether the stock worker tells of a shutdown, as under ``trioloop serve``; by itself
            it only cancels.
        worker: whose connections serve.
    """

    def __init__(  # noqa: PLR0913 - the settings of a run
        self,
        app: ASGIApp,
        now: Callable[[], float],
        schedule: Schedule,
        *,
        seed: int,
        hub: Hub | None,
        notice: bool,
        worker: Worker = "trioloop",
    ) -> None:
        check_worker(worker, notice=notice)
        self.app = app
        self.now = now
        self.schedule = schedule
        self.journal: Journal = Journal(now)
        self.hub: Hub = find_hub(app) if hub is None else hub
        self.hub.random = random.Random(seed)  # noqa: S311 - jitter
        self.hub.id = f"{self.hub.random.getrandbits(64):016x}"
        self.exchanges: list[Exchange] = []
        self.dead_letters: list[tuple[HandlerRef[Any], Any, DeadLetterCause]] = []
        self.handlers: list[Observed] = []
        self.lifespan_error: BaseException | None = None
        self.planted: list[Exception] = []
        self._started = trio.Event()
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self.going_down: trio.Event = trio.Event()
        self.gives_notice: bool = notice  # the server tells of its shutdown
        self._own = _make_own(app, self.going_down) if worker == "trioloop" else None
        self.patience: float = math.inf if self._own is None else self._own.patience
        self._calls: list[Exchange] = []

    # -- the application's life ------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """The server starts, and then the application."""
        if self._own is not None:
            nursery.start_soon(self._run_worker, self._own, name=_SERVER)
            for _ in range(2):  # until its tasks wait
                await trio.lowlevel.checkpoint()
        nursery.start_soon(self.run_lifespan, name="lifespan")

    async def _run_worker(self, worker: OwnWorker) -> None:
        acts_for_the_application.set(True)
        await worker.run()

    async def run_lifespan(self) -> None:
        """The server's side of the lifespan protocol, as Hypercorn speaks it."""
        events: list[Message] = [{"type": "lifespan.startup"}]
        failures: list[str] = []

        async def receive() -> Message:
            if events:
                await trio.lowlevel.checkpoint()
                return events.pop(0)
            await self._stop.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._started.set()
            elif message["type"].endswith("failed"):
                failures.append(message.get("message") or message["type"])

        acts_for_the_application.set(True)
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        try:
            with _Hooks(self):
                await self.app(scope, receive, send)
            if failures:  # and it has not raised
                self.lifespan_error = RuntimeError(failures[0])
        except Exception as error:
            self.lifespan_error = bare_error(error)
        finally:
            self._stopped.set()

    @property
    def started(self) -> bool:
        """Whether the application has started up."""
        return self._started.is_set()

    def check_lifespan(self) -> None:
        """Raise what the application's lifespan has raised.

        Raises:
            RuntimeError: it has neither raised nor started up.
            Exception: what it has raised; once.
        """
        if self.lifespan_error is not None:
            error, self.lifespan_error = self.lifespan_error, None
            raise error
        if not self.started:
            raise RuntimeError("the application's lifespan did not complete its start-up")

    @property
    def stopped(self) -> bool:
        """Whether it has shut down."""
        return self._stopped.is_set()

    def give_notice(self) -> None:
        """The server goes down; applications hear of it if it is one that says so."""
        self.going_down.set()

    def cancel_calls(self) -> None:
        """The grace is over: the server cancels what is left."""
        for exchange in self._calls:
            self.journal.note(exchange.name, "is cancelled")
            if isinstance(exchange.connection, FakeConnection):
                exchange.connection.cancel()
        if self._own is not None:
            self._own.cancel()

    def names_of(self, tasks: Iterable[trio.lowlevel.Task]) -> list[str]:
        """Who is behind these tasks of the run: the server's own stands for its clients."""
        served = [exchange.name for exchange in self._calls]
        return sorted({*served, *(task.name for task in tasks if task.name != _SERVER)})

    def stop(self) -> None:
        """The server ends the lifespan."""
        self._stop.set()

    # -- clients ---------------------------------------------------------------------------------

    def next_name(self) -> str:
        """The next client's."""
        return f"client {len(self.exchanges) + 1}"

    def connect(self, name: str, request: Request, arrived: Callable[[], None]) -> ClientSide:
        """A connection for one request."""
        if self._own is not None:
            return self._own.connect(name, request.method, self.journal.note, arrived)
        make = FakeWebSocketConnection if request.is_websocket else FakeConnection
        return make(name, request.method, self.journal.note, arrived, self.going_down)

    def begin(self, exchange: Exchange, nursery: trio.Nursery) -> None:
        """A client sends a request."""
        request = exchange.request
        self.exchanges.append(exchange)
        self.journal.note(exchange.name, "asks", request)
        exchange.connection.begin(request.head, request.body)
        if self._own is not None:
            nursery = self._own.nursery
        nursery.start_soon(self._serve, exchange, name=exchange.name)

    async def _serve(self, exchange: Exchange) -> None:
        """The server's side of one request."""
        acts_for_the_application.set(True)
        _served.set(exchange)
        self._calls.append(exchange)
        connection = exchange.connection
        try:
            if isinstance(connection, FakeConnection):
                scope = exchange.request.scope(self.app)
                if self.gives_notice:  # always the same function: the hub waits once for all
                    scope["extensions"][SHUTDOWN_NOTICE] = {"wait": self.going_down.wait}
                await connection.run(self.app, scope)
            else:
                assert self._own is not None
                await self._own.serve(connection)
        finally:
            self._calls.remove(exchange)

    @property
    def busy(self) -> bool:
        """Whether the server still serves somebody."""
        return bool(self._calls)

    def ref_of(self, exchange: Exchange) -> HandlerRef[Any]:
        """The ref of the handler behind an exchange.

        Raises:
            LookupError: no handler was made for it.
        """
        return self.observed_of(exchange).ref

    def observed_of(self, exchange: Exchange) -> Observed:
        """The handler behind an exchange.

        Raises:
            LookupError: no handler was made for it.
        """
        if exchange.observed is None:
            raise LookupError(f"{exchange!r} has no handler; the answer was {exchange.status}")
        return exchange.observed

    def plant(self, exchange: Exchange, error: Exception) -> None:
        """Let the next callback of the handler behind an exchange raise.

        Raises:
            LookupError: no handler was made for it.
        """
        observed = self.observed_of(exchange)
        observed.note("is to crash", error)
        observed.crash_next = error
        self.planted.append(error)

    def reopen(self, exchange: Exchange) -> Reconnection:
        """What its browser would do after the end of a stream."""
        if exchange.pending:
            raise RuntimeError(f"{exchange!r} has not ended; disconnect() comes first")
        return reconnection(exchange)

    def let_go(self) -> None:
        """Part those who hold each other: nobody needs the world any more.

        Then each goes with whoever has it last. A collection would pass over all of them, in the
        middle of somebody else's time.
        """
        for observed in self.handlers:
            observed.leave()
        for exchange in self.exchanges:
            exchange.connection.arrived = _tell_nobody
        self.handlers.clear()
        self.exchanges.clear()

    # -- observation -----------------------------------------------------------------------------

    def observe(self, machine: Machine) -> None:
        """A handler starts."""
        observed = Observed(machine, self.journal, f"handler {len(self.handlers) + 1}")
        self.handlers.append(observed)
        exchange = _served.get(None)
        if exchange is not None:
            exchange.observed = observed
            observed.client = exchange.name

    def bury(self, ref: HandlerRef[Any], message: Any, cause: DeadLetterCause) -> None:
        """A dead letter."""
        self.dead_letters.append((ref, message, cause))
        for observed in self.handlers:
            if observed.ref is ref:
                observed.note("dead letter", message)


def _make_own(app: ASGIApp, notice: trio.Event) -> OwnWorker:
    from ._own_worker import OwnWorker  # it imports all of Hypercorn

    return OwnWorker(app, notice)


def _tell_nobody() -> None:
    """There is something to read, which nobody wants."""


class _Hooks:
    """The hub's hooks, borrowed for the length of a run."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> None:
        hub, world = self._world.hub, self._world
        self._saved = hub.observer, hub.dead_letter, hub.dispatcher.arrange
        own = hub.dead_letter

        def bury(ref: HandlerRef[Any], message: Any, cause: DeadLetterCause) -> None:
            world.bury(ref, message, cause)
            if own is not None:
                own(ref, message, cause)

        hub.observer, hub.dead_letter = world.observe, bury
        hub.dispatcher.arrange = world.schedule.arrange
        _LOGGER.addFilter(self._is_news)

    def __exit__(self, *exc_info: object) -> None:
        _LOGGER.removeFilter(self._is_news)
        hub = self._world.hub
        hub.observer, hub.dead_letter, hub.dispatcher.arrange = self._saved

    def _is_news(self, record: logging.LogRecord) -> bool:
        """Whether a record tells more than that a crash of the kit's own making has happened."""
        error = record.exc_info[1] if record.exc_info else None
        kits_own = type(error).__module__.startswith(f"{__package__}.")
        return not (kits_own and any(error is one for one in self._world.planted))


def bare_error(error: BaseException) -> BaseException:
    """The error itself, out of groups that have no other; an interrupt, out of any group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    interrupt = group.subgroup((KeyboardInterrupt, SystemExit))
    if interrupt is not None or len(group.exceptions) == 1:
        return bare_error((interrupt or group).exceptions[0])
    return group


def check_step(seconds: float) -> None:
    """Refuse a step of time that is none.

    Raises:
        ValueError: negative, infinite or no number.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"time moves forward by some seconds, not by {seconds!r}")


def check_worker(worker: str, *, notice: bool) -> None:
    """Refuse a worker that there is not.

    Raises:
        ValueError: it is none, or it always tells of its shutdown.
    """
    if worker not in get_args(Worker):
        raise ValueError(f"worker= is 'trioloop' or 'stock', not {worker!r}")
    if worker == "trioloop" and not notice:
        raise ValueError("notice=False is for worker='stock': trioloop's own always tells")


def find_hub(app: Any) -> Hub:
    """The hub that hangs on an application.

    Raises:
        TypeError: there is none.
    """
    hub = getattr(app, "hub", None)
    if not isinstance(hub, Hub):
        raise TypeError(f"{app!r} has no hub; say which one is meant: hub=...")
    return hub


def make_request(
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None,
    body: str | bytes | None,
    json: Any = None,
) -> Request:
    """A request, checked.

    Raises:
        ValueError: the target is no path.
    """
    if not target.startswith("/"):
        raise ValueError(f"a path starts with '/', unlike {target!r}")
    sent = dict(headers or {})
    if json is not None:
        body = json_module.dumps(json)
        sent.setdefault("content-type", "application/json")
    content = body.encode() if isinstance(body, str) else body
    return Request(method.upper(), target, tuple(sent.items()), content)


def make_handshake(
    target: str,
    subprotocols: tuple[str, ...],
    *,
    origin: str | None,
    headers: Mapping[str, str] | None,
) -> Request:
    """A WebSocket's handshake, checked.

    Raises:
        ValueError: the target is no path.
    """
    sent = {**({} if origin is None else {"Origin": origin}), **(headers or {})}
    request = make_request("GET", target, headers=sent, body=None)
    return dataclasses.replace(request, subprotocols=tuple(subprotocols))


def event_stream_headers(
    headers: Mapping[str, str] | None, last_event_id: str | None
) -> dict[str, str]:
    """What a browser's EventSource asks with (WHATWG HTML, section 9.2.2).

    Raises:
        TypeError: the id is no string.
    """
    if not isinstance(last_event_id, str | None):
        raise TypeError(f"last_event_id is a string, as the stream had it, not {last_event_id!r}")
    sent = {"accept": "text/event-stream", "cache-control": "no-store", **(headers or {})}
    if last_event_id is not None:
        sent["Last-Event-ID"] = last_event_id
    return sent
