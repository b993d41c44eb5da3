"""One scenario under many interleavings."""

from __future__ import annotations

import unittest

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from trioloop import App, LoopHandler, Reply
from trioloop.testing._explore import Exploration, ScheduleFailure, explore, minimise_plan
from trioloop.testing._simulation import Simulation


class Bank(App):
    """An application that remembers something."""

    balance = 0


def make_bank():
    """Two handlers that read, wait, and write: the classical race."""
    bank = Bank()

    class Teller(LoopHandler[int]):
        async def info(self, message):
            balance = bank.balance
            if message > 1:
                await trio.lowlevel.checkpoint()
            bank.balance = balance + message
            return Reply(200, body=str(bank.balance))

    bank.route("/teller", Teller)
    return bank


def deposit_twice(sim):
    """In spawn order the first handler finishes before the second one reads."""
    tellers = [sim.get("/teller") for _ in range(2)]
    sim.ref(tellers[0]).ref.send_nowait(1)
    sim.ref(tellers[1]).ref.send_nowait(2)
    sim.settle()
    assert sim._world.app.balance == 3, "a deposit was lost"


def make_polls():
    app = App()

    class Poll(LoopHandler[str]):
        def info(self, message):
            return Reply(200, body=message)

    app.route("/poll", Poll)
    return app


def four_at_once(sim):
    """Four handlers are ready at the same time."""
    polls = [sim.get("/poll") for _ in range(4)]
    for poll in polls:
        sim.ref(poll).ref.send_nowait("hello")
    sim.settle()
    assert {poll.text for poll in polls} == {"hello"}


def test_a_hundred_schedules_give_more_than_fifty_interleavings():
    found = explore(make_polls, four_at_once, schedules=100)
    assert found.schedules == 100
    assert found.interleavings >= 50
    assert 10 <= found.histories <= found.interleavings


def test_the_same_exploration_gives_the_same_numbers():
    first, second = (explore(make_polls, four_at_once, schedules=10) for _ in range(2))
    assert first == second


def test_a_race_is_found_and_minimised_to_one_or_two_reorderings():
    with pytest.raises(ScheduleFailure) as caught:
        explore(make_bank, deposit_twice, schedules=200)
    failure = caught.value
    assert 1 <= len(failure.plan) <= 2
    assert isinstance(failure.error, AssertionError)
    assert failure.__cause__ is failure.error
    assert failure.passed > 0


def test_the_failure_prints_the_error_the_reorderings_and_the_line_that_repeats_it():
    with pytest.raises(ScheduleFailure) as caught:
        explore(make_bank, deposit_twice, schedules=200, seed=7)
    failure = caught.value
    error, *_, schedule, found, replay = str(failure).splitlines()
    assert error.startswith("AssertionError: a deposit was lost")
    assert schedule.startswith("  schedule: fails in spawn order, except: at t=0 ran ")
    assert f"under schedule={failure.schedule!r}, after {failure.passed} schedule" in found
    assert f"minimised to {len(failure.plan)} in " in found
    assert replay == f"  replay:   Simulation(app, seed=7, schedule={failure.plan!r})"


def test_the_printed_plan_fails_again_and_spawn_order_does_not():
    with pytest.raises(ScheduleFailure) as caught:
        explore(make_bank, deposit_twice)
    with (
        pytest.raises(AssertionError, match="a deposit was lost"),
        Simulation(make_bank(), schedule=caught.value.plan) as sim,
    ):
        deposit_twice(sim)
    with Simulation(make_bank()) as sim:
        deposit_twice(sim)


def test_without_minimising_the_whole_schedule_is_printed():
    with pytest.raises(ScheduleFailure) as caught:
        explore(make_bank, deposit_twice, minimise=False)
    with pytest.raises(ScheduleFailure) as minimised:
        explore(make_bank, deposit_twice)
    assert "minimised" not in str(caught.value)
    assert len(caught.value.plan) > len(minimised.value.plan)
    assert set(minimised.value.plan) <= set(caught.value.plan)


def test_what_fails_in_spawn_order_is_no_race():
    def fail(sim):
        raise ValueError("always")

    with pytest.raises(ScheduleFailure) as caught:
        explore(make_polls, fail)
    assert str(caught.value) == (
        "ValueError: always\n"
        "  schedule: fails in spawn order: not a race\n"
        "  found:    under schedule='spawn order', after 0 schedules that passed\n"
        "  replay:   Simulation(app, schedule={})"
    )
    assert caught.value.plan == {}


def test_exploring_ends_when_there_is_never_a_choice():
    ran = []
    found = explore(make_polls, lambda sim: ran.append(sim.now()))
    assert found == Exploration(schedules=2, interleavings=1, histories=1)
    assert len(ran) == 2


