"""The asynchronous face: the same verbs, in the test's own Trio run."""

from __future__ import annotations

import gc
import math
import warnings
from contextlib import asynccontextmanager

import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from trioloop import (
    App,
    Completed,
    Crashed,
    Disconnected,
    EventStreamHandler,
    Failed,
    Hub,
    LoopHandler,
    Reply,
    ServerSentEvent,
    ShutDown,
    Stop,
    Stopped,
    TimedOut,
)
from trioloop.testing import FakeClients, Seen, Simulation


@pytest.fixture
def fake_client():
    return FakeClients()  # as the plugin's: tests/testing/test_traps.py has that one


class Poll(LoopHandler):
    def info(self, message):
        self.heard = message
        return message(self) if callable(message) else message


class Stream(EventStreamHandler):
    def info(self, message):
        return message(self) if callable(message) else message


class Echo(LoopHandler):
    async def init(self, request):
        body = (await request.body()).decode()
        return Reply.json([request.method, request.headers.get("last-event-id"), body])


def make_app(**options):
    app = App(**options)
    app.route("/poll", Poll)
    app.route("/events", Stream)
    app.route("/echo", Echo)
    return app


async def test_the_example_of_the_documentation(fake_client):
    async with fake_client(make_app()) as client:
        poll = await client.get("/poll?who=ann")
        await client.advance(60)
        assert await poll.wait_ended() == TimedOut()
        assert (poll.status, poll.reason) == (204, TimedOut())


async def test_every_kind_of_request(fake_client):
    async with fake_client(make_app()) as client:
        asked = [
            await client.get("/echo"),
            await client.post("/echo", body="hi"),
            await client.request("put", "/echo", body=b"hi"),
            await client.post("/echo", json={"a": 1}),
            await client.sse("/echo", last_event_id="7"),
            await client.sse("/echo", method="POST", json=[]),
        ]
        assert [exchange.json() for exchange in asked] == [
            ["GET", None, ""],
            ["POST", None, "hi"],
            ["PUT", None, "hi"],
            ["POST", None, '{"a": 1}'],
            ["GET", "7", ""],
            ["POST", None, "[]"],
        ]
        assert {exchange.reason for exchange in asked} == {Completed()}
        head = await client.head("/events")
        assert (head.status, head.body) == (200, b"")


async def test_a_body_is_sent_piece_by_piece(fake_client):
    async with fake_client(make_app()) as client:
        exchange = await client.post("/echo", body=None)
        await exchange.send("one, ")
        assert exchange.pending
        await exchange.send(b"two", more=False)
        assert exchange.json()[2] == "one, two"


@pytest.mark.parametrize("how", ["clean", "abrupt", "half", "vanish"])
async def test_a_client_leaves_in_each_way(fake_client, how):
    async with fake_client(make_app()) as client:
        stream = await client.sse("/events")
        await stream.disconnect(how)
        if how == "vanish":
            client.ref(stream).send_nowait(ServerSentEvent("x" * 70_000))
            await client.advance(30)
            assert isinstance(stream.reason, Failed)
        else:
            assert stream.reason == Disconnected()


async def test_a_reader_stalls_reads_and_resumes(fake_client):
    async with fake_client(make_app(), worker="stock") as client:
        stream = await client.sse("/events")
        await stream.stall(1)
        client.ref(stream).send_nowait(ServerSentEvent("one"))
        await client.settle()
        assert stream.phase == "sending"
        await stream.read(len(b"b\r\n") + 4)
        assert stream.body == b"data"
        await stream.resume()
        assert stream.assert_event("one")
        stream.refute_event("one")


async def test_a_client_comes_back(fake_client):
    async with fake_client(make_app()) as client:
        stream = await client.sse("/events")
        client.ref(stream).send_nowait(ServerSentEvent("one", id="7", retry=1500))
        await client.settle()
        with pytest.raises(RuntimeError, match="has not ended"):
            await stream.reconnect()
        await stream.disconnect()
        again = await stream.reconnect()
        assert client.now() == 1.5
        assert dict(again.request.headers)["Last-Event-ID"] == "7"
        assert again.pending


async def test_time(fake_client):
    async with fake_client(make_app()) as client:
        assert await client.advance_to_next_deadline() == math.inf
        poll = await client.get("/poll")
        assert client.next_deadline() == 60
        await client.lag(59)
        assert client.now() == 59
        assert await client.advance_to_next_deadline() == 1
        assert (client.now(), poll.reason) == (60, TimedOut())
        for verb in (client.advance, client.lag):
            with pytest.raises(ValueError, match="time moves forward by some seconds, not by -1"):
                await verb(-1)


