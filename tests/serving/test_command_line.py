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
from trioloop import _process
from trioloop.__main__ import main

TLS = Path(__file__).parent / "tls"
SERVE = ("-m", "trioloop", "serve", "--bind", "127.0.0.1:0")

# "/" answers at once; "/wait" until the shutdown; "/stay" for ever; "/block" blocks the event loop.
MAIN = """
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
            pass
    await send({"type": "http.response.body", "body": b"last " + scope["root_path"].encode()})

class Outer:
    app = app

def factory():
    return app

nothing = None
"""

# Not a system call that waits: a signal that comes just before one is seen only after it.
HANGING_IMPORT = """
print("importing", flush=True)
while True:
    pass
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


HANDLER = """
from trioloop import App, LoopHandler
import logging

app = App()

@app.route("/")
class Crash(LoopHandler):
    def init(self, request):
        logging.getLogger("trioloop").info("told at this level")
        raise ArithmeticError("planted")
"""


async def test_what_becomes_of_handlers_is_logged_where_the_errors_are(tmp_path):
    (tmp_path / "main.py").write_text(HANDLER)
    async with server_process([*SERVE, "--log-level", "info", "main"], cwd=tmp_path) as server:
        assert b"500" in await answer(server.port)
        await server.printed(r"\[INFO\] told at this level")
        await server.printed(r"\[ERROR\] <HandlerRef Crash .*> of GET / crashed in init: planted")


async def test_a_log_that_the_application_has_set_up_is_left_alone(tmp_path):
    setup = "\nlogging.basicConfig(format='mine: %(message)s')\n"
    (tmp_path / "main.py").write_text(HANDLER + setup)
    async with server_process([*SERVE, "main"], cwd=tmp_path) as server:
        await answer(server.port)
        await server.printed("mine: <HandlerRef Crash")


async def test_several_addresses_are_served_at_once(folder):
    command = [*SERVE, "--bind", "unix:socket", "main"]
    async with server_process(command, cwd=folder, ready=r"unix:socket") as server:
        port = int((await server.printed(r"127\.0\.0\.1:(\d+)"))[1])
        assert b"first" in await answer(port)
        assert b"first" in await read_all(await ask(await trio.open_unix_socket(folder / "socket")))


async def test_tls_is_served_with_a_certificate_and_its_key(folder):
    files = ["--certfile", TLS / "localhost.pem", "--keyfile", TLS / "localhost-encrypted.key"]
    command = [*SERVE, *files, "--keyfile-password", "secret", "main"]
    async with server_process(
        command, cwd=folder, ready=r"https://127\.0\.0\.1:(?P<port>\d+)"
    ) as server:
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
        try:
            read = await read_all(await ask(stream))
        except trio.BrokenResourceError:  # reset, where the request was still on its way
            read = b""
        assert read == b""


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
        assert b"first" in await answer(server.port)
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0, server.output


def test_hypercorn_watches_the_files_where_the_code_shall_be_reloaded(here, monkeypatch):
    (here / "model.py").write_text("async def app(scope, receive, send): pass")
    seen: list[Config] = []
    monkeypatch.setattr("hypercorn.run.run", lambda config: seen.append(config) or 0)
    assert main(["serve", "--reload", "model"]) == 0
    assert seen[0].application_path == "asgi:model:app"
    assert seen[0].worker_class == "trio"
    assert seen[0].workers >= 1


@pytest.mark.parametrize("theirs, ours", [(0, 0), (1, 1), (-15, 143)])
def test_the_exit_code_of_hypercorn_is_passed_on_as_a_shell_would(here, monkeypatch, theirs, ours):
    (here / "model.py").write_text("async def app(scope, receive, send): pass")
    monkeypatch.setattr("hypercorn.run.run", lambda config: theirs)
    assert main(["serve", "--reload", "model"]) == ours


async def test_workers_that_cannot_listen_are_an_error_in_one_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        command = ["-m", "trioloop", "serve", "--workers", "2", "--bind", bind, "main:app"]
        result = await finished_process(command, cwd=folder)
    assert result.returncode == 1
    assert_one_line(result.stderr, bind, "in use")


def test_an_application_object_cannot_be_served_by_several_processes(capsys):
    async def app(scope, receive, send):
        pass

    config = Config()
    config.workers = 2
    assert _process.run(app, config) == 1
    assert_one_line(capsys.readouterr().err, "module:attribute", "workers")


# What cannot be served


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Be in an empty folder, and forget the modules that were imported from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def assert_one_line(printed: str, *fragments: str) -> None:
    assert len(printed.splitlines()) == 1, printed
    for fragment in ("trioloop: ", *fragments):
        assert fragment in printed


@pytest.mark.parametrize(
    "code, application, fragments",
    [
        ("", "missing:app", ("'missing:app'", "no module 'missing'", "--app-dir")),
        ("", "case.inner:app", ("'case.inner:app'", "no module 'case.inner'")),
        ("", "case:app", ("'case:app'", "'case' has no 'app'", "module:attribute")),
        ("app = 1", "case:app.inner", ("'case' has no 'app.inner'",)),
        ("app = 1", "case:app", ("'case:app' is 1", "cannot be called", "module:attribute")),
        ("def app(): pass", "case:app", ("(scope, receive, send)", "'case:app()'")),
        ("class app: pass", "case:app", ("(scope, receive, send)", "'case:app()'")),
        ("\nimport missing_one", "case:app", ("'missing_one'", "case.py, line 2", "--log-level")),
        (
            "import trioloop\nclass Chat(trioloop.LoopHandler):\n    idle_timout = 5",
            "case:app",
            ("TypeError: Chat.idle_timout is no option", "case.py, line 2", "--log-level"),
        ),
        ("app = = 1", "case:app", ("SyntaxError", "case.py, line 1", "--log-level debug")),
        ("1 / 0", "case:app", ("ZeroDivisionError", "case.py, line 1", "--log-level debug")),
        ("def app(): missing", "case:app()", ("NameError", "case.py, line 1")),
        ("", "wsgi:case:app", ("'wsgi:case:app'", "ASGI")),
    ],
)
def test_an_application_that_cannot_be_loaded_is_named_with_the_way_out(
    here, capsys, code, application, fragments
):
    (here / "case.py").write_text(code)
    assert main(["serve", application]) == 1
    assert_one_line(capsys.readouterr().err, *fragments)


def test_the_traceback_of_an_import_is_shown_at_log_level_debug(here, capsys):
    (here / "case.py").write_text("1 / 0")
    assert main(["serve", "--log-level", "debug", "case:app"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert_one_line(printed.splitlines()[-1], "'case:app'", "ZeroDivisionError")


@pytest.mark.parametrize(
    "name, text, fragments",
    [
        ("settings.toml", "bind = ", ("'settings.toml'", "TOMLDecodeError")),
        ("missing.toml", "", ("'missing.toml'", "No such file", "python: and a module")),
        ("file:settings.py", "1 / 0", ("'file:settings.py'", "ZeroDivisionError")),
        ("file:settings.txt", "", ("'file:settings.txt'", "name.py")),
        ("python:missing_one", "", ("'python:missing_one'", "No module named 'missing_one'")),
        ("settings.toml", 'graceful_timeout = "3"', ("graceful_timeout is '3'", "seconds")),
        ("settings.toml", "graceful_timeout = nan", ("graceful_timeout is nan", "seconds")),
        ("settings.toml", "keep_alive_timeout = -1", ("keep_alive_timeout is -1", "seconds")),
        ("settings.toml", "workers = true", ("workers is True", "whole number")),
        ("settings.toml", "backlog = 1.5", ("backlog is 1.5", "whole number")),
        ("settings.toml", "bind = 8000", ("bind is 8000", "127.0.0.1:8000")),
        ("settings.toml", "bind = [8000]", ("bind is [8000]", "127.0.0.1:8000")),
    ],
)
def test_a_bad_configuration_is_named_with_the_bad_value(here, capsys, name, text, fragments):
    (here / name.removeprefix("file:")).write_text(text)
    (here / "missing.toml").unlink(missing_ok=True)
    assert main(["serve", "--config", name, "case:app"]) == 1
    assert_one_line(capsys.readouterr().err, *fragments)


@pytest.mark.parametrize(
    "files, fragments",
    [
        ({"certfile": "localhost.pem"}, ("localhost.pem' alone", "--keyfile")),
        ({"keyfile": "localhost.key"}, ("localhost.key' alone", "--certfile")),
        ({"ca-certs": "localhost.pem"}, ("localhost.pem' alone", "--certfile")),
        ({"certfile": "nope.pem", "keyfile": "localhost.key"}, ("nope.pem'", "No such file")),
        (
            {"certfile": "localhost.pem", "keyfile": "localhost-encrypted.key"},
            ("localhost-encrypted.key' is encrypted", "--keyfile-password"),
        ),
        (
            {
                "certfile": "localhost.pem",
                "keyfile": "localhost-encrypted.key",
                "keyfile-password": "wrong",
            },
            ("localhost-encrypted.key'", "--keyfile-password"),
        ),
        (
            {"certfile": "localhost.pem", "keyfile": "other.key"},
            ("localhost.pem'", "other.key'", "KEY_VALUES_MISMATCH"),
        ),
        (
            {"certfile": "localhost.pem", "keyfile": "localhost.key", "ca-certs": "other.key"},
            ("--ca-certs", "other.key'"),
        ),
    ],
)
def test_tls_files_that_do_not_serve_are_named(here, capsys, files, fragments):
    options: list[str] = []
    for name, value in files.items():
        options += [f"--{name}", value if name == "keyfile-password" else str(TLS / value)]
    assert main(["serve", *options, "case:app"]) == 1
    assert_one_line(capsys.readouterr().err, *fragments)


async def test_an_address_in_use_is_named_with_the_way_out(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await finished_process([*SERVE, "--bind", address, "main"], cwd=folder)
    assert done.returncode == 1
    assert_one_line(done.stderr, f"listen on {address}: Address already in use", "--bind")


@pytest.mark.parametrize(
    "options, fragments",
    [
        (("--bind", "fd://9999"), ("fd://9999", "--bind")),
        (("--error-logfile", "missing/log"), ("logs", "missing/log")),
        (("--pid", "missing/pid"), ("missing/pid", "No such file")),
    ],
)
def test_a_place_that_cannot_be_used_is_named(here, capsys, options, fragments):
    (here / "case.py").write_text("async def app(scope, receive, send): pass")
    assert main(["serve", "--bind", "127.0.0.1:0", *options, "case:app"]) == 1
    assert_one_line(capsys.readouterr().err, *fragments)


@pytest.mark.parametrize(
    "message, line",
    [
        ("no database", "startup failed: no database"),
        ("", "startup failed: it gave no reason"),
        (
            "Traceback ...\nOSError: 'db'\n",
            "startup failed: OSError: 'db'; --log-level debug shows",
        ),
    ],
)
async def test_an_application_that_refuses_to_start_is_reported_in_one_line(
    tmp_path, message, line
):
    (tmp_path / "main.py").write_text(FAILING_STARTUP.replace("MESSAGE", repr(message)))
    done = await finished_process([*SERVE, "main:app"], cwd=tmp_path)
    assert done.returncode == 1
    assert_one_line(done.stderr, line)


async def test_what_the_application_said_of_its_startup_is_shown_at_log_level_debug(tmp_path):
    (tmp_path / "main.py").write_text(FAILING_STARTUP.replace("MESSAGE", repr("two\nlines")))
    done = await finished_process([*SERVE, "--log-level", "debug", "main:app"], cwd=tmp_path)
    assert done.stderr == "two\nlines\ntrioloop: the application's startup failed: lines\n"


async def test_a_startup_that_takes_too_long_is_reported_in_one_line(tmp_path):
    (tmp_path / "main.py").write_text(HANGING_STARTUP)
    (tmp_path / "settings.toml").write_text("startup_timeout = 0.1")
    done = await finished_process([*SERVE, "-c", "settings.toml", "main:app"], cwd=tmp_path)
    assert done.returncode == 1
    assert_one_line(done.stderr, "startup took more than 0.1 s", "startup_timeout")


@pytest.mark.parametrize(
    "code, line",
    [
        (FAILING_SHUTDOWN, "the application's shutdown failed: cannot save"),
        (HANGING_SHUTDOWN, "the application's shutdown took more than 0.1 s (shutdown_timeout"),
    ],
    ids=["failing", "hanging"],
)
async def test_a_shutdown_that_fails_is_reported_in_one_line(tmp_path, code, line):
    (tmp_path / "main.py").write_text(code)
    (tmp_path / "settings.toml").write_text("shutdown_timeout = 0.1")
    async with server_process([*SERVE, "-c", "settings.toml", "main:app"], cwd=tmp_path) as server:
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 1
        assert line in server.output.splitlines()[-1]
        assert "Traceback" not in server.output


@pytest.mark.parametrize(
    "error", ["SystemExit(7)", "BaseExceptionGroup('of a nursery', [SystemExit(7)])"]
)
async def test_an_application_may_exit_with_a_code_of_its_own(tmp_path, error):
    (tmp_path / "main.py").write_text(f"async def app(scope, receive, send): raise {error}")
    done = await finished_process([*SERVE, "main:app"], cwd=tmp_path)
    assert done.returncode == 7
    assert done.stderr == ""


# Options


@pytest.fixture
def configured(here, monkeypatch):
    """Give a function that runs the command line up to the server, and gives its configuration."""

    def configured(*options: str) -> Config:
        seen: list[Config] = []
        monkeypatch.setattr(_process, "run", lambda application, config: seen.append(config) or 0)
        assert main(["serve", *options, "main:app"]) == 0
        return seen[0]

    return configured


@pytest.mark.parametrize(
    "options, name, value",
    [
        ("-b 127.0.0.1:1 --bind [::1]:2", "bind", ["127.0.0.1:1", "[::1]:2"]),
        ("--bind localhost", "bind", ["localhost"]),
        ("--bind :80", "bind", [":80"]),
        ("--bind [fe80::1%eth0]:80", "bind", ["[fe80::1%eth0]:80"]),
        ("--bind unix:/run/socket", "bind", ["unix:/run/socket"]),
        ("--bind fd://3", "bind", ["fd://3"]),
        ("-w 3", "workers", 3),
        ("--workers 3", "workers", 3),
        ("--reload", "use_reloader", True),
        ("--certfile c", "certfile", "c"),
        ("--keyfile k", "keyfile", "k"),
        ("--keyfile-password p", "keyfile_password", "p"),
        ("--ca-certs a", "ca_certs", "a"),
        ("--verify-mode CERT_OPTIONAL", "verify_mode", ssl.CERT_OPTIONAL),
        ("--access-logfile -", "accesslog", "-"),
        ("--access-log a.log", "accesslog", "a.log"),
        ("--access-logformat %(m)s", "access_log_format", "%(m)s"),
        ("--error-logfile e.log", "errorlog", "e.log"),
        ("--log-level WARNING", "loglevel", "warning"),
        ("--graceful-timeout 1.5", "graceful_timeout", 1.5),
        ("--keep-alive 0", "keep_alive_timeout", 0.0),
        ("--root-path /below/", "root_path", "/below"),
        ("--backlog 7", "backlog", 7),
        ("-p run.pid", "pid_path", "run.pid"),
        ("--pid run.pid", "pid_path", "run.pid"),
    ],
)
def test_an_option_sets_what_it_sets_in_hypercorn(configured, options, name, value):
    assert getattr(configured(*options.split()), name) == value


def test_what_is_not_given_stays_as_hypercorn_has_it(configured):
    assert vars(configured()) == vars(Config())


@pytest.mark.parametrize(
    "options, fragments",
    [
        ("", ("module:app",)),
        (":app", ("':app' is not module:attribute",)),
        ("main:", ("'main:' is not module:attribute",)),
        ("main:app:x", ("'main:app:x' is not module:attribute",)),
        ("asgi:main:app:x", ("'asgi:main:app:x' is not module:attribute",)),
        ("main --graceful-timeout -1", ("--graceful-timeout", "'-1'", "0 or more")),
        ("main --graceful-timeout nan", ("'nan'", "0 or more")),
        ("main --keep-alive soon", ("--keep-alive", "'soon' is not a number of seconds")),
        ("main -w 0", ("--workers", "'0'", "1 or more")),
        ("main -w two", ("'two'", "whole number")),
        ("main --backlog -1", ("--backlog", "'-1'")),
        ("main -b 8000", ("--bind", "'8000' names no host", "127.0.0.1:8000")),
        ("main -b localhost:http", ("'localhost:http' is not HOST:PORT",)),
        ("main -b localhost:65536", ("'localhost:65536' has a port above 65535",)),
        (f"main -b localhost:{'9' * 5000}", ("has a port above 65535",)),
        ("main --port 80", ("--port", "no such option", "--bind 127.0.0.1:80")),
        ("main --host=::", ("--host", "no such option", "--bind [::]:8000")),
        ("main -b ::1:8000", ("'::1:8000'", "[::1]:8000")),
        ("main -b [::1]", ("'[::1]'", "[::1]:8000")),
        ("main -b http://localhost", ("'http://localhost' is not HOST:PORT",)),
        ("main -b unix:", ("'unix:'", "unix:PATH")),
        ("main -b fd://one", ("'fd://one'", "fd://NUMBER")),
        ("main --log-level loud", ("--log-level", "'loud'", "debug")),
        ("main --verify-mode STRICT", ("'STRICT'", "CERT_REQUIRED")),
        ("main --app-dir missing", ("--app-dir", "'missing' is not a directory")),
        ("main --app-dir a:b", ("'a:b' has a colon",)),
        ("main --worker 2", ("--worker",)),
    ],
)
def test_an_option_that_cannot_be_right_is_refused_with_its_value(here, capsys, options, fragments):
    (here / "a:b").mkdir()
    with pytest.raises(SystemExit) as exit_:
        main(["serve", *options.split()])
    assert exit_.value.code == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    for fragment in fragments:
        assert fragment in printed


def test_without_a_command_those_that_there_are_are_named(capsys):
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "required: {serve,demo}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [(), ("serve",)])
def test_the_versions_are_shown(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--version"])
    assert exit_.value.code == 0
    pattern = r"trioloop \S+.* \(Hypercorn [\d.]+, Trio [\d.]+, Python [\d.]+\)\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)


async def test_help_does_not_import_hypercorn():
    code = """if True:
        import sys
        from trioloop.__main__ import main
        try:
            main(["--help"])
        finally:
            print("with" if "hypercorn" in sys.modules else "without", "hypercorn")
    """
    done = await finished_process(["-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: trioloop")
    assert done.stdout.endswith("without hypercorn\n")


# The demonstration


@pytest.fixture
def demo(monkeypatch):
    """Replace the demonstration, and the server; give what the server was called with."""
    module = types.ModuleType("trioloop._demo")
    vars(module)["app"] = object()
    vars(module)["banner"] = lambda url: f"the banner of {url}"
    monkeypatch.setitem(sys.modules, "trioloop._demo", module)
    monkeypatch.setattr(trioloop, "_demo", module, raising=False)
    called: dict[str, Any] = {}

    def run(app, config, *, on_listening):
        called.update(app=app is module.app, bind=config.bind, on_listening=on_listening)
        return 5

    monkeypatch.setattr(_process, "run", run)
    return called


def test_the_demonstration_is_served_on_hypercorns_own_address(demo):
    assert main(["demo"]) == 5
    assert demo["app"]
    assert demo["bind"] == ["127.0.0.1:8000"]


def test_the_demonstration_prints_its_banner_once_it_listens(demo, capsys):
    main(["demo", "--bind", "localhost:9000"])
    assert demo["bind"] == ["localhost:9000"]
    assert capsys.readouterr().out == ""
    demo["on_listening"](["http://127.0.0.1:9000"])
    assert capsys.readouterr().out == "the banner of http://127.0.0.1:9000\n"


def test_the_demonstration_refuses_an_address_that_a_browser_cannot_open(demo, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--bind", "unix:socket"])
    assert exit_.value.code == 2
    assert "'unix:socket' is not HOST:PORT" in capsys.readouterr().err


async def test_the_demonstration_serves_its_page_until_it_is_interrupted():
    async with server_process(["-m", "trioloop", "demo", "--bind", "127.0.0.1:0"]) as server:
        assert b"HTTP/1.1 200" in await answer(server.port)
        server.send_signal(signal.SIGINT)
        assert await server.wait() == 0
        assert "Traceback" not in server.output


async def test_the_demonstration_names_bind_where_its_address_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await finished_process(["-m", "trioloop", "demo", "--bind", address])
    assert done.returncode == 1
    assert_one_line(done.stderr, address, "--bind")


def test_an_interrupt_before_the_server_has_started_leaves_no_traceback(demo, monkeypatch):
    def run(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_process, "run", run)
    assert main(["demo"]) == 130
