"""`HandlerMachine`: the library's own handlers keep the laws, and what the machine offers its users.

``TRIOLOOP_LONG=1`` drives the library's own handlers for longer.
"""

from __future__ import annotations

import enum
import functools
import gc
import logging
import os
import re
import weakref
from dataclasses import dataclass
from typing import ClassVar

import hypothesis.stateful
import pytest
import trio
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, precondition, rule, run_state_machine_as_test
from support.machines import MACHINES, Together

from trioloop import (
    App,
    Completed,
    Crashed,
    Disconnected,
    EventStreamHandler,
    LoopHandler,
    Reply,
    ServerSentEvent,
    ShutDown,
    TimedOut,
)
from trioloop.testing import HandlerMachine, LawBroken, Reached, Simulation, _stateful
from trioloop.testing._machine import MAX_CLIENTS, SimulatedCrash, as_test, explain_schedule

EXAMPLES = 2000 if os.environ.get("TRIOLOOP_LONG") else 40


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Paint:
    colour: Colour


class Painter(EventStreamHandler[Paint]):
    idle_timeout = 4.0
    keepalive = 16.0
    strokes = 0

    def info(self, message):
        self.strokes += 1
        return ServerSentEvent(message.colour.name)


class PainterMachine(HandlerMachine):
    handler = Painter


def run(machine, examples=25, *, steps=30, shrink=False):
    phases = [Phase.generate, *[Phase.shrink] * shrink]
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        deadline=None,
        derandomize=True,
        database=None,
    )
    run_state_machine_as_test(machine, settings=options)


def printed(machine, error=AssertionError, **options):
    """What is printed when a machine fails."""
    with pytest.raises(error) as found:
        run(machine, 100, shrink=True, **options)
    return "\n".join([str(found.value), *found.value.__notes__])


def paste(report):
    """Run the printed test."""
    source = report.partition("\nschedule: ")[2].partition("\n\n")[2]
    source = source[: source.index("machine.teardown()") + len("machine.teardown()")]
    names = {}
    exec(source, names)
    names["test_found_by_" + re.search(r"def test_found_by_(\w+)", source)[1]]()


def by_hand(machine, *calls, **start):
    """A machine whose rules were called by a test."""
    made = machine()
    try:
        made.start(**{"schedule": "spawn order", "seed": 0, **start})
        for name, values in calls:
            getattr(made, name)(**values)
    finally:
        made.teardown()
    return made


# -- the library's own handlers --------------------------------------------------------------------


@functools.cache
def drive(machine):
    run(machine, EXAMPLES)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_the_librarys_handlers_keep_the_laws(machine):
    drive(machine)


def test_the_librarys_handlers_have_ended_in_every_way():
    for machine in MACHINES:
        drive(machine)
    Together.collect()
    Together.assert_reached_all()
    assert {one.transport for one in Together.reached} == {"long poll", "event stream", "WebSocket"}
    assert {one.phase for one in Together.reached} >= {"waiting", "in a callback", "sending"}


# -- what is driven --------------------------------------------------------------------------------


def test_a_machine_without_a_handler_says_what_it_needs():
    class Empty(HandlerMachine):
        messages = st.none()

    with pytest.raises(
        TypeError, match="Empty needs a handler: class attribute `handler` or `app`"
    ):
        by_hand(Empty)


def test_an_application_is_made_for_each_example():
    made = []

    def make_app():
        made.append(App())
        made[-1].route("/painters", Painter)
        return made[-1]

    class Machine(PainterMachine):
        app = make_app
        path = "/painters?wall=1"

    run(Machine, 5)
    assert len(made) >= 5


def test_messages_come_from_the_handlers_type_or_from_the_machine():
    class Blue(PainterMachine):
        messages = st.just(Paint(Colour.BLUE))

    def colours(machine):
        seen = set()

        class Watching(machine):
            def teardown(self):
                super().teardown()
                seen.update(event.data for client in self.clients for event in client.events)

        run(Watching)
        return seen

    assert colours(PainterMachine) == {"RED", "BLUE"}
    assert colours(Blue) == {"BLUE"}


def test_the_options_and_the_method_are_the_routes_and_the_clients():
    class Machine(PainterMachine):
        options: ClassVar = {"idle_timeout": 0.5}
        method = "HEAD"

    (client,) = by_hand(Machine).clients
    assert client.reason == Completed()
    assert client.observed.handler.idle_timeout == 0.5


