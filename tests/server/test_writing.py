"""Writing: to clients that do not read, that leave, and what they see of it."""

import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing
from support.asgi import answer, body, serving_app, settle, start
from support.sockets import (
    MORE_THAN_BUFFERS,
    Arrivals,
    Client,
    Cut,
    Watch,
    request_bytes,
    stock_server,
)

from trioloop import App, EventStreamHandler, Failed, SendTimedOut, ServerSentEvent
from trioloop.server import _turns
from trioloop.server._connection import Connection
from trioloop.server._transport import ClientGone, SocketTransport

TLS = Path(__file__).parents[1] / "serving" / "tls"


async def test_a_client_that_reads_slowly_is_not_given_up():
    async def app(scope, receive, send):
        await answer(send, bytes(2**20))

    async with serving_app(app, receive_buffer=4096, send_timeout=0.5) as (_, client):
        await client.request()
        await client.head()
        while await client.piece() is not None:
            await trio.sleep(0.001)
        assert len(client.received) == 2**20


async def test_after_a_disconnect_send_raises_oserror_and_receive_says_so_again():
    seen: Arrivals = Arrivals()

    async def app(scope, receive, send):
        await receive()
        for _ in range(2):
            seen.put((await receive())["type"])
        for message in (start(), body(b"x", more=True), body()):
            with pytest.raises(ClientGone):
                await send(message)
        seen.put("raised")

    async with serving_app(app) as (server, client):
        await client.request()
        await settle()
        client.close()
        assert [await seen.next() for _ in range(3)] == ["http.disconnect"] * 2 + ["raised"]
        assert "Traceback" not in "".join(server.errors.all)


async def test_an_application_that_only_sends_learns_of_the_disconnect_by_oserror():
    learnt = trio.Event()

    async def app(scope, receive, send):
        await send(start())
        try:
            while True:
                await send(body(b"x", more=True))
                await trio.lowlevel.checkpoint()
        except OSError:
            learnt.set()
            raise

    async with serving_app(app) as (server, client):
        await client.request()
        await client.receive()
        await client.half_close()  # the socket takes whatever is written: only its end is seen
        await learnt.wait()
        await settle()
        assert "Traceback" not in "".join(server.errors.all), "it is no error of the application"


async def test_a_task_that_sends_in_a_loop_lets_others_run():
    sends = 0

    async def app(scope, receive, send):
        nonlocal sends
        await send(start())
        with pytest.raises(ClientGone):
            while True:
                sends += 1
                await send(body(b"x", more=True))

    async with serving_app(app) as (server, client), trio.open_nursery() as nursery:

        async def read():
            while await client.receive():
                pass

        await client.request()
        nursery.start_soon(read)
        for _ in range(10):
            assert await server.is_alive()
        nursery.cancel_scope.cancel()
    assert sends > 0


async def test_two_tasks_may_send_at_once_and_no_byte_is_torn():
    pieces = {b"a" * 100_000, b"b" * 100_000}

    async def app(scope, receive, send):
        async def send_all(piece):
            for _ in range(20):
                await send(body(piece, more=True))

        await send(start())
        async with trio.open_nursery() as nursery:
            for piece in pieces:
                nursery.start_soon(send_all, piece)
        await send(body())

    async with serving_app(app, receive_buffer=4096) as (_, client):
        await client.request()
        data = (await client.answer()).body
    assert len(data) == 4_000_000
    assert {data[place : place + 100_000] for place in range(0, len(data), 100_000)} == pieces


async def test_a_cancelled_write_cuts_the_connection():
    async def app(scope, receive, send):
        await send(start())
        with trio.move_on_after(0.05):
            await send(body(bytes(MORE_THAN_BUFFERS), more=True))
        with pytest.raises(ClientGone):
            await send(body(b"more"))

    async with serving_app(app, receive_buffer=4096) as (_, client):
        await client.request()
        with pytest.raises(trio.BrokenResourceError):
            while await client._stream.receive_some():
                await trio.sleep(0.001)


