"""`HandlerMachine`: Hypothesis drives a handler, and the laws are checked after every step.

Laws of this file:

* Every rule is a plain call of the simulation's own verbs, written down as it is made: so a failing
  example can be run again without Hypothesis, and printed as a test.
* Nothing is drawn inside of Trio's loop: the schedule is one drawn value.
* Whatever an example does, its run is ended.
"""

from __future__ import annotations

import functools
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar, cast

import trio
from hypothesis import currently_in_test_context, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from starlette.types import ASGIApp

from .._core._mailbox import Overflow
from .._core._reasons import (
    Completed,
    Crashed,
    Disconnected,
    Failed,
    Overflowed,
    ShutDown,
    Stopped,
    TerminateReason,
    TimedOut,
)
from .._web._app import App
from .._web._websocket_handler import WebSocketHandler
from ._exchange import Disconnect
from ._explore import minimise_plan
from ._messages import messages_for
from ._schedule import Plan, Policy
from ._simulation import SimulatedExchange, Simulation
from ._timeline import timeline

GRID: Final = 8
"""Durations are drawn in eighths of a second: sums stay exact in floats, so ties are real."""

MAX_CLIENTS: Final = 4
"""Clients at a time."""

seconds = st.one_of(st.integers(1, GRID), st.integers(1, 3 * GRID)).map(lambda e: e / GRID)
policies = cast(
    "st.SearchStrategy[Policy]",
    st.one_of(st.just("spawn order"), st.just("reverse"), st.integers(0, 2**32 - 1)),
)
places = st.integers(0, MAX_CLIENTS)
drawn_messages = st.runner().flatmap(lambda machine: machine.message_strategy())
drawn_data = st.runner().flatmap(lambda machine: type(machine).data)
drawn_bursts = st.runner().flatmap(lambda machine: machine.burst_strategy())


class SimulatedCrash(Exception):
    """What the kit lets a callback raise."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A way to end that an example has reached.

    Args:
        reason: the type of the terminate reason.
        phase: where the handler was: ``"before the start"``, ``"waiting"``, ``"in a callback"``,
            ``"sending"``.
        transport: ``"long poll"``, ``"event stream"`` or ``"WebSocket"``.
    """

    reason: type[TerminateReason]
    phase: str
    transport: str


MachineT = TypeVar("MachineT", bound="HandlerMachine")


def step(method: Callable[..., None]) -> Callable[..., None]:
    """Write a rule's call down, so that it can be made again."""

    @functools.wraps(method)
    def recorded(self: HandlerMachine, **values: Any) -> None:
        self.steps.append((method.__name__, values))
        method(self, **values)

    return recorded


