"""`trioloop._serve.serve` in this process, on a free port of the loopback interface."""

import copy
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from hypercorn.middleware import ProxyFixMiddleware
from hypercorn.utils import LifespanFailureError

from trioloop._serve import SHUTDOWN_EXTENSION, Application, _told, serve

DEADLINE = 30.0  # seconds that no test takes, unless it hangs

Waiter = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
async def deadline(nursery):
    async def expire():
        with trio.fail_after(DEADLINE):
            await trio.sleep_forever()

    nursery.start_soon(expire)


@dataclass
class Server:
    """A server in a task of its own."""

    binds: Sequence[str] = ()
    stop: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def port(self) -> int:
        return int(self.binds[0].rpartition(":")[2])


def configuration(**settings: Any) -> Config:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    for name, value in settings.items():
        setattr(config, name, value)
    return config


async def start(nursery: trio.Nursery, app: Application, **settings: Any) -> Server:
    server = Server()

    async def run(task_status):
        await serve(
            app,
            configuration(**settings),
            shutdown_trigger=server.stop.wait,
            task_status=task_status,
        )
        server.ended.set()

    server.binds = await nursery.start(run)
    return server


async def request(port: int, path: str = "/") -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return stream


async def handshake(port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return stream


async def accepts(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    read = b""
    while end not in read:
        data = await stream.receive_some()
        assert data, read
        read += data
    return read


async def read_all(stream: trio.SocketStream) -> bytes:
    async with stream:
        return b"".join([data async for data in stream])


def waiter(scope: dict[str, Any]) -> Waiter:
    wait: Waiter = scope["extensions"]["trioloop.shutdown"]["wait"]
    return wait


async def begin(send, first: bytes = b"first") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": first, "more_body": True})


class Recorder:
    """An application that keeps its scopes, and until the shutdown, its requests."""

    def __init__(self) -> None:
        self.scopes: dict[str, dict[str, Any]] = {}
        self.noticed: set[str] = set()

    async def __call__(self, scope, receive, send):
        kind = scope["type"]
        self.scopes[kind] = scope
        if kind == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
        elif kind == "http":
            await begin(send)
        else:
            await receive()
            await send({"type": "websocket.accept"})
        await waiter(scope)()
        self.noticed.add(kind)
        if kind == "lifespan":
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif kind == "http":
            await send({"type": "http.response.body", "body": b"last"})
        else:
            await send({"type": "websocket.close", "code": 1012})


async def test_every_kind_of_scope_gets_the_notice(nursery):
    app = Recorder()
    server = await start(nursery, app)
    response, websocket = await request(server.port), await handshake(server.port)
    await read_until(response, b"first")
    await read_until(websocket, b"\r\n\r\n")
    assert app.scopes.keys() == {"lifespan", "http", "websocket"}
    assert not app.noticed

    server.stop.set()
    await server.ended.wait()
    assert app.noticed == {"lifespan", "http", "websocket"}
    await response.aclose()
    await websocket.aclose()


async def test_a_deep_copy_of_the_scope_still_hears_the_notice(nursery):
    async def app(scope, receive, send):
        await recorder(copy.deepcopy(scope) if scope["type"] == "http" else scope, receive, send)

    recorder = Recorder()
    server = await start(nursery, app)
    response = await request(server.port)
    await read_until(response, b"first")
    server.stop.set()
    assert (await read_all(response)).endswith(b"4\r\nlast\r\n0\r\n\r\n")


async def test_the_notice_passes_hypercorns_proxy_middleware(nursery):
    server = await start(nursery, ProxyFixMiddleware(Recorder()))
    response = await request(server.port)
    await read_until(response, b"first")
    server.stop.set()
    assert (await read_all(response)).endswith(b"4\r\nlast\r\n0\r\n\r\n")


async def test_the_servers_own_scope_is_not_changed():
    async def app(scope, receive, send):
        seen.append(scope)

    seen: list[dict[str, Any]] = []
    scope = {"type": "http", "extensions": {"http.response.push": {}}}
    before = copy.deepcopy(scope)
    await _told(app, app, trio.Event())(scope, None, None)
    assert scope == before
    assert seen[0]["extensions"].keys() == {"http.response.push", SHUTDOWN_EXTENSION}


async def test_an_application_cannot_take_the_notice_from_another_request(nursery):
    async def app(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/clear":
            scope["extensions"]["trioloop.shutdown"].clear()
            scope["extensions"].clear()
            await begin(send)
            await send({"type": "http.response.body", "body": b""})
        else:
            await recorder(scope, receive, send)

    recorder = Recorder()
    server = await start(nursery, app)
    await read_all(await request(server.port, "/clear"))
    response = await request(server.port)
    await read_until(response, b"first")
    server.stop.set()
    assert (await read_all(response)).endswith(b"last\r\n0\r\n\r\n")


async def test_the_task_status_names_the_addresses_with_the_ports_that_were_chosen(nursery):
    server = await start(nursery, Recorder(), bind=["127.0.0.1:0", "127.0.0.1:0"])
    ports = [int(bind.removeprefix("http://127.0.0.1:")) for bind in server.binds]
    assert len(set(ports)) == 2
    assert 0 not in ports
    for port in ports:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()


async def test_an_application_that_heeds_the_notice_ends_its_response_within_the_grace(nursery):
    server = await start(nursery, Recorder(), graceful_timeout=DEADLINE)
    response = await request(server.port)
    await read_until(response, b"first")
    server.stop.set()
    assert (await read_all(response)).endswith(b"4\r\nlast\r\n0\r\n\r\n")
    await server.ended.wait()


async def test_an_application_that_ignores_the_notice_is_cut_after_the_grace(nursery):
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await begin(send)
        try:
            await trio.sleep_forever()
        finally:
            cut.append(trio.current_time())

    cut: list[float] = []
    server = await start(nursery, app, graceful_timeout=0.25)
    response = await request(server.port)
    await read_until(response, b"first")
    begun = trio.current_time()
    server.stop.set()
    rest = await read_all(response)
    await server.ended.wait()
    assert b"0\r\n\r\n" not in rest
    assert 0.25 <= cut[0] - begun < DEADLINE / 2


async def test_nobody_can_connect_while_requests_in_flight_end(nursery):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await begin(send)
            await release.wait()
            await send({"type": "http.response.body", "body": b"last"})

    release = trio.Event()
    server = await start(nursery, app, graceful_timeout=DEADLINE)
    response = await request(server.port)
    await read_until(response, b"first")
    server.stop.set()
    while await accepts(server.port):
        pass
    assert not server.ended.is_set()
    release.set()
    assert (await read_all(response)).endswith(b"last\r\n0\r\n\r\n")


async def test_the_notice_is_given_when_hypercorn_drains_for_max_requests(nursery):
    app = Recorder()
    server = await start(nursery, app, max_requests=1)
    first = await request(server.port)
    await read_until(first, b"first")
    second = await request(server.port)
    assert (await read_all(first)).endswith(b"last\r\n0\r\n\r\n")
    await server.ended.wait()
    await second.aclose()


async def test_the_notice_is_given_when_the_server_is_cancelled(nursery):
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await begin(send)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await waiter(scope)()
            noticed.set()

    noticed = trio.Event()
    async with trio.open_nursery() as inner:
        server = await start(inner, app)
        response = await request(server.port)
        await read_until(response, b"first")
        inner.cancel_scope.cancel()
    assert noticed.is_set()
    await response.aclose()


async def test_an_error_of_the_trigger_comes_out_after_the_notice(nursery):
    async def trigger():
        await broken.wait()
        raise ValueError("the trigger broke")

    async def run(task_status):
        with pytest.RaisesGroup(
            pytest.RaisesExc(ValueError, match="the trigger broke"), flatten_subgroups=True
        ):
            await serve(app, configuration(), shutdown_trigger=trigger, task_status=task_status)
        ended.set()

    app, broken, ended = Recorder(), trio.Event(), trio.Event()
    await nursery.start(run)
    broken.set()
    await ended.wait()
    assert app.noticed == {"lifespan"}


async def test_without_a_trigger_the_server_runs_until_it_is_cancelled():
    async with trio.open_nursery() as inner:
        binds = await inner.start(partial(serve, Recorder(), configuration()))
        response = await request(int(binds[0].rpartition(":")[2]))
        await read_until(response, b"first")
        inner.cancel_scope.cancel()
    await response.aclose()


async def test_an_application_that_returns_from_its_lifespan_is_served_and_drained(nursery):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await begin(send)
            await send({"type": "http.response.body", "body": b""})

    server = await start(nursery, app)
    assert b"first" in await read_all(await request(server.port))
    server.stop.set()
    await server.ended.wait()


async def test_an_application_that_ends_its_lifespan_after_the_startup_is_drained(nursery):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})

    server = await start(nursery, app)
    server.stop.set()
    await server.ended.wait()


async def test_an_application_that_raises_in_its_lifespan_is_served_without_one(nursery):
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await begin(send)
        await send({"type": "http.response.body", "body": b""})

    server = await start(nursery, app)
    assert b"first" in await read_all(await request(server.port))
    server.stop.set()
    await server.ended.wait()


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_failed_startup_is_raised_before_the_server_says_that_it_listens(nursery, swallow):
    async def app(scope, receive, send):
        await receive()
        try:
            await send({"type": "lifespan.startup.failed", "message": "no database"})
        except LifespanFailureError:
            await trio.lowlevel.checkpoint()
            cleaned.append(True)
            if not swallow:
                raise

    cleaned: list[bool] = []
    with pytest.RaisesGroup(
        pytest.RaisesExc(LifespanFailureError, match="no database"),
        allow_unwrapped=True,
        flatten_subgroups=True,
    ):
        await start(nursery, app)
    assert cleaned == [True]


async def test_a_failed_shutdown_is_raised(nursery):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "cannot save"})

    stop = trio.Event()
    stop.set()
    with pytest.raises(LifespanFailureError, match="cannot save"):
        await serve(app, configuration(), shutdown_trigger=stop.wait)


async def test_an_address_that_cannot_be_bound_is_an_error_of_the_system():
    # A descriptor that is closed: where binding fails, Hypercorn leaves a socket unclosed.
    with socket.create_server(("127.0.0.1", 0)) as gone:
        bind = [f"fd://{gone.fileno()}"]
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        await serve(Recorder(), configuration(bind=bind))
