"""Steps without a look at I/O: the private names of Trio that they need, and the same history."""

from __future__ import annotations

import pytest
import sniffio
import trio
from support.endings import PLAYED, play
from trio._core import _run

from trioloop import App, LoopHandler, Reply
from trioloop.testing import Simulation, SimulationError, _simulation, _stepping


class Asks(LoopHandler[str]):
    """Answers with what a library finds out about where it runs."""

    async def info(self, message: str) -> Reply:
        await trio.lowlevel.checkpoint()
        return Reply(200, body=sniffio.current_async_library())


def test_trio_has_the_private_names():
    """When this fails, Trio has changed: `_stepping` is the only module to look at."""
    assert hasattr(_run.GuestState, "unrolled_run_gen")
    assert hasattr(_run.GuestState, "unrolled_run_next_send")
    assert _stepping.AVAILABLE


@pytest.fixture
def with_trios_own_steps(monkeypatch):
    monkeypatch.setattr(_simulation, "hurry", lambda *_: 0)


@pytest.mark.parametrize("cell", PLAYED[::7], ids=" / ".join)
def test_everything_works_with_trios_own_steps(with_trios_own_steps, cell):
    play(cell)


def history(schedule):
    """What three clients see who get messages, time and a shutdown."""
    app = App()
    app.route("/", Asks)
    with Simulation(app, schedule=schedule, laws=True) as sim:
        clients = [sim.get("/") for _ in range(3)]
        for client in clients:
            sim.later(1, sim.ref(client).send_without_settling, "at once")
        sim.advance(1)
        clients.append(sim.get("/"))
        clients.append(sim.get("/"))
        clients[-1].disconnect("abrupt")
        sim.shut_down(1)
    entries = [(e.time, e.who, e.what, repr(e.detail)) for e in sim.journal]
    return entries, sim.schedule.plan, [client.transcript for client in clients]


@pytest.mark.parametrize("schedule", ["spawn order", "reverse", *range(5)])
def test_the_history_is_the_one_of_trios_own_steps(monkeypatch, schedule):
    quick = history(schedule)
    monkeypatch.setattr(_simulation, "hurry", lambda *_: 0)
    assert history(schedule) == quick


def test_libraries_see_trio_in_every_step():
    app = App()
    app.route("/", Asks)
    with Simulation(app) as sim:
        poll = sim.get("/")
        sim.ref(poll).send("where?")
        assert poll.text == "trio"
    assert sniffio.thread_local.name is None


def test_what_is_given_to_trio_from_outside_of_a_task_runs_before_it_rests():
    app = App()
    app.route("/", Asks)
    called = []

    async def give():
        trio.lowlevel.current_trio_token().run_sync_soon(called.append, "late")

    with Simulation(app) as sim:
        sim.run(give)
        assert called == ["late"]


def test_a_livelock_ends_after_as_many_steps(monkeypatch):
    monkeypatch.setattr(_simulation, "MAX_TICKS", 50)
    turns = []

    async def spin():
        while True:
            turns.append(None)
            await trio.lowlevel.checkpoint()

    app = App()
    app.route("/", Asks)
    with pytest.raises(SimulationError), Simulation(app) as sim:
        sim.run(spin)
    assert 40 < len(turns) < 400  # what ends the run takes steps, too
