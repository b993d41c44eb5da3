"""The fake behaves as real servers do: the same scenarios on both, with equal accounts.

`TRIOLOOP_LONG=1` plays 20,000 scenarios in memory, and 2,000 over TCP with each of the two workers,
other ones every time (``nox -s faithful``); without it they are 1,000 and 150, always the same.

When Hypothesis finds a difference, the scenario that it prints is a value: paste it into
`CORNERS`, and read Hypercorn to learn who is wrong.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from support import tiers
from support.normal import RULES, Account
from support.scenarios import (
    Advance,
    Application,
    Do,
    How,
    Lag,
    Leave,
    Open,
    Piece,
    Read,
    Resume,
    Scenario,
    ShutDown,
    Stall,
    Tell,
    play,
    scenarios,
)
from support.tiers import T0, T1, T2, T3, T0Own

LONG = bool(os.environ.get("TRIOLOOP_LONG"))

IN_MEMORY, OVER_TCP = (20_000, 2_000) if LONG else (1_000, 150)

HOWS = get_args(How)

PHASES: dict[str, Scenario] = {
    "in a callback, before the start": (Open(init=Do("work", 16)),),
    "in a shielded callback, before the start": (Open(init=Do("hold", 16)),),
    "waiting, not started": (Open(),),
    "waiting, started": (Open("events"),),
    "waiting, started by a message": (Open(), Tell(0, (Do("start"), Do("say", 3)))),
    "in a callback": (Open("events"), Tell(0, (Do("work", 16), Do("say", 1)))),
    "in a shielded callback": (Open("events"), Tell(0, (Do("hold", 16), Do("say", 1)))),
    "with a child task": (Open("events"), Tell(0, (Do("child", 16),))),
    "hibernating": (Open("events"), Tell(0, (Do("hibernate"),))),
    "reading the body": (Open(method="POST", init=Do("body"), body="in pieces"), Piece(0, 20)),
    "sipping the body": (
        *(Open(method="POST", init=Do("sip", 8), body="in pieces"), Piece(0, 20), Piece(0, 20)),
        *(Piece(0, 20), Piece(0, 20, last=True)),
    ),
    "waiting, with half a body": (Open(method="POST", body="in pieces"), Piece(0, 20)),
    "started, with half a body": (Open("events", "GET", body="in pieces"), Piece(0, 20)),
    "terminating": (Open("events"), Tell(0, (Do("linger", 4), Do("quit")))),
    "terminating after a crash": (Open("events"), Tell(0, (Do("linger", 4), Do("boom")))),
    "after the end": (Open(), Tell(0, (Do("reply"),))),
    "after the end, with half a body": (
        *(Open(method="POST", body="in pieces"), Piece(0, 20), Tell(0, (Do("reply"),))),
    ),
    "after a refusal": (Open("nowhere"),),
    "plain, not listening": (Open("plain", init="sleep:16,start,body:3,last:3"),),
    "plain, listening": (Open("plain", init="start,body:3,drain,body:3,last:3"),),
    "plain, with half a body": (
        *(Open("plain", "POST", "sleep:16,start,body:3,last:3", "in pieces"), Piece(0, 20)),
    ),
}
"""What a handler, or a plain application, does when the client leaves."""


STALLED: dict[str, Scenario] = {
    "sending the head": (Open(), Stall(0), Tell(0, (Do("say", 20),))),
    "in the middle of the head": (Open(), Stall(0, 50), Tell(0, (Do("say", 20),))),
    "sending the body": (Open("events"), Stall(0), Tell(0, (Do("say", 200),))),
    "in the middle of the body": (Open("events"), Stall(0, 100), Tell(0, (Do("say", 5000),))),
    "sending the end": (Open("events"), Stall(0), Tell(0, (Do("quit"),))),
    "sending, with half a body": (
        *(Open("events", "GET", body="in pieces"), Piece(0, 20)),
        *(Stall(0), Tell(0, (Do("say", 200),))),
    ),
    "plain, sending the head": (Open("plain", init="hold:8,start,body:3"), Stall(0), Advance(8)),
    "plain, sending the end": (Open("plain", init="start,hold:8,last:0"), Stall(0), Advance(8)),
    "refusing half a request": (Open(method="POST", body="in pieces"), Piece(0, 7), Stall(0, 50)),
}
"""The same, of writes that wait for the client."""

MANY_PIECES = tuple(Piece(0, 1) for _ in range(13))

CORNERS: dict[str, Scenario] = {
    "a full queue hides the end": (
        *(Open("plain", "POST", "sleep:16,start,last:3", "in pieces"), *MANY_PIECES),
        *(Leave(0, "half"), Advance(32)),
    ),
    "a full queue is read late": (
        *(Open("plain", "POST", "sleep:16,drain", "in pieces"), *MANY_PIECES),
        *(Leave(0, "abrupt"), Advance(32)),
    ),
    "a full queue, and the application is through": (
        *(Open("plain", "POST", "start,body:3", "in pieces"), *MANY_PIECES, Advance(32)),
    ),
    "the shutdown cuts a shielded callback": (
        Open(init=Do("hold", 16)),
        Open(),
        ShutDown(4),
    ),
    "the shutdown meets a stuck head, and another client": (
        Open(),
        Open(),
        Stall(0),
        ShutDown(4),
    ),
    "the shutdown meets a stuck end": (
        *(Open("events"), Stall(0), Tell(0, (Do("quit"),)), Advance(4), ShutDown(4)),
    ),
    "an end that is stuck for longer than the call": (
        *(Open("events"), Stall(0), Tell(0, (Do("quit"),)), Advance(32), Resume(0), Advance(32)),
    ),
    "an end that is never taken": (
        *(Open("events"), Stall(0), Tell(0, (Do("quit"),)), Advance(72), Resume(0)),
    ),
    "a window of two chunks of 26 bytes": (
        *(Open("plain", init="start,hold:8,body:20,body:20,drain"), Stall(0, 52), Advance(16)),
    ),
    "a window of a byte less": (
        *(Open("plain", init="start,hold:8,body:20,body:20,drain"), Stall(0, 51), Advance(16)),
    ),
    "a client that reads byte after byte": (
        *(Open("events"), Stall(0, 1), Tell(0, (Do("say", 20),)), Read(0, 10), Advance(8)),
        *(Read(0, 400), Advance(8), Resume(0)),
    ),
    "a client that reads what was left by a cut": (
        *(Open("events"), Stall(0, 100), Tell(0, (Do("say", 5000),)), Advance(32), Read(0, 50)),
        *(Read(0, 50), Resume(0)),
    ),
    "a cancelled application that goes on after a shield": (
        *(Open("plain", init="hold:8,start:3,last:3,receive", body="in pieces"), Open()),
        *(Leave(0, "clean"), ShutDown(4)),
    ),
    "a cancelled application that writes on after half a request has ended": (
        *(Open("plain", init="start,hold:8,body:1", body="in pieces"), Leave(0, "clean")),
        ShutDown(4),
    ),
    "a cancelled application that writes too much after half a request has ended": (
        *(Open("plain", init="start:3,hold:8,body:5,last:0", body="in pieces"), Leave(0, "clean")),
        ShutDown(4),
    ),
    "a response that another task writes": (
        *(Open("plain", init="sleep:8,delegate,sleep:8"), Advance(24)),
    ),
    "two tasks that begin the response at once": (Open("plain", init="delegate,start,last:0"),),
    "a second head while the first is stuck, and half of the client has left": (
        *(Open("plain", init="sleep:4,delegate,sleep:8,start"), Stall(0), Leave(0, "half")),
        Advance(24),
    ),
    "a cancelled application that waits for another task's write": (
        *(Open("plain", init="sleep:4,delegate,sleep:8,body:1"), Stall(0, 105), Advance(16)),
        ShutDown(4),
    ),
    "a body while the end is stuck": (
        *(Open("plain", init="sleep:4,delegate,sleep:8,body:1"), Stall(0, 113), Advance(16)),
        Resume(0),
    ),
    "a second end while the first is stuck": (
        *(Open("plain", init="sleep:4,delegate,sleep:8,last:0"), Stall(0, 113), Advance(16)),
        Resume(0),
    ),
    "a call that returns while its head is stuck": (
        *(Open("plain", init="sleep:8,delegate,sleep:8"), Stall(0), Advance(24), Resume(0)),
    ),
    "a call that returns while its end is stuck": (
        *(Open("plain", init="sleep:8,delegate,sleep:8"), Stall(0, 140), Advance(24), Resume(0)),
    ),
    "a call that returns while the refusal of its request is stuck": (
        *(Open("plain", init="sleep:4", body="in pieces"), Stall(0), Leave(0, "half")),
        *(Advance(8), Resume(0), Advance(8)),
    ),
    "half a request ends while the farewell is stuck": (
        *(Open(body="in pieces"), Advance(4), Stall(0), Advance(32), Leave(0, "clean")),
    ),
    "half a request ends while the answer is stuck": (
        *(Open(body="in pieces"), Tell(0, (Do("hold", 1), Do("say", 1))), Stall(0), Advance(4)),
        Leave(0, "half"),
    ),
    "more than content-length promises": (
        Open("plain", init="start:3,body:2,body:2,body:1,last:0"),
    ),
    "more than content-length promises, and then nothing": (
        *(Open("plain", init="start:3,last:4"), Advance(48)),
    ),
    "less than content-length promises": (
        *(Open("plain", "POST", "start:3,body:2,last:0", "in pieces"), Advance(8)),
        *(Piece(0, 3, last=True), Advance(48)),
    ),
    "content-length without a body": (
        *(Open("plain", "HEAD", "start:3,last:0"), Open("plain", "HEAD", "start:3,last:4")),
    ),
    "deadlines that have passed together": (
        *(Open("events"), Tell(0, (Do("work", 8), Do("timer", 8), Do("patience", 8))), Lag(32)),
    ),
}
"""Where the fake was wrong once, and what random scenarios seldom reach."""


def leave(phase: Scenario, how: How) -> Scenario:
    """A client leaves in this phase; everybody else goes on."""
    late = Tell(0, (Do("say", 1),))
    return (*phase, Advance(1), Leave(0, how), late, Advance(16), Resume(0), Advance(32))


def assert_same(scenario: Scenario, other: type[T1 | T2 | T3]) -> None:
    ours = T0Own if other is T3 else T0
    fake, real = tiers.tell(ours, scenario), tiers.tell(other, scenario)
    if fake != real:
        raise AssertionError("\n".join(explain(scenario, fake, real)))


def explain(scenario: Scenario, fake: tuple[Account, ...], real: tuple[Account, ...]) -> list[str]:
    """What differs, request by request."""
    lines = ["The fake and the server differ in", *(f"    {step!r}," for step in scenario)]
    for number, (one, two) in enumerate(zip(fake, real, strict=True)):
        for name in (field.name for field in fields(Account)):
            ours, theirs = getattr(one, name), getattr(two, name)
            if ours != theirs:
                lines += [f"request {number}, {name}", f"  fake: {ours}", f"  real: {theirs}"]
    return lines


def played(number: int):
    """Settings for so many scenarios: fixed ones, unless the session is the long one."""
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=not LONG,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@given(scenarios())
@played(IN_MEMORY)
def test_the_fake_and_hypercorn_in_memory_tell_the_same_of_any_scenario(scenario):
    assert_same(scenario, T1)


@given(scenarios(stalls=False))
@played(OVER_TCP)
def test_the_fake_and_the_stock_worker_over_tcp_tell_the_same_of_any_scenario(scenario):
    assert_same(scenario, T2)


@given(scenarios(stalls=False))
@played(OVER_TCP)
def test_the_fake_and_trioloop_serve_over_tcp_tell_the_same_of_any_scenario_too(scenario):
    assert_same(scenario, T3)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("phase", [*PHASES, *STALLED])
def test_a_client_that_leaves_in_memory(phase, how):
    assert_same(leave((PHASES | STALLED)[phase], how), T1)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_leaves_over_tcp(phase, how):
    assert_same(leave(PHASES[phase], how), T2)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_client_of_trioloop_serve_that_leaves(phase, how):
    assert_same(leave(PHASES[phase], how), T3)


@pytest.mark.parametrize("phase", [*PHASES, *STALLED])
def test_a_shutdown_in_memory(phase):
    assert_same((*(PHASES | STALLED)[phase], Advance(1), ShutDown(4)), T1)


@pytest.mark.parametrize("phase", PHASES)
def test_a_shutdown_over_tcp(phase):
    assert_same((*PHASES[phase], Advance(1), ShutDown(4)), T2)


@pytest.mark.parametrize("phase", PHASES)
def test_a_shutdown_of_trioloop_serve(phase):
    assert_same((*PHASES[phase], Advance(1), ShutDown(4)), T3)


@pytest.mark.parametrize("corner", CORNERS)
def test_a_corner(corner):
    assert_same(CORNERS[corner], T1)


@pytest.mark.parametrize(
    "corner",
    [name for name, steps in CORNERS.items() if not any(isinstance(step, Stall) for step in steps)],
)
def test_a_corner_over_tcp(corner):
    assert_same(CORNERS[corner], T2)


@pytest.mark.parametrize(
    "scenario",
    [
        (Open("plain", "POST", "drain", body=200_000), Leave(0)),
        (Open("plain", "POST", "drain", body=65_536), Leave(0)),
        (Open("plain", "POST", "drain", "in pieces"), Piece(0, 70_000), Piece(0, 3), Leave(0)),
        (Open("plain", "POST", "sleep:8,drain", body=900_000), Leave(0), Advance(16)),
        (Open(method="POST", init=Do("sip", 8), body=200_000), Advance(8), Leave(0)),
    ],
)
def test_a_large_body_comes_in_pieces(scenario):
    """Over TCP, their sizes are the kernel's."""
    assert_same(scenario, T1)


def test_hypercorn_breaks_when_a_call_returns_while_its_head_is_being_written():
    """The one fault that the tiers contain: fails when Hypercorn mends it (`T1._serve`)."""
    app = Application()
    with T1(app) as simulation:
        play(CORNERS["a call that returns while its head is stuck"], simulation, app)
        (fault,) = simulation.faults
    assert "role=SERVER and state=SEND_BODY" in repr(fault)


def test_every_rule_of_normalisation_has_a_reason():
    assert all(len(reason.split()) > 10 for reason in RULES.values())
