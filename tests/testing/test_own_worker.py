"""The server of ``trioloop serve`` itself, on sockets in memory and virtual time."""

import math

import pytest
import trio
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from trioloop import (
    App,
    Chunk,
    Continue,
    Crashed,
    Disconnected,
    EventStreamHandler,
    Failed,
    LoopHandler,
    MessageTooLarge,
    Overflowed,
    Ping,
    Reply,
    Send,
    SendTimedOut,
    ServerSentEvent,
    StartResponse,
    WebSocketHandler,
)
from trioloop.server import _worker as server_worker
from trioloop.server._exchange import Exchange
from trioloop.server._settings import Settings
from trioloop.server._turns import AT_ONCE
from trioloop.testing import FakeClients, LawBroken, Simulation
from trioloop.testing._client_wire import ResponseReader, ServerError, frame_of
from trioloop.testing._network import MemoryNews, MemorySocket
from trioloop.testing._own_worker import OwnWorker

PATIENCE = Settings().send_timeout


class Poll(LoopHandler[object]):
    """Answers with what it is told."""

    idle_timeout = math.inf

    def info(self, message):
        return message


class Events(EventStreamHandler[object]):
    """Writes what it is told."""

    idle_timeout = keepalive = math.inf

    def info(self, message):
        return message() if callable(message) else message


class Echo(WebSocketHandler[object]):
    """Says what it is told."""

    idle_timeout = math.inf
    max_message_size = 20
    mailbox_size = 2

    async def info(self, message):
        if isinstance(message, float):
            await trio.sleep(message)
            return None
        return message

    def receive(self, data):
        return Send(data)


def raise_now():
    raise ArithmeticError("planted")


async def read_all(request):
    return PlainTextResponse(str(len(await request.body())))


async def raise_before(request):
    raise ArithmeticError("planted")


async def count(request):
    async def pieces():
        for number in range(3):
            yield str(number) * 5

    return StreamingResponse(pieces())


def make_app():
    app = App()
    app.route("/poll", Poll, methods=None)
    app.route("/events", Events)
    app.route("/echo", Echo)
    app.router.routes += [
        Route("/read", read_all, methods=["POST"]),
        Route("/crash", raise_before),
        Route("/count", count),
    ]
    return app


@pytest.fixture
def sim():
    with Simulation(make_app(), laws=True) as simulation:
        yield simulation


# -- which server -----------------------------------------------------------------------------------


@pytest.mark.parametrize("worker, name", [("trioloop", "client 1"), ("stock", "Looking")])
def test_the_handler_lives_in_the_task_of_its_connection_under_trioloops_own(worker, name):
    tasks = []

    async def look():
        tasks.append(trio.lowlevel.current_task().name)

    class Looking(LoopHandler):
        async def init(self, request):
            await look()

    app = App()
    app.route("/", Looking)
    with Simulation(app, worker=worker) as simulation:
        simulation.get("/")
    assert tasks == [name]


def test_there_is_no_third_worker():
    with pytest.raises(ValueError, match="worker= is 'trioloop' or 'stock', not 'uvicorn'"):
        Simulation(make_app(), worker="uvicorn")


def test_trioloops_own_always_tells_of_its_shutdown():
    with pytest.raises(ValueError, match="notice=False is for worker='stock'"):
        Simulation(make_app(), notice=False)
    with pytest.raises(ValueError, match="notice=False is for worker='stock'"):
        FakeClients()(make_app(), notice=False)


# -- what goes over the wire ------------------------------------------------------------------------


def test_other_applications_are_served_too(sim):
    assert sim.get("/count").text == "000001111122222"
    assert sim.post("/read", body="x" * 200_000).text == "200000"
    crashed = sim.get("/crash")
    assert (crashed.status, crashed.complete) == (500, True)
    assert str(crashed.connection.error) == "planted"
    assert sim.get("/nowhere").status == 404
    assert sim.head("/count").complete


@pytest.mark.parametrize("worker", ["trioloop", "stock"])
def test_a_target_is_quoted_as_browsers_do(worker):
    async def echo(request):
        return JSONResponse([request.path_params["rest"], dict(request.query_params)])

    app = App()
    app.router.routes += [Route("/{rest:path}", echo)]
    with Simulation(app, worker=worker) as simulation:
        assert simulation.get("/ä b%20c?d=ö e%20f").json() == ["ä b c", {"d": "ö e f"}]