@pytest.mark.parametrize("length", [None, MORE_THAN_BUFFERS + 8])
async def test_a_write_that_is_cancelled_behind_another_cuts_the_connection(length):
    """It has been counted: without it the response would have a hole that no client can see."""
    cancelled = trio.Event()

    async def app(scope, receive, send):
        await send(start(headers=[] if length is None else [(b"content-length", b"%d" % length)]))

        async def send_much():
            with suppress(ClientGone):
                await send(body(bytes(MORE_THAN_BUFFERS), more=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_much)
            await settle()
            with trio.move_on_after(0):
                await send(body(b"hole", more=True))
            cancelled.set()
        with suppress(ClientGone):
            await send(body(b"last"))

    async with serving_app(app, receive_buffer=4096) as (_, client):
        await client.request()
        await client.request(path="/alive")  # whose answer would become a part of this one
        await cancelled.wait()
        with pytest.raises(Cut):
            await client.answer()


async def test_an_answer_before_the_body_has_come_reaches_its_client():
    """RFC 9112, 9.6: a connection that is closed on what was not read takes the answer with it."""

    async def app(scope, receive, send):
        await answer(send, b"too much", 413)

    async with serving_app(app) as (_, client), trio.open_nursery() as nursery:

        async def post():
            await client.send(request_bytes("POST", headers=[("content-length", "900000")]))
            await client.send(bytes(900_000))

        nursery.start_soon(post)
        reply = await client.answer()
        assert (reply.status, reply.body) == (413, b"too much")


# -- the extension trioloop.write -----------------------------------------------------------------


def writer(scope, way="write_soon"):
    return scope["extensions"]["trioloop.write"][way]


async def test_what_is_written_in_one_turn_goes_out_together(monkeypatch):
    monkeypatch.setattr(_turns.Turns, "may_write_at_once", lambda turns: False)
    sizes = []

    async def app(scope, receive, send):
        await send(start())
        await send(body(b"", more=True))
        send_nowait = SocketTransport.send_nowait

        def noted(self, data):
            sizes.append(len(data))
            return send_nowait(self, data)

        monkeypatch.setattr(SocketTransport, "send_nowait", noted)
        for _ in range(10):
            assert writer(scope)(b"12345")
        assert sizes == []
        await settle()
        assert sizes == [100]
        assert writer(scope, "write_nowait")(b"12345")
        assert sizes == [100, 10]
        await send(body(b"last"))

    async with serving_app(app) as (_, client):
        await client.request()
        assert (await client.answer()).body == b"12345" * 11 + b"last"


async def test_what_waits_for_the_end_of_the_turn_goes_out_with_what_is_sent(monkeypatch):
    monkeypatch.setattr(_turns.Turns, "may_write_at_once", lambda turns: False)
    sizes = []
    send_nowait = SocketTransport.send_nowait

    def noted(self, data):
        sizes.append(len(data))
        return send_nowait(self, data)

    async def app(scope, receive, send):
        await send(start())
        await send(body(b"", more=True))
        monkeypatch.setattr(SocketTransport, "send_nowait", noted)
        assert writer(scope)(b"12345")
        await send(body(b"67890", more=True))
        assert sizes == [20]
        await send(body(b"last"))

    async with serving_app(app) as (_, client):
        await client.request()
        assert (await client.answer()).body == b"1234567890last"


async def test_the_end_of_a_response_goes_out_with_the_turn_and_before_the_connection_is_closed(
    monkeypatch,
):
    seen = []
    send_nowait = SocketTransport.send_nowait

    def noted(self, data):
        seen.append(data)
        return send_nowait(self, data)

    async def app(scope, receive, send):
        monkeypatch.setattr(SocketTransport, "send_nowait", noted)
        await answer(send, b"last")
        assert seen == []

    async with serving_app(app) as (_, client):
        await client.request(headers=[("connection", "close")])
        assert (await client.answer()).body == b"last"
        assert await client.end() == b""
    assert len(seen) == 1


async def test_a_connection_is_not_closed_on_a_response_that_was_not_taken_yet(monkeypatch):
    async def app(scope, receive, send):
        monkeypatch.setattr(SocketTransport, "send_nowait", lambda self, data: 0)
        await answer(send, b"late")

    async with serving_app(app) as (_, client):
        await client.request(headers=[("connection", "close")])
        assert (await client.answer()).body == b"late"
        assert await client.end() == b""


async def test_writing_ahead_keeps_the_order_of_what_is_sent():
    async def app(scope, receive, send):
        await send(start())
        await send(body(b"1", more=True))
        writer(scope)(b"2")
        await send(body(b"3", more=True))
        writer(scope)(b"4")
        writer(scope, "write_nowait")(b"5")
        writer(scope)(b"6")
        await send(body(b"7"))

    async with serving_app(app) as (_, client):
        await client.request()
        assert (await client.answer()).body == b"1234567"


async def test_whatever_the_way_no_piece_overtakes_another():
    """Each way meets a client that takes nothing just now."""
    count = 3000

    async def app(scope, receive, send):
        await send(start())
        await send(body(b"", more=True))
        for number in range(count):
            piece = b"%08d" % number * 500
            way = ("write_nowait", "write_soon", "send")[number % 3]
            if way == "send" or not writer(scope, way)(piece):
                await send(body(piece, more=True))
        await send(body())

    async with serving_app(app, receive_buffer=4096) as (_, client):
        await client.request()
        data = (await client.answer()).body
    assert data == b"".join(b"%08d" % number * 500 for number in range(count))


async def test_a_client_that_reads_too_slowly_is_refused_more():
    refused: Arrivals = Arrivals()

    async def app(scope, receive, send):
        await send(start())
        await send(body(b"", more=True))
        taken = 0
        while writer(scope)(bytes(10_000)):
            taken += 10_000
            await trio.lowlevel.checkpoint()
        refused.put(taken)
        for way in ("write_soon", "write_nowait"):
            assert not writer(scope, way)(b"x"), "something waits for it already"
        await trio.sleep_forever()

    async with serving_app(app, receive_buffer=4096) as (_, client):
        await client.request()
        assert await refused.next() > 0
        client.reset()


async def test_writing_ahead_is_refused_where_it_does_not_belong():
    errors = []

    async def app(scope, receive, send):
        write_nowait = writer(scope, "write_nowait")
        with pytest.raises(RuntimeError, match="started"):
            write_nowait(b"before the start")
        await send(start(headers=[(b"content-length", b"2")]))
        await send(body(b"1", more=True))
        with pytest.raises(RuntimeError, match="started"):
            write_nowait(b"2")
        await send(body(b"2"))
        errors.append("none")

    async with serving_app(app) as (_, client):
        await client.request()
        assert (await client.answer()).body == b"12"
    assert errors == ["none"]


async def test_where_little_is_written_it_does_not_wait_for_the_end_of_the_turn():
    turns = _turns.Turns(start=pytest.fail)
    assert all(turns.may_write_at_once() for _ in range(_turns.AT_ONCE))


async def test_where_much_is_written_the_rest_of_it_does(monkeypatch):
    monkeypatch.setattr(_turns, "WINDOW", 60)
    turns = _turns.Turns(start=pytest.fail)
    written = sum(turns.may_write_at_once() for _ in range(10 * _turns.AT_ONCE))
    assert written < 3 * _turns.AT_ONCE


async def test_a_window_later_it_may_be_written_at_once_again(monkeypatch):
    monkeypatch.setattr(_turns, "WINDOW", 0)
    turns = _turns.Turns(start=pytest.fail)
    assert all(turns.may_write_at_once() for _ in range(10 * _turns.AT_ONCE))


async def test_a_whole_response_is_written_without_waiting():
    async def app(scope, receive, send):
        assert writer(scope, "respond")(201, [(b"x-a", b"b")], b"whole")
        assert not writer(scope, "respond")(200, [], b"again")

    async with serving_app(app) as (_, client):
        for _ in range(2):
            await client.request()
            response = await client.answer()
            assert (response.status, response.headers["x-a"], response.body) == (201, "b", b"whole")


async def test_the_beginning_of_a_response_is_written_without_waiting():
    async def app(scope, receive, send):
        assert writer(scope, "respond")(200, [], b"one", more=True)
        assert writer(scope)(b"two")
        await send(body(b"three"))

    async with serving_app(app) as (_, client):
        await client.request()
        assert (await client.answer()).body == b"onetwothree"


async def test_a_header_that_cannot_be_sent_is_an_error_and_no_response():
    async def app(scope, receive, send):
        with pytest.raises(ValueError, match="cannot be sent"):
            writer(scope, "respond")(200, [(b"x", b"a\r\nb: c")], b"")
        assert writer(scope, "respond")(200, [], b"fine")

    async with serving_app(app) as (_, client):
        await client.request()
        assert (await client.answer()).body == b"fine"


# -- other sockets --------------------------------------------------------------------------------


async def test_a_unix_socket_is_served(tmp_path):
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        if scope["type"] == "http":
            await answer(send, b"unix")

    path = tmp_path / "socket"
    async with (
        stock_server(app, bind=["127.0.0.1:0", f"unix:{path}"]),
        await trio.open_unix_socket(path) as stream,
    ):
        client = Client(stream)
        await client.request()
        assert (await client.answer()).body == b"unix"
    assert scopes[-1]["client"] is None


@pytest.fixture
def tls():
    """Settings of a server, and a client's context."""
    context = ssl.create_default_context(cafile=TLS / "localhost.pem")
    settings = {"certfile": str(TLS / "localhost.pem"), "keyfile": str(TLS / "localhost.key")}
    return settings, context


async def tcp_client(server):
    return await trio.open_tcp_stream("127.0.0.1", server.port)


async def tls_client(server, context):
    stream = await tcp_client(server)
    return trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)


