"""A real bug in a user's handler: the laws hold, and one invariant finds it.

`HastyDesk` is the first version of the example. It calls one free desk for each new ticket, and a
desk is free until it has looked: so two tickets that come at one moment call the same desk, and one
of them stays in the queue while an agent has nothing to do.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections import deque
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from trioloop import Crashed, Disconnected, ShutDown
from trioloop.testing import HandlerMachine, Simulation, check_handler, detached, messages_for

ROOT = Path(__file__).parents[2]


def load_example(name: str):
    """An example as a module: the folder of examples is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # messages are looked up there
    spec.loader.exec_module(module)
    return module


example = load_example("ticket_queue")
Close, Look, Ticket, Urgency = example.Close, example.Look, example.Ticket, example.Urgency
TicketDesk, make_app = example.TicketDesk, example.make_app


class HastyDesk(TicketDesk):
    """The first version: it calls one desk."""

    def call(self):
        free = self.hub.members("free")
        if free:
            free[0].ref.send_nowait(Look())


def no_ticket_waits_while_a_desk_is_free(machine):
    for desk in machine.clients:
        if desk.phase == "waiting" and desk.reason is None and desk.state.get("ticket") is None:
            waiting = list(desk.state["queue"])
            assert not waiting, f"{waiting} waits, and {desk} is free"


class DeskMachine(HandlerMachine):
    handler = TicketDesk
    app = make_app
    path = "/desk"

    no_ticket_waits = invariant()(no_ticket_waits_while_a_desk_is_free)


class HastyMachine(DeskMachine):
    handler = HastyDesk
    app = functools.partial(make_app, HastyDesk)


def run(machine: type[HandlerMachine], examples: int, **options) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            **options,
        ),
    )


# -- the machine ----------------------------------------------------------------------------------


def test_the_machine_finds_the_ticket_that_waits_in_vain():
    with pytest.raises(AssertionError, match=r"waits, and <client \d: GET /desk> is free") as found:
        run(HastyMachine, 300, phases=[Phase.generate])
    report = "\n".join(found.value.__notes__)
    assert "def test_found_by_hastymachine():" in report
    assert "accepts Look()" in report


def check_desk(desk):
    check_handler(
        desk,
        app=functools.partial(make_app, desk),
        path="/desk",
        invariants=[no_ticket_waits_while_a_desk_is_free],
        examples=200,
        steps=20,
    )


def test_one_line_and_one_invariant_find_it_too(monkeypatch):
    once = {"phases": [Phase.generate], "derandomize": True, "database": None}
    monkeypatch.setattr("trioloop.testing._check.settings", functools.partial(settings, **once))
    with pytest.raises(AssertionError, match=r"waits, and <client \d: GET /desk> is free"):
        check_desk(HastyDesk)
    check_desk(TicketDesk)


def test_the_machine_finds_nothing_in_the_corrected_desk():
    run(DeskMachine, 100)
    DeskMachine.assert_reached_all((Crashed, Disconnected, ShutDown))


def test_the_laws_alone_do_not_find_it():
    """They are the library's; whether tickets may wait is for the desk's own invariant to say."""

    class LawsOnly(HandlerMachine):
        handler = HastyDesk
        app = functools.partial(make_app, HastyDesk)
        path = "/desk"

    run(LawsOnly, 30)


def test_the_laws_in_one_line():
    class LonelyDesk(TicketDesk):
        def init(self, request):
            request.app.state.queue = deque()  # there is no `make_app` here to make one
            return super().init(request)

    machine = check_handler(LonelyDesk, examples=20, steps=15)
    assert machine.reached


# -- what it found, as a test ---------------------------------------------------------------------


def two_tickets_at_one_moment(sim):
    """What two desks show."""
    desks = [sim.sse("/desk"), sim.sse("/desk")]
    sim.ref(desks[0]).burst(Ticket("the printer burns"), Ticket("the tea is cold"))
    return [event.data for desk in desks for event in desk.events if event.event == "ticket"]


def test_two_tickets_at_one_moment_go_to_two_desks():
    with Simulation(make_app(), laws=True) as sim:
        assert sorted(two_tickets_at_one_moment(sim)) == ["the printer burns", "the tea is cold"]


def test_the_first_version_calls_one_desk_twice():
    with Simulation(make_app(HastyDesk), laws=True) as sim:
        assert two_tickets_at_one_moment(sim) == ["the printer burns"]


def test_a_desk_that_leaves_gives_its_ticket_to_another():
    with Simulation(make_app(), laws=True) as sim:
        first, second = sim.sse("/desk"), sim.sse("/desk")
        sim.post("/tickets", body="the printer burns")
        holder, other = (first, second) if len(first.events) == 2 else (second, first)
        holder.disconnect()
        assert other.assert_event("the printer burns").event == "ticket"


# -- routes and callbacks -------------------------------------------------------------------------


def test_filing_and_closing_over_http():
    with Simulation(make_app(), laws=True) as sim:
        assert sim.post("/tickets", body="too early").status == 503
        desk = sim.sse("/desk")
        assert sim.post("/tickets", body="the tea is cold").status == 202
        assert sim.post("/tickets", body="the tea is hot").status == 202
        assert sim.post("/tickets?urgency=high", body="the printer burns").status == 202
        name = desk.events[0].data
        for outcome in ("solved", "refused"):
            assert sim.post(f"/close/{name}?outcome={outcome}").status == 202
        shown = [event.data for event in desk.events if event.event == "ticket"]
        assert shown == ["the tea is cold", "the printer burns", "the tea is hot"]


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/tickets", "", 400),
        ("/tickets", "x" * 81, 400),
        ("/tickets?urgency=low", "x", 400),
        ("/close/nobody?outcome=solved", "", 404),
        ("/close/nobody?outcome=perhaps", "", 400),
    ],
)
def test_what_is_refused(path, body, status):
    with Simulation(make_app()) as sim:
        sim.sse("/desk")
        assert sim.post(path, body=body).status == status


def test_callbacks_as_functions():
    desk = detached(TicketDesk())
    desk.queue = deque()
    assert desk.take() == []
    desk.info(Ticket("the tea is cold"))
    assert [event.data for event in desk.info(Look())] == ["the tea is cold"]
    assert desk.info(Look()) is None
    assert desk.info(Close("solved")) == []


@given(message=messages_for(TicketDesk))
@settings(max_examples=100, deadline=None)
def test_messages_are_made_of_their_types(message):
    match message:
        case Ticket():
            assert 1 <= len(message.text) <= 80
            assert message.urgency in Urgency
        case Close():
            assert message.outcome in ("solved", "refused")
        case _:
            assert message == Look()
