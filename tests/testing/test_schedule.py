"""Which task goes first."""

from __future__ import annotations

import pytest
import trio
from trio._core import _run

from trioloop import App
from trioloop.testing import Schedule, Simulation
from trioloop.testing._trio_internals import scheduled_by


def run_four_tasks(policy):
    """Four tasks that become ready together, twice: the order in which they ran, and the schedule."""
    ran = []

    async def walk(name):
        for _ in range(2):
            ran.append(name)
            await trio.lowlevel.checkpoint()

    async def main():
        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(walk, name, name=f"module.{name}")

    schedule = Schedule(policy)
    with scheduled_by(schedule):
        trio.run(main)
    return "".join(ran), schedule


@pytest.mark.parametrize(
    "policy, order",
    [("spawn order", "abcdabcd"), ("reverse", "dcba"), ({1: (1, 0, 2, 3)}, "bacd"), ({}, "abcd")],
)
def test_the_order_is_that_of_the_policy(policy, order):
    ran, _ = run_four_tasks(policy)
    assert ran[: len(order)] == order


def test_seeds_differ_and_each_is_always_the_same():
    orders = [run_four_tasks(seed)[0] for seed in range(20)]
    assert len(set(orders)) >= 15
    assert orders == [run_four_tasks(seed)[0] for seed in range(20)]


def test_what_was_done_is_a_plan_and_a_sentence():
    ran, schedule = run_four_tasks({1: (1, 0, 2, 3)})
    assert ran.startswith("bacd")
    assert schedule.plan == {1: (1, 0, 2, 3)}
    assert schedule.describe() == "spawn order, except: at t=0 ran b < a < c < d".replace(
        "t=0", f"t={schedule.reorderings[0].time:g}"
    )
    assert run_four_tasks("spawn order")[1].describe() == "spawn order"


def test_tasks_of_one_name_are_numbered_by_their_age():
    async def main():
        async with trio.open_nursery() as nursery:
            for name in ("Poll", "call", "Poll", "Poll"):
                nursery.start_soon(trio.lowlevel.checkpoint, name=name)

    schedule = Schedule({1: (3, 1, 0, 2)})
    with scheduled_by(schedule):
        trio.run(main)
    assert schedule.reorderings[0].tasks == ("Poll 3", "call", "Poll 1", "Poll 2")


def test_a_plan_that_does_not_fit_is_passed_over():
    ran, schedule = run_four_tasks({1: (1, 0), 2: (5, 5, 5, 5), 99: (0, 1)})
    assert ran == "abcdabcd"
    assert schedule.plan == {}


@pytest.mark.parametrize(
    "policy, error, sentence",
    [
        (True, TypeError, "a schedule is a seed, a plan or a policy's name, not True"),
        (1.5, TypeError, "a seed, a plan"),
        (None, TypeError, "a seed, a plan"),
        ("random", ValueError, "a policy is 'spawn order' or 'reverse', not 'random'"),
    ],
)
def test_what_is_no_policy_is_refused(policy, error, sentence):
    with pytest.raises(error, match=sentence):
        Schedule(policy)


def test_trio_gets_its_own_random_source_back():
    before = _run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING
    with pytest.raises(KeyError), scheduled_by(Schedule()):
        raise KeyError
    with Simulation(App()):
        assert _run._r is not before[0]
    assert (_run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING) == before