def test_a_server_without_notice_only_cancels():
    class Machine(PainterMachine):
        worker = "stock"
        notice = False

    def what(machine):
        return [entry.what for entry in by_hand(machine, grace=1.0).sim.journal]

    assert "is cancelled" in what(Machine)
    assert "is cancelled" not in what(PainterMachine)


def test_there_are_four_clients_at_most():
    most = 0

    class Machine(PainterMachine):
        @invariant()
        def few(self):
            nonlocal most
            most = max(most, sum(client.reason is None for client in self.clients))

    run(Machine, 60)
    assert most == MAX_CLIENTS


def test_the_last_place_is_a_client_whose_handler_has_ended():
    calls = [("stop", {"place": 0}), ("another_client", {}), ("another_client", {})]
    machine = PainterMachine()
    try:
        machine.start(schedule="spawn order", seed=0)
        assert machine.pick(MAX_CLIENTS) is machine.clients[0]  # there is no such
        for name, values in calls:
            getattr(machine, name)(**values)
        ended, *living = machine.clients
        assert machine.pick(MAX_CLIENTS) is ended
        assert [machine.pick(place) for place in (0, 1, 2)] == [*living, living[0]]
    finally:
        machine.teardown()


def test_somebody_comes_when_nobody_lives():
    machine = by_hand(PainterMachine, ("stop", {"place": 0}), ("lag", {"by": 1.0}))
    assert len(machine.clients) == 1
    red = Paint(Colour.RED)
    machine = by_hand(
        PainterMachine, ("stop", {"place": 0}), ("send", {"place": 0, "message": red})
    )
    assert [len(client.events) for client in machine.clients] == [0, 1]


# -- users' own rules and invariants ---------------------------------------------------------------


class ThreeStrokes(PainterMachine):
    """Fails with the third stroke."""

    @invariant()
    def two_strokes_are_enough(self):
        assert all(client.state.get("strokes", 0) < 3 for client in self.clients)


def test_an_invariant_that_fails_is_printed_with_the_steps_the_timeline_and_the_schedule():
    report = printed(ThreeStrokes)
    assert "state.two_strokes_are_enough()" in report
    assert "handler 1" in report
    assert "schedule: spawn order; the failure is no race" in report


def test_the_printed_test_imports_what_it_names():
    report = printed(ThreeStrokes)
    assert f"from {__name__} import Colour, Paint, ThreeStrokes\n" in report
    assert "message=Paint(colour=Colour.RED)" in report or "[Paint(colour=Colour." in report
    assert "<Colour" not in report.partition("\ndef test_found_by")[2]


def test_the_printed_test_checks_the_invariants():
    with pytest.raises(AssertionError, match="strokes"):
        paste(printed(ThreeStrokes))


def test_an_invariant_with_a_precondition_is_checked_where_it_holds():
    class Machine(PainterMachine):
        @precondition(lambda self: len(self.clients) > 1)
        @invariant()
        def never(self):
            pytest.fail("there are two")

    by_hand(Machine)
    with pytest.raises(pytest.fail.Exception, match="there are two"):
        by_hand(Machine, ("another_client", {}))


class Wall:
    """What the rules of `OwnRules` give to each other."""


class OwnRules(PainterMachine):
    walls = Bundle("walls")

    @rule(target=walls, place=st.integers(0, 3))
    def build(self, place):
        return Wall()

    @rule(wall=walls, colour=st.sampled_from(Colour))
    def paint(self, wall, colour):
        self.send(place=0, message=Paint(colour))
        assert colour is Colour.RED


def test_the_printed_test_has_the_users_own_rules_and_what_they_give_each_other():
    report = printed(OwnRules)
    wall = re.search(r"^ +(result_\d+) = machine.build\(place=0\)$", report, re.MULTILINE)[1]
    assert f"machine.paint(colour=Colour.BLUE, wall={wall})" in report
    with pytest.raises(AssertionError):
        paste(report)


def test_a_rule_that_a_rule_calls_is_no_step():
    machine = by_hand(OwnRules, ("paint", {"wall": Wall(), "colour": Colour.RED}))
    assert [call.rule for call in machine.steps] == ["start", "paint"]
    assert machine.clients[0].events[0].data == "RED"


def test_arguments_by_place_are_written_with_their_names():
    machine = OwnRules()
    try:
        machine.start("spawn order", 0)
        machine.paint(None, Colour.RED)
    finally:
        machine.teardown()
    assert "machine.paint(wall=None, colour=Colour.RED)" in as_test(machine)


