"""What Hypercorn 0.18's own Trio worker does, as measured, with plain ASGI applications.

trioloop's design rests on each of these facts. A test that fails here says that the platform has
changed, not that trioloop is wrong: then look up what was built on it, under the number.
"""

from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypercorn.middleware import ProxyFixMiddleware
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from support.sockets import (
    MORE_THAN_BUFFERS,
    Arrivals,
    Cut,
    request_bytes,
    stock_server,
)
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    Pong,
    TextMessage,
)
from wsproto.events import Request as Handshake

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}


def body(data=b"", *, more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def only_http(serve):
    """An application from its function for requests; it takes part in the lifespan."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        else:
            await serve(scope, receive, send)

    return app


@asynccontextmanager
async def app_and_client(serve, *, receive_buffer=None, **settings):
    async with (
        stock_server(only_http(serve), **settings) as server,
        server.client(receive_buffer=receive_buffer) as client,
    ):
        yield server, client


async def answer_alive(scope, send) -> bool:
    """The application's part of `StockServer.is_alive`."""
    if scope["path"] != "/alive":
        return False
    await send(START)
    await send(body(b"alive"))
    return True


# -- P1 -------------------------------------------------------------------------------------------


async def test_p1_a_send_to_a_client_that_does_not_read_cannot_be_cancelled():
    sending = trio.CancelScope()
    returned = trio.Event()

    async def app(scope, receive, send):
        await send(START)
        with sending:
            await send(body(bytes(MORE_THAN_BUFFERS), more=True))
        returned.set()
        await send(body())

    async with app_and_client(app, receive_buffer=4096) as (_, client):
        await client.request()
        await client.head()
        await trio.testing.wait_all_tasks_blocked(0.1)
        sending.cancel()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not returned.is_set()
        assert len(await client.rest()) == MORE_THAN_BUFFERS  # it was only waiting for a reader
        assert returned.is_set()
        assert not sending.cancelled_caught


async def test_p1_a_send_to_a_client_that_does_not_read_holds_the_shutdown():
    cancelled = trio.Event()

    async def app(scope, receive, send):
        async def wait_for_cancellation():
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()

        await send(START)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_cancellation)
            await send(body(bytes(MORE_THAN_BUFFERS), more=True))

    async with app_and_client(app, receive_buffer=4096, graceful_timeout=0.01) as (server, client):
        await client.request()
        await client.head()
        server.shut_down()
        await cancelled.wait()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not server.ended.is_set()
        client.reset()
        await server.ended.wait()


async def test_p1_a_send_of_another_task_ends_when_the_call_returns():
    returned = trio.Event()

    async def write(send):
        await send(START)
        await send(body(bytes(MORE_THAN_BUFFERS), more=True))  # raises nothing
        returned.set()

    async with trio.open_nursery() as nursery:

        async def app(scope, receive, send):
            nursery.start_soon(write, send)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert not returned.is_set()

        async with app_and_client(app, receive_buffer=4096) as (_, client):
            await client.request()
            await client.head()
            await returned.wait()
            with pytest.raises(Cut):
                await client.rest()


async def test_p1_a_call_that_returns_while_its_head_is_being_written_breaks_the_whole_server():
    """The worker then tries to answer 500, which h11 refuses; nobody catches that."""
    large = {**START, "headers": [(b"x-large", b"x" * MORE_THAN_BUFFERS)]}

    async with trio.open_nursery() as nursery:

        async def app(scope, receive, send):
            nursery.start_soon(send, large)
            await trio.testing.wait_all_tasks_blocked(0.1)

        with pytest.RaisesGroup(
            pytest.RaisesExc(Exception, match="can't handle event"), flatten_subgroups=True
        ):
            async with app_and_client(app, receive_buffer=4096) as (server, client):
                await client.request()
                await server.ended.wait()


# -- P2 -------------------------------------------------------------------------------------------


async def test_p2_an_app_that_does_not_receive_stops_the_reading_of_its_connection():
    read = trio.Event()
    total = 0

    async def app(scope, receive, send):
        nonlocal total
        await read.wait()
        more = True
        while more:
            message = await receive()
            total += len(message["body"])
            more = message["more_body"]
        await send(START)
        await send(body())

    sent = trio.Event()
    async with app_and_client(app) as (_, client), trio.open_nursery() as nursery:

        async def post():
            await client.request("POST", body=bytes(MORE_THAN_BUFFERS))
            sent.set()

        nursery.start_soon(post)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not sent.is_set()
        read.set()
        assert (await client.answer()).status == 200
        assert total == MORE_THAN_BUFFERS


