"""Several workers and their supervisor, as the processes that an operator starts."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import trio
from support.processes import DEADLINE, server_process

SERVE = ("-m", "trioloop", "serve", "--bind", "127.0.0.1:0", "--workers", "2")
READY = r"(?s)Running on http://127\.0\.0\.1:(?P<port>\d+).*Running on"
GRACE = 1

MAIN = """
import os
import trio

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/large":
        while True:
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
    elif scope["path"] == "/wait":
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await scope["extensions"]["trioloop.shutdown"]["wait"]()
        await send({"type": "http.response.body", "body": b"last"})
    elif scope["path"] == "/die":
        os._exit(7)
    else:
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


@asynccontextmanager
async def workers(folder, *options, application=MAIN):
    (folder / "main.py").write_text(application)
    command = [*SERVE, "--graceful-timeout", str(GRACE), *options, "main:app"]
    async with server_process(command, cwd=folder, ready=READY) as server:
        yield server


def pids(server):
    return set(map(int, re.findall(r"\[(\d+)\] \[INFO\] Running on", server.output)))


async def ask(port, path="/", *, buffer=None):
    with trio.socket.socket() as sock:
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await sock.connect(("127.0.0.1", port))
        await sock.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        yield sock


async def answer(port, path="/"):
    received = b""
    async for sock in ask(port, path):
        try:
            while data := await sock.recv(65536):
                received += data
        except ConnectionResetError:
            pass
    return received


@pytest.mark.parametrize("whole_group", [False, True], ids=["supervisor", "whole group"])
async def test_200_clients_that_do_not_read_hold_no_worker_longer_than_the_grace(
    tmp_path, whole_group
):
    async with workers(tmp_path) as server:
        stalled = []
        for _ in range(200):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            sock.recv(10)
            stalled.append(sock)
        if whole_group:
            os.killpg(server._process.pid, signal.SIGTERM)
        else:
            server.send_signal(signal.SIGTERM)
        assert await server.wait(within=GRACE + 9) == 0, server.output
        assert "Traceback" not in server.output
        for sock in stalled:
            sock.close()


async def test_applications_are_told_of_the_shutdown_in_every_worker(tmp_path):
    async with (
        workers(tmp_path, "--graceful-timeout", "60") as server,
        trio.open_nursery() as tasks,
    ):
        bodies = []
        started = trio.Event()

        async def stream():
            received = b""
            async for sock in ask(server.port, "/wait"):
                while data := await sock.recv(65536):
                    received += data
                    if b"first" in received:
                        opened.append(sock)
                        if len(opened) == 8:
                            started.set()
            bodies.append(received)

        opened = []
        for _ in range(8):
            tasks.start_soon(stream)
        await started.wait()
        os.killpg(server._process.pid, signal.SIGTERM)
        assert await server.wait() == 0, server.output
    assert len(bodies) == 8
    assert all(body.endswith(b"last\r\n0\r\n\r\n") for body in bodies)


async def test_a_worker_that_dies_is_replaced_and_the_other_goes_on(tmp_path):
    async with workers(tmp_path) as server:
        before = pids(server)
        assert await answer(server.port, "/die") == b""
        await server.printed(r"(?s)(Running on.*){3}")
        after = pids(server)
        assert len(after - before) == 1
        (dead,) = [int(pid) for pid in re.findall(r"worker (\d+) failed \(7\)", server.output)]
        assert dead in before
        (survivor,) = before - {dead}
        os.kill(survivor, 0)  # it is alive
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0, server.output


async def test_workers_drain_when_their_supervisor_is_killed(tmp_path):
    async with workers(tmp_path) as server:
        server.send_signal(signal.SIGKILL)
        # Waits for the end of the output, too, and that comes when the last worker has ended.
        assert await server.wait() == -signal.SIGKILL, server.output


async def test_a_worker_that_has_served_its_number_of_requests_is_replaced(tmp_path):
    (tmp_path / "settings.toml").write_text("max_requests = 3\n")
    async with workers(tmp_path, "--config", "settings.toml") as server:
        before = pids(server)
        while not pids(server) - before:
            await answer(server.port)
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0, server.output
        assert "failed" not in server.output


async def test_sighup_replaces_every_worker(tmp_path):
    async with workers(tmp_path) as server:
        before = pids(server)
        server.send_signal(signal.SIGHUP)
        await server.printed(r"(?s)(Running on.*){4}")
        assert len(pids(server) - before) == 2
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0, server.output


async def test_an_application_that_cannot_start_ends_all_with_exit_code_1(tmp_path):
    broken = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
    (tmp_path / "main.py").write_text(broken)
    async with server_process([*SERVE, "main:app"], cwd=tmp_path, ready="startup failed") as server:
        assert await server.wait() == 1
        assert "no database" in server.output
        assert "Traceback" not in server.output


async def test_a_second_signal_ends_all_at_once(tmp_path):
    async with workers(tmp_path, "--graceful-timeout", "3600") as server:
        async for _ in ask(server.port, "/large", buffer=4096):
            server.send_signal(signal.SIGTERM)
            await server.printed("draining all workers")
            server.send_signal(signal.SIGTERM)
            assert await server.wait() == 128 + signal.SIGTERM


SIGNALLED = """
import os, signal, sys
from multiprocessing.context import SpawnProcess

from support.processes import wait_for_the_supervisor
from trioloop.server._processes import Supervisor

begin = SpawnProcess.start

def start(process):
    os.kill(os.getpid(), signal.SIGTERM)
    begin(process)

if __name__ == "__main__":
    SpawnProcess.start = start
    sys.exit(Supervisor(wait_for_the_supervisor, [], 2, patience=10).run())
"""


def test_a_signal_that_comes_while_a_worker_is_started_is_heard_after_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SIGNALLED)
    tests = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": tests}
    done = subprocess.run([sys.executable, script], env=environment, check=False, timeout=DEADLINE)
    assert done.returncode == 0