async def test_a_tests_own_tasks_live_on_the_same_clock(fake_client):
    async with fake_client(make_app()) as client, trio.open_nursery() as nursery:
        poll = await client.get("/poll")

        @nursery.start_soon
        async def answer_later():
            await trio.sleep(5)
            await client.ref(poll).send(Reply(200, "later"))

        await client.advance(4)
        assert poll.pending
        await client.advance(1)
        assert (poll.text, trio.current_time()) == ("later", 5)


async def test_dead_letters_state_hub_and_journal(fake_client):
    async with fake_client(make_app()) as client:
        poll = await client.get("/poll")
        ref = client.ref(poll)
        assert client.hub.whereis("nobody") is None
        ref.send_nowait(Stop())
        ref.send_nowait("late")
        await client.settle()
        assert client.dead_letters == [(ref, "late", Stopped())]
        assert poll.state == {"heard": Stop()}
        assert next(entry.what for entry in client.journal) == "asks"


def run_in_both_faces(options):
    """The same script in both faces; gives the transcripts and the journal."""
    with Simulation(make_app(), **options) as sim:
        exchanges = [sim.get("/poll"), sim.sse("/events")]
        sim.ref(exchanges[1]).burst(ServerSentEvent("one"), ServerSentEvent("two"))
        sim.advance(20)
        exchanges[1].stall()
        sim.lag(1)
        sim.shut_down()
    yield [exchange.transcript for exchange in exchanges]

    async def script(clients):
        async with clients(make_app(), **options) as client:
            exchanges = [await client.get("/poll"), await client.sse("/events")]
            ref = client.ref(exchanges[1])
            ref.send_nowait(ServerSentEvent("one"))
            ref.send_nowait(ServerSentEvent("two"))
            await client.advance(20)
            await exchanges[1].stall()
            await client.lag(1)
            await client.shut_down()
        return [exchange.transcript for exchange in exchanges]

    clients = FakeClients()
    yield trio.run(script, clients, clock=clients)


SERVERS = [{"worker": "trioloop"}, {"worker": "stock"}, {"worker": "stock", "notice": False}]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("seed", [0, 7])
def test_both_faces_tell_the_same(seed, server):
    sync, asynchronous = run_in_both_faces({"seed": seed, **server})
    assert sync == asynchronous
    assert sync[1][1] == Seen(0.0, "body", b"data: one\n\ndata: two\n\n")


@pytest.mark.parametrize("server", SERVERS)
async def test_a_server_goes_down(fake_client, server):
    notice = server.get("notice", True)
    async with fake_client(make_app(), **server) as client:
        poll, stream = await client.get("/poll"), await client.sse("/events")
        await client.shut_down(grace=3)
        assert client.now() == (0 if notice else 3)
        assert (poll.status, poll.reason) == (503, ShutDown())
        assert (stream.complete, stream.reason) == (True, ShutDown())
        assert 2000 <= stream.retry <= 6000


def make_stubborn_app(ended):
    """A route that takes ten seconds and cannot be cancelled; when the lifespan has ended."""

    async def stubborn(request):
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return PlainTextResponse("late")

    app = make_app(lifespan=lifespan_that(end=lambda: ended.append(trio.current_time())))
    app.router.routes.append(Route("/stubborn", stubborn))
    return app


async def test_the_lifespan_ends_after_calls_that_were_cancelled_and_took_their_time(fake_client):
    ended = []
    async with fake_client(make_stubborn_app(ended)) as client:
        await client.get("/stubborn")
        await client.shut_down(grace=3)
        assert client.now() == 10
    assert ended == [10]


async def test_the_end_of_the_context_waits_for_a_call_that_cannot_be_cancelled(fake_client):
    async with fake_client(make_stubborn_app([])) as client:
        await client.get("/stubborn")
    assert client.now() == 10


async def test_the_end_of_the_context_ends_everything(fake_client):
    async with fake_client(make_app()) as client:
        stalled, working = await client.sse("/events"), await client.get("/poll")
        await stalled.stall()
        client.ref(stalled).send_nowait(ServerSentEvent("x"))
        client.ref(working).send_nowait(wait_for_ever)
        await client.settle()
    assert working.reason == ShutDown()
    assert isinstance(stalled.reason, Failed)  # what it had to write before could not be written


async def wait_for_ever(handler):
    await trio.sleep_forever()