def test_hypothesis_still_keeps_rules_and_invariants_where_the_kit_looks():
    assert {
        getattr(hypothesis.stateful, name)
        for name in ("RULE_MARKER", "INITIALIZE_RULE_MARKER", "INVARIANT_MARKER")
    } == {*_stateful.RULES, _stateful.INVARIANT}
    assert set(_stateful.invariants_of(ThreeStrokes)) == {"two_strokes_are_enough"}


def test_a_machine_works_when_hypothesis_keeps_them_elsewhere(monkeypatch):
    monkeypatch.setattr(_stateful, "RULES", ("elsewhere",))
    monkeypatch.setattr(_stateful, "INVARIANT", "elsewhere")

    class Machine(PainterMachine):
        @rule()
        def mine(self):
            self.advance(by=1.0)

    run(Machine, 5)


# -- how it ends -----------------------------------------------------------------------------------


def test_a_run_is_ended_whatever_its_example_did():
    class Machine(PainterMachine):
        @rule()
        def mine(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Machine)
    with Simulation(App()):
        pass


def test_a_shutdown_at_the_end_takes_its_grace():
    (client,) = by_hand(PainterMachine, grace=1.0).clients
    assert client.reason == ShutDown()
    assert "shuts down" in [entry.what for entry in by_hand(PainterMachine, grace=1.0).sim.journal]
    assert "shuts down" not in [entry.what for entry in by_hand(PainterMachine).sim.journal]


def test_teardown_without_a_start_does_nothing():
    PainterMachine().teardown()


class Deaf(LoopHandler[str]):
    """Cannot be cancelled for a while."""

    async def info(self, message):
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return Reply(200, body=message)


class DeafMachine(HandlerMachine):
    handler = Deaf


def test_the_printed_test_breaks_the_same_law():
    report = printed(DeafMachine, LawBroken)
    assert report.startswith("law 8 ")
    with pytest.raises(LawBroken, match=r"^law 8 "):
        paste(report)


def test_a_crash_of_the_machines_making_is_not_logged_and_any_other_is(caplog):
    class Clumsy(LoopHandler[str]):
        mailbox_size = 1

        def info(self, message):
            raise ValueError(message)

    class Machine(HandlerMachine):
        handler = Clumsy

    crash, send = ("crash", {"place": 0}), ("send", {"place": 0, "message": "x"})
    (client,) = by_hand(Machine, crash, send).clients
    assert isinstance(client.reason.error, SimulatedCrash)
    by_hand(Machine, ("burst", {"place": 0, "messages": ["x", "y", "z"]}))
    assert caplog.records == []
    by_hand(Machine, send)
    assert [type(record.exc_info[1]) for record in caplog.records] == [ValueError]
    assert not logging.getLogger("trioloop").filters


# -- schedules -------------------------------------------------------------------------------------


class Racer(LoopHandler[str]):
    """Two tasks; the answer is who comes first."""

    def info(self, message):
        order = []

        async def run(name):
            order.append(name)
            if len(order) == 2:
                self.ref.send_nowait("".join(order))

        if len(message) == 2:
            return Reply(200, body=message)
        self.nursery.start_soon(run, "a")
        self.nursery.start_soon(run, "b")
        return None


class RacerMachine(HandlerMachine):
    handler = Racer
    messages = st.just("start")

    @invariant()
    def a_is_first(self):
        assert all(client.text in ("", "ab") for client in self.clients)


def test_a_race_is_explained_by_the_reorderings_that_it_needs():
    machine = RacerMachine()
    try:
        machine.start(schedule="reverse", seed=0)
        with pytest.raises(AssertionError):
            machine.send(place=0, message="start")
    finally:
        machine.teardown()
    explained = explain_schedule(machine)
    assert explained.startswith("spawn order, except: at t=0 ran ")
    assert explained.count("ran") == 1


def test_a_race_is_printed_once_and_its_test_has_the_schedule():
    report = printed(RacerMachine)
    assert report.count("schedule: spawn order, except: at t=0 ran ") == 1
    assert "schedule='reverse'" in report
    with pytest.raises(AssertionError):
        paste(report)


