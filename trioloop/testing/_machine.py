"""`HandlerMachine`: Hypothesis drives a handler, and the laws are checked after every step.

Laws of this file:

* Every rule is a plain call of the simulation's own verbs, written down as it is made: so a failing
  example can be run again without Hypothesis, and printed as a test.
* Nothing is drawn inside of Trio's loop: the schedule is one drawn value.
* Whatever an example does, its run is ended.
"""

from __future__ import annotations

import functools
import gc
import inspect
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar, cast

import trio
from hypothesis import currently_in_test_context, note, settings
from hypothesis import strategies as st
from hypothesis.control import cleanup
from hypothesis.errors import StopTest, UnsatisfiedAssumption
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from starlette.types import ASGIApp

from .._core._mailbox import NOTHING, Overflow
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
from ._replay import _Source
from ._schedule import Plan, Policy
from ._simulation import SimulatedExchange, Simulation
from ._stateful import check_invariants, exchange_rules, invariants_of
from ._timeline import timeline
from ._world import Worker

GRID: Final = 8
"""Durations are drawn in eighths of a second: sums stay exact in floats, so ties are real."""

GIVEN_UP: Final = (StopTest, UnsatisfiedAssumption)
"""How Hypothesis ends an example that has not failed."""

MAX_CLIENTS: Final = 4
"""Clients at a time."""

seconds = st.one_of(st.integers(1, GRID), st.integers(1, 3 * GRID)).map(lambda e: e / GRID)
policies = cast(
    "st.SearchStrategy[Policy]",
    st.one_of(st.just("spawn order"), st.just("reverse"), st.integers(0, 2**32 - 1)),
)
places = st.one_of(st.just(0), st.integers(0, MAX_CLIENTS))  # one handler shall see many messages
drawn_messages = st.runner().flatmap(lambda machine: machine.message_strategy())
drawn_data = st.runner().flatmap(lambda machine: machine.data)
drawn_bursts = st.runner().flatmap(lambda machine: machine.burst_strategy())


logger = logging.getLogger("trioloop")


class SimulatedCrash(Exception):
    """What the kit lets a callback raise."""


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record tells of an exception: of overflows and the like the timeline tells."""
    return bool(record.exc_info)


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


@dataclass(slots=True)
class Call:
    """One call of a rule.

    Args:
        rule: its name.
        values: its arguments.
        result: what it returned.
    """

    rule: str
    values: dict[str, Any]
    result: Any = None


def step(method: Callable[..., Any]) -> Callable[..., Any]:
    """Write a rule's call down, so that it can be made again."""
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def recorded(self: HandlerMachine, *args: Any, **values: Any) -> Any:
        if self._in_step:  # one rule calls another
            return method(self, *args, **values)
        given = {**dict(zip(names, args, strict=False)), **values} if args else values
        call = Call(method.__name__, given)
        self.steps.append(call)
        self._in_step = True
        try:
            self._living()
            call.result = method(self, *args, **values)
            if self._by_hand:
                check_invariants(self)
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._in_step = False
        return call.result

    return recorded


