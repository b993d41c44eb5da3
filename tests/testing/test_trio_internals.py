"""The private names of Trio that the kit needs, and what is left without them."""

from __future__ import annotations

import random
import signal

import pytest
import trio
from support.endings import PLAYED, play
from trio._core import _run

from trioloop import App, LoopHandler
from trioloop.testing import Simulation, SimulationError, _explore, _trio_internals


def test_trio_has_the_private_names():
    """When this fails, Trio has changed: `_trio_internals` is the only module to look at."""
    assert isinstance(_run._r, random.Random)
    assert isinstance(_run._ALLOW_DETERMINISTIC_SCHEDULING, bool)
    assert _trio_internals.AVAILABLE
    with Simulation(App()) as sim:
        assert sim._run._inside.runner.runq is not None


# -- without them ----------------------------------------------------------------------------------


@pytest.fixture(params=["a scheduler of its own", "another guest run", "neither"])
def without_private_names(request, monkeypatch):
    if request.param != "another guest run":
        for module in (_trio_internals, _explore):
            monkeypatch.setattr(module, "AVAILABLE", False)
        monkeypatch.setattr(_run, "_r", random.Random(7))
    if request.param != "a scheduler of its own":
        monkeypatch.setattr(_trio_internals, "_OF_A_RUNNER", ("another_name",))
    source = _run._r
    yield request.param
    assert _run._r is source


@pytest.mark.parametrize("cell", PLAYED[::7], ids=" / ".join)
def test_everything_else_works_without_the_private_names(without_private_names, cell):
    play(cell, cell.workers[0])


def test_a_chosen_schedule_is_passed_over_without_the_scheduler(without_private_names):
    with Simulation(App(), schedule=7) as sim:
        assert (sim._run._inside is None) == (without_private_names != "a scheduler of its own")
        sim.get("/nowhere")
    assert sim.schedule.plan == {}


def test_exploring_says_that_it_cannot(monkeypatch):
    monkeypatch.setattr(_explore, "AVAILABLE", False)
    with pytest.raises(SimulationError, match="schedules cannot be chosen"):
        _explore.explore(App, lambda sim: None)


# -- steps without a look at I/O -------------------------------------------------------------------


class Caller(LoopHandler):
    """Lets Trio call a function as one from another thread would."""

    def init(self, request):
        trio.lowlevel.current_trio_token().run_sync_soon(self.ref.send_nowait, "soon")

    def info(self, message):
        self.heard = message


@pytest.mark.parametrize("known", [True, False])
def test_what_is_to_run_soon_runs_before_a_verb_returns(known, monkeypatch):
    if not known:
        monkeypatch.setattr(_trio_internals, "_OF_A_RUNNER", ("another_name",))
    app = App()
    app.route("/", Caller)
    with Simulation(app) as sim:
        for _ in range(3):
            assert sim.get("/").state == {"heard": "soon"}


@trio.lowlevel.enable_ki_protection
def be_interrupted_where_it_must_wait():
    signal.raise_signal(signal.SIGINT)


class Busy(LoopHandler):
    """Never comes to rest."""

    async def init(self, request):
        be_interrupted_where_it_must_wait()
        while True:
            await trio.lowlevel.checkpoint()


def test_an_interrupt_that_had_to_wait_ends_a_livelock():
    app = App()
    app.route("/", Busy)
    with pytest.raises(KeyboardInterrupt), Simulation(app) as sim:
        sim.get("/")


def test_an_error_of_trios_own_is_told():
    async def fail():
        raise LookupError("of a system task")

    with pytest.raises(trio.TrioInternalError), Simulation(App()) as sim:
        trio.lowlevel.spawn_system_task(fail)
        sim.settle()


@pytest.mark.parametrize("known", [True, False])
def test_of_a_run_that_rests_one_task_waits_for_real_io(known, monkeypatch):
    if not known:
        monkeypatch.setattr(_trio_internals, "_OF_A_RUNNER", ("another_name",))
    with Simulation(App()) as sim:
        assert sim._run.io_tasks == _trio_internals.IO_TASKS_OF_TRIO