def test_a_body_can_come_in_pieces(sim):
    answer = sim.request("POST", "/read", body=None)
    answer.send("x" * 3)
    answer.send("y" * 4)
    assert answer.pending
    answer.send("z", more=False)
    assert (answer.text, answer.complete) == ("8", True)


@pytest.mark.parametrize("worker", ["trioloop", "stock"])
def test_behind_the_answer_terminate_waits_for_no_body(worker):
    read = []

    class Curious(Poll):
        async def terminate(self, reason):
            with pytest.raises(ClientDisconnect):
                await self.request.body()
            read.append(trio.current_time())

    app = App()
    app.route("/", Curious)
    with Simulation(app, worker=worker) as sim:
        answer = sim.request("POST", "/", body=None)
        sim.ref(answer).try_send(Reply(200, "early"))
        assert (answer.text, read) == ("early", [sim.now()])


def test_a_client_sees_what_the_application_has_sent_and_the_length(sim):
    poll = sim.get("/poll")
    sim.ref(poll).send(Reply(200, "x", headers={"x-mine": "1"}))
    assert poll.headers.items() >= {"x-mine": "1", "content-length": "1"}.items()
    assert not poll.headers.keys() & {"date", "server", "transfer-encoding", "connection"}


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_of_any_size_go_both_ways(size):
    class Large(Echo):
        max_message_size = 2**20

    app = App()
    app.route("/", Large)
    with Simulation(app) as simulation:
        websocket = simulation.websocket("/")
        websocket.send(b"x" * size)
        websocket.send("x" * size)
        assert websocket.messages == [b"x" * size, "x" * size]


def test_a_ping_is_answered(sim):
    websocket = sim.websocket("/echo")
    sim.ref(websocket).send([Ping(b"?"), Continue(receive_timeout=5)])
    sim.advance(60)
    assert websocket.reason is None
    websocket.stall()
    sim.advance(60)
    assert websocket.reason is not None


def read(*pieces, seen):
    """A client reads a response piece by piece."""
    reader = ResponseReader("GET")
    for piece in pieces:
        reader.feed(piece, seen)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n1\r\nxx\r\n",
        b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n0\r\ntrailer: no\r\n\r\n",
        b"HTTP/1.1 101 \r\n\r\n\x80\x00",
        b"HTTP/1.1 200 \r\ncontent-length: 1\r\n\r\nxx",
        b"HTTP/1.1 204 \r\n\r\nx",
    ],
)
def test_a_server_that_writes_nonsense_is_found_out(data):
    with pytest.raises(ServerError):
        read(data, seen=[])


def test_what_comes_before_nonsense_is_seen():
    seen = []
    with pytest.raises(ServerError):
        read(b"HTTP/1.1 200 \r\ncontent-length: 1\r\n\r\nxx", seen=seen)
    assert seen == [("head", (200, [(b"content-length", b"1")])), ("body", b"x"), ("end", None)]


def test_nonsense_ends_the_run_although_the_handler_would_catch_it(monkeypatch):
    monkeypatch.setattr(server_worker, "chunk", lambda body: b"1\r\n%b\r\n" % body)
    with Simulation(make_app()) as simulation:
        stream = simulation.sse("/events")
        with pytest.raises(ServerError, match="where a chunk ends"):
            simulation.ref(stream).send(ServerSentEvent("one"))


def test_so_does_what_the_server_would_only_log(monkeypatch):
    def fail(_):
        raise ArithmeticError("planted")

    monkeypatch.setattr(Exchange, "next_message", fail)
    with pytest.raises(ArithmeticError, match="planted"), Simulation(make_app()) as simulation:
        simulation.get("/poll")


def test_bytes_are_read_one_by_one_as_all_at_once():
    data = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )
    at_once, pieces = [], []
    read(data, seen=at_once)
    read(*(bytes([byte]) for byte in data), seen=pieces)
    assert at_once == [
        ("head", (200, [])),
        ("body", b"ab"),
        ("end", None),
    ]
    assert pieces == [("head", (200, [])), ("body", b"a"), ("body", b"b"), ("end", None)]


def test_a_clients_close_frame_can_be_empty():
    assert frame_of({"type": "close", "code": None, "reason": ""}) == b"\x88\x80\0\0\0\0"


# -- clients that read nothing ----------------------------------------------------------------------


