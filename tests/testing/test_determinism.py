"""Law 10: the same application, seed and script give the same transcript, byte for byte.

`TRIOLOOP_LONG=1` runs one scenario 1,000 times over 50 processes (``nox -s determinism``); without it
40 times over 4.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import trio
from support import determinism

import trioloop
from trioloop import App, LoopHandler
from trioloop.testing import Simulation

LONG = bool(os.environ.get("TRIOLOOP_LONG"))
PROCESSES, RUNS = (50, 20) if LONG else (4, 10)


def run_in_a_process(hash_seed):
    """Texts of one fresh process, and how often each came."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": str(Path(trioloop.__file__).parents[1]),
    }
    command = [sys.executable, determinism.__file__, str(RUNS)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Counter(json.loads(result.stdout))


def test_one_scenario_gives_one_transcript_in_every_process_and_for_every_hash_seed():
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = sum(pool.map(run_in_a_process, range(1, PROCESSES + 1)), Counter())
    assert list(texts.values()) == [PROCESSES * RUNS]


def test_the_scenario_has_all_that_could_differ():
    text = determinism.tell_all()
    assert text == determinism.tell_all()
    for what in (
        *("stalls", "reads", "resumes", "write waits", "lags", "shuts down", "dead letter"),
        *("'vanish'", "retry: ", "Joined", "Left", "later", "ShutDown()", "Disconnected("),
    ):
        assert what in text, what
    assert " at 0x" not in text


def test_the_seed_and_the_schedule_make_a_difference(monkeypatch):
    texts = set()
    for seed in (7, 8, 9):
        monkeypatch.setattr(determinism, "SEED", seed)
        texts.add(determinism.tell_all())
    assert len(texts) == 3


class Walker(LoopHandler):
    """Takes three steps, and others may step in between."""

    steps: ClassVar[list[int]] = []

    async def info(self, number):
        for _ in range(3):
            self.steps.append(number)
            await trio.lowlevel.checkpoint()


def walk(schedule):
    """Four handlers are ready at the same time: who took each step."""
    app = App()
    app.route("/", Walker)
    Walker.steps = []
    with Simulation(app, schedule=schedule) as sim:
        refs = [sim.ref(sim.get("/")) for _ in range(4)]
        for number, ref in enumerate(refs):
            ref.send_without_settling(number)
        sim.settle()
        plan = dict(sim.schedule.plan)
    return tuple(Walker.steps), plan


def test_a_hundred_seeds_give_at_least_fifty_interleavings_of_four_tasks():
    interleavings = {walk(seed)[0] for seed in range(100)}
    assert len(interleavings) >= 50
    assert all(Counter(steps) == dict.fromkeys(range(4), 3) for steps in interleavings)


def test_spawn_order_and_reverse_are_what_they_say():
    assert walk("spawn order")[0] == (0, 1, 2, 3) * 3
    assert walk("reverse")[0][:4] == (3, 2, 1, 0)


def test_a_recorded_plan_does_it_again():
    for seed in range(10):
        steps, plan = walk(seed)
        assert walk(plan) == (steps, plan)