def test_no_more_schedules_run_than_were_asked_for():
    ran = []

    def scenario(sim):
        ran.append(sim)
        four_at_once(sim)

    assert explore(make_polls, scenario, schedules=1).schedules == 1
    assert len(ran) == 1
    assert explore(make_polls, scenario, schedules=0) == Exploration(0, 0, 0)


def test_an_application_can_be_given_instead_of_a_function_that_makes_one():
    assert explore(make_polls(), four_at_once, schedules=5).schedules == 5


def test_an_application_that_remembers_earlier_runs_is_not_taken_for_a_race():
    app = make_polls()
    runs = []

    def third_run_fails(sim):
        four_at_once(sim)
        runs.append(sim)
        assert len(runs) != 3

    with pytest.raises(ScheduleFailure, match="does not fail again under the same schedule"):
        explore(app, third_run_fails)


def test_a_failure_that_stays_is_not_taken_for_a_race():
    runs = []

    def fails_from_the_third_run_on(sim):
        four_at_once(sim)
        runs.append(sim)
        assert len(runs) < 3

    with pytest.raises(ScheduleFailure, match="in spawn order now, where it passed before"):
        explore(make_polls, fails_from_the_third_run_on)


def test_another_error_does_not_count_as_the_same_failure():
    def scenario(sim):
        four_at_once(sim)
        if 2 in sim.schedule.plan:
            raise ValueError("the second batch")
        assert 1 not in sim.schedule.plan

    with pytest.raises(ScheduleFailure) as caught:
        explore(make_polls, scenario)
    assert isinstance(caught.value.error, ValueError)
    assert list(caught.value.plan) == [2]


def test_a_group_with_one_error_is_that_error():
    def scenario(sim):
        raise ExceptionGroup("group", [ExceptionGroup("inner", [KeyError("bare")])])

    with pytest.raises(ScheduleFailure, match=r"^KeyError: 'bare'"):
        explore(make_polls, scenario)


def test_what_pytest_calls_a_failure_is_one():
    def scenario(sim):
        pytest.fail("not good")

    with pytest.raises(ScheduleFailure, match="Failed: not good"):
        explore(make_polls, scenario)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), unittest.SkipTest(""), UnsatisfiedAssumption("no"), SystemExit()]
)
def test_what_is_no_failure_goes_through(error):
    def scenario(sim):
        raise error

    with pytest.raises(type(error)):
        explore(make_polls, scenario)


def test_an_asynchronous_scenario_is_refused():
    async def scenario(sim):
        pass

    with pytest.raises(TypeError, match=r"sim\.run\(async_function\) calls what is asynchronous"):
        explore(make_polls, scenario)


# -- minimise_plan --------------------------------------------------------------------------------

PLAN = dict.fromkeys(range(1, 21), (2, 1, 0))


@pytest.mark.parametrize("needed", [{3}, {3, 17}, {1, 2, 20}, set(range(1, 21))])
def test_minimising_keeps_exactly_the_reorderings_that_are_needed(needed):
    assert set(minimise_plan(PLAN, lambda plan: needed <= set(plan))) == needed


def test_minimising_finds_that_no_reordering_is_needed():
    assert minimise_plan(PLAN, lambda plan: True) == {}


def test_minimising_straightens_what_is_left_of_a_reordering():
    def second_before_first(plan):
        order = plan.get(4, (0, 1, 2, 3))
        return order.index(1) < order.index(0)

    assert minimise_plan({4: (3, 1, 2, 0)}, second_before_first) == {4: (1, 0, 2, 3)}


@pytest.mark.parametrize("budget", [0, 1, 5, 30])
def test_minimising_stays_within_its_budget(budget):
    asked = []

    def fails(plan):
        asked.append(plan)
        return {3, 17} <= set(plan)

    found = minimise_plan(PLAN, fails, budget)
    assert len(asked) <= budget
    assert {3, 17} <= set(found)


@given(
    plan=st.dictionaries(st.integers(1, 30), st.permutations(range(4)).map(tuple), max_size=12),
    data=st.data(),
)
def test_a_minimised_plan_fails_and_nothing_can_be_left_out_of_it(plan, data):
    plan = {batch: order for batch, order in plan.items() if order != (0, 1, 2, 3)}
    needed = data.draw(st.sets(st.sampled_from(sorted(plan)))) if plan else set()

    def fails(part):
        return needed <= set(part)

    smallest = minimise_plan(plan, fails, budget=10_000)
    assert set(smallest) == needed
    assert all(order != (0, 1, 2, 3) for order in smallest.values())