def test_the_server_takes_one_write_for_a_client_that_reads_nothing(sim):
    stream = sim.sse("/events")
    stream.stall()
    sim.ref(stream).send(ServerSentEvent("one"))
    assert stream.phase == "waiting"
    sim.ref(stream).send(ServerSentEvent("two"))
    assert stream.phase == "sending"
    stream.resume()
    assert [event.data for event in stream.events] == ["one", "two"]


def give_up(sim, exchange, *, then=lambda: None):
    """A client takes nothing, from a first message on; something happens before it is given up."""
    exchange.stall()
    sim.ref(exchange).send(Send("one") if exchange.accepted else ServerSentEvent("one"))
    sim.advance(10)
    then()
    assert exchange.reason is None
    sim.advance(PATIENCE - 10)
    assert isinstance(exchange.reason, Failed)
    assert isinstance(exchange.reason.error, SendTimedOut)
    assert exchange.reason.error.seconds == PATIENCE


@pytest.mark.parametrize("kind", ["events", "websocket"])
def test_a_handler_that_waits_hears_that_the_server_has_given_the_client_up(sim, kind):
    give_up(sim, sim.sse("/events") if kind == "events" else sim.websocket("/echo"))


def test_a_handler_whose_write_waits_hears_it_too(sim):
    stream = sim.sse("/events")
    give_up(sim, stream, then=lambda: sim.ref(stream).send(ServerSentEvent("two")))


def test_a_handler_whose_farewell_waits_hears_it_too(sim):
    stream = sim.sse("/events")
    give_up(sim, stream, then=lambda: sim.ref(stream).stop())


@pytest.mark.parametrize("handler, message", [(Events, ServerSentEvent), (Echo, Send)])
def test_whoever_gives_up_a_write_that_waits_for_others_has_the_connection_closed(handler, message):
    app = App()
    app.route("/", type("Hasty", (handler,), {"send_timeout": 5}))
    with Simulation(app, laws=True) as simulation:
        one = simulation.websocket("/") if handler is Echo else simulation.sse("/")
        one.stall()
        simulation.ref(one).send(message("one"))  # which the server takes
        simulation.ref(one).send(message("two"))
        simulation.advance(5)
        assert isinstance(one.reason, Failed)
        assert one.connection.closed


def test_a_write_that_is_cancelled_in_its_turn_cuts_the_response():
    raised = []

    async def impatient(scope, receive, send):
        async def write(data, seconds):
            try:
                with trio.move_on_after(seconds):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except OSError:
                raised.append(data)

        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with trio.open_nursery() as nursery:
            await trio.sleep(1)
            for data, seconds in [(b"1", 9), (b"2", 9), (b"3", 1), (b"4", 9)]:
                nursery.start_soon(write, data, seconds)
                await trio.sleep(0.5)

    app = App()
    app.router.routes.append(Mount("/", impatient))
    with Simulation(app) as simulation:
        one = simulation.request("GET", "/")
        one.stall()
        simulation.advance(5)
        one.resume()
        assert not one.complete
        assert one.connection.closed
        assert sorted(raised) == [b"1", b"2", b"4"]


def test_no_message_follows_a_closing_frame(sim):
    websocket = sim.websocket("/echo")
    websocket.stall()
    sim.ref(websocket).send(Send("one"))  # which the server takes
    sim.ref(websocket).send(Send("two"))  # ... and this has to wait
    websocket.send("x" * 21)
    websocket.resume()
    assert isinstance(websocket.reason.error, MessageTooLarge)
    assert [seen.what for seen in websocket.transcript] == [
        "head",
        "message",
        "message",
        "close",
        "eof",
    ]
    assert websocket.messages == ["one", "two"]


def test_what_was_returned_before_a_crash_is_read_before_the_cut(sim):
    stream = sim.sse("/events")
    stream.stall()
    sim.ref(stream).send(ServerSentEvent("one"))
    sim.crash_next(stream, ArithmeticError("planted"))
    sim.ref(stream).send("crash")
    assert isinstance(stream.reason, Crashed)
    stream.resume()
    assert ([event.data for event in stream.events], stream.aborted) == (["one"], True)


def test_so_is_what_waits_for_the_end_of_the_turn(sim):
    others = [sim.sse("/events") for _ in range(2 * AT_ONCE)]
    stream = sim.sse("/events")
    stream.stall()
    for other in others:  # so much is written that nothing goes out at once
        sim.ref(other).send(ServerSentEvent("something"))
    sim.ref(stream).burst(ServerSentEvent("one"), raise_now)
    assert isinstance(stream.reason, Crashed)
    stream.resume()
    assert ([event.data for event in stream.events], stream.aborted) == (["one"], True)