async def test_p2_an_app_is_ten_events_ahead_of_its_connection():
    messages: Arrivals[Any] = Arrivals()
    called = trio.Event()
    read = trio.Event()

    async def app(scope, receive, send):
        called.set()
        await read.wait()
        while True:
            messages.put(await receive())

    async with app_and_client(app) as (server, client):
        chunks = b"1\r\nx\r\n" * 10  # and the last event is that the client has left
        head = request_bytes("POST", headers=[("transfer-encoding", "chunked")])
        await client.send(head + chunks)
        await called.wait()
        client.close()
        await server.accesses.next()  # the server knows that the client has left ...
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not server.ended.is_set()
        read.set()
        for _ in range(10):
            assert (await messages.next())["type"] == "http.request"
        assert (await messages.next())["type"] == "http.disconnect"  # ... but had no room to say so


# -- P3 -------------------------------------------------------------------------------------------


async def test_p3_starlettes_is_disconnected_is_always_false_on_trio():
    asked: Arrivals[Any] = Arrivals()
    gone = trio.Event()

    async def app(scope, receive, send):
        request = Request(scope, receive)
        await receive()  # the body
        await gone.wait()
        asked.put(await request.is_disconnected())
        asked.put(await receive())

    async with app_and_client(app) as (server, client):
        await client.request()
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.close()
        await server.accesses.next()  # the server knows that the client has left
        await trio.testing.wait_all_tasks_blocked(0.01)
        gone.set()
        assert await asked.next() is False
        assert await asked.next() == {"type": "http.disconnect"}


# -- P4 -------------------------------------------------------------------------------------------


async def test_p4_an_app_hears_of_the_shutdown_only_by_being_cancelled():
    events: Arrivals[str] = Arrivals()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                events.put((await receive())["type"])
                await send({"type": f"lifespan.{step}.complete"})
            return
        try:
            while True:
                events.put((await receive())["type"])
        except trio.Cancelled:
            events.put("cancelled")
            raise

    async with stock_server(app, graceful_timeout=0.05) as server, server.client() as client:
        await client.request()
        while await events.next() != "http.request":
            pass
        server.shut_down()
        assert await client.end() == b""
        await server.ended.wait()
    assert events.all == ["lifespan.startup", "http.request", "cancelled", "lifespan.shutdown"]


async def test_p4_a_request_may_finish_in_the_grace_and_its_connection_is_closed_then():
    called, go_on = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        called.set()
        await go_on.wait()
        await send(START)
        await send(body(b"late"))

    async with app_and_client(app, graceful_timeout=60) as (server, client):
        await client.request()
        await called.wait()
        server.shut_down()
        await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
        assert (await client.answer()).body == b"late"
        assert await client.end() == b""
        await server.ended.wait()


async def test_p4_nothing_in_the_scope_tells_of_the_shutdown():
    scopes: Arrivals[Any] = Arrivals()

    async def app(scope, receive, send):
        scopes.put(scope)

    async with app_and_client(app) as (_, client):
        await client.request()
        assert (await scopes.next())["extensions"] == {}


# -- P4, P5, P9: WebSockets -----------------------------------------------------------------------


class WebSocket:
    """A client of one WebSocket, on one of our connections."""

    def __init__(self, client) -> None:
        self._client = client
        self._protocol = WSConnection(ConnectionType.CLIENT)

    async def send(self, event) -> None:
        await self._client.send(self._protocol.send(event))

    async def receive(self):
        """The next event; `None` when the connection has ended without a closing frame."""
        while True:
            for event in self._protocol.events():
                return event
            data = await self._client.receive()
            if not data:
                return None
            self._protocol.receive_data(data)