class HandlerMachine(RuleBasedStateMachine):
    """Drives a handler through everything that can happen to it.

    Subclass it, set `handler`, and give pytest its ``TestCase``::

        class ChatMachine(HandlerMachine):
            handler = Chat

        TestChat = ChatMachine.TestCase

    The laws are checked after every step. Add your own ``@invariant()`` and rules; `sim` is the
    simulation, `clients` are the exchanges, ``self.clients[0].state`` is what a handler remembers.
    A machine whose example has passed forgets all of it, behind its ``teardown``.

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
        worker: who serves, see `Simulation`.
        notice: whether the stock worker tells of a shutdown.
        reached: counts, over all examples of the class, which endings were reached.
        sim: the simulation of this example.
        clients: the exchanges of this example, in the order of their requests.
        steps: the calls of rules that this example has made.
        failure: what has ended this example, when something has.
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
    worker: ClassVar[Worker] = "trioloop"
    reached: ClassVar[Counter[Reached]]

    sim: Simulation
    clients: list[SimulatedExchange]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.reached = Counter()
        exchange_rules(cls, step)
        # A deadline would measure the machine's own work, such as Hypothesis's reports.
        cls.TestCase.settings = settings(deadline=None, stateful_step_count=50)

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Call] = []
        self.clients = []
        self._open: list[SimulatedExchange] = []  # those whose handler was there, last time
        self._known = 0  # clients that are in `_open`, or have been
        self._alive: list[SimulatedExchange] = []  # those whose handler lives
        self._notes: Sequence[object] = ()  # what the journal has
        self._alive_at = 0  # how many there were by then
        self._last: Any = NOTHING  # the message that was sent last
        self._in_step = False
        self._by_hand = not currently_in_test_context()  # nobody else checks the invariants
        self._running = False
        self.failure: BaseException | None = None
        self._grace: float | None = None
        self._opens = self.is_websocket()
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
        if gc.isenabled() and not self._by_hand:
            gc.disable()
            cleanup(self._let_go)
        app = type(self).make_app()
        self.sim = Simulation(
            app,
            seed=seed,
            schedule=schedule,
            notice=self.notice,
            laws=True,
            worker=self.worker,
        )
        self.sim.__enter__()
        self._running = True
        self._notes = self.sim.journal.notes
        logger.addFilter(is_news)
        self._come()

    def _come(self) -> SimulatedExchange:
        if self._opens:
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
        living = self._living()
        if place == MAX_CLIENTS and len(living) < len(self.clients):
            return next(one for one in reversed(self.clients) if one not in living)
        return living[place % len(living)] if living else self._come()

    def _living(self) -> list[SimulatedExchange]:
        """Clients with a living handler, whose phases are noted; one that has ended stays so."""
        if self._alive_at == len(self._notes):
            return self._alive  # nothing has happened
        self._alive_at = len(self._notes)
        self._open += self.clients[self._known :]
        self._known = len(self.clients)
        self._open = [one for one in self._open if one.reason is None]
        self._alive = []
        for one in self._open:
            phase = one.phase
            if phase != "terminating":
                self._phases[one] = phase
                self._alive.append(one)
        return self._alive

    def _has_room(self) -> bool:
        return len(self._living()) < MAX_CLIENTS

    def _stalled(self) -> list[SimulatedExchange]:
        return [one for one in self.clients if one.has_stopped]

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
        self._last = message
        self.sim.ref(self.pick(place)).try_send(message)

    @precondition(lambda self: self._last is not NOTHING)
    @rule(place=places)
    @step
    def send_again(self, place: int) -> None:
        """Somebody sends the last message once more."""
        self.sim.ref(self.pick(place)).try_send(self._last)

    @rule(place=places, message=drawn_messages)
    @step
    def notify(self, place: int, message: Any) -> None:
        """Somebody sends a message for ``notify``."""
        self._last = message
        with suppress(trio.WouldBlock):
            self.sim.ref(self.pick(place)).notify(message)

    @precondition(lambda self: self._blocks())
    @rule(place=places, messages=drawn_bursts)
    @step
    def send_and_wait(self, place: int, messages: list[Any]) -> None:
        """Several tasks send a message each, and wait until the mailbox has room."""
        observed = self.pick(place).observed
        assert observed is not None

        async def send(message: Any) -> None:
            observed.note("send", message)
            observed.note("send returned", await observed.ref.send(message))

        for message in messages:
            self.sim._nursery.start_soon(send, message, name="sender")  # noqa: SLF001 - the test's
        self.sim.settle()

    @rule(
        place=places,
        messages=drawn_bursts,
    )
    @step
    def burst(self, place: int, messages: list[Any]) -> None:
        """Several messages come before the handler gets to run."""
        self._last = messages[-1]
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
        self.sim.ref(self.pick(place)).send_without_settling(message)
        self.sim.lag(lag)

    @rule(place=places)
    @step
    def crash(self, place: int) -> None:
        """The next callback raises."""
        self.sim.crash_next(self.pick(place), SimulatedCrash("made by the kit"))

    @rule(place=places)
    @step
    def stop(self, place: int) -> None:
        """An operator stops the handler."""
        self.sim.ref(self.pick(place)).stop()

    # -- time ------------------------------------------------------------------------------------

    @rule(by=seconds)
    @step
    def advance(self, by: float) -> None:
        """Time passes."""
        self.sim.advance(by)

    @rule()
    @step
    def advance_to_next_deadline(self) -> None:
        """Time passes until something is due."""
        self.sim.advance_to_next_deadline()

    @rule(by=seconds)
    @step
    def lag(self, by: float) -> None:
        """Time passes and nothing runs."""
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
        exchange = self.pick(place)
        if not exchange.has_left:
            exchange.disconnect(how)

    @precondition(lambda self: self._opens)
    @rule(place=places, data=drawn_data)
    @step
    def client_sends(self, place: int, data: Any) -> None:
        """A WebSocket's client sends a message."""
        exchange = self.pick(place)
        if not exchange.has_left:
            exchange.send(data)

    @precondition(lambda self: self._opens)
    @rule(place=places, data=st.lists(drawn_data, min_size=2, max_size=5))
    @step
    def client_sends_several(self, place: int, data: list[Any]) -> None:
        """A WebSocket's client sends several messages before the handler gets to run."""
        exchange = self.pick(place)
        if not exchange.has_left:
            exchange.burst(*data)

    @precondition(lambda self: self._opens)
    @rule(place=places, code=st.sampled_from([1000, 1001, 4000, None]))
    @step
    def client_closes(self, place: int, code: int | None) -> None:
        """A WebSocket's client closes."""
        exchange = self.pick(place)
        if not exchange.has_left:
            exchange.close(code)

    @rule(place=places, window=st.sampled_from([0, 0, 1, 64, 256]))
    @step
    def stall(self, place: int, window: int) -> None:
        """A client stops reading."""
        self.pick(place).stall(window)

    @precondition(lambda self: self._stalled())
    @rule(place=places, size=st.sampled_from([1, 16, 256]))
    @step
    def read(self, place: int, size: int) -> None:
        """A client that has stopped reads a little."""
        for exchange in _at(self._stalled(), place):
            exchange.read(size)

    @precondition(lambda self: self._stalled())
    @rule(place=places)
    @step
    def resume(self, place: int) -> None:
        """A client reads again."""
        for exchange in _at(self._stalled(), place):
            exchange.resume()

    @precondition(lambda self: self._has_room() and self._ended())
    @rule(place=places)
    @step
    def reconnect(self, place: int) -> None:
        """A client whose stream has ended comes back."""
        for exchange in _at(self._ended(), place):
            self.clients.append(exchange.reconnect())

    # -- the end ---------------------------------------------------------------------------------

    def teardown(self) -> None:
        """End the run, and check what can only be known then."""
        if not self._running:
            return
        self._living()
        self._running = False
        if not self._by_hand:  # an invariant may have failed
            self.failure = sys.exc_info()[1]
        try:
            self._end()
        except Exception as error:
            self.failure = error
            raise
        finally:
            logger.removeFilter(is_news)
            self._count()
            if not self._by_hand:
                note(Report(self))  # Hypothesis prints it if it comes to that

    def _end(self) -> None:
        try:
            if self._grace is not None and self.failure is None:
                self.sim.shut_down(self._grace)
        finally:
            self.sim.__exit__(*sys.exc_info())

    def _count(self) -> None:
        for exchange in self.clients:
            reason = exchange.reason
            if reason is not None:
                phase = self._phases.get(exchange, "before the start")
                type(self).reached[Reached(type(reason), phase, exchange.transport)] += 1

    def _let_go(self) -> None:
        """Nobody needs the example any more.

        Hypothesis keeps the machine for a while. A collection would pass over all that hangs on it,
        to find it dead only the next time.
        """
        try:
            if self.failure is None or isinstance(self.failure, GIVEN_UP):
                if "sim" in vars(self):
                    self.sim._let_go()  # noqa: SLF001 - one thing in two parts
                vars(self).clear()
        finally:
            gc.enable()

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
        parts = [timeline(machine.sim.journal, violation=machine.sim.violation)]
        if machine.failure is not None:
            parts.append(f"schedule: {explain_schedule(machine)}")
        parts.append(as_test(machine))
        return "\n" + "\n\n".join(parts)