def test_a_client_that_reads_sees_the_cut_before_terminate_has_ended():
    class Slow(Events):
        async def terminate(self, reason):
            await trio.sleep(3)

    app = App()
    app.route("/", Slow)
    with Simulation(app) as simulation:
        stream = simulation.sse("/")
        simulation.crash_next(stream, ArithmeticError("planted"))
        simulation.ref(stream).send("crash")
        assert (stream.aborted, stream.reason) == (True, None)


def test_half_a_response_to_a_slow_client_is_cut_behind_its_overflow():
    class Small(Poll):
        mailbox_size = 1

    app = App()
    app.route("/", Small)
    with Simulation(app, laws=True) as simulation:
        poll = simulation.get("/")
        simulation.ref(poll).send([StartResponse(), Chunk("one")])
        poll.stall()
        simulation.ref(poll).send(Chunk("two"))
        simulation.ref(poll).burst(None, None, None)
        assert isinstance(poll.reason, Overflowed)
        poll.resume()
        assert (poll.body, poll.aborted) == (b"onetwo", True)


def test_what_waits_for_a_client_that_is_given_up_behind_the_handlers_end_is_lost():
    class Small(Events):
        mailbox_size = 1

    app = App()
    app.route("/", Small)
    with Simulation(app, laws=True) as simulation:
        stream = simulation.sse("/")
        stream.stall()
        simulation.ref(stream).send(ServerSentEvent("one"))
        simulation.ref(stream).burst(None, None)
        assert isinstance(stream.reason, Overflowed)
        simulation.advance(PATIENCE)
        stream.resume()
        assert (stream.events, stream.aborted) == ([], True)


def test_the_laws_know_whether_the_server_has_given_a_client_up():
    """A stall of the past explains nothing."""
    with Simulation(make_app(), laws=True) as simulation:
        stream = simulation.sse("/events")
        stream.stall()
        simulation.advance(2 * PATIENCE)
        stream.resume()
        stream.observed.machine.end(Failed(SendTimedOut(PATIENCE)))
        with pytest.raises(LawBroken, match="no write has waited that long"):
            simulation.settle()


def test_a_server_that_gives_a_client_up_too_early_is_found_out(monkeypatch):
    monkeypatch.setattr(OwnWorker, "patience", 2 * PATIENCE)
    with Simulation(make_app(), laws=True) as simulation:
        stream = simulation.sse("/events")
        stream.stall()
        simulation.ref(stream).send(ServerSentEvent("one"))
        with pytest.raises(LawBroken, match="the server gave its client up before 60 s"):
            simulation.advance(PATIENCE)


# -- clients that leave -----------------------------------------------------------------------------


def test_an_ending_behind_a_message_that_was_too_large_tells_of_it(sim):
    websocket = sim.websocket("/echo")
    sim.ref(websocket).send(1.0)
    websocket.burst("one", "two", "x" * 21)
    assert websocket.close_code == 1009
    sim.ref(websocket).stop()
    assert isinstance(websocket.reason, Failed)
    assert isinstance(websocket.reason.error, MessageTooLarge)


def test_the_code_of_a_clients_close_is_told(sim):
    websocket = sim.websocket("/echo")
    websocket.close(4000, "enough")
    assert websocket.reason == Disconnected(4000, "enough")
    assert (websocket.close_code, websocket.complete) == (4000, True)


def test_the_server_says_once_that_a_client_has_reset_the_connection():
    sock = MemorySocket(MemoryNews(), list)
    sock.hang_up("reset")
    for error in (ConnectionResetError, BrokenPipeError):
        with pytest.raises(error):
            sock.send(b"x")


def test_a_client_that_has_gone_answers_the_first_write_with_a_reset():
    sock = MemorySocket(MemoryNews(), list)
    sock.lose_reader()
    assert sock.send(b"x") == 1
    with pytest.raises(ConnectionResetError):
        sock.send(b"x")


def test_what_came_before_a_reset_can_be_read():
    sock = MemorySocket(MemoryNews(), list)
    sock.arrive(b"abc")
    sock.hang_up("reset")
    assert sock.recv(2) == b"ab"
    assert sock.recv(2) == b"c"
    with pytest.raises(ConnectionResetError):
        sock.recv(2)