@asynccontextmanager
async def web_socket(**settings):
    """An application that accepts, and puts down all that it receives."""
    received: Arrivals[Any] = Arrivals()

    async def app(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            received.put(message)
            if message["type"] == "websocket.disconnect":
                return

    async with app_and_client(app, **settings) as (server, client):
        ws = WebSocket(client)
        await ws.send(Handshake(host="test", target="/"))
        assert isinstance(await ws.receive(), AcceptConnection)
        yield server, ws, received


async def test_p4_a_web_socket_gets_no_closing_frame_when_the_server_goes_down():
    async with web_socket(graceful_timeout=0.05) as (server, ws, _):
        server.shut_down()
        assert await ws.receive() is None
        await server.ended.wait()


async def test_p5_the_code_and_reason_of_a_client_that_closes_are_lost():
    async with web_socket() as (_, ws, received):
        await ws.send(CloseConnection(code=4000, reason="because"))
        assert await received.next() == {"type": "websocket.disconnect", "code": 1006}


async def test_p9_pings_are_sent_but_nobody_minds_when_they_are_not_answered():
    async with web_socket(websocket_ping_interval=0.02) as (_, ws, received):
        for _ in range(5):
            assert isinstance(await ws.receive(), Ping)
        assert received.all == []
        await ws.send(TextMessage("alive"))
        assert (await received.next())["text"] == "alive"


async def test_p9_pings_and_pongs_never_reach_the_app():
    async with web_socket() as (_, ws, received):
        await ws.send(Ping(b"are you there?"))
        answer = await ws.receive()
        assert isinstance(answer, Pong)
        assert bytes(answer.payload) == b"are you there?"
        await ws.send(Pong(b"unasked"))
        await ws.send(TextMessage("after them"))
        assert (await received.next())["text"] == "after them"


# -- P6 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("started", [False, True], ids=["before the start", "after the start"])
async def test_p6_what_is_sent_after_a_disconnect_is_swallowed(started):
    called, done = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        called.set()
        if started:
            await send(START)
            await send(body(b"first", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass
        if not started:
            await send(START)
        for _ in range(3):
            await send(body(b"x" * 1000, more=True))
        await send(body())
        done.set()

    async with app_and_client(app) as (server, client):
        await client.request()
        await called.wait()
        client.reset()
        await done.wait()
        assert len(server.errors.all) == 1, "only that it listens"


# -- P7 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "half-close"])
async def test_p7_a_disconnect_behind_pipelined_bytes_is_not_seen(way):
    events: Arrivals[str] = Arrivals()
    go_on = trio.Event()

    async def app(scope, receive, send):
        events.put(scope["path"])

        async def listen():
            while True:
                events.put((await receive())["type"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await go_on.wait()
            nursery.cancel_scope.cancel()
        await send(START)
        await send(body())

    async with app_and_client(app) as (_, client):
        await client.send(request_bytes(path="/first") + request_bytes(path="/second"))
        assert await events.next() == "/first"
        assert await events.next() == "http.request"
        if way == "close":
            client.close()
        else:
            await client.half_close()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert events.all == ["/first", "http.request"]
        go_on.set()
        assert await events.next() == "/second"


async def test_p7_a_write_finds_a_reset_behind_pipelined_bytes():
    received: Arrivals[Any] = Arrivals()

    async def app(scope, receive, send):
        await send(START)
        async with trio.open_nursery() as nursery:

            async def write():
                while True:
                    await send(body(b"x" * 1000, more=True))
                    await trio.sleep(0.01)

            nursery.start_soon(write)
            while received.all[-1:] != ["http.disconnect"]:
                received.put((await receive())["type"])
            nursery.cancel_scope.cancel()

    async with app_and_client(app) as (_, client):
        await client.send(request_bytes() * 2)
        await client.head()
        client.reset()
        assert await received.next() == "http.request"
        assert await received.next() == "http.disconnect"


async def test_p7_a_connection_that_was_reset_behind_pipelined_bytes_is_kept_for_ever():
    """Its reader waits for a turn that nobody gives it: a task and a socket for each, until the end."""
    ended: Arrivals[str] = Arrivals()

    async def app(scope, receive, send):
        async def write():
            while True:
                await send(body(b"x", more=True))
                await trio.sleep(0.01)

        await send(START)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()
        ended.put(scope["path"])

    async with stock_server(only_http(app)) as server:
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(3):
            async with server.client() as client:
                await client.send(request_bytes() * 2)
                await client.head()
                client.reset()
                await ended.next()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert trio.lowlevel.current_statistics().tasks_living == before + 3


async def test_p7_a_half_close_counts_as_a_disconnect_although_it_could_be_answered():
    received: Arrivals[Any] = Arrivals()

    async def app(scope, receive, send):
        while received.all[-1:] != ["http.disconnect"]:
            received.put((await receive())["type"])
        await send(START)
        await send(body(b"still read"))

    async with app_and_client(app) as (_, client):
        await client.request()
        assert await received.next() == "http.request"
        await client.half_close()
        assert await received.next() == "http.disconnect"
        assert (await client.answer()).body == b"still read"
        assert await client.end() == b""


# -- P8 -------------------------------------------------------------------------------------------


async def test_p8_head_runs_an_app_for_its_full_life():
    events: Arrivals[str] = Arrivals()
    go_on = trio.Event()

    async def app(scope, receive, send):
        await send(START)
        await send(body(b"hidden", more=True))
        events.put("running")
        await go_on.wait()
        await send(body(b"hidden too"))
        events.put("ended")

    async with app_and_client(app) as (_, client):
        await client.request("HEAD")
        await client.head("HEAD")
        assert await events.next() == "running"
        go_on.set()
        assert await events.next() == "ended"
        await client.request("HEAD")  # no byte of the body was between the heads
        await client.head("HEAD")


# -- P10 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
async def test_p10_an_app_that_ends_without_a_response_gets_500_and_a_closed_connection(raises):
    async def app(scope, receive, send):
        if raises:
            raise RuntimeError("on purpose")

    async with app_and_client(app) as (server, client):
        await client.request()
        answer = await client.answer()
        assert (answer.status, answer.body) == (500, b"")
        assert answer.headers["connection"] == "close"
        assert await client.end() == b""
        assert any("RuntimeError" in line for line in server.errors.all) is raises


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
async def test_p10_an_app_that_ends_within_its_response_has_it_cut_without_a_last_chunk(raises):
    async def app(scope, receive, send):
        if await answer_alive(scope, send):
            return
        await send(START)
        await send(body(b"first", more=True))
        if raises:
            raise RuntimeError("on purpose")

    async with app_and_client(app) as (server, client):
        await client.request()
        await client.head()
        with pytest.raises(Cut):
            await client.rest()
        assert client.received == b"first"
        assert await server.is_alive()


async def test_p10_the_head_goes_out_before_there_is_a_body():
    go_on = trio.Event()

    async def app(scope, receive, send):
        await send(START)
        await go_on.wait()
        await send(body(b"later"))

    async with app_and_client(app) as (_, client):
        await client.request()
        assert (await client.head()).status_code == 200
        go_on.set()
        assert await client.rest() == b"later"


async def test_p10_a_complete_response_is_followed_by_a_disconnect_event():
    received: Arrivals[Any] = Arrivals()

    async def app(scope, receive, send):
        received.put(await receive())
        await send(START)
        await send(body(b"complete"))
        received.put(await receive())

    async with app_and_client(app) as (_, client):
        await client.request()
        assert (await client.answer()).body == b"complete"
        assert (await received.next())["type"] == "http.request"
        assert await received.next() == {"type": "http.disconnect"}


async def test_p10_after_a_disconnect_event_there_is_none_to_be_received():
    received: Arrivals[Any] = Arrivals()
    async with trio.open_nursery() as nursery:

        async def app(scope, receive, send):
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.start_soon(receive_again, receive)

        async def receive_again(receive):
            received.put("asked")
            received.put(await receive())

        async with app_and_client(app) as (_, client):
            await client.request()
            client.close()
            await received.next()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert received.all == ["asked"]
        nursery.cancel_scope.cancel()


# -- P11 ------------------------------------------------------------------------------------------


async def test_p11_a_header_in_utf_8_arrives_as_its_bytes_and_starlette_reads_latin_1():
    seen: Arrivals[Any] = Arrivals()

    async def app(scope, receive, send):
        seen.put(dict(scope["headers"])[b"last-event-id"])
        seen.put(Request(scope).headers["last-event-id"])

    async with app_and_client(app) as (_, client):
        await client.send("GET / HTTP/1.1\r\nhost: test\r\nLast-Event-ID: é✓\r\n\r\n".encode())
        assert await seen.next() == "é✓".encode()
        assert await seen.next() == "é✓".encode().decode("latin-1")


# -- P12 ------------------------------------------------------------------------------------------


async def test_p12_starlette_does_not_forward_the_lifespan_to_mounted_apps():
    seen = []

    async def mounted(scope, receive, send):
        seen.append(scope["type"])
        await send(START)
        await send(body())

    app = Starlette(routes=[Mount("/", app=mounted)])
    async with stock_server(app) as server, server.client() as client:
        await client.request()
        assert (await client.answer()).status == 200
        server.shut_down()
        await server.ended.wait()
    assert seen == ["http"]


async def test_hypercorns_proxy_middleware_gives_the_app_a_deep_copy_of_the_scope():
    """So the hub hangs on the application, and a shutdown notice is a plain function."""
    seen: Arrivals[Any] = Arrivals()
    shared = {"a": ["list"]}

    async def app(scope, receive, send):
        seen.put(scope["state"]["shared"])
        await send(START)
        await send(body())

    async def with_state(scope, receive, send):
        scope["state"]["shared"] = shared
        await ProxyFixMiddleware(app)(scope, receive, send)

    async with app_and_client(with_state) as (_, client):
        await client.request()
        assert (await client.answer()).status == 200
    copy = await seen.next()
    assert copy == shared
    assert copy is not shared