async def test_two_clients_of_two_applications_share_the_time(fake_client):
    async with fake_client(make_app()) as one, fake_client(make_app()) as two:
        polls = [await one.get("/poll"), await two.get("/poll")]
        await two.advance(60)
        assert [poll.reason for poll in polls] == [TimedOut(), TimedOut()]


async def test_a_run_with_another_clock_is_refused():
    with pytest.raises(RuntimeError, match="this run has another clock: let pytest-trio run"):
        async with FakeClients()(make_app()):
            pass


async def test_an_application_without_a_hub_is_told(fake_client):
    with pytest.raises(TypeError, match="has no hub"):
        async with fake_client(lambda scope, receive, send: None):
            pass


async def test_a_request_without_a_handler_has_no_ref(fake_client):
    async with fake_client(make_app(), hub=None) as client:
        exchange = await client.get("/nowhere")
        with pytest.raises(LookupError, match="has no handler; the answer was 404"):
            await exchange.wait_ended()


async def test_a_tests_own_error_comes_out_bare(fake_client):
    with pytest.raises(AssertionError, match="mine"):
        async with fake_client(make_app()) as client:
            await client.get("/poll")
            raise AssertionError("mine")


async def test_a_crash_stays_in_its_handler(fake_client):
    async with fake_client(make_app()) as client:
        poll, other = await client.get("/poll"), await client.get("/poll")
        client.ref(poll).send_nowait(lambda handler: 1 / 0)
        await client.settle()
        assert isinstance(poll.reason, Crashed)
        assert other.pending


def lifespan_that(start=None, end=lambda: None):
    @asynccontextmanager
    async def lifespan(app):
        if start is not None:
            await start()
        yield
        end()

    return lifespan


async def fail_to_start():
    raise ValueError("no database")


def fail_to_end():
    raise ValueError("no database")


@pytest.mark.parametrize(
    "options, error, sentence",
    [
        ({"start": fail_to_start}, ValueError, "no database"),
        ({"end": fail_to_end}, ValueError, "no database"),
        ({"start": trio.sleep_forever}, RuntimeError, "did not complete its start-up"),
    ],
)
async def test_a_lifespan_that_fails_fails_the_test(fake_client, options, error, sentence):
    with pytest.raises(error, match=sentence):
        async with fake_client(make_app(lifespan=lifespan_that(**options))):
            pass


async def interrupt(handler):
    raise KeyboardInterrupt


def test_an_interrupt_comes_out_bare():
    async def script(clients):
        async with clients(make_app()) as client:
            poll = await client.get("/poll")
            client.ref(poll).send_nowait(interrupt)
            await client.advance(60)

    clients = FakeClients()
    with pytest.raises(KeyboardInterrupt):
        trio.run(script, clients, clock=clients)
    assert clients.current_time() == 0


def test_the_hub_may_hang_elsewhere():
    hub = Hub()
    app = Starlette(routes=[hub.route("/poll", Poll)], lifespan=hub.lifespan)

    async def script(clients):
        async with clients(app, hub=hub) as client:
            assert (await client.get("/poll")).pending

    clients = FakeClients()
    trio.run(script, clients, clock=clients)


@pytest.mark.parametrize("schedule", ["spawn order", "reverse", 1, 2])
async def test_the_schedule_is_chosen(fake_client, schedule):
    order = []
    async with fake_client(make_app(), schedule=schedule) as client:
        polls = [await client.get("/poll") for _ in range(3)]
        for number, poll in enumerate(polls):
            client.ref(poll).send_nowait(lambda handler, number=number: order.append(number))
        await client.settle()
    assert sorted(order) == [0, 1, 2]
    if isinstance(schedule, str):
        assert order == ([0, 1, 2] if schedule == "spawn order" else [2, 1, 0])


@pytest.mark.parametrize("leave", ["working", "stalled", "gone", "failing"])
def test_nothing_is_left_open(leave):
    """No generator, channel or socket that only the garbage collection closes."""

    async def script(clients):
        async with clients(make_app()) as client:
            poll, stream = await client.get("/poll"), await client.sse("/events")
            if leave == "working":
                client.ref(poll).send_nowait(wait_for_ever)
            if leave == "stalled":
                await stream.stall()
                client.ref(stream).send_nowait(ServerSentEvent("x"))
            if leave == "gone":
                await stream.disconnect("abrupt")
            if leave == "failing":
                client.ref(poll).send_nowait(lambda handler: 1 / 0)
            await client.settle()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clients = FakeClients()
        trio.run(script, clients, clock=clients)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
