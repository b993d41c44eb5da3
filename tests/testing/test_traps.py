"""The kit in other people's test suites: under every runner, with every plugin, and at no cost.

Each test runs pytest in a folder and a process of its own, where every warning is an error.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import trioloop

PACKAGE = Path(trioloop.__file__).parent
INSTALLED = importlib.util.find_spec("pytest_trioloop") is not None

APP = """
    import gc
    import signal
    import trio
    from trioloop import App, EventStreamHandler, LoopHandler, Reply, ServerSentEvent, ShutDown, TimedOut
    from trioloop.testing import FakeClients, Simulation

    app = App()

    @app.route("/poll")
    class Poll(LoopHandler[str]):
        def info(self, message):
            return Reply(200, body=message)

    @app.route("/events")
    class Events(EventStreamHandler[str]):
        def info(self, message):
            return ServerSentEvent(message)
"""

SIMULATED = """
    def test_in_a_simulation():
        with Simulation(app, laws=True) as sim:
            poll = sim.get("/poll")
            sim.advance(60)
            assert (poll.status, poll.reason) == (204, TimedOut())
"""

ASYNC = """
    async def test_with_the_fixture(fake_client):
        async with fake_client(app) as client:
            poll = await client.get("/poll")
            await client.advance(60)
            assert await poll.wait_ended() == TimedOut()
            assert trio.current_time() == 60
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Another project, which has the plugin."""
    if not INSTALLED:
        plugin = PACKAGE / "testing" / "_plugin.py"  # the wheel has it as this top-level module
        shutil.copy(plugin, tmp_path / "pytest_trioloop.py")
    return tmp_path


def environment(folder):
    paths = [str(PACKAGE.parent), *([] if INSTALLED else [str(folder)])]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "HYPOTHESIS"))}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def run_python(folder, *arguments):
    """Run Python there."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def run_pytest(folder, *arguments, tests, ini="", shuffled=False):
    """Run pytest there, on these tests."""
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n", encoding="utf-8")
    source = "\n".join(map(dedent, (APP, *tests)))
    (folder / "test_there.py").write_text(source, encoding="utf-8")
    plugin = [] if INSTALLED else ["-p", "pytest_trioloop"]
    options = ["-W", "error", "-p", "no:cacheprovider", "-p", "no:anyio", *plugin, *arguments]
    if shuffled:
        return run_python(folder, "-m", "pytest", *options)
    options += ["-p", "no:randomly"]  # the order matters to some of these tests
    return run_python(folder, "-m", "pytest", *options)


