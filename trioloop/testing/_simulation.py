"""The synchronous face: an application that is stepped by plain function calls.

Laws of this file:

* No time passes and nothing runs but inside of a call of the test, and every call runs the
  application until all of it waits.
* No thread, no real I/O, no real clock: what would need one is an error that says so.
* `Simulation.close` always ends the run, whatever state it is in.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import math
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

import outcome as outcomes
import trio
from starlette.types import ASGIApp

from .._core._ref import HandlerRef
from .._web._hub import Hub
from ._clock import VirtualClock
from ._exchange import Disconnect, Exchange, Request
from ._journal import Journal
from ._judge import Judge
from ._laws import Violation
from ._observer import Observed
from ._schedule import Policy, Schedule
from ._timeline import timeline
from ._trio_internals import IO_TASKS_OF_TRIO, GuestRun, scheduled_by
from ._world import (
    Worker,
    World,
    bare_error,
    check_step,
    event_stream_headers,
    make_handshake,
    make_request,
)

ResultT = TypeVar("ResultT")

MAX_TICKS: Final = 20_000
"""Steps of Trio's loop without any time passing, after which the application is called a livelock."""


_NOT_SIMULATED: Final = (
    "{} inside of a simulation: threads and real I/O are not simulated. Give the application"
    " something that stands for them, or run this test with real time"
)

_WAITS: Final = ("wait_readable", "wait_writable", "wait_overlapped")
"""Trio's functions in which a task waits for real I/O."""


class SimulationError(RuntimeError):
    """The simulation cannot go on: a livelock, a thread, a run that cannot be ended."""


