"""One scenario under many interleavings, and the few reorderings that make it fail.

Laws of this file:

* Every run is a pure function of the application, the scenario and the schedule; what fails once
  and not again is called that, never a race.
* Spawn order comes first: what fails there is no race, and is said to be none.
* What is reported was run: the last run is the one with the plan that is printed.
"""

from __future__ import annotations

import inspect
import re
import sys
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from starlette.types import ASGIApp

from .._web._hub import Hub
from ._schedule import Plan, Policy
from ._simulation import Simulation, SimulationError
from ._trio_internals import AVAILABLE

Scenario: TypeAlias = Callable[[Simulation], object]
"""A plain function that drives a simulation, which has been started, and asserts what it wants."""

BUDGET: Final = 300
"""Runs that a minimisation may take."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What `explore` has tried.

    Args:
        schedules: runs, each under a schedule of its own.
        interleavings: orders of tasks among them that differ.
        histories: journals among them that differ: what a test could tell apart.
    """

    schedules: int
    interleavings: int
    histories: int


class ScheduleFailure(AssertionError):
    """A scenario fails under some schedule. Raised from the scenario's own error.

    Attributes:
        error: what the scenario raised.
        schedule: the first schedule under which it failed.
        passed: how many schedules passed before it.
        plan: the reorderings that it needs: none if it fails in spawn order.
    """

    def __init__(
        self, error: BaseException, schedule: Policy, passed: int, plan: Plan, message: str
    ) -> None:
        super().__init__(message)
        self.error = error
        self.schedule = schedule
        self.passed = passed
        self.plan = plan


def explore(
    app: ASGIApp | Callable[[], ASGIApp],
    scenario: Scenario,
    *,
    schedules: int = 1000,
    minimise: bool = True,
    **options: Any,
) -> Exploration:
    """Run a scenario under many schedules: in spawn order, in reverse, then shuffled from seeds.

    ::

        def two_buyers(sim):
            first, second = sim.post("/buy"), sim.post("/buy")
            sim.advance(1)
            assert {first.status, second.status} == {200, 409}

        explore(make_app, two_buyers)

    It stops early when there is only one way to run it: when there is never a choice of tasks.

    Args:
        app: the application, or better a function without arguments that makes a new one for each
            run: what an application remembers from one run to the next is no race.
        scenario: a plain function of a `Simulation`.
        schedules: how many runs.
        minimise: whether to search for the fewest reorderings that fail.
        options: of the `Simulation`, such as ``seed`` or ``laws``.

    Returns:
        How many schedules, and how many different ones, have passed.

    Raises:
        ScheduleFailure: the scenario fails; the message says under which reorderings, and has the
            line that repeats it.
        TypeError: the scenario is asynchronous.
        SimulationError: this version of Trio does not let schedules be chosen.
    """
    if inspect.iscoroutinefunction(scenario) or inspect.isasyncgenfunction(scenario):
        raise TypeError(
            f"{scenario!r} is asynchronous; explore takes a plain function, and"
            " sim.run(async_function) calls what is asynchronous"
        )
    if not AVAILABLE:  # pragma: no cover - a Trio of the future
        raise SimulationError("with this version of Trio, schedules cannot be chosen")
    runner = _Runner(app, scenario, options)
    interleavings: set[object] = set()
    histories: set[int] = set()
    for passed, policy in enumerate(_policies(schedules)):
        run = runner.run(policy)
        if run.error is not None:
            failure = _failure(runner, run, policy, passed, minimise=minimise)
            raise failure from failure.error
        interleavings.add(tuple(run.plan.items()))
        histories.add(run.history)
        if policy == "reverse" and not run.plan:
            return Exploration(passed + 1, len(interleavings), len(histories))
    return Exploration(schedules, len(interleavings), len(histories))


def minimise_plan(
    plan: Plan, still_fails: Callable[[Plan], bool], budget: int = BUDGET
) -> dict[int, tuple[int, ...]]:
    """Remove from a plan what a failure does not need: whole reorderings, then parts of them.

    Delta debugging (Zeller and Hildebrandt, 2002): the result is minimal as far as the budget goes,
    in that no single reordering can be removed from it.

    Args:
        plan: fails.
        still_fails: runs a plan and tells.
        budget: how often it may be asked.

    Returns:
        A smaller plan that fails; empty if spawn order does.
    """
    asked = _Budget(still_fails, budget)
    if asked({}):
        return {}
    return _straighten(_reduce(dict(plan), asked), asked)


class _Budget:
    """Asks whether a plan fails, as long as there are runs left; then the answer is no."""

    def __init__(self, still_fails: Callable[[Plan], bool], left: int) -> None:
        self._still_fails = still_fails
        self.left = left

    def __call__(self, plan: Plan) -> bool:
        if self.left <= 0:
            return False
        self.left -= 1
        return self._still_fails(plan)


def _reduce(plan: dict[int, tuple[int, ...]], fails: _Budget) -> dict[int, tuple[int, ...]]:
    parts = 2
    while len(plan) > 1 and fails.left:
        smaller = next((p for p in _without_a_part(plan, parts) if fails(p)), None)
        if smaller is not None:
            plan, parts = smaller, max(2, parts - 1)
        elif parts >= len(plan):
            break
        else:
            parts = min(len(plan), 2 * parts)
    return plan