class HandlerMachine(RuleBasedStateMachine):
    """Drives a handler through everything that can happen to it.

    Subclass it, set `handler`, and give pytest its ``TestCase``::

        class ChatMachine(HandlerMachine):
            handler = Chat

        TestChat = ChatMachine.TestCase

    The laws are checked after every step. Add your own ``@invariant()`` and rules; `sim` is the
    simulation, `clients` are the exchanges, ``self.clients[0].state`` is what a handler remembers.

    Attributes:
        handler: the handler class, or a callable that makes a handler.
        app: the application, as a callable that makes one; by default an `App` that serves
            ``handler`` at `path`.
        path: where clients ask.
        method: how.
        messages: a strategy of messages; by default made from the handler's message type.
        websocket: whether clients open WebSockets; by default when ``handler`` is a class of them.
        data: a strategy of what WebSocket clients send.
        options: overrides for the route.
        notice: whether the server tells of a shutdown, as ``trioloop serve`` does.
        reached: counts, over all examples of the class, which endings were reached.
        sim: the simulation of this example.
        clients: the exchanges of this example, in the order of their requests.
    """

    handler: ClassVar[Any] = None
    app: ClassVar[Any] = None
    path: ClassVar[str] = "/"
    method: ClassVar[str] = "GET"
    messages: ClassVar[st.SearchStrategy[Any] | None] = None
    websocket: ClassVar[bool | None] = None
    data: ClassVar[st.SearchStrategy[Any]] = st.text(max_size=8) | st.binary(max_size=8)
    options: ClassVar[Mapping[str, Any]] = {}
    notice: ClassVar[bool] = True
    reached: ClassVar[Counter[Reached]]

    sim: Simulation
    clients: list[SimulatedExchange]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.reached = Counter()
        # A deadline would measure the machine's own work, such as Hypothesis's reports.
        cls.TestCase.settings = settings(deadline=None, stateful_step_count=30)

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, dict[str, Any]]] = []
        self.clients = []
        self._running = False
        self._grace: float | None = None
        self._phases: dict[SimulatedExchange, str] = {}

    # -- the start -------------------------------------------------------------------------------

    @classmethod
    def make_app(cls) -> ASGIApp:
        """A new application for one example."""
        if cls.app is not None:
            app: ASGIApp = cls.app()
            return app
        if cls.handler is None:
            raise TypeError(f"{cls.__name__} needs a handler: class attribute `handler` or `app`")
        app = App()
        app.route(cls.path, cls.handler, **cls.options)
        return app

    @classmethod
    def is_websocket(cls) -> bool:
        """Whether clients open WebSockets."""
        if cls.websocket is not None:
            return cls.websocket
        return isinstance(cls.handler, type) and issubclass(cls.handler, WebSocketHandler)

    @classmethod
    def message_strategy(cls) -> st.SearchStrategy[Any]:
        """What is sent to handlers.

        Raises:
            TypeError: the handler's type says too little.
        """
        return cls.messages if cls.messages is not None else _messages_for(cls.handler)

    @classmethod
    def burst_strategy(cls) -> st.SearchStrategy[list[Any]]:
        """What is sent at once."""
        return _bursts_of(cls.message_strategy())

    @initialize(schedule=policies, seed=st.integers(0, 3), grace=st.none() | seconds)
    @step
    def start(self, schedule: Policy, seed: int, grace: float | None = None) -> None:
        """The application starts, and a client comes.

        Args:
            schedule: which runnable task goes first.
            seed: of the hub's random source.
            grace: seconds that the server's shutdown at the end takes at most; `None`: the run
                ends without one.
        """
        self._grace = grace
        app = type(self).make_app()
        self.sim = Simulation(app, seed=seed, schedule=schedule, notice=self.notice, laws=True)
        self.sim.__enter__()
        self._running = True
        self._come()

    def _come(self) -> SimulatedExchange:
        if self.is_websocket():
            exchange = self.sim.websocket(self.path)
        else:
            exchange = self.sim.request(self.method, self.path, json=None)
        self.clients.append(exchange)
        return exchange

    def pick(self, place: int) -> SimulatedExchange:
        """One of the clients: one with a living handler, or the last whose handler has ended.

        When no handler lives, another client comes.

        Args:
            place: among the living; ``MAX_CLIENTS`` for the ended one.
        """
        living = list(filter(_lives, self.clients))
        if place == MAX_CLIENTS and len(living) < len(self.clients):
            return next(one for one in reversed(self.clients) if not _lives(one))
        return living[place % len(living)] if living else self._come()

    def _has_room(self) -> bool:
        return sum(map(_lives, self.clients)) < MAX_CLIENTS

    def _stalled(self) -> list[SimulatedExchange]:
        return [one for one in self.clients if not (one.reads_everything or one.has_left)]

    def _ended(self) -> list[SimulatedExchange]:
        return [one for one in self.clients if not one.pending]

    def _blocks(self) -> bool:
        return any(
            exchange.observed is not None and exchange.observed.handler.overflow is Overflow.BLOCK
            for exchange in self.clients[:1]
        )

    # -- messages --------------------------------------------------------------------------------

    @rule(place=places, message=drawn_messages)
    @step
    def send(self, place: int, message: Any) -> None:
        """Somebody sends a message."""
        self._note_phases()
        self.sim.ref(self.pick(place)).try_send(message)

    @rule(place=places, message=drawn_messages)
    @step
    def notify(self, place: int, message: Any) -> None:
        """Somebody sends a message for ``notify``."""
        self._note_phases()
        with suppress(trio.WouldBlock):
            self.sim.ref(self.pick(place)).notify(message)

    @precondition(lambda self: self._blocks())
    @rule(place=places, message=drawn_messages)
    @step
    def send_and_wait(self, place: int, message: Any) -> None:
        """A task sends a message, and waits until the mailbox has room."""
        self._note_phases()
        observed = self.pick(place).observed
        assert observed is not None

        async def send() -> None:
            observed.note("send", message)
            observed.note("send returned", await observed.ref.send(message))

        self.sim._nursery.start_soon(send, name="sender")  # noqa: SLF001 - its tasks are the test's
        self.sim.settle()

    @rule(
        place=places,
        messages=drawn_bursts,
    )
    @step
    def burst(self, place: int, messages: list[Any]) -> None:
        """Several messages come before the handler gets to run."""
        self._note_phases()
        self.sim.ref(self.pick(place)).burst(*messages)

    @rule(
        place=places,
        message=drawn_messages,
        after=seconds,
    )
    @step
    def send_later(self, place: int, message: Any, after: float) -> None:
        """A task sends a message some time later."""
        self.sim.later(after, self.sim.ref(self.pick(place)).send_without_settling, message)

    @rule(place=places, message=drawn_messages)
    @step
    def send_at_next_deadline(self, place: int, message: Any) -> None:
        """A message comes at the very instant at which something else is due."""
        wait = self.sim.next_deadline() - self.sim.now()
        if wait < math.inf:
            self.sim.later(wait, self.sim.ref(self.pick(place)).send_without_settling, message)

    @rule(
        place=places,
        message=drawn_messages,
        lag=seconds,
    )
    @step
    def send_then_lag(self, place: int, message: Any, lag: float) -> None:
        """A message comes, and nothing runs for a while."""
        self._note_phases()
        self.sim.ref(self.pick(place)).send_without_settling(message)
        self.sim.lag(lag)

    @rule(place=places)
    @step
    def crash(self, place: int) -> None:
        """The next callback raises."""
        self._note_phases()
        self.sim.crash_next(self.pick(place), SimulatedCrash("made by the kit"))

    @rule(place=places)
    @step
    def stop(self, place: int) -> None:
        """An operator stops the handler."""
        self._note_phases()
        self.sim.ref(self.pick(place)).stop()

    # -- time ------------------------------------------------------------------------------------

    @rule(by=seconds)
    @step
    def advance(self, by: float) -> None:
        """Time passes."""
        self._note_phases()
        self.sim.advance(by)

    @rule()
    @step
    def advance_to_next_deadline(self) -> None:
        """Time passes until something is due."""
        self._note_phases()
        self.sim.advance_to_next_deadline()

    @rule(by=seconds)
    @step
    def lag(self, by: float) -> None:
        """Time passes and nothing runs."""
        self._note_phases()
        self.sim.lag(by)

    # -- clients ---------------------------------------------------------------------------------

    @precondition(lambda self: self._has_room())
    @rule()
    @step
    def another_client(self) -> None:
        """Another client comes."""
        self._come()

    @rule(place=places, how=st.sampled_from(["clean", "abrupt", "half", "vanish"]))
    @step
    def disconnect(self, place: int, how: Disconnect) -> None:
        """A client leaves."""
        self._note_phases()
        exchange = self.pick(place)
        if not exchange.has_left:
            exchange.disconnect(how)

    @precondition(lambda self: self.is_websocket())
    @rule(place=places, data=drawn_data)
    @step
    def client_sends(self, place: int, data: Any) -> None:
        """A WebSocket's client sends a message."""
        self._note_phases()
        exchange = self.pick(place)
        if not exchange.has_left:
            exchange.send(data)

    @precondition(lambda self: self.is_websocket())
    @rule(place=places, data=st.lists(drawn_data, min_size=2, max_size=5))
    @step
    def client_sends_several(self, place: int, data: list[Any]) -> None:
        """A WebSocket's client sends several messages before the handler gets to run."""
        self._note_phases()
        exchange = self.pick(place)
        if not exchange.has_left:
            exchange.burst(*data)

    @precondition(lambda self: self.is_websocket())
    @rule(place=places, code=st.sampled_from([1000, 1001, 4000, None]))
    @step
    def client_closes(self, place: int, code: int | None) -> None:
        """A WebSocket's client closes."""
        self._note_phases()
        exchange = self.pick(place)
        if not exchange.has_left:
            exchange.close(code)

    @rule(place=places, window=st.sampled_from([0, 0, 1, 64, 256]))
    @step
    def stall(self, place: int, window: int) -> None:
        """A client stops reading."""
        self._note_phases()
        self.pick(place).stall(window)

    @precondition(lambda self: self._stalled())
    @rule(place=places, size=st.sampled_from([1, 16, 256]))
    @step
    def read(self, place: int, size: int) -> None:
        """A client that has stopped reads a little."""
        self._note_phases()
        for exchange in _at(self._stalled(), place):
            exchange.read(size)

    @precondition(lambda self: self._stalled())
    @rule(place=places)
    @step
    def resume(self, place: int) -> None:
        """A client reads again."""
        self._note_phases()
        for exchange in _at(self._stalled(), place):
            exchange.resume()

    @precondition(lambda self: self._has_room() and self._ended())
    @rule(place=places)
    @step
    def reconnect(self, place: int) -> None:
        """A client whose stream has ended comes back."""
        self._note_phases()
        for exchange in _at(self._ended(), place):
            self.clients.append(exchange.reconnect())

    # -- the end ---------------------------------------------------------------------------------

    def teardown(self) -> None:
        """End the run, and check what can only be known then."""
        if not self._running:
            return
        self._running = False
        self._note_phases()
        try:
            if self._grace is not None and sys.exc_info()[0] is None:
                self.sim.shut_down(self._grace)
        finally:
            try:
                self.sim.__exit__(None, None, None)
            finally:
                self._count()
                self._tell()

    def _tell(self) -> None:
        if currently_in_test_context():  # a pasted test is not in one
            note(Report(self))  # Hypothesis prints it if it comes to that

    def _note_phases(self) -> None:
        for exchange in self.clients:
            if exchange.reason is None and exchange.phase != "terminating":
                self._phases[exchange] = exchange.phase

    def _count(self) -> None:
        for exchange in self.clients:
            reason = exchange.reason
            if reason is not None:
                phase = self._phases.get(exchange, "before the start")
                type(self).reached[Reached(type(reason), phase, exchange.transport)] += 1

    # -- what was reached ------------------------------------------------------------------------

    @classmethod
    def assert_reached_all(cls, reasons: tuple[type[TerminateReason], ...] | None = None) -> None:
        """Make sure that the examples have ended handlers in every way.

        Args:
            reasons: the ways that matter; by default all of them.

        Raises:
            AssertionError: some were never reached; the message says which.
        """
        wanted = ALL_REASONS if reasons is None else reasons
        reached = {one.reason for one in cls.reached}
        missing = [reason.__name__ for reason in wanted if reason not in reached]
        if missing:
            raise AssertionError(
                f"{cls.__name__} has never reached {', '.join(missing)}; it has reached"
                f" {sorted(reason.__name__ for reason in reached)}"
            )