async def test_tls_is_served(tls):
    settings, context = tls

    async def app(scope, receive, send):
        assert scope["scheme"] == "https"
        await send(start())
        for _ in range(10):
            await send(body(b"x" * 100_000, more=True))
        await send(body())

    async with serving_app(app, **settings) as (server, _):
        client = Client(await tls_client(server, context))
        for _ in range(2):
            await client.request()
            assert len((await client.answer()).body) == 1_000_000
        await client._stream.aclose()


async def test_the_end_of_a_tls_connection_is_announced(tls):
    """RFC 8446, 6.1: without close_notify a client takes a body that ends with it for cut."""
    settings, context = tls

    async def app(scope, receive, send):
        await send(start())
        await send(body(b"one", more=True))
        await send(body(b"two"))

    async with serving_app(app, **settings) as (server, _):
        stream = trio.SSLStream(
            await trio.open_tcp_stream("127.0.0.1", server.port),
            context,
            server_hostname="localhost",
        )
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while data := await stream.receive_some():
            received += data
        assert received.endswith(b"\r\n\r\nonetwo")
        await trio.aclose_forcefully(stream)


async def test_the_disconnect_of_a_tls_client_is_seen(tls):
    settings, context = tls
    gone = trio.Event()

    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with serving_app(app, **settings) as (server, _):
        stream = await tls_client(server, context)
        await stream.send_all(request_bytes())
        await settle()
        await stream.aclose()
        await gone.wait()


