"""The asynchronous face: fake clients for tests that are async functions.

Laws of this file:

* It runs in the test's own Trio run, whose clock has to be the client's; the pytest plugin's
  ``fake_client`` fixture is such a clock, and pytest-trio finds it there.
* Every verb lets the application run until all of it waits.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import trio
from starlette.types import ASGIApp

from .._core._hub import DeadLetterCause
from .._core._reasons import TerminateReason
from .._core._ref import HandlerRef
from .._web._hub import Hub
from ._clock import VirtualClock
from ._exchange import Disconnect, Exchange, Request
from ._journal import Journal
from ._schedule import Policy, Schedule
from ._trio_internals import scheduled_by
from ._world import (
    Worker,
    World,
    bare_error,
    check_step,
    check_worker,
    event_stream_headers,
    make_handshake,
    make_request,
)


class FakeClients(VirtualClock):
    """Makes fake clients, and is the clock of the run that they live in.

    The pytest plugin's fixture ``fake_client`` is one::

        async def test_a_silent_poll_gets_204(fake_client):
            async with fake_client(app) as client:
                poll = await client.get("/poll?who=ann")
                await client.advance(60)
                assert (poll.status, poll.reason) == (204, TimedOut())

    Without pytest-trio: ``trio.run(test, clients, clock=clients)``.
    """

    def __call__(
        self,
        app: ASGIApp,
        *,
        seed: int = 0,
        schedule: Policy = "spawn order",
        hub: Hub | None = None,
        notice: bool = True,
        worker: Worker = "trioloop",
    ) -> AbstractAsyncContextManager[FakeClient]:
        """Start an application and give its client.

        Args:
            app: an ASGI application with a ``hub``, such as `trioloop.App`.
            seed: of the hub's random source.
            schedule: which runnable task goes first.
            hub: the application's hub, when it is not its attribute.
            notice: whether the server tells of a shutdown; the stock worker alone does not.
            worker: who serves, see `Simulation`.

        Raises:
            TypeError: the application has no hub.
            ValueError: there is no such worker.
            RuntimeError: the run has another clock, or the application did not start.
        """
        now = self.current_time
        check_worker(worker, notice=notice)

        def make() -> World:
            plan = Schedule(schedule)
            return World(app, now, plan, seed=seed, hub=hub, notice=notice, worker=worker)

        return self._run(make)

    @asynccontextmanager
    async def _run(self, make: Callable[[], World]) -> AsyncGenerator[FakeClient]:
        if trio.lowlevel.current_clock() is not self:
            raise RuntimeError(
                "this run has another clock: let pytest-trio run the test with the fake_client"
                " fixture, or call trio.run(..., clock=clients)"
            )
        world = make()
        with scheduled_by(world.schedule), bare_errors():
            async with trio.open_nursery() as nursery:
                client = FakeClient(world, self, nursery)
                await world.start(nursery)
                await client.settle()
                try:
                    world.check_lifespan()
                    yield client
                finally:
                    with trio.CancelScope(shield=True):
                        await client.close()
                world.check_lifespan()


class FakeClient:
    """Clients of one application, in an async test.

    Attributes:
        hub: the application's hub.
        journal: who did what, and when.
        dead_letters: ``(ref, message, cause)`` of every dead letter.
    """

    def __init__(self, world: World, clock: VirtualClock, nursery: trio.Nursery) -> None:
        self._world = world
        self._clock = clock
        self._nursery = nursery
        self.hub: Hub = world.hub
        self.journal: Journal = world.journal
        self.dead_letters: list[tuple[HandlerRef[Any], Any, DeadLetterCause]] = world.dead_letters

    # -- time ------------------------------------------------------------------------------------

    def now(self) -> float:
        """Virtual seconds since the run's start."""
        return self._clock.current_time()

    async def settle(self) -> None:
        """Let everything run until all of it waits. No time passes."""
        from trio.testing import wait_all_tasks_blocked  # it imports pytest

        await wait_all_tasks_blocked()

    async def advance(self, seconds: float) -> None:
        """Let time pass, stopping at every deadline on the way.

        Args:
            seconds: zero or more.

        Raises:
            ValueError: negative or infinite.
        """
        check_step(seconds)
        self.journal.note("test", "advances", seconds)
        end = self.now() + seconds
        await self.settle()
        while (next_one := self.next_deadline()) <= end:
            self._clock.move_to(next_one)
            await self.settle()
        self._clock.move_to(end)

    async def advance_to_next_deadline(self) -> float:
        """Let time pass until something is due.

        Returns:
            The seconds that it took; ``math.inf`` when nothing is due, and no time has passed.
        """
        await self.settle()
        wait = self.next_deadline() - self.now()
        if wait < math.inf:
            self.journal.note("test", "advances", wait)
            self._clock.move_to(self.now() + wait)
            await self.settle()
        return wait

    async def lag(self, seconds: float) -> None:
        """Let time pass while nothing else runs.

        Args:
            seconds: zero or more.

        Raises:
            ValueError: negative or infinite.
        """
        check_step(seconds)
        self.journal.note("test", "lags", seconds)
        self._clock.move_to(self.now() + seconds)
        await self.settle()

    def next_deadline(self) -> float:
        """The virtual time at which something is due next; ``math.inf`` for never."""
        return self.now() + trio.lowlevel.current_statistics().seconds_to_next_deadline

    # -- clients ---------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = b"",
        json: Any = None,
    ) -> FakeExchange:
        """A client sends a request.

        Args:
            method: any method.
            target: a path, with a query if there is one.
            headers: names and values.
            body: all of it, or `None` to send it later with ``send``.
            json: a body as JSON, instead.

        Returns:
            The exchange, settled.
        """
        request = make_request(method, target, headers=headers, body=body, json=json)
        return await self._begin(request)

    async def _begin(self, request: Request) -> FakeExchange:
        exchange = FakeExchange(self._world, request, self)
        self._world.begin(exchange, self._nursery)
        await self.settle()
        return exchange

    async def get(self, target: str, *, headers: Mapping[str, str] | None = None) -> FakeExchange:
        """A client sends a GET request."""
        return await self.request("GET", target, headers=headers)

    async def head(self, target: str, *, headers: Mapping[str, str] | None = None) -> FakeExchange:
        """A client sends a HEAD request."""
        return await self.request("HEAD", target, headers=headers)

    async def post(
        self,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = b"",
        json: Any = None,
    ) -> FakeExchange:
        """A client sends a POST request."""
        return await self.request("POST", target, headers=headers, body=body, json=json)

    async def websocket(
        self,
        target: str,
        *,
        subprotocols: tuple[str, ...] = (),
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> FakeExchange:
        """A client opens a WebSocket. What it sends waits for the handshake's answer.

        Args:
            target: a path, with a query if there is one.
            subprotocols: that the client offers.
            origin: of the web page that opens it; `None` for a client that is no browser.
            headers: names and values.

        Returns:
            The exchange, settled.
        """
        request = make_handshake(target, subprotocols, origin=origin, headers=headers)
        return await self._begin(request)

    async def sse(
        self,
        target: str,
        *,
        last_event_id: str | None = None,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> FakeExchange:
        """A client opens an event stream.

        Args:
            target: a path, with a query if there is one.
            last_event_id: where it wants to go on.
            method: any method.
            headers: names and values.
            json: a body as JSON.

        Raises:
            TypeError: the last event's id is no string.
        """
        sent = event_stream_headers(headers, last_event_id)
        return await self.request(method, target, headers=sent, json=json)

    # -- the application -------------------------------------------------------------------------

    def ref(self, exchange: Exchange) -> HandlerRef[Any]:
        """The ref of the handler behind an exchange; `settle` after sending.

        Raises:
            LookupError: no handler was made.
        """
        return self._world.ref_of(exchange)

    async def shut_down(self, grace: float = 3.0) -> None:
        """The server goes down: notice, grace, cancellation, then the end of the lifespan.

        Args:
            grace: seconds from the notice to the cancellation.
        """
        self.journal.note("test", "shuts down", grace)
        self._world.give_notice()
        await self.settle()
        end = self.now() + grace
        while self._world.busy and (next_one := self.next_deadline()) < end:
            self._clock.move_to(next_one)
            await self.settle()
        if self._world.busy:
            self._clock.move_to(end)
            self._world.cancel_calls()
            await self.settle()
        await self._let_time_pass(until=lambda: not self._world.busy)
        self._world.stop()
        await self._let_time_pass(until=lambda: self._world.stopped)

    async def _let_time_pass(self, *, until: Callable[[], bool]) -> None:
        """Go from deadline to deadline, as long as there are any."""
        await self.settle()
        while not until() and (next_one := self.next_deadline()) < math.inf:
            self._clock.move_to(next_one)
            await self.settle()

    async def close(self) -> None:
        """End the application; done at the end of the context."""
        self._world.stop()
        await self._let_time_pass(until=lambda: self._world.stopped)
        for exchange in self._world.exchanges:
            exchange.connection.lose_reader()
        await self._let_time_pass(until=lambda: self._world.stopped)
        self._nursery.cancel_scope.cancel()
        await self._let_time_pass(until=lambda: not self._world.busy)


class FakeExchange(Exchange):
    """A request in an async test; every verb settles."""

    def __init__(self, world: World, request: Any, client: FakeClient) -> None:
        super().__init__(world, request, world.next_name())
        self._client = client

    async def read(self, size: int) -> None:
        """Read so many bytes of the wire, framing included, while stalled.

        Args:
            size: bytes; what has not come yet is read when it comes, whatever the window is.
        """
        self._read(size)
        await self._client.settle()

    async def stall(self, window: float = 0) -> None:
        """Stop reading.

        Args:
            window: bytes that the socket takes before a write waits.
        """
        self._stall(window)
        await self._client.settle()

    async def resume(self) -> None:
        """Read again, all that comes."""
        self._resume()
        await self._client.settle()

    async def send(self, data: str | bytes, *, more: bool = True) -> None:
        """Send a piece of the request's body, or a message on a WebSocket.

        Args:
            data: the piece, or the message.
            more: whether another piece will follow.

        Raises:
            RuntimeError: the body is complete.
        """
        self._send(data, more=more)
        await self._client.settle()

    async def burst(self, *data: str | bytes) -> None:
        """Send several messages on a WebSocket before the handler gets to run.

        Args:
            data: the messages.
        """
        self._burst(*data)
        await self._client.settle()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close a WebSocket.

        Args:
            code: of the close frame; `None` for an empty one.
            reason: of the close frame.
        """
        self._close(code, reason)
        await self._client.settle()

    async def disconnect(self, how: Disconnect = "clean") -> None:
        """Leave.

        Args:
            how: ``"clean"``, ``"abrupt"``, ``"half"`` or ``"vanish"``.
        """
        self._disconnect(how)
        await self._client.settle()

    async def reconnect(self) -> FakeExchange:
        """Come back as a browser would: after ``retry``, with the last event id.

        Returns:
            The new exchange.

        Raises:
            RuntimeError: this one has not ended.
        """
        again = self._world.reopen(self)
        await self._client.advance(again.wait)
        return await self._client._begin(again.request)  # noqa: SLF001 - the two are one face

    async def wait_ended(self) -> TerminateReason:
        """Wait until the handler's ``terminate`` has run.

        Returns:
            The terminate reason.

        Raises:
            LookupError: no handler was made.
        """
        return await self._client.ref(self).wait_ended()


@contextmanager
def bare_errors() -> Generator[None]:
    """Let a test's own error come out as it is, not wrapped by the nursery that it was in."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise bare_error(group) from None
