"""``trioloop serve`` and ``trioloop demo``, mostly as the process that an operator starts."""

import os
import re
import signal
import socket
import ssl
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from support.processes import finished_process, server_process

import trioloop
from trioloop import _serve
from trioloop.__main__ import main

TLS = Path(__file__).parent / "tls"
SERVE = ("-m", "trioloop", "serve", "--bind", "127.0.0.1:0")

# "/" answers at once; "/wait" until the shutdown; "/stay" for ever; "/block" blocks the event loop.
MAIN = """
import time
import trio

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    if scope["path"] == "/wait":
        await scope["extensions"]["trioloop.shutdown"]["wait"]()
    elif scope["path"] == "/stay":
        await trio.sleep_forever()
    elif scope["path"] == "/block":
        while True:
            time.sleep(60)
    await send({"type": "http.response.body", "body": b"last " + scope["root_path"].encode()})

class Outer:
    app = app

def factory():
    return app

nothing = None
"""

HANGING_IMPORT = """
import signal
print("importing", flush=True)
signal.pause()
"""

HANGING_STARTUP = """
import trio

async def app(scope, receive, send):
    print("starting", flush=True)
    await trio.sleep_forever()
"""

FAILING_STARTUP = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": MESSAGE})
"""

FAILING_SHUTDOWN = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "cannot save"})
"""