def as_test(machine: HandlerMachine) -> str:
    """The example as a test that can be pasted, and fails in the same way."""
    cls, source = type(machine), _Source()
    define = [] if _is_importable(cls) else [*definition_of(cls, source), "", ""]
    name = cls.__name__ if define else source.name_of(cls)
    lines = [f"def test_found_by_{cls.__name__.lower()}():"]
    if machine.sim.violation is not None:
        broken = machine.sim.violation
        lines.append(f"    # Breaks law {broken.law}: {' '.join(broken.sentence.split())}")
    lines += [f"    machine = {name}()", "    try:"]
    lines += [f"        {line}" for line in _calls(machine.steps, source)]
    lines += ["    finally:", "        machine.teardown()"]
    imports = source.imports()
    return "\n".join([*imports, *["", ""] * bool(imports), *define, *lines])


def _calls(steps: Iterable[Call], source: _Source) -> Iterator[str]:
    """The lines of a test; what rules returned and others were given has names."""
    names: dict[int, str] = {}
    for number, call in enumerate(steps, start=1):
        values = (f"{key}={names.get(id(v)) or source.write(v)}" for key, v in call.values.items())
        line = f"machine.{call.rule}({', '.join(values)})"
        if call.result is not None and type(call.result) not in PLAIN:
            names[id(call.result)] = f"result_{number}"
            line = f"result_{number} = {line}"
        yield line