ALL_REASONS: Final[tuple[type[TerminateReason], ...]] = (
    Completed,
    Stopped,
    TimedOut,
    Crashed,
    Overflowed,
    Disconnected,
    Failed,
    ShutDown,
)


@functools.cache
def _messages_for(handler: Any) -> st.SearchStrategy[Any]:
    return messages_for(handler)


@functools.lru_cache(maxsize=64)
def _bursts_of(messages: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(messages, min_size=2, max_size=5)


def _lives(exchange: SimulatedExchange) -> bool:
    return exchange.reason is None and exchange.phase != "terminating"


def _at(clients: list[SimulatedExchange], place: int) -> list[SimulatedExchange]:
    """The one of these that is meant, if there is any."""
    return [clients[place % len(clients)]] if clients else []


class Report:
    """What a failing example prints: what happened, why, and a test to paste."""

    def __init__(self, machine: HandlerMachine) -> None:
        self._machine = machine

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001 - IPython's protocol
        printer.text(str(self))

    def __str__(self) -> str:
        machine = self._machine
        violation = machine.sim.violation
        parts = [timeline(machine.sim.journal, violation=violation)]
        if violation is not None:
            parts.append(f"schedule: {explain_schedule(machine)}")
        parts.append(as_test(machine))
        return "\n" + "\n\n".join(parts)


def as_test(machine: HandlerMachine) -> str:
    """The example as a test that can be pasted, and fails in the same way."""
    name = type(machine).__name__
    lines = [f"def test_found_by_{name.lower()}():", f"    machine = {name}()", "    try:"]
    for rule_name, values in machine.steps:
        arguments = ", ".join(f"{key}={value!r}" for key, value in values.items())
        lines.append(f"        machine.{rule_name}({arguments})")
    return "\n".join([*lines, "    finally:", "        machine.teardown()"])


def explain_schedule(machine: HandlerMachine) -> str:
    """Which reorderings of tasks the failure needs, found by running it again with fewer."""
    plan = machine.sim.schedule.plan

    def still_fails(fewer: Plan) -> bool:
        again = run_again(machine, fewer)
        return again.sim.violation is not None

    if not plan:
        return "spawn order; the failure is no race"
    smallest = minimise_plan(plan, still_fails)
    if not smallest:
        return "irrelevant; it fails in spawn order too"
    return run_again(machine, smallest).sim.schedule.describe()


def run_again(machine: HandlerMachine, plan: Plan) -> HandlerMachine:
    """Make an example's steps again under another schedule."""
    again = type(machine)()
    try:
        for name, values in machine.steps:
            given = {**values, "schedule": plan} if name == "start" else values
            getattr(again, name)(**given)
    except AssertionError:
        pass
    finally:
        with suppress(AssertionError):
            again.teardown()
    return again