HANGING_SHUTDOWN = """
import trio

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await trio.sleep_forever()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


async def request(port: int, path: str = "/") -> trio.SocketStream:
    return await ask(await trio.open_tcp_stream("127.0.0.1", port), path)


async def ask(stream, path="/"):
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return stream


async def read_until(stream, end: bytes) -> None:
    read = b""
    while end not in read:
        data = await stream.receive_some()
        assert data, read
        read += data


async def read_all(stream) -> bytes:
    async with stream:
        return b"".join([data async for data in stream])


async def answer(port: int, path: str = "/") -> bytes:
    return await read_all(await request(port, path))


# Serving


@pytest.mark.parametrize(
    "application",
    ["main:app", "main", "main:Outer.app", "main:factory()", "asgi:main:app", "main.py:app"],
)
async def test_an_application_is_served_under_any_name_that_hypercorn_knows(folder, application):
    async with server_process([*SERVE, application], cwd=folder) as server:
        assert b"first" in await answer(server.port)


async def test_requests_are_logged_to_stdout_when_asked_for(folder):
    command = [*SERVE, "--access-logfile", "-", "--access-logformat", "<%(m)s %(U)s %(s)s>", "main"]
    async with server_process(command, cwd=folder) as server:
        await answer(server.port, "/logged")
        await server.printed("<GET /logged 200>")


async def test_the_error_log_goes_to_a_file_when_asked_for(folder):
    command = [*SERVE, "--error-logfile", "error.log", "--pid", "pid", "main:app"]
    async with server_process(command, cwd=folder, ready="^$") as server:
        with trio.fail_after(30):
            while "Running on http" not in (read_text(folder / "error.log")):
                await trio.lowlevel.checkpoint()
        assert server.output == ""


def read_text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_the_log_level_and_the_root_path_are_passed_on(folder):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = ["-m", "trioloop", "serve", "--bind", f"127.0.0.1:{port}", "--log-level", "ERROR"]
    command += ["--root-path", "/below", "main"]
    async with server_process(command, cwd=folder, ready="^$") as server:
        with trio.fail_after(30):
            stream = await connected(port)
        assert b"last /below" in await read_all(await ask(stream))
        assert server.output == ""


async def connected(port: int) -> trio.SocketStream:
    while True:
        try:
            return await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.lowlevel.checkpoint()


async def test_several_addresses_are_served_at_once(folder):
    command = [*SERVE, "--bind", "unix:socket", "main"]
    async with server_process(command, cwd=folder, ready=r"unix:socket") as server:
        port = int((await server.printed(r"127\.0\.0\.1:(\d+)"))[1])
        assert b"first" in await answer(port)
        assert b"first" in await read_all(await ask(await trio.open_unix_socket(folder / "socket")))


async def test_tls_is_served_with_a_certificate_and_its_key(folder):
    files = ["--certfile", TLS / "localhost.pem", "--keyfile", TLS / "localhost-encrypted.key"]
    command = [*SERVE, *files, "--keyfile-password", "secret", "main"]
    async with server_process(command, cwd=folder, ready=r"https://127\.0\.0\.1:(?P<port>\d+)") as server:
        context = ssl.create_default_context(cafile=str(TLS / "localhost.pem"))
        stream = await trio.open_ssl_over_tcp_stream(
            "localhost", server.port, ssl_context=context, https_compatible=True
        )
        assert b"first" in await read_all(await ask(stream))


async def test_a_client_without_a_certificate_is_refused_where_one_is_required(folder):
    files = ["--certfile", TLS / "localhost.pem", "--keyfile", TLS / "localhost.key"]
    clients = ["--ca-certs", TLS / "localhost.pem", "--verify-mode", "CERT_REQUIRED"]
    async with server_process([*SERVE, *files, *clients, "main"], cwd=folder) as server:
        context = ssl.create_default_context(cafile=str(TLS / "localhost.pem"))
        stream = await trio.open_ssl_over_tcp_stream(
            "localhost", server.port, ssl_context=context, https_compatible=True
        )
        with pytest.raises(trio.BrokenResourceError):
            await read_all(await ask(stream))


async def test_the_application_is_looked_for_in_app_dir_first(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "main.py").write_text(MAIN.replace("first", "inner"))
    async with server_process([*SERVE, "--app-dir", "inner", "main:app"], cwd=folder) as server:
        assert b"inner" in await answer(server.port)


@pytest.mark.parametrize("form", ["settings.toml", "file:settings.py", "python:settings"])
async def test_a_configuration_is_read_and_the_command_line_wins_over_it(folder, form):
    settings = 'graceful_timeout = 7\nroot_path = "/configured"\nbind = ["fd://9999"]\n'
    (folder / "settings.toml").write_text(settings)
    (folder / "settings.py").write_text(settings)
    async with server_process([*SERVE, "--config", form, "main:app"], cwd=folder) as server:
        assert b"last /configured" in await answer(server.port)
        server.send_signal(signal.SIGTERM)
        await server.printed("draining: 7 s at most")
        assert await server.wait() == 0


async def test_the_pid_file_holds_the_number_of_the_process_while_it_lives(folder):
    async with server_process([*SERVE, "--pid", "pid", "main"], cwd=folder) as server:
        number = int((folder / "pid").read_text())
        os.kill(number, signal.SIGTERM)
        assert await server.wait() == 0
        assert not (folder / "pid").exists()


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_lets_requests_in_flight_end_and_exits_with_0(folder, number):
    async with server_process([*SERVE, "main:app"], cwd=folder) as server:
        response = await request(server.port, "/wait")
        await read_until(response, b"first")
        server.send_signal(number)
        assert (await read_all(response)).endswith(b"last \r\n0\r\n\r\n")
        assert await server.wait() == 0
        assert "trioloop: draining: 3 s at most; again to stop at once" in server.output
        assert "Traceback" not in server.output


async def test_a_request_that_ignores_the_notice_is_cut_and_the_exit_code_is_0(folder):
    command = [*SERVE, "--graceful-timeout", "0.25", "main:app"]
    async with server_process(command, cwd=folder) as server:
        response = await request(server.port, "/stay")
        await read_until(response, b"first")
        server.send_signal(signal.SIGTERM)
        await server.printed("draining: 0.25 s at most")
        assert not (await read_all(response)).endswith(b"0\r\n\r\n")
        assert await server.wait() == 0


async def test_an_endless_grace_is_announced_as_such(folder):
    command = [*SERVE, "--graceful-timeout", "inf", "main:app"]
    async with server_process(command, cwd=folder) as server:
        response = await request(server.port, "/wait")
        await read_until(response, b"first")
        server.send_signal(signal.SIGTERM)
        await server.printed("draining until the last request has ended; again to stop at once")
        assert await server.wait() == 0
        await response.aclose()


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("path", ["/stay", "/block"])
async def test_the_second_signal_ends_the_process_at_once_whatever_it_does(
    folder, number, code, path
):
    command = [*SERVE, "--graceful-timeout", "600", "main:app"]
    async with server_process(command, cwd=folder) as server:
        response = await request(server.port, path)
        await read_until(response, b"first")
        server.send_signal(signal.SIGTERM)
        await server.printed("again to stop at once")
        server.send_signal(number)
        assert await server.wait() == code
        assert "Traceback" not in server.output
        await response.aclose()


async def test_an_interrupt_while_the_application_is_imported_leaves_no_traceback(tmp_path):
    (tmp_path / "main.py").write_text(HANGING_IMPORT)
    async with server_process([*SERVE, "main:app"], cwd=tmp_path, ready="importing") as server:
        server.send_signal(signal.SIGINT)
        assert await server.wait() == 130
        assert server.output.splitlines() == ["importing"]


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
async def test_a_signal_does_not_wait_for_a_startup_that_hangs(tmp_path, number, code):
    (tmp_path / "main.py").write_text(HANGING_STARTUP)
    async with server_process([*SERVE, "main:app"], cwd=tmp_path, ready="starting") as server:
        server.send_signal(number)
        assert await server.wait() == code
        assert "Running on" not in server.output
        assert "Traceback" not in server.output


# More processes


async def test_two_workers_serve_and_stop(folder):
    ready = r"(?s)Running on http://127\.0\.0\.1:(?P<port>\d+).*Running on"
    async with server_process([*SERVE, "-w", "2", "main:app"], cwd=folder, ready=ready) as server:
        assert len(set(re.findall(r"\[(\d+)\] \[INFO\] Running on", server.output))) == 2
        assert b"first" not in await answer(server.port, "/nothing") or True
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0


# What cannot be served


def failed(done, *fragments: str) -> None:
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for fragment in ("trioloop: ", *fragments):
        assert fragment in lines[0]