class Simulation:
    """An application on virtual time, with fake clients, one step of the test at a time.

    Use it as a context manager, in a plain ``def`` test::

        with Simulation(app, seed=7) as sim:
            poll = sim.get("/poll?who=ann")
            sim.advance(60)
            assert (poll.status, poll.reason) == (204, TimedOut())

    Args:
        app: an ASGI application with a ``hub``, such as `trioloop.App`.
        seed: of the hub's random source.
        schedule: which runnable task goes first: ``"spawn order"``, ``"reverse"``, a seed, or a
            recorded plan.
        hub: the application's hub, when it is not its attribute.
        notice: whether the server tells of a shutdown, as ``trioloop serve`` does; ``False`` is the
            stock worker by itself, which only cancels.
        laws: whether the laws of the machine are checked after every step; a broken one is
            a `LawBroken`. Callbacks have to let Trio cancel them, or law 8 will not hold.
        worker: who serves: ``"trioloop"``, the connections of ``trioloop serve`` themselves, on
            sockets in memory; or ``"stock"``, a model of Hypercorn's own Trio worker.

    Raises:
        TypeError: the application has no hub.
        ValueError: there is no such worker.
        SimulationError: a simulation is running already, or the application did not start.

    Attributes:
        hub: the application's hub.
        journal: who did what, and when.
        schedule: the order of tasks, as it came out.
        stuck: after the end, the names of tasks that could not be cancelled.
        made_at: file and line.
    """

    def __init__(  # noqa: PLR0913 - each can be left out
        self,
        app: ASGIApp,
        *,
        seed: int = 0,
        schedule: Policy = "spawn order",
        hub: Hub | None = None,
        notice: bool = True,
        laws: bool = False,
        worker: Worker = "trioloop",
    ) -> None:
        self._clock = VirtualClock(threadless=True)
        self.schedule: Schedule = Schedule(schedule)
        now = self._clock.current_time
        self._world = World(
            app, now, self.schedule, seed=seed, hub=hub, notice=notice, worker=worker
        )
        self._judge = Judge(self._world) if laws else None
        self._run = GuestRun()
        self._closed = False
        self._threads = _Threads()
        self._io_tasks = math.inf  # those that may wait for real I/O
        self.in_plan: bool = False  # what the test has asked for with `later` happens
        self.made_at: str = _line_of_caller()
        self.stuck: list[str] = []
        self._stack = ExitStack()

    # -- the run ---------------------------------------------------------------------------------

    _running: ClassVar[Simulation | None] = None

    def __enter__(self) -> Self:
        self._refuse_company()
        self._stack.enter_context(scheduled_by(self.schedule))
        if gc.isenabled():  # a collection at a random moment would run finalizers then
            gc.disable()
            self._stack.callback(gc.enable)
        trio.lowlevel.start_guest_run(
            self._main,
            clock=self._clock,
            run_sync_soon_threadsafe=self._threads.call_back,
            run_sync_soon_not_threadsafe=self._run.take,
            done_callback=self._run.end,
            host_uses_signal_set_wakeup_fd=True,
        )
        Simulation._running = self
        atexit.unregister(_tell_forgotten)
        atexit.register(_tell_forgotten)
        try:
            self._start_up()
        except BaseException:
            self.close()
            raise
        return self

    def _refuse_company(self) -> None:
        other = Simulation._running
        if other is not None:
            raise SimulationError(other.why_it_runs())
        if trio.lowlevel.in_trio_run():
            raise SimulationError(
                "a simulation cannot start inside of trio.run: it is for plain def tests;"
                " async tests take the fixture fake_client"
            )
        if self._closed:
            raise SimulationError("the simulation has ended; make a new one")

    def why_it_runs(self) -> str:
        """What is wrong when it should have ended."""
        what = "could not be ended" if self._closed else "has not been closed"
        return (
            f"the simulation that was made at {self.made_at} {what}; use it as a context manager,"
            " and it ends with its test"
        )

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tell_interrupt(exc)
        self.close()
        if exc is None:
            self._raise_if_over()
            if self._judge is not None:
                self._judge.finish()

    def _start_up(self) -> None:
        self._io_tasks = IO_TASKS_OF_TRIO
        self.settle()
        if not self._world.started:
            raise SimulationError("the application's lifespan did not complete its start-up")

    async def _main(self) -> None:
        limiter: Any = trio.to_thread.current_default_thread_limiter()
        limiter.acquire_on_behalf_of = self._threads.start
        async with trio.open_nursery() as self._nursery:
            await self._world.start(self._nursery)
            await trio.sleep_forever()

    @property
    def _outcome(self) -> outcomes.Outcome[None] | None:
        return self._run.outcome

    def settle(self) -> None:
        """Run until everything waits. No time passes.

        Raises:
            SimulationError: the application never comes to rest, or used a thread.
        """
        self._must_run()
        self._settle()
        self._raise_if_over()
        if self._judge is not None:
            self._judge.hear()

    def _settle(self) -> None:
        run, now = self._run, self.now()
        for ticks in range(MAX_TICKS):
            if run.is_over:
                return
            if not run.go_on(now):
                if ticks and run.io_tasks > self._io_tasks:
                    self._refuse_io()
                return
        raise SimulationError(
            f"livelock at t={self.now():g}: something still runs after {MAX_TICKS} steps"
        )

    def _refuse_io(self) -> None:
        waiting = [task.name for task in _tasks_in(self._nursery) if _waits_for_io(task)]
        self._io_tasks = math.inf  # it is said once
        raise SimulationError(
            _NOT_SIMULATED.format(f"the task {', '.join(map(repr, waiting))} waits for a socket")
        )

    def _raise_if_over(self) -> None:
        if self._threads.error is not None:
            error, self._threads.error = self._threads.error, None
            raise error
        if self._world.lifespan_error is not None:
            self._world.check_lifespan()
        if self._outcome is None or self._closed:
            return
        if isinstance(self._outcome, outcomes.Error):
            self.close()
            outcome = bare_error(self._outcome.error)
            self._tell_interrupt(outcome)
            raise outcome

    def _tell_interrupt(self, error: BaseException | None) -> None:
        """Who interrupts wants to know where it hung."""
        if isinstance(error, KeyboardInterrupt) and not hasattr(error, "__notes__"):
            error.add_note("\n" + timeline(self.journal))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """End the run: the lifespan ends, clients vanish, whatever is left is cancelled.

        Raises:
            SimulationError: the run cannot be ended.
        """
        if self._closed:
            return
        self._closed = True
        self._io_tasks = math.inf
        try:
            if self._outcome is None and Simulation._running is self:
                self._end_run()
        finally:
            self._stack.close()
            if self._outcome is not None:
                Simulation._running = None

    def _let_go(self) -> None:
        """Nobody needs it any more, and it has broken no law; see ``World.let_go``."""
        self._judge = None
        self._world.let_go()

    def _end_run(self) -> None:
        self._world.journal.note("test", "ends the run")
        for step in (self._world.stop, self._cancel_all, self._lose_readers):
            if self._outcome is None:
                step()
                with suppress(SimulationError):  # a livelock, which may end with the next step
                    self._use_up_time()
        if self._outcome is None:
            raise SimulationError(f"the run cannot be ended; still there: {', '.join(self.stuck)}")

    def _cancel_all(self) -> None:
        self._nursery.cancel_scope.cancel()

    def _lose_readers(self) -> None:
        self.stuck = self._world.names_of(self._nursery.child_tasks)
        for exchange in self._world.exchanges:
            exchange.connection.lose_reader()

    def _use_up_time(self) -> None:
        """Let what is bounded by time come to its end."""
        self._settle()
        for _ in range(1000):
            wait = self._to_next_deadline()
            if wait == math.inf:
                return
            self._clock.move_to(self.now() + wait)
            self._settle()

    # -- time ------------------------------------------------------------------------------------

    def now(self) -> float:
        """Virtual seconds since the start."""
        return self._clock.current_time()

    def _to_next_deadline(self) -> float:
        return math.inf if self._outcome is not None else self._run.wait(self.now())

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping at every deadline on the way.

        Args:
            seconds: zero or more.

        Raises:
            ValueError: negative or infinite.
        """
        check_step(seconds)
        self._world.journal.note("test", "advances", seconds)
        end = self.now() + seconds
        self.settle()
        while (next_one := self.now() + self._to_next_deadline()) <= end:
            self._clock.move_to(next_one)
            self.settle()
        self._clock.move_to(end)

    def advance_to_next_deadline(self) -> float:
        """Let time pass until something is due.

        Returns:
            The seconds that it took; ``math.inf`` when nothing is due, and no time has passed.
        """
        self.settle()
        wait = self._to_next_deadline()
        if wait < math.inf:
            self._world.journal.note("test", "advances", wait)
            self._clock.move_to(self.now() + wait)
            self.settle()
        return wait

    def lag(self, seconds: float) -> None:
        """Let time pass while nothing runs, as under a busy loop or a stopped machine.

        Args:
            seconds: zero or more.

        Raises:
            ValueError: negative or infinite.
        """
        check_step(seconds)
        self._must_run()
        self._world.journal.note("test", "lags", seconds)
        self._clock.move_to(self.now() + seconds)
        self.settle()

    @property
    def violation(self) -> Violation | None:
        """The law that was broken, if one was."""
        return None if self._judge is None else self._judge.violation

    def crash_next(self, exchange: Exchange, error: Exception) -> None:
        """Let the next ``info``, ``notify`` or ``idle`` of a handler raise.

        Raises:
            LookupError: no handler was made.
        """
        self._world.plant(exchange, error)

    def note_stop(self, ref: HandlerRef[Any]) -> None:
        """An operator stops a handler: for the journal."""
        for observed in self._world.handlers:
            if observed.ref is ref:
                observed.note("is stopped")

    # -- clients ---------------------------------------------------------------------------------

    def _must_run(self) -> None:
        if self._closed or Simulation._running is not self:
            raise SimulationError("the simulation has ended, or has not begun")

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = b"",
        json: Any = None,
    ) -> SimulatedExchange:
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
        return self._begin(make_request(method, target, headers=headers, body=body, json=json))

    def _begin(self, request: Request) -> SimulatedExchange:
        self._must_run()
        exchange = SimulatedExchange(self._world, request, self)
        self._world.begin(exchange, self._nursery)
        self.settle()
        return exchange

    def get(self, target: str, *, headers: Mapping[str, str] | None = None) -> SimulatedExchange:
        """A client sends a GET request."""
        return self.request("GET", target, headers=headers)

    def head(self, target: str, *, headers: Mapping[str, str] | None = None) -> SimulatedExchange:
        """A client sends a HEAD request."""
        return self.request("HEAD", target, headers=headers)

    def post(
        self,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = b"",
        json: Any = None,
    ) -> SimulatedExchange:
        """A client sends a POST request."""
        return self.request("POST", target, headers=headers, body=body, json=json)

    def websocket(
        self,
        target: str,
        *,
        subprotocols: tuple[str, ...] = (),
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SimulatedExchange:
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
        return self._begin(request)

    def sse(
        self,
        target: str,
        *,
        last_event_id: str | None = None,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> SimulatedExchange:
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
        return self.request(method, target, headers=sent, json=json)

    # -- the application -------------------------------------------------------------------------

    @property
    def hub(self) -> Hub:
        """The application's hub; `settle` after using it."""
        return self._world.hub

    @property
    def journal(self) -> Journal:
        """Who did what, and when."""
        return self._world.journal

    @property
    def dead_letters(self) -> list[Any]:
        """``(ref, message, cause)`` of every dead letter."""
        return self._world.dead_letters

    def ref(self, exchange: Exchange) -> SimulatedRef:
        """The ref of the handler behind an exchange; what is sent settles.

        Raises:
            LookupError: no handler was made.
        """
        return SimulatedRef(self, self._world.observed_of(exchange))

    def run(self, function: Callable[..., Awaitable[ResultT]], *args: Any) -> ResultT:
        """Run an async function inside of the simulation, to its end. No time passes.

        Returns:
            What it returns.

        Raises:
            SimulationError: it waits for something that does not come without time passing.
            Exception: what it raises.
        """
        self._must_run()
        results: list[outcomes.Outcome[ResultT]] = []

        async def call() -> None:
            results.append(await outcomes.acapture(function, *args))

        with_scope = trio.CancelScope()

        async def cancellable() -> None:
            with with_scope:
                await call()

        self._nursery.start_soon(cancellable, name=getattr(function, "__name__", "run"))
        self.settle()
        if not results:
            with_scope.cancel()
            self.settle()
            raise SimulationError(
                f"{function!r} still waits at t={self.now():g}; start it in the application, or"
                " advance the time first"
            )
        return results[0].unwrap()

    def later(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        """Call a function when so much time will have passed, by a task among the others.

        A function that sends, such as ``sim.ref(poll).send_without_settling``, can be replayed.
        """
        self._must_run()
        when = self.now() + seconds
        self._world.journal.note("test", "later", (seconds, *_told(function), *args))

        async def wait_and_call() -> None:
            await trio.sleep_until(when)
            self.in_plan = True
            try:
                function(*args)
            finally:
                self.in_plan = False

        self._nursery.start_soon(wait_and_call, name="later")
        self.settle()

    def next_deadline(self) -> float:
        """The virtual time at which something is due next; ``math.inf`` for never."""
        return self.now() + self._to_next_deadline()

    def shut_down(self, grace: float = 3.0) -> None:
        """The server goes down: notice, grace, cancellation, then the end of the lifespan.

        Time passes only as far as it is needed.

        Args:
            grace: seconds from the notice to the cancellation.
        """
        self._world.journal.note("test", "shuts down", grace)
        self._world.give_notice()
        self.settle()
        end = self.now() + grace
        while self._world.busy and (next_one := self.next_deadline()) < end:
            self._clock.move_to(next_one)
            self.settle()
        if self._world.busy:
            self._clock.move_to(end)
            self._world.cancel_calls()
            self.settle()
        while self._world.busy and (next_one := self.next_deadline()) < math.inf:
            self._clock.move_to(next_one)
            self.settle()
        self._world.stop()
        self._use_up_time()
        self._raise_if_over()


class _Threads:
    """Stands where Trio has to do with threads: Trio keeps it beyond the run, and no simulation.

    Attributes:
        error: what was asked for; for the test, whoever catches it in the application.
    """

    error: SimulationError | None = None

    def call_back(self, function: Callable[[], object]) -> None:
        """A thread wants something to be run."""
        self.error = SimulationError(_NOT_SIMULATED.format("a thread called back"))

    async def start(self, borrower: object) -> None:
        """A task wants a thread to be started.

        Raises:
            SimulationError: always.
        """
        await trio.lowlevel.checkpoint()
        task = trio.lowlevel.current_task().name
        sentence = _NOT_SIMULATED.format(f"the task {task!r} wants a thread")
        self.error = SimulationError(sentence)
        raise SimulationError(sentence)


def _tell_forgotten() -> None:
    """Python ends, and a simulation has not: its test has passed, for nobody came after it."""
    simulation = Simulation._running  # noqa: SLF001 - one thing in two parts
    if simulation is not None:
        sys.stderr.write(simulation.why_it_runs() + "\n")


def _line_of_caller() -> str:
    """Where a simulation was made."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame and frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"


def _tasks_in(nursery: trio.Nursery) -> Iterator[trio.lowlevel.Task]:
    for task in nursery.child_tasks:
        yield task
        for inner in task.child_nurseries:
            yield from _tasks_in(inner)


def _waits_for_io(task: trio.lowlevel.Task) -> bool:
    return any(frame.f_code.co_name in _WAITS for frame, _ in task.iter_await_frames())


class SimulatedExchange(Exchange):
    """A request in a `Simulation`; every verb settles."""

    def __init__(self, world: World, request: Any, simulation: Simulation) -> None:
        super().__init__(world, request, world.next_name())
        self._simulation = simulation

    def read(self, size: int) -> None:
        """Read so many bytes of the wire, framing included, while stalled.

        Args:
            size: bytes; what has not come yet is read when it comes, whatever the window is.
        """
        self._read(size)
        self._simulation.settle()

    def stall(self, window: float = 0) -> None:
        """Stop reading.

        Args:
            window: bytes that the socket takes before a write waits.
        """
        self._stall(window)
        self._simulation.settle()

    def resume(self) -> None:
        """Read again, all that comes."""
        self._resume()
        self._simulation.settle()

    def send(self, data: str | bytes, *, more: bool = True) -> None:
        """Send a piece of the request's body, or a message on a WebSocket.

        Args:
            data: the piece, or the message.
            more: whether another piece will follow.

        Raises:
            RuntimeError: the body is complete.
        """
        self._send(data, more=more)
        self._simulation.settle()

    def burst(self, *data: str | bytes) -> None:
        """Send several messages on a WebSocket before the handler gets to run.

        Args:
            data: the messages.
        """
        self._burst(*data)
        self._simulation.settle()

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close a WebSocket.

        Args:
            code: of the close frame; `None` for an empty one.
            reason: of the close frame.
        """
        self._close(code, reason)
        self._simulation.settle()

    def disconnect(self, how: Disconnect = "clean") -> None:
        """Leave.

        Args:
            how: ``"clean"``, ``"abrupt"``, ``"half"`` or ``"vanish"``.
        """
        self._disconnect(how)
        self._simulation.settle()

    def reconnect(self) -> SimulatedExchange:
        """Come back as a browser would: after ``retry``, with the last event id.

        Returns:
            The new exchange.

        Raises:
            RuntimeError: this one has not ended.
        """
        again = self._world.reopen(self)
        self._simulation.advance(again.wait)
        return self._simulation._begin(again.request)  # noqa: SLF001 - the two are one face


class SimulatedRef:
    """A handler's ref in a `Simulation`; sending settles.

    Attributes:
        ref: the real one.
    """

    def __init__(self, simulation: Simulation, observed: Observed) -> None:
        self._simulation = simulation
        self._observed = observed
        self.ref: HandlerRef[Any] = observed.ref

    @property
    def name(self) -> str:
        """The handler's name in the journal."""
        return self._observed.name

    def _told(self, verb: str, *messages: Any) -> AbstractContextManager[None]:
        return self._observed.told(verb, *messages, planned=self._simulation.in_plan)

    def send(self, message: Any) -> bool:
        """Send a message without waiting; see ``HandlerRef.send_nowait``."""
        with self._told("send", message):
            accepted = self.ref.send_nowait(message)
        self._simulation.settle()
        return accepted

    def try_send(self, message: Any) -> bool:
        """Like `send`, and ``False`` instead of `trio.WouldBlock` too."""
        with self._told("try_send", message):
            accepted = self._try(message)
        self._simulation.settle()
        return accepted

    def send_without_settling(self, message: Any) -> bool:
        """Like `try_send`, but nothing runs: for use before ``lag``, or inside of a task."""
        with self._told("send_without_settling", message):
            return self._try(message)

    def _try(self, message: Any) -> bool:
        try:
            return self.ref.send_nowait(message)
        except trio.WouldBlock:
            return False

    def burst(self, *messages: Any) -> list[bool]:
        """Send several messages before the handler gets to run."""
        with self._told("burst", *messages):
            accepted = [self._try(message) for message in messages]
        self._simulation.settle()
        return accepted

    def notify(self, message: Any) -> bool:
        """Send a message for ``notify``."""
        with self._told("notify", message):
            accepted = self.ref.notify(message)
        self._simulation.settle()
        return accepted

    def stop(self) -> None:
        """Stop the handler, as an operator would."""
        self._simulation.note_stop(self.ref)
        self.ref.stop()
        self._simulation.settle()


SENDING: Final = ("send", "try_send", "send_without_settling", "burst", "notify")
"""Verbs of a ref that send."""


def _told(function: Callable[..., object]) -> tuple[str, Any]:
    """Whose verb a function is, as far as a journal can tell."""
    ref = getattr(function, "__self__", None)
    if isinstance(ref, SimulatedRef) and function.__name__ in SENDING:
        return ref.name, function.__name__
    return "", function
