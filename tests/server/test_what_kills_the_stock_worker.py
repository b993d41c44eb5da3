"""What ends the whole process of the stock worker, or hangs it. Ours ends the connection at most."""

import h2.config
import h2.connection
import pytest
import trio
import trio.testing
from hyperframe.frame import DataFrame, HeadersFrame, PriorityFrame
from support.asgi import (
    Application,
    answer,
    body,
    read_body,
    start,
)
from support.sockets import MORE_THAN_BUFFERS, request_bytes, stock_server
from support.websocket_peer import frame, handshake_bytes

from trioloop.server._transport import ClientGone

BOTH = pytest.mark.parametrize("worker", ["stock", "trioloop"], indirect=True)


def http2(*more):
    """The beginning of a connection of HTTP/2, and frames."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    return connection.data_to_send() + b"".join(more)


def headers_frame(headers, stream_id=1, flags=("END_HEADERS", "END_STREAM")):
    from hpack import Encoder

    made = HeadersFrame(stream_id, Encoder().encode(headers))
    made.flags |= set(flags)
    return made.serialize()


GET = [(":method", "GET"), (":scheme", "http"), (":authority", "x")]


def data_after_the_response():
    late = DataFrame(1, b"late")
    late.flags.discard("END_STREAM")
    return http2(headers_frame([*GET, (":path", "/")], flags=("END_HEADERS",))), late.serialize()


KILLS = {
    "a Connection that is not ASCII": [
        handshake_bytes().replace(b"connection: Upgrade", b"connection: Upgrade, \xe9")
    ],
    "a subprotocol that is not ASCII": [
        handshake_bytes(headers=[("sec-websocket-protocol", "\xe9")])
    ],
    "an extension that is not ASCII": [
        handshake_bytes(headers=[("sec-websocket-extensions", "\xe9")])
    ],
    "a frame in the packet of the handshake": [handshake_bytes() + frame(1, b"early")],
    "an HTTP/2 path that is not ASCII": [http2(headers_frame([*GET, (":path", b"/\xe9")]))],
    "an HTTP/2 CONNECT without a path": [
        http2(headers_frame([(":method", "CONNECT"), (":authority", "x")]))
    ],
    "1,001 priorities": [
        http2(*(PriorityFrame(2 * number + 1).serialize() for number in range(1001)))
    ],
    "HTTP/2 data after the response": list(data_after_the_response()),
}


@BOTH
@pytest.mark.parametrize("packets", KILLS.values(), ids=KILLS)
async def test_only_ours_survives_what_a_client_writes(worker, packets):
    async def at_once(scope, receive, send):
        await answer(send)

    alive = False
    try:
        async with stock_server(Application(at_once)) as server, server.client() as client:
            for packet in packets:
                await client.send(packet)
                with trio.move_on_after(0.3):  # until it has nothing more to say
                    while await client.receive():
                        pass
            await trio.testing.wait_all_tasks_blocked(0.02)
            alive = await server.is_alive()
    except* Exception:
        alive = False
    assert alive == (worker == "trioloop")


@BOTH
async def test_only_ours_survives_an_application_that_accepts_a_subprotocol_that_was_not_offered(
    worker,
):
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "nobody's"})

    alive = False
    try:
        async with stock_server(Application(None, websocket)) as server, server.client() as client:
            await client.send(handshake_bytes())
            await client.receive()
            await trio.testing.wait_all_tasks_blocked(0.02)
            alive = await server.is_alive()
            if alive:
                assert "was not offered" in "".join(server.errors.all)
    except* Exception:
        alive = False
    assert alive == (worker == "trioloop")


# -- hangs ----------------------------------------------------------------------------------------


@BOTH
async def test_only_under_ours_a_timeout_frees_a_send_to_a_client_that_does_not_read(worker):
    returned = trio.Event()
    sending = trio.CancelScope()

    async def app(scope, receive, send):
        await send(start())
        with sending:
            await send(body(bytes(MORE_THAN_BUFFERS), more=True))
        returned.set()

    async with (
        stock_server(Application(app)) as server,
        server.client(receive_buffer=4096) as client,
    ):
        await client.request()
        await client.receive()
        await trio.testing.wait_all_tasks_blocked(0.02)
        sending.cancel()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert returned.is_set() == (worker == "trioloop")
        client.reset()


@BOTH
async def test_only_ours_ends_after_the_grace_although_a_client_does_not_read(worker):
    async def app(scope, receive, send):
        await send(start())
        await send(body(bytes(MORE_THAN_BUFFERS), more=True))

    async with (
        stock_server(Application(app), graceful_timeout=0.05) as server,
        server.client(receive_buffer=4096) as client,
    ):
        await client.request()
        await client.receive()
        server.shut_down()
        with trio.move_on_after(2 if worker == "stock" else 30):
            await server.ended.wait()
        assert server.ended.is_set() == (worker == "trioloop")
        client.reset()


@BOTH
async def test_only_under_ours_a_second_receive_says_that_the_client_has_gone(worker):
    twice = trio.Event()

    async def app(scope, receive, send):
        for _ in range(2):
            while (await receive())["type"] != "http.disconnect":
                pass
        twice.set()

    async with stock_server(Application(app)) as server, server.client() as client:
        await client.request()
        await trio.testing.wait_all_tasks_blocked(0.02)
        client.close()
        with trio.move_on_after(0.5 if worker == "stock" else 30):
            await twice.wait()
        assert twice.is_set() == (worker == "trioloop")


@BOTH
async def test_only_ours_hears_of_a_client_that_leaves_behind_pipelined_bytes(worker):
    gone = trio.Event()

    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with stock_server(Application(app)) as server, server.client() as client:
        await client.send(request_bytes() * 2)
        await trio.testing.wait_all_tasks_blocked(0.02)
        client.close()
        with trio.move_on_after(0.5 if worker == "stock" else 30):
            await gone.wait()
        assert gone.is_set() == (worker == "trioloop")


@BOTH
async def test_only_ours_hears_of_a_client_that_leaves_behind_more_than_ten_unread_events(worker):
    """The stock worker stops reading its connection, and never hears of the client's end."""
    called, go_on, done = trio.Event(), trio.Event(), trio.Event()

    async def app(scope, receive, send):
        called.set()
        await go_on.wait()
        await send(start())
        with pytest.raises(ClientGone):
            while True:
                await send(body(b"x" * 1000, more=True))
                await trio.lowlevel.checkpoint()
        done.set()

    head = request_bytes("POST", headers=[("transfer-encoding", "chunked")])
    async with stock_server(Application(app)) as server, server.client() as client:
        await client.send(head + b"1\r\nx\r\n" * 20)
        await called.wait()
        client.reset()
        await trio.testing.wait_all_tasks_blocked(0.02)
        go_on.set()
        with trio.move_on_after(0.5 if worker == "stock" else 30):
            await done.wait()
        assert done.is_set() == (worker == "trioloop")


