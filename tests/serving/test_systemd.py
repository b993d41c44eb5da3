"""What systemd does to a service: its socket as descriptor 3, SIGTERM to all of its processes.

Laws of this file:

* A process gets what systemd gives it (sd_listen_fds(3)): a listening socket as descriptor 3, with
  ``LISTEN_FDS`` and ``LISTEN_PID``, and no address of its own.
* Stopping is what systemd does by default (systemd.kill(5), ``KillMode=control-group``): SIGTERM to
  every process at once.
* What the deployment page shows is what is tried here.
"""

import configparser
import re
import shlex
import signal
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from support.processes import finished_process, server_process
from support.sockets import Client, Cut

import trioloop
from trioloop import _process
from trioloop.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "deployment.md"
GRACE = 2.0

MAIN = """
import os
import trioloop

app = trioloop.App()

@app.route("/events")
class Events(trioloop.EventStreamHandler):
    def init(self, request):
        return trioloop.ServerSentEvent(str(os.getpid()))

@app.route("/large")
class Large(trioloop.LoopHandler):
    def init(self, request):
        return [trioloop.StartResponse(200), trioloop.Then("more")]

    def info(self, message):
        return [trioloop.Chunk(bytes(2**20)), trioloop.Then("more")]
"""

AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "trioloop", "serve", *sys.argv[2:]])
"""
"""What happens between fork and exec."""


@contextmanager
def listening(family=socket.AF_INET, address=("127.0.0.1", 0)):
    """A socket unit."""
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen(100)
        listener.setblocking(False)
        yield listener


@asynccontextmanager
async def service(folder, listener, *options, workers=1, grace=GRACE):
    """A service unit that goes with it."""
    (folder / "main.py").write_text(MAIN)
    options = ["--bind", "fd://3", "--graceful-timeout", str(grace), *options]
    if workers > 1:
        options += ["--workers", str(workers)]
    async with server_process(
        ["-c", AS_SYSTEMD, str(listener.fileno()), *options, "main:app"],
        cwd=folder,
        ready=f"(?s)(Running on.*){{{workers}}}",
        pass_fds=[listener.fileno()],
    ) as server:
        yield server


async def opened(listener, path="/events"):
    """A client of the socket unit that has the first of a stream."""
    stream = await connected(listener)
    client = Client(stream)
    await client.request(path=path)
    await client.head()
    await client.piece()
    return client


async def connected(listener):
    sock = trio.socket.socket(listener.family)
    await sock.connect(listener.getsockname())
    return trio.SocketStream(sock)


@pytest.mark.parametrize("workers", [1, 2])
async def test_streams_of_an_inherited_socket_end_well_when_all_processes_get_sigterm(
    tmp_path, workers
):
    with listening() as listener:
        async with service(tmp_path, listener, workers=workers) as server:
            clients = [await opened(listener) for _ in range(20)]
            begin = time.monotonic()
            server.send_signal_to_all(signal.SIGTERM)
            for client in clients:
                assert re.search(rb"retry: ?\d+\n\n\Z", await client.rest())
                client.close()
            assert await server.wait() == 0, server.output
            assert time.monotonic() - begin < GRACE  # nothing had to be cut
            assert "Traceback" not in server.output


@pytest.mark.parametrize("workers", [1, 2])
async def test_streams_that_nobody_reads_hold_a_service_for_the_grace_at_most(tmp_path, workers):
    with listening() as listener:
        async with service(tmp_path, listener, workers=workers, grace=0.5) as server:
            clients = [await opened(listener, "/large") for _ in range(6)]
            begin = time.monotonic()
            server.send_signal_to_all(signal.SIGTERM)
            assert await server.wait() == 0, server.output
            assert time.monotonic() - begin < 0.5 + 5 + 4  # grace, terminate, a busy machine
            for client in clients:
                with pytest.raises(Cut):
                    await client.rest()
                client.close()


async def test_connections_wait_in_the_socket_while_the_service_restarts(tmp_path):
    with listening() as listener:
        async with service(tmp_path, listener) as server:
            (await opened(listener)).close()
            server.send_signal_to_all(signal.SIGTERM)
            assert await server.wait() == 0, server.output
        waiting = Client(await connected(listener))
        await waiting.request(path="/events")
        async with service(tmp_path, listener):
            assert (await waiting.head()).status_code == 200
            waiting.close()


async def test_a_unix_socket_may_be_inherited_too(tmp_path):
    path = tmp_path / "socket"
    with listening(socket.AF_UNIX, str(path)) as listener:
        async with service(tmp_path, listener) as server:
            client = await opened(listener)
            server.send_signal_to_all(signal.SIGTERM)
            assert await client.rest()
            client.close()
            assert await server.wait() == 0, server.output
        assert path.exists()  # it belongs to the socket unit


async def test_a_descriptor_that_is_no_socket_is_said_in_one_line(tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    done = await finished_process(
        ["-m", "trioloop", "serve", "--bind", "fd://0", "main:app"], cwd=tmp_path
    )
    assert done.returncode == 1
    assert "cannot listen on fd://0" in done.stderr
    assert "Traceback" not in done.stderr


# -- the unit file of the deployment page --------------------------------------------------------


def unit():
    """The first unit file of the page."""
    found = re.search(r"```ini\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(found[1])
    return parser["Service"]


@pytest.fixture
def configured(monkeypatch):
    """The configuration of the command in the page."""
    made = []

    monkeypatch.setattr(_process, "run", lambda _, config: made.append(config) or 0)
    _, command, *options = shlex.split(unit()["ExecStart"])
    assert command == "serve"
    assert main([command, *options]) == 0
    return made[0]


def test_the_unit_waits_longer_than_the_server_may_take(configured):
    seconds = configured.graceful_timeout + trioloop.LoopHandler.terminate_timeout
    assert float(unit()["TimeoutStopSec"]) > seconds


def test_the_unit_leaves_systemd_its_defaults_where_they_are_right():
    """A server that does not fork is ``simple``; SIGTERM to all is ``control-group``."""
    assert unit().get("Type", "simple") in ("simple", "exec")
    assert unit().get("KillMode", "control-group") in ("control-group", "mixed")


def test_the_unit_knows_the_exit_code_of_a_stop_before_the_start_was_over():
    """Systemd takes only 0 and the signal itself for success (systemd.service(5))."""
    assert unit()["SuccessExitStatus"] == str(128 + signal.SIGTERM)