PLAIN: Final = (bool, int, float, str, bytes)
"""Types whose values need no names."""


def _is_importable(cls: type) -> bool:
    """Whether a test can get at a machine by its name; one in a function is beside the test."""
    return "<locals>" in cls.__qualname__ or hasattr(
        sys.modules.get(cls.__module__), cls.__qualname__.partition(".")[0]
    )


def definition_of(cls: type[HandlerMachine], source: _Source) -> list[str]:
    """The class statement of a machine that nobody has written, such as `check_handler`'s."""
    lines = [f"class {cls.__name__}({source.name_of(HandlerMachine, 'trioloop.testing')}):"]
    for name in ("handler", "app", "path", "method", "websocket", "notice", "worker", "options"):
        value: Any = getattr(cls, name)
        if value != getattr(HandlerMachine, name):
            lines.append(f"    {name} = {_write_attribute(name, value, source)}")
    decorator: Any = invariant
    for name, function in invariants_of(cls).items():
        lines.append(f"    {name} = {source.name_of(decorator)}()({source.name_of(function)})")
    return lines


def _write_attribute(name: str, value: Any, source: _Source) -> str:
    if isinstance(value, type):
        return source.name_of(value)
    if getattr(value, "__name__", "") == "<lambda>":
        return f"staticmethod({source.name_of_lambda(f'make_{name}')})"
    if not hasattr(value, "__qualname__"):
        return source.write(value)
    return f"staticmethod({source.name_of(value)})"


def explain_schedule(machine: HandlerMachine) -> str:
    """Which reorderings of tasks the failure needs, found by running it again with fewer."""
    plan = machine.sim.schedule.plan

    def still_fails(fewer: Plan) -> bool:
        return _kind(run_again(machine, fewer)) == _kind(machine)

    if not plan:
        return "spawn order; the failure is no race"
    smallest = minimise_plan(plan, still_fails)
    if not smallest:
        return "irrelevant; it fails in spawn order too"
    return run_again(machine, smallest).sim.schedule.describe()


def _kind(machine: HandlerMachine) -> object:
    """What makes two failures the same: the law, or the type of the error."""
    violation = machine.sim.violation
    return type(machine.failure) if violation is None else violation.law


def run_again(machine: HandlerMachine, plan: Plan) -> HandlerMachine:
    """Make an example's steps again under another schedule."""
    again = type(machine)()
    again._by_hand = True  # noqa: SLF001 - a machine like the other
    with suppress(Exception):  # it is in `failure`
        try:
            for call in machine.steps:
                given = {**call.values, "schedule": plan} if call.rule == "start" else call.values
                getattr(again, call.rule)(**given)
        finally:
            again.teardown()
    return again