def test_a_failure_that_needs_no_reordering_is_said_to_be_none():
    machine = ThreeStrokes()
    strokes = [Paint(Colour.RED)] * 3
    try:
        machine.start(schedule="reverse", seed=0)
        with pytest.raises(AssertionError):
            machine.burst(place=0, messages=strokes)
    finally:
        machine.teardown()
    assert explain_schedule(machine) in (
        "irrelevant; it fails in spawn order too",
        "spawn order; the failure is no race",
    )


# -- what was reached ------------------------------------------------------------------------------


def test_endings_are_counted_by_reason_phase_and_transport():
    class Machine(PainterMachine):
        pass

    by_hand(Machine, ("advance", {"by": 4.0}), ("another_client", {}), ("disconnect", LEAVE))
    assert dict(Machine.reached) == {
        Reached(TimedOut, "waiting", "event stream"): 1,
        Reached(Disconnected, "waiting", "event stream"): 1,
    }


LEAVE = {"place": 0, "how": "abrupt"}


def test_each_machine_counts_for_itself():
    class Machine(PainterMachine):
        pass

    class Other(PainterMachine):
        pass

    by_hand(Machine)
    assert Machine.reached
    assert not Other.reached


def test_what_was_never_reached_is_told():
    class Machine(PainterMachine):
        pass

    by_hand(Machine, ("disconnect", LEAVE))
    Machine.assert_reached_all((Disconnected,))
    with pytest.raises(AssertionError, match=r"never reached Crashed; it has reached \['Disconn"):
        Machine.assert_reached_all((Disconnected, Crashed))
    with pytest.raises(AssertionError, match="Completed, Stopped, TimedOut, Crashed, Overflowed"):
        Machine.assert_reached_all()


# -- what is left of an example --------------------------------------------------------------------


def run_and_keep(invariants_hold, assumes=True):
    """Run a machine as a test; its instances, which nobody else would have kept."""
    kept = []

    class Kept(HandlerMachine):
        handler = Painter

        def __init__(self):
            super().__init__()
            kept.append(self)

        @invariant()
        def it_holds(self):
            assume(assumes or len(self.steps) < 3)
            assert invariants_hold

        def teardown(self):
            super().teardown()
            if invariants_hold:
                assert len(self.sim.journal) > 0

    bounds = settings(
        max_examples=5,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.filter_too_much],
    )
    try:
        run_state_machine_as_test(Kept, settings=bounds)
    except AssertionError:
        assert not invariants_hold
    return kept


def test_a_machine_whose_example_has_passed_forgets_all_of_it_behind_its_teardown():
    kept = run_and_keep(invariants_hold=True)
    assert len(kept) >= 5
    assert not any(map(vars, kept))
    assert gc.isenabled()


def test_what_a_passed_example_leaves_goes_without_a_collection():
    left = []

    class Left(HandlerMachine):
        handler = Painter

        def teardown(self):
            super().teardown()
            unhurt = [one for one in self.clients if not isinstance(one.reason, Crashed)]
            if unhurt == self.clients:  # else a traceback leads back
                left.append(weakref.ref(self.sim.journal))
            for one in unhurt:
                if one.observed:
                    left.extend(map(weakref.ref, (one, one.connection, one.observed.handler)))

    bounds = settings(max_examples=5, database=None, phases=[Phase.generate])
    before = gc.get_threshold()
    gc.set_threshold(0)  # none comes by itself
    try:
        run_state_machine_as_test(Left, settings=bounds)
    finally:
        gc.set_threshold(*before)
    assert left
    assert not [one() for one in left if one() is not None]


def test_a_machine_whose_example_was_given_up_forgets_all_of_it():
    kept = run_and_keep(invariants_hold=True, assumes=False)
    assert len(kept) >= 5
    assert not any(map(vars, kept))


def test_an_example_that_is_given_up_before_it_has_a_simulation_is_let_go_too():
    tries = []

    def make_app():
        tries.append(1)
        assume(len(tries) > 1)
        app = App()
        app.route("/", Painter)
        return app

    class Choosy(HandlerMachine):
        handler = Painter
        app = staticmethod(make_app)

    bounds = settings(max_examples=2, database=None, phases=[Phase.generate])
    run_state_machine_as_test(Choosy, settings=bounds)
    assert len(tries) > 1
    assert gc.isenabled()


def test_a_machine_that_has_failed_keeps_all_of_it():
    *_, last = run_and_keep(invariants_hold=False)
    assert isinstance(last.failure, AssertionError)
    assert len(last.sim.journal) > 0
    assert gc.isenabled()