def outcomes(result):
    """What pytest counted: ``{"passed": 2}``."""
    last = result.stdout.strip().rpartition("\n")[2]
    found = {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", last)}
    assert found, result.stdout + result.stderr
    return found


def assert_passed(result, number):
    assert outcomes(result) == {"passed": number}, result.stdout + result.stderr


# -- runners and plugins ---------------------------------------------------------------------------


def test_under_pytest_trios_trio_mode(elsewhere):
    result = run_pytest(elsewhere, tests=[SIMULATED, ASYNC], ini="trio_mode = true")
    assert_passed(result, 2)


def test_under_pytest_trio_with_a_mark(elsewhere):
    marked = ASYNC.replace("    async def", "    @pytest.mark.trio\n    async def")
    assert_passed(run_pytest(elsewhere, tests=["import pytest", SIMULATED, marked]), 2)


def test_under_plain_pytest(elsewhere):
    assert_passed(run_pytest(elsewhere, "-p", "no:trio", tests=[SIMULATED]), 1)


def test_an_async_test_without_pytest_trio(elsewhere):
    by_hand = """
        async def script(clients):
            async with clients(app) as client:
                poll = await client.get("/poll")
                await client.advance(60)
                assert poll.reason == TimedOut()

        def test_by_hand(fake_client):
            trio.run(script, fake_client, clock=fake_client)
    """
    assert_passed(run_pytest(elsewhere, "-p", "no:trio", tests=[by_hand]), 1)


GIVEN = """
    from hypothesis import given, settings, strategies as st

    few = settings(max_examples=10, database=None, deadline=None)

    @few
    @given(st.integers(1, 80))
    def test_a_simulation_for_each_example(seconds):
        with Simulation(app, laws=True) as sim:
            poll = sim.get("/poll")
            sim.advance(seconds)
            assert sim.now() == seconds
            assert poll.pending == (seconds < 60)

    async def script(clients, seconds):
        async with clients(app) as client:
            poll = await client.get("/poll")
            await client.advance(seconds)
            assert client.now() == seconds
            assert poll.pending == (seconds < 60)

    @few
    @given(st.integers(1, 80))
    def test_a_clock_for_each_example(seconds):
        clients = FakeClients()
        trio.run(script, clients, seconds, clock=clients)
"""

MACHINE = """
    from trioloop.testing import HandlerMachine, check_handler

    def test_in_one_line():
        check_handler(Poll, examples=5)

    class PollMachine(HandlerMachine):
        handler = Poll

    TestPoll = PollMachine.TestCase
    TestPoll.settings = settings(max_examples=5, deadline=None, database=None)
"""


@pytest.mark.parametrize("mode", ["true", "false"])
def test_with_given_and_state_machines(elsewhere, mode):
    result = run_pytest(elsewhere, tests=[GIVEN, MACHINE], ini=f"trio_mode = {mode}")
    assert_passed(result, 4)


def test_the_fixture_under_given_is_refused_because_time_would_go_on_between_examples(elsewhere):
    shared = """
        from hypothesis import given, strategies as st

        @given(st.integers(1, 80))
        async def test_shared(fake_client, seconds):
            pass
    """
    result = run_pytest(elsewhere, tests=[shared], ini="trio_mode = true")
    assert outcomes(result) == {"failed": 1}
    assert "function_scoped_fixture" in result.stdout


def test_with_pytest_xdist(elsewhere):
    pytest.importorskip("xdist")
    many = "\n".join(
        SIMULATED.replace("test_in_a", f"test_{n}") + ASYNC.replace("test_with", f"test_{n}_with")
        for n in range(8)
    )
    result = run_pytest(elsewhere, "-n", "2", tests=[many], ini="trio_mode = true")
    assert_passed(result, 16)


def test_without_pytest_randomly(elsewhere):
    result = run_pytest(elsewhere, tests=[SIMULATED, ASYNC], ini="trio_mode = true")
    assert "--randomly-seed" not in result.stdout
    assert_passed(result, 2)


def test_with_pytest_randomly(elsewhere):
    result = run_pytest(
        elsewhere,
        tests=[SIMULATED, ASYNC, GIVEN, MACHINE],
        ini="trio_mode = true",
        shuffled=True,
    )
    assert "--randomly-seed" in result.stdout
    assert_passed(result, 6)


def test_whatever_the_random_seed_is(elsewhere):
    seeded = """
        import random

        def test_that_nothing_is_drawn_from_it():
            random.seed(7)
            before = random.getstate()
            with Simulation(app, schedule=3) as sim:
                sim.sse("/events")
                sim.shut_down()
            assert random.getstate() == before
    """
    assert_passed(run_pytest(elsewhere, tests=[seeded]), 1)


# -- failures --------------------------------------------------------------------------------------


def test_a_failing_test_spoils_no_other(elsewhere):
    failing = """
        def test_failing():
            with Simulation(app) as sim:
                sim.get("/poll")
                assert sim.now() == 1

        async def test_failing_async(fake_client):
            async with fake_client(app) as client:
                await client.get("/poll")
                assert client.now() == 1
    """
    result = run_pytest(elsewhere, tests=[failing, SIMULATED, ASYNC], ini="trio_mode = true")
    assert outcomes(result) == {"failed": 2, "passed": 2}


def test_an_interrupt_ends_pytest_at_once(elsewhere):
    interrupted = """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored

        @app.route("/interrupt")
        class Interrupt(LoopHandler):
            async def info(self, message):
                signal.raise_signal(signal.SIGINT)
                await trio.sleep_forever()

        def test_interrupted():
            with Simulation(app) as sim:
                sim.ref(sim.get("/interrupt")).send("now")

        def test_that_is_not_run():
            raise AssertionError
    """
    result = run_pytest(elsewhere, tests=[interrupted])
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in result.stdout
    assert re.search(r"\|\s+info 'now'", result.stdout)  # the timeline so far
    assert "failed" not in result.stdout


def test_a_forgotten_close_is_told_where_it_was_forgotten(elsewhere):
    forgotten = """
        def test_forgetting():
            Simulation(app).__enter__()
    """
    result = run_pytest(elsewhere, "-W", "default", tests=[forgotten, SIMULATED])
    assert outcomes(result)["failed"] == 1
    assert re.search(r"made at \S*test_there\.py:\d+ has not been closed", result.stdout)


def test_a_forgotten_close_is_told_at_the_end_when_no_simulation_comes_after_it(elsewhere):
    forgotten = """
        def test_forgetting():
            Simulation(app).__enter__()
    """
    result = run_pytest(elsewhere, tests=[forgotten])
    assert_passed(result, 1)
    assert re.search(r"made at \S*test_there\.py:\d+ has not been closed", result.stderr)


# -- cost ------------------------------------------------------------------------------------------

HEAVY = ("trioloop", "trio", "starlette", "hypothesis", "hypercorn", "anyio")


def test_the_plugin_imports_nothing(elsewhere):
    program = """
        import sys, pytest
        before = set(sys.modules)
        import pytest_trioloop
        print(*sorted(set(sys.modules) - before))
    """
    result = run_python(elsewhere, "-c", dedent(program))
    assert result.stdout.split() == ["pytest_trioloop"], result.stderr


def test_a_suite_that_does_not_use_the_kit_does_not_import_it(elsewhere):
    (elsewhere / "test_other.py").write_text(
        f"import sys\ndef test_it(): assert not set(sys.modules) & {set(HEAVY)!r}\n",
        encoding="utf-8",
    )
    arguments = ["-p", "pytest_trioloop", "-p", "no:cacheprovider", "test_other.py"]
    program = f"""
        import os, sys, pytest
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        sys.exit(pytest.main({arguments!r}))
    """
    assert_passed(run_python(elsewhere, "-c", dedent(program)), 1)


def test_the_plugin_is_loaded_in_no_time(elsewhere):
    def measure():
        result = run_python(elsewhere, "-X", "importtime", "-c", "import pytest, pytest_trioloop")
        (line,) = (line for line in result.stderr.splitlines() if "pytest_trioloop" in line)
        return int(line.split("|")[1])

    assert min(measure() for _ in range(3)) < 5000  # microseconds; it takes about 200


# -- what is left behind ---------------------------------------------------------------------------

BUSY = """
    class Busy(EventStreamHandler):
        keepalive = 1.0
        async def info(self, message):
            async def child():
                async with trio.open_nursery():
                    await trio.sleep_forever()
            self.nursery.start_soon(child)
            if message == "crash":
                raise ValueError
            await trio.sleep(0)
            return ServerSentEvent(message)
        async def terminate(self, reason):
            await trio.sleep(1)

    app.route("/busy", Busy)

    def simulate():
        with Simulation(app, laws=True) as sim:
            streams = [sim.sse("/busy") for _ in range(6)]
            body = sim.post("/poll", body=None)
            body.send("half")
            streams[0].stall()
            for stream in streams:
                sim.ref(stream).send_without_settling("x")
            sim.advance(0.5)
            streams[1].disconnect("abrupt")
            streams[2].disconnect("vanish")
            streams[3].disconnect("half")
            sim.ref(streams[4]).send("crash")
            sim.later(100, gc.collect)

    async def fake(clients):
        async with clients(app) as client:
            streams = [await client.sse("/busy") for _ in range(3)]
            await streams[0].stall()
            for stream in streams:
                client.ref(stream).send_nowait("x")
            await client.settle()
            await streams[1].disconnect("abrupt")

    def fail():
        with Simulation(app) as sim:
            sim.sse("/busy")
            raise LookupError

    import logging
    logging.disable()
    for _ in range(3):
        simulate()
        gc.collect()
        clients = FakeClients()
        trio.run(fake, clients, clock=clients)
        gc.collect()
        try:
            fail()
        except LookupError:
            gc.collect()
    print("done")
"""


def test_nothing_is_left_for_the_garbage_collection_to_complain_of(elsewhere):
    (elsewhere / "program.py").write_text(dedent(APP) + dedent(BUSY), encoding="utf-8")
    result = run_python(elsewhere, "-X", "dev", "-W", "error", "program.py")
    assert (result.stdout, result.stderr) == ("done\n", "")
