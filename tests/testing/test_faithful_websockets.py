"""WebSockets in the kit behave as Hypercorn's, and as those of ``trioloop serve``, on sockets.

The same steps are played in the kit and on a real server, with equal accounts.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from support.tiers import T0, T1, T2, T3, T0Own
from support.websocket_scenarios import Step, steps, tell

LONG = bool(os.environ.get("TRIOLOOP_LONG"))
IN_MEMORY, OVER_TCP, ON_OURS = (5_000, 500, 2_000) if LONG else (250, 40, 150)

open_one = Step("open", 0, "nothing")

SCENARIOS = {
    "echo and close": [open_one, Step("send", 0, "several"), Step("close", 0, 4001)],
    "our close": [open_one, Step("tell", 0, ("close", 0))],
    "refused": [Step("open", 0, "refuse")],
    "crash in init": [Step("open", 0, "crash")],
    "stopped in init": [Step("open", 0, "quit")],
    "closed in init": [Step("open", 0, "close")],
    "crash": [open_one, Step("send", 0, "crash")],
    "bad return": [open_one, Step("send", 0, "bad")],
    "too large": [open_one, Step("send", 0, "x" * 301)],
    "overflow": [open_one, Step("send", 0, "work"), *[Step("tell", 0, ("say", 1))] * 5],
    "idle": [open_one, Step("advance", 0, 48)],
    "clean": [open_one, Step("disconnect", 0, "clean")],
    "abrupt": [open_one, Step("disconnect", 0, "abrupt")],
    "half": [open_one, Step("disconnect", 0, "half")],
    "paused and gone": [
        *(open_one, Step("send", 0, "pause"), Step("send", 0, "unseen")),
        *(Step("disconnect", 0, "clean"), Step("advance", 0, 8), Step("tell", 0, ("resume", 0))),
    ],
    "left in a callback": [open_one, Step("send", 0, "work"), Step("disconnect", 0, "abrupt")],
    "sent in init": [Step("open", 0, "work"), Step("send", 0, "early"), Step("advance", 0, 8)],
    "pinged": [
        open_one,
        *[step for _ in range(5) for step in (Step("advance", 0, 40), Step("tell", 0, ("say", 3)))],
    ],
    "three wait": [
        *(open_one, Step("send", 0, "work"), Step("send", 0, "pause"), Step("send", 0, "several")),
        *(Step("send", 0, b"\xff"), Step("advance", 0, 16), Step("tell", 0, ("resume", 0))),
    ],
    "closed while init waits": [
        *(Step("open", 0, "wait"), Step("close", 0, 4001), Step("advance", 0, 8)),
    ],
    "sent and closed while init waits": [
        *(Step("open", 0, "wait"), Step("send", 0, "hello"), Step("close", 0, 4001)),
        Step("advance", 0, 8),
    ],
    "down while open": [open_one, Step("open", 0, "work")],
}

STALLED = {
    "given up": [open_one, Step("stall", 0, 0), Step("tell", 0, ("say", 200))],
    "given up while closing": [open_one, Step("stall", 0, 0), Step("tell", 0, ("quit", 0))],
    "goes on": [
        *(open_one, Step("stall", 0, 64), Step("tell", 0, ("say", 200)), Step("advance", 0, 8)),
        Step("resume", 0),
    ],
}


@pytest.mark.parametrize("tier", [T1, T2], ids=["in memory", "over TCP"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_has_the_same_account(name, tier):
    assert tell(tier, SCENARIOS[name]) == tell(T0, SCENARIOS[name])


@pytest.mark.parametrize("name", STALLED)
def test_a_stalled_scenario_has_the_same_account_in_memory(name):
    assert tell(T1, STALLED[name]) == tell(T0, STALLED[name])


def assert_same(scenario, tier):
    assert tell(tier, scenario, early=False) == tell(T0, scenario, early=False)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_has_the_same_account_under_trioloop_serve(name):
    assert tell(T3, SCENARIOS[name]) == tell(T0Own, SCENARIOS[name])


quick = settings(
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@settings(quick, max_examples=IN_MEMORY)
@given(scenario=steps(stalls=True))
def test_generated_scenarios_have_the_same_account_in_memory(scenario):
    assert_same(scenario, T1)


@settings(quick, max_examples=OVER_TCP)
@given(scenario=steps(stalls=False))
def test_generated_scenarios_have_the_same_account_over_tcp(scenario):
    assert_same(scenario, T2)


@settings(quick, max_examples=ON_OURS)
@given(scenario=steps(stalls=False))
def test_generated_scenarios_have_the_same_account_under_trioloop_serve(scenario):
    assert tell(T3, scenario) == tell(T0Own, scenario)