class Pouring(EventStreamHandler):
    """Sends events without end, each when the server has begun to write the one before."""

    send_timeout = 0.2

    def init(self, request):
        self.ref.send_nowait("more")

    async def info(self, message):
        await trio.testing.wait_all_tasks_blocked()
        self.ref.send_nowait(message)
        return ServerSentEvent("x" * 50_000)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("watcher", ["epoll", "trio"], indirect=True)
async def test_a_client_that_does_not_read_is_dropped_after_the_send_timeout_of_its_handler(
    monkeypatch, tls, secure
):
    """Not after that of the server, which has taken an event to write it by itself."""
    settings, context = tls
    watch, closed = Watch(), trio.Event()
    run = Connection.run

    async def noted(self):
        try:
            return await run(self)
        finally:
            closed.set()

    monkeypatch.setattr(Connection, "run", noted)
    monkeypatch.setattr(Pouring, "terminate", watch.ended)
    app = App()
    app.route("/", Pouring)
    async with stock_server(app, send_timeout=1000, **(settings if secure else {})) as server:
        stream = await (tls_client(server, context) if secure else tcp_client(server))
        client = Client(stream)
        await client.request()
        reason = await watch.reason()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, SendTimedOut)
        assert reason.error.seconds == Pouring.send_timeout
        await closed.wait()
        with pytest.raises(Cut):
            await client.answer()
        await trio.aclose_forcefully(stream)


async def test_a_handshake_that_is_none_harms_nobody(tls):
    settings, context = tls
    async with serving_app(None, **settings) as (server, client):
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        await client.end()
        other = Client(await tls_client(server, context))
        assert await other.is_served()
        await other._stream.aclose()


# -- the access log -------------------------------------------------------------------------------

FORMAT = "%(m)s %(U)s %(s)s %(b)s %({x-ended}o)s"


async def test_a_stream_is_logged_at_its_end_with_its_bytes():
    async def app(scope, receive, send):
        await send(start())
        for _ in range(3):
            await send(body(b"12345", more=True))
        await send(body())

    async with serving_app(app, access_log_format=FORMAT) as (server, client):
        await client.request(path="/stream")
        await client.answer()
        assert await server.accesses.next() == "GET /stream 200 15 complete"


async def test_a_client_that_leaves_is_logged():
    async def app(scope, receive, send):
        await send(start())
        await send(body(b"12345", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving_app(app, access_log_format=FORMAT) as (server, client):
        await client.request()
        await client.receive()
        await settle()
        client.close()
        assert await server.accesses.next() == "GET / 200 5 disconnected"


async def test_a_response_that_was_cut_is_logged():
    async def app(scope, receive, send):
        await send(start())
        await send(body(b"12345", more=True))

    async with serving_app(app, access_log_format=FORMAT) as (server, client):
        await client.request()
        assert await server.accesses.next() == "GET / 200 5 cut"


async def test_a_request_that_the_shutdown_has_ended_is_logged():
    async def app(scope, receive, send):
        await send(start())
        await send(body(b"12345", more=True))
        await trio.sleep_forever()

    async with serving_app(app, access_log_format=FORMAT) as (server, client):
        await client.request()
        await client.receive()
        server.shut_down()
        assert await server.accesses.next() == "GET / 200 5 shut-down"