def _without_a_part(
    plan: dict[int, tuple[int, ...]], parts: int
) -> Iterator[dict[int, tuple[int, ...]]]:
    batches = sorted(plan)
    for part in range(parts):
        left_out = batches[part * len(batches) // parts : (part + 1) * len(batches) // parts]
        yield {batch: order for batch, order in plan.items() if batch not in left_out}


def _straighten(plan: dict[int, tuple[int, ...]], fails: _Budget) -> dict[int, tuple[int, ...]]:
    """Bring tasks back into spawn order one pair at a time, as long as it still fails."""
    for batch in sorted(plan):
        place = 0
        while place < len(plan[batch]) - 1 and fails.left:
            order = list(plan[batch])
            if order[place] > order[place + 1]:
                order[place : place + 2] = order[place + 1], order[place]
                straighter = {**plan, batch: tuple(order)}
                if order != sorted(order) and fails(straighter):
                    plan, place = straighter, max(0, place - 1)
                    continue
            place += 1
    return plan


# -- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """How one run went.

    Args:
        error: what the scenario raised.
        plan: what the schedule did.
        description: the same in words.
        history: a hash of the journal.
    """

    error: BaseException | None
    plan: dict[int, tuple[int, ...]]
    description: str
    history: int


class _Runner:
    """Runs a scenario under one schedule after the other."""

    def __init__(self, app: Any, scenario: Scenario, options: Mapping[str, Any]) -> None:
        has_hub = isinstance(getattr(app, "hub", None), Hub) or options.get("hub") is not None
        self._make: Callable[[], ASGIApp] = (lambda: app) if has_hub else app
        self._scenario = scenario
        self._options = options

    def run(self, policy: Policy) -> _Run:
        """Run it once, to its end."""
        simulation = Simulation(self._make(), schedule=policy, **self._options)
        error: BaseException | None = None
        try:
            with simulation:
                self._scenario(simulation)
        except BaseException as raised:
            if not _is_failure(raised):
                raise
            error = raised
        schedule = simulation.schedule
        history = hash(tuple(_ADDRESS.sub("", repr(entry)) for entry in simulation.journal))
        return _Run(error, dict(schedule.plan), schedule.describe(), history)

    def line(self, plan: Plan) -> str:
        """The call that repeats a run."""
        options = "".join(f"{name}={value!r}, " for name, value in self._options.items())
        return f"Simulation(app, {options}schedule={dict(plan)!r})"


_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")


def _policies(count: int) -> Iterator[Policy]:
    policies: list[Policy] = ["spawn order", "reverse", *range(count)]
    yield from policies[:count]


def _is_failure(error: BaseException) -> bool:
    """Whether an error says that the scenario fails, not that it is skipped or interrupted."""
    if isinstance(error, Exception):
        is_verdict = type(error).__module__.startswith("hypothesis.")  # as assume() raises
        return not is_verdict and not isinstance(error, unittest.SkipTest)
    pytest: Any = sys.modules.get("pytest")
    return pytest is not None and isinstance(error, pytest.fail.Exception)


# -- failures ------------------------------------------------------------------------------------


def _failure(
    runner: _Runner, run: _Run, policy: Policy, passed: int, *, minimise: bool
) -> ScheduleFailure:
    """The error for a run that failed."""
    assert run.error is not None
    kind = _kind(run.error)
    runs = 0

    def fails(plan: Plan) -> bool:
        nonlocal runs
        runs += 1
        error = runner.run(plan).error
        return error is not None and _kind(error) == kind

    last, found = run, f"under schedule={policy!r}, after {_count(passed, 'schedule')} that passed"
    if not run.plan:
        verdict = "fails in spawn order: not a race"
    elif not minimise:
        verdict = f"fails in {run.description}"
    elif not fails(run.plan):
        verdict = f"does not fail again under the same schedule; {_REMEMBERS}"
    else:
        last = runner.run(minimise_plan(run.plan, fails))
        found += (
            f"; {_count(len(run.plan), 'reordering')} minimised to {len(last.plan)}"
            f" in {_count(runs, 'run')}"
        )
        verdict = f"fails in {last.description}"
        if not last.plan:
            verdict = f"fails in spawn order now, where it passed before; {_REMEMBERS}"
    error = last.error or run.error
    lines = (
        f"{type(_bare(error)).__name__}: {_bare(error)}",
        f"  schedule: {verdict}",
        f"  found:    {found}",
        f"  replay:   {runner.line(last.plan)}",
    )
    return ScheduleFailure(error, policy, passed, last.plan, "\n".join(lines))


_REMEMBERS: Final = (
    "something is remembered from run to run: give explore a function that makes the application"
)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _bare(error: BaseException) -> BaseException:
    """The error itself, out of groups that have no other."""
    is_group = issubclass(type(error), BaseExceptionGroup)
    inside: Sequence[BaseException] = getattr(error, "exceptions", ()) if is_group else ()
    return _bare(inside[0]) if len(inside) == 1 else error


def _kind(error: BaseException) -> tuple[object, ...]:
    """What makes two failures the same: the type, and the line that raised it."""
    bare = _bare(error)
    traceback = bare.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return (type(bare),)
    return type(bare), traceback.tb_frame.f_code, traceback.tb_lineno