@BOTH
async def test_only_under_ours_http2_has_backpressure(worker):
    """A closed window: the stock worker takes as much as there is memory."""
    sent = 0
    called = trio.Event()

    async def app(scope, receive, send):
        nonlocal sent
        called.set()
        await send(start())
        while sent < 2**24:
            await send(body(bytes(2**16), more=True))
            sent += 2**16

    async with stock_server(Application(app)) as server, server.client() as client:
        await client.send(http2(headers_frame([*GET, (":path", "/")])))
        await called.wait()
        before = -1
        while sent != before:
            before = sent
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert (sent < 2**20) == (worker == "trioloop")
        client.reset()


@BOTH
async def test_only_under_ours_http2_requests_whose_connection_has_ended_leave_no_tasks(worker):
    """Each waits for its body; the stock worker's queues are full, so none hears of the end."""
    running = 0

    async def app(scope, receive, send):
        nonlocal running
        running += 1
        try:
            await trio.lowlevel.checkpoint()
            await send(start())
            while True:
                await send(body(bytes(2**16), more=True))
        except OSError:
            pass
        finally:
            running -= 1

    async with stock_server(Application(app)) as server, server.client() as client:
        streams = [headers_frame([*GET, (":path", "/")], number) for number in range(1, 41, 2)]
        await client.send(http2(*streams))
        while running < 20:
            await trio.sleep(0.01)
        await client.half_close()
        with trio.move_on_after(0.5 if worker == "stock" else 30):
            while running:
                await trio.sleep(0.01)
        assert (running == 0) == (worker == "trioloop")
        client.reset()


async def test_the_body_of_an_http2_request_waits_for_its_application():
    """No more than a window of it is read ahead."""
    go_on = trio.Event()
    sizes = []

    async def app(scope, receive, send):
        await go_on.wait()
        sizes.append(len(await read_body(receive)))
        await answer(send)

    async with stock_server(Application(app)) as server, server.client() as client:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        connection.initiate_connection()
        post = [(":method", "POST"), *GET[1:], (":path", "/")]
        connection.send_headers(1, post)
        await client.send(connection.data_to_send())
        left = 200_000
        with trio.move_on_after(0.3):
            while True:
                connection.receive_data(await client.receive())
        assert connection.local_flow_control_window(1) <= 65_535
        while left:
            size = min(left, connection.local_flow_control_window(1), 16_384)
            if size:
                connection.send_data(1, bytes(size), end_stream=size == left)
                left -= size
                await client.send(connection.data_to_send())
            else:
                go_on.set()
                connection.receive_data(await client.receive())
        while not sizes:
            await client.receive()
        assert sizes == [200_000]


async def test_an_http2_client_that_takes_nothing_is_given_up_after_send_timeout():
    raised = trio.Event()

    async def app(scope, receive, send):
        await send(start())
        try:
            while True:
                await send(body(bytes(2**16), more=True))
        except OSError:
            raised.set()

    async with (
        stock_server(Application(app), send_timeout=0.1) as server,
        server.client() as client,
    ):
        await client.send(http2(headers_frame([*GET, (":path", "/")])))
        await raised.wait()
        assert await server.is_alive()
        client.reset()


@BOTH
async def test_only_ours_ends_after_the_grace_although_an_http2_client_takes_nothing(worker):
    async def app(scope, receive, send):
        await send(start())
        while True:
            await send(body(bytes(2**16), more=True))
            await trio.lowlevel.checkpoint()

    async with (
        stock_server(Application(app), graceful_timeout=0.05) as server,
        server.client(receive_buffer=4096) as client,
    ):
        window = 2**31 - 2**16
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        connection.initiate_connection()
        connection.increment_flow_control_window(window)
        connection.send_headers(1, [*GET, (":path", "/")], end_stream=True)
        connection.increment_flow_control_window(window, 1)
        await client.send(connection.data_to_send())
        await client.receive()
        server.shut_down()
        with trio.move_on_after(1 if worker == "stock" else 30):
            await server.ended.wait()
        assert server.ended.is_set() == (worker == "trioloop")
        client.reset()
