"""The synchronous face: every verb, everything that can be seen, and what it says when it cannot go on."""

from __future__ import annotations

import gc
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import trioloop
from trioloop import (
    App,
    Chunk,
    Completed,
    Crashed,
    Disconnected,
    EventStreamHandler,
    Failed,
    Hibernate,
    Hub,
    KeepLatest,
    LoopHandler,
    Overflow,
    Reply,
    SendTimedOut,
    ServerSentEvent,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
    TimedOut,
)
from trioloop._core._household import Household
from trioloop._core._mailbox import Mailbox
from trioloop.testing import Entry, LawBroken, Seen, Simulation, SimulationError, timeline
from trioloop.testing._exchange import Request


class Poll(LoopHandler):
    """Messages are answers, or functions of the handler."""

    def __init__(self):
        self.handled = 0

    def info(self, message):
        self.handled += 1
        return message(self) if callable(message) else message


class Stream(EventStreamHandler):
    def info(self, message):
        return message(self) if callable(message) else message


class Echo(LoopHandler):
    """Answers with what was asked."""

    async def init(self, request):
        body = (await request.body()).decode()
        headers = {
            name: value for name, value in request.headers.items() if name not in {"host", "accept"}
        }
        return Reply.json([request.method, str(request.url.query), headers, body])


async def plain(request):
    return PlainTextResponse("plain")


def make_app(**options):
    app = App(**options)
    app.route("/poll", Poll)
    app.route("/events", Stream)
    app.route("/echo", Echo)
    app.router.routes.append(Route("/plain", plain))
    app.router.routes.append(Route("/thread", lambda request: PlainTextResponse("from a thread")))
    return app


@pytest.fixture
def sim():
    with Simulation(make_app(), laws=True) as simulation:
        yield simulation


@pytest.fixture
def stock():
    """Under the stock worker, where every write waits for the client by itself."""
    with Simulation(make_app(), laws=True, worker="stock") as simulation:
        yield simulation


def say(*data, **fields):
    return [ServerSentEvent(text, **fields) for text in data]


# -- requests --------------------------------------------------------------------------------------


def test_the_example_of_the_documentation():
    with Simulation(make_app(), seed=7) as sim:
        poll = sim.get("/poll?who=ann")
        sim.advance(59.999)
        assert poll.pending
        sim.advance(0.001)
        assert (poll.status, poll.reason) == (204, TimedOut())


@pytest.mark.parametrize(
    "verb, arguments, expected",
    [
        ("get", {}, ["GET", "", {}, ""]),
        ("get", {"headers": {"X-One": "1"}}, ["GET", "", {"x-one": "1"}, ""]),
        ("post", {"body": "hi"}, ["POST", "", {"content-length": "2"}, "hi"]),
        ("post", {"body": b"hi"}, ["POST", "", {"content-length": "2"}, "hi"]),
        (
            "post",
            {"json": [1]},
            ["POST", "", {"content-type": "application/json", "content-length": "3"}, "[1]"],
        ),
        ("sse", {"last_event_id": "7"}, ["GET", "", {"last-event-id": "7"}, ""]),
        (
            "sse",
            {"method": "POST", "json": {}},
            ["POST", "", {"content-type": "application/json", "content-length": "2"}, "{}"],
        ),
    ],
)
def test_a_request_arrives_as_it_was_made(sim, verb, arguments, expected):
    exchange = getattr(sim, verb)("/echo", **arguments)
    method, query, headers, body = exchange.json()
    headers.pop("cache-control", None)
    assert [method, query, headers, body] == expected
    assert (exchange.status, exchange.reason, exchange.complete) == (200, Completed(), True)


def test_the_host_is_test_unless_it_is_said(sim):
    assert "host" not in dict(sim.get("/echo").request.headers)
    seen = []
    sim._world.app.router.routes.append(Route("/host", see_host(seen)))
    sim.get("/host")
    sim.get("/host", headers={"Host": "example.org"})
    assert seen == ["test", "example.org"]


def see_host(seen):
    async def endpoint(request):
        seen.append(request.headers["host"])
        return PlainTextResponse("")

    return endpoint


def test_any_method_can_be_asked_with_and_a_path_has_a_query(sim):
    assert sim.request("patch", "/echo?a=1&b=2").json()[:2] == ["PATCH", "a=1&b=2"]


def test_head_gets_the_headers_only(sim):
    exchange = sim.head("/events")
    assert (exchange.status, exchange.body, exchange.reason) == (200, b"", Completed())
    assert exchange.headers["content-type"] == "text/event-stream"


def test_a_path_without_a_slash_is_a_mistake(sim):
    with pytest.raises(ValueError, match="a path starts with '/', unlike 'poll'"):
        sim.get("poll")


def test_a_body_is_sent_piece_by_piece(sim):
    exchange = sim.post("/echo", body=None)
    exchange.send("one, ")
    assert exchange.pending
    exchange.send(b"two", more=False)
    assert exchange.json()[3] == "one, two"


@pytest.mark.parametrize("body", [b"", b"all of it"])
def test_nothing_can_be_sent_behind_a_body_that_is_complete(sim, body):
    exchange = sim.request("GET", "/events", body=body)
    with pytest.raises(
        RuntimeError, match=r"body of <client 1: GET /events> is complete.*body=None"
    ):
        exchange.send("more")


def test_nothing_can_be_sent_behind_the_last_piece(sim):
    exchange = sim.post("/echo", body=None)
    exchange.send("all of it", more=False)
    with pytest.raises(RuntimeError, match="is complete"):
        exchange.send("more")


def test_a_last_event_id_is_a_string(sim):
    with pytest.raises(TypeError, match=r"last_event_id is a string, .*not 1"):
        sim.sse("/events", last_event_id=1)


def test_routes_that_are_no_handlers_are_served_too(sim):
    plain = sim.get("/plain")
    assert (plain.status, plain.text, plain.reason) == (200, "plain", None)
    assert plain.headers["content-length"] == "5"
    with pytest.raises(LookupError, match=r"client 1: GET /plain> has no handler; .* was 200"):
        sim.ref(plain)
    with pytest.raises(LookupError, match="has no handler"):
        _ = plain.state


# -- what a client does ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["clean", "abrupt", "half"])
def test_a_client_that_leaves_ends_its_handler_at_once(sim, how):
    poll = sim.get("/poll")
    poll.disconnect(how)
    assert poll.reason == Disconnected()
    assert poll.has_left
    assert not poll.pending
    assert poll.aborted == (how == "half")  # that one still reads


def test_a_client_that_vanishes_is_noticed_when_the_kernel_takes_no_more(stock):
    stream = stock.sse("/events")
    stream.disconnect("vanish")
    stock.ref(stream).send(say("x" * 60_000)[0])
    assert stream.phase == "waiting"
    stock.ref(stream).send(say("x" * 60_000)[0])
    assert stream.phase == "sending"
    stock.advance(30)
    assert isinstance(stream.reason, Failed)
    assert isinstance(stream.reason.error, SendTimedOut)
    assert stream.events == []


def test_a_client_leaves_once_and_in_a_way_that_there_is(sim):
    poll = sim.get("/poll")
    with pytest.raises(ValueError, match="'clean', 'abrupt', 'half' or by 'vanish', not 'rudely'"):
        poll.disconnect("rudely")
    poll.disconnect()
    with pytest.raises(RuntimeError, match="has left already"):
        poll.disconnect()


def test_a_stalled_reader_holds_the_write_and_the_next_message(sim):
    stream = sim.sse("/events")
    stream.stall()
    sim.ref(stream).burst(*say("one", "two"))
    sim.ref(stream).send(say("three")[0])
    assert (stream.phase, stream.events) == ("sending", [])
    sim.advance(29)
    stream.resume()
    assert [event.data for event in stream.events] == ["one", "two", "three"]
    assert stream.phase == "waiting"


def test_a_callback_that_is_given_up_before_it_begins_leaves_no_warning(stock):
    """The handler is stopped while what was returned before is still being written."""
    stream = stock.sse("/events")
    stream.stall()
    stock.ref(stream).burst(*say("one"), wait_for_ever)
    stock.ref(stream).stop()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream.resume()
    assert [str(warning.message) for warning in caught] == []
    assert stock.dead_letters == [(stock.ref(stream).ref, wait_for_ever, ShutDown())]


def test_a_window_takes_so_many_bytes_before_a_write_waits(stock):
    stream = stock.sse("/events")
    framed = len(b"9\r\n") + len(b"data: 1\n\n") + len(b"\r\n")
    stream.stall(2 * framed)
    for _ in range(2):
        stock.ref(stream).send(say("1")[0])
        assert stream.phase == "waiting"
    stock.ref(stream).send(say("1")[0])
    assert stream.phase == "sending"


def test_a_slow_reader_reads_so_many_bytes_of_the_wire(sim):
    stream = sim.sse("/events")
    stream.stall(1)
    sim.ref(stream).send(say("one")[0])
    stream.read(len(b"b\r\n"))
    assert stream.body == b""
    stream.read(4)
    assert stream.body == b"data"
    stream.read(100)  # more than there is: it is read when it comes
    assert [event.data for event in stream.events] == ["one"]
    sim.ref(stream).send(say("two")[0])
    assert [event.data for event in stream.events] == ["one", "two"]


def test_a_reader_gets_what_it_asks_for_through_a_window_of_nothing(stock):
    stream = stock.sse("/events")
    stream.stall(0)
    stock.ref(stream).send(say("one")[0])
    stream.read(len(b"b\r\n") + 4)
    assert (stream.body, stream.phase) == (b"data", "sending")
    stream.read(1000)
    assert [event.data for event in stream.events] == ["one"]
    assert stream.phase == "waiting"
    stock.ref(stream).send(say("two")[0])
    assert [event.data for event in stream.events] == ["one", "two"]


@pytest.mark.parametrize("stop", ["stall", "vanish"])
def test_who_stops_again_does_not_read_what_was_asked_for_before(sim, stop):
    stream = sim.sse("/events")
    stream.stall()
    stream.read(1000)
    stream.stall() if stop == "stall" else stream.disconnect("vanish")
    sim.ref(stream).send(say("one")[0])
    assert stream.events == []


def test_a_client_comes_back_after_retry_with_the_last_event_id(sim):
    stream = sim.sse("/events?a=1", headers={"X-One": "1"})
    sim.ref(stream).send(say("one", id="7", retry=1500))
    assert (stream.last_event_id, stream.retry) == ("7", 1500)
    with pytest.raises(RuntimeError, match=r"has not ended; disconnect\(\) comes first"):
        stream.reconnect()
    sim.ref(stream).send(Stop())
    again = stream.reconnect()
    assert sim.now() == 1.5
    handler = sim.ref(again).ref
    assert handler is not sim.ref(stream).ref
    assert again.request.target == "/events?a=1"
    assert dict(again.request.headers)["X-One"] == "1"
    assert dict(again.request.headers)["Last-Event-ID"] == "7"
    again.disconnect()
    third = again.reconnect()
    assert "Last-Event-ID" not in dict(third.request.headers)  # this stream has sent none
    assert sim.now() == 1.5


# -- what is seen ----------------------------------------------------------------------------------


def test_the_transcript_has_every_byte_with_its_time(sim):
    stream = sim.sse("/events")
    sim.advance(1.5)
    sim.ref(stream).send(say("one")[0])
    sim.advance(15)
    sim.ref(stream).send(Stop())
    headers = [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]
    assert stream.transcript == [
        Seen(0.0, "head", (200, headers)),
        Seen(1.5, "body", b"data: one\n\n"),
        Seen(16.5, "body", b":\n\n"),
        Seen(16.5, "eof", "end"),
    ]


def test_the_transcript_of_a_response_that_was_cut(sim):
    poll = sim.get("/poll")
    sim.ref(poll).send([StartResponse(200, {"a": "b"}), Chunk("part")])
    sim.advance(2)
    sim.ref(poll).send(lambda handler: 1 / 0)
    assert poll.transcript == [
        Seen(0.0, "head", (200, [(b"a", b"b")])),
        Seen(0.0, "body", b"part"),
        Seen(2.0, "eof", "cut"),
    ]
    assert (poll.aborted, poll.complete, poll.text) == (True, False, "part")
    assert isinstance(poll.reason, Crashed)


def test_an_event_is_asserted_once_and_refuted(sim):
    stream = sim.sse("/events")
    sim.ref(stream).burst(*say("one", "two", "one"))
    assert stream.assert_event("one") == ServerSentEvent("one")
    assert stream.assert_event(lambda event: event.data == "two").data == "two"
    stream.refute_event("two")
    with pytest.raises(AssertionError, match="an event matches 'one'"):
        stream.refute_event("one")
    stream.assert_event("one")
    with pytest.raises(AssertionError, match=r"no event matches 'one'; <client 1.* seen \[\]"):
        stream.assert_event("one")
    assert len(stream.dispatched) == 3


def test_the_state_is_what_the_handler_has_set(sim):
    poll = sim.get("/poll")
    sim.ref(poll).send(lambda handler: setattr(handler, "colour", "red"))
    assert poll.state == {"handled": 1, "colour": "red"}


@pytest.mark.parametrize("path, transport", [("/poll", "long poll"), ("/events", "event stream")])
def test_the_transport_is_told(sim, path, transport):
    assert sim.get(path).transport == transport


def test_the_phase_is_where_the_handler_is(stock):
    class Slow(LoopHandler):
        async def init(self, request):
            await trio.sleep(1)

        async def info(self, message):
            await trio.sleep(1)
            return [StartResponse(), Chunk("x" * 1000), Stop()]

        async def terminate(self, reason):
            await trio.sleep(1)

    stock._world.app.route("/slow", Slow)
    slow = stock.get("/slow")
    phases = [slow.phase]
    stock.advance(1)
    phases.append(slow.phase)
    slow.stall()
    stock.ref(slow).send("go")
    phases.append(slow.phase)
    stock.advance(1)
    phases.append(slow.phase)
    slow.resume()
    phases.append(slow.phase)
    stock.advance(1)
    assert phases == ["before the start", "waiting", "in a callback", "sending", "terminating"]
    assert slow.reason == Stopped()


def test_dead_letters_are_kept_with_their_causes(sim):
    poll = sim.get("/poll")
    ref = sim.ref(poll)
    assert ref.burst(Reply(), "late") == [True, True]
    assert sim.dead_letters == [(ref.ref, "late", Stopped())]


def test_the_hubs_own_dead_letter_hook_still_hears_of_them():
    letters = []
    hub = Hub(dead_letter=lambda ref, message, cause: letters.append(message))
    with Simulation(make_app(hub=hub)) as sim:
        sim.ref(sim.get("/poll")).burst(Reply(), "late")
    assert letters == ["late"]


def test_the_journal_tells_who_did_what_and_when():
    with Simulation(make_app()) as sim:
        poll = sim.get("/poll")
        sim.advance(1)
        sim.ref(poll).send(reply := Reply(200, "hi"))
    told = [entry for entry in sim.journal if entry.what not in ("sees head", "terminate returned")]
    assert told == [
        Entry(0.0, "client 1", "asks", Request("GET", "/poll")),
        Entry(0.0, "handler 1", "init"),
        Entry(0.0, "handler 1", "init returned"),
        Entry(0.0, "test", "advances", 1),
        Entry(1.0, "test", "sends", ("handler 1", "send", reply)),
        Entry(1.0, "handler 1", "accepts", reply),
        Entry(1.0, "handler 1", "info", reply),
        Entry(1.0, "handler 1", "info returned", reply),
        Entry(1.0, "client 1", "sees body", b"hi"),
        Entry(1.0, "client 1", "sees eof", "end"),
        Entry(1.0, "handler 1", "terminate", Stopped()),
        Entry(1.0, "test", "ends the run"),
    ]


# -- time ------------------------------------------------------------------------------------------


def test_time_stands_still_until_it_is_told_to_move(sim):
    poll = sim.get("/poll")
    sim.ref(poll).send(lambda handler: None)
    sim.settle()
    assert sim.now() == 0
    assert sim.next_deadline() == 60


def test_advancing_stops_at_every_deadline_on_the_way(sim):
    seen = []
    for seconds in (1, 1, 2.5):
        sim.later(seconds, lambda: seen.append(sim.now()))
    sim.advance(2)
    assert (seen, sim.now()) == ([1, 1], 2)
    assert sim.advance_to_next_deadline() == 0.5
    assert (seen, sim.now()) == ([1, 1, 2.5], 2.5)


def test_advancing_to_the_next_deadline_when_nothing_is_due(sim):
    assert sim.advance_to_next_deadline() == math.inf
    assert sim.now() == 0


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
def test_time_moves_forward_by_a_number_of_seconds(sim, seconds):
    for verb in (sim.advance, sim.lag):
        with pytest.raises(ValueError, match="time moves forward by some seconds, not by"):
            verb(seconds)
    assert sim.now() == 0


def test_during_a_lag_nothing_runs_and_afterwards_all_that_is_due_does(sim):
    poll = sim.get("/poll")
    seen = []
    sim.later(1, lambda: seen.append(sim.now()))
    sim.ref(poll).send_without_settling(lambda handler: seen.append("message"))
    sim.lag(60)
    assert set(seen) == {"message", 60}
    assert poll.pending  # the message was accepted in time


def test_a_message_at_the_very_instant_of_the_deadline_wins(sim):
    poll = sim.get("/poll")
    sim.later(60, sim.ref(poll).send_without_settling, Reply(200, "just in time"))
    sim.advance(60)
    assert (poll.status, poll.text) == (200, "just in time")


# -- the application -------------------------------------------------------------------------------


def test_run_calls_an_async_function_to_its_end(sim):
    async def ask(ref, number):
        await trio.lowlevel.checkpoint()
        return ref.send_nowait(Reply(number))

    poll = sim.get("/poll")
    assert sim.run(ask, sim.ref(poll).ref, 202) is True
    assert poll.status == 202


def test_run_raises_what_the_function_raises(sim):
    async def fail():
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        sim.run(fail)


def test_run_does_not_wait_for_time_to_pass(sim):
    with pytest.raises(SimulationError, match=r"sleep .*still waits at t=0; .* advance the time"):
        sim.run(trio.sleep, 1)
    sim.advance(2)


def test_names_and_groups_are_reached_through_the_hub(sim):
    poll = sim.get("/poll")
    sim.ref(poll).send(lambda handler: handler.join("all"))
    assert sim.hub.broadcast("all", Reply(200, "to all")) == 1
    sim.settle()
    assert poll.text == "to all"


def test_a_ref_says_what_became_of_a_message(sim):
    class Small(Poll):
        mailbox_size = 1

    sim._world.app.route("/small", Small, overflow=Overflow.BLOCK)
    ref = sim.ref(sim.get("/small"))
    nothing = [lambda handler: None for _ in range(3)]
    assert ref.burst(*nothing) == [True, False, False]
    assert ref.send_without_settling(nothing[0])
    assert not ref.try_send(nothing[1])
    assert ref.send(nothing[2])
    assert ref.notify(Reply())
    assert not ref.send(nothing[0])


def kind(message):
    """The key of a message; some have none that can be known."""
    if callable(message):
        return None
    if message == "no key":
        raise ValueError(message)
    return str(message)[0]


@pytest.mark.parametrize(
    "overflow, messages, told",
    [
        (Overflow.DROP_OLDEST, ["a", "b", "c"], ["accepts a", "accepts b", "displaces a", "dead letter a", "accepts c"]),
        (Overflow.DROP_NEWEST, ["a", "b", "c"], ["accepts a", "accepts b", "refuses c"]),
        (Overflow.STOP, ["a", "b", "c"], ["accepts a", "accepts b", "overflows 2", "refuses c"]),
        (KeepLatest(kind), ["a1", "b", "a2"], ["accepts a1", "accepts b", "displaces a1", "dead letter a1", "replaces a2"]),
        (KeepLatest(kind), ["no key"], ["key raised no key", "refuses no key"]),
    ],
)  # fmt: skip
def test_the_journal_tells_what_a_full_mailbox_does(overflow, messages, told):
    app = make_app()
    app.route("/small", Poll, mailbox_size=2, overflow=overflow)
    with Simulation(app, laws=True) as sim:
        ref = sim.ref(sim.get("/small"))
        ref.send(wait_for_ever)
        before = len(sim.journal)
        for message in messages:
            ref.send_without_settling(message)
        entries = sim.journal.entries[before:]
        assert [f"{e.what} {e.detail}" for e in entries if e.who == ref.name] == told


@pytest.mark.parametrize("message", [print, None])
def test_a_message_that_is_refused_with_room_breaks_a_law_whatever_it_is(monkeypatch, message):
    monkeypatch.setattr(Mailbox, "put_nowait", lambda mailbox, message: False)
    broken = pytest.raises(LawBroken, match=f"has refused {re.escape(repr(message))} with room")
    with broken, Simulation(make_app(), laws=True) as sim:
        sim.ref(sim.get("/poll")).send(message)


def test_a_message_wakes_a_handler_that_hibernates(sim):
    poll = sim.get("/poll")
    sim.ref(poll).send(Hibernate())
    sim.advance(5)
    sim.ref(poll).send(Reply(200, "awake"))
    assert poll.text == "awake"


def test_an_operator_stops_a_handler(sim):
    poll = sim.get("/poll")
    sim.ref(poll).stop()
    assert (poll.status, poll.reason) == (503, ShutDown())


def test_a_planted_crash_is_a_crash_and_is_logged_as_one(sim, caplog):
    poll = sim.get("/poll")
    sim.crash_next(poll, error := ValueError("planted"))
    sim.ref(poll).send(lambda handler: None)
    assert poll.reason == Crashed(error, "info")
    (record,) = caplog.records
    assert record.exc_info[1] is error


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async def"])
def test_a_child_task_at_terminate_is_seen_though_only_the_last_callback_has_used_the_nursery(
    monkeypatch, asynchronous
):
    class Parent(Poll):
        def init(self, request):
            return self.use_later() if asynchronous else self.use()

        def use(self):
            self.nursery.start_soon(trio.sleep_forever)

        async def use_later(self):
            self.use()

    def terminate_too_early(household):
        machine = household._machine
        machine.handler.terminate(machine.reason)
        return dismiss(household)

    dismiss = Household.dismiss
    monkeypatch.setattr(Household, "dismiss", terminate_too_early)
    app = App()
    app.route("/", Parent)
    broken = pytest.raises(LawBroken, match="terminate started with the child task")
    with broken, Simulation(app, laws=True) as sim:
        poll = sim.get("/")
        sim.ref(poll).stop()


# -- the end of the server -------------------------------------------------------------------------


def farewells(**options):
    with Simulation(make_app(), laws=True, **options) as sim:
        exchanges = [sim.get("/poll"), sim.sse("/events")]
        sim.advance(1)
        sim.shut_down()
        assert sim.now() == 1
    return exchanges


@pytest.mark.parametrize("notice", [True, False])
def test_a_server_that_goes_down_lets_everybody_say_goodbye(notice):
    if notice:
        poll, stream = farewells(notice=True)
    else:
        with Simulation(make_app(), worker="stock", notice=False, laws=True) as sim:
            poll, stream = sim.get("/poll"), sim.sse("/events")
            sim.shut_down(grace=3)
            assert sim.now() == 3  # nobody knew
    assert (poll.status, poll.reason) == (503, ShutDown())
    assert poll.headers["retry-after"] in ("1", "2", "3")
    assert (stream.complete, stream.reason) == (True, ShutDown())
    assert 2000 <= stream.retry <= 6000


def test_the_jitter_comes_from_the_seed():
    assert len({farewells(seed=7)[1].retry for _ in range(3)}) == 1
    assert len({farewells(seed=seed)[1].retry for seed in range(5)}) > 1


@pytest.mark.parametrize("worker, told", [("trioloop", Disconnected), ("stock", Failed)])
def test_after_the_grace_what_is_left_is_cancelled(worker, told):
    class Stubborn(LoopHandler):
        async def info(self, message):
            with trio.CancelScope(shield=True):
                await trio.sleep(10)

    app = make_app()
    app.route("/stubborn", Stubborn)
    with Simulation(app, worker=worker) as sim:
        poll = sim.get("/stubborn")
        sim.ref(poll).send("go")
        sim.shut_down(grace=3)
        assert sim.now() == 10
        assert isinstance(poll.reason, told)  # its farewell came too late
        assert sim.stuck == []
        (cancelled,) = [entry for entry in sim.journal if entry.what == "is cancelled"]
        assert cancelled.time == 3


def test_the_end_of_a_simulation_ends_everything_whatever_state_it_is_in():
    with Simulation(make_app()) as sim:
        stalled, working, waiting = (sim.sse("/events") for _ in range(3))
        stalled.stall()
        sim.ref(stalled).send(say("x")[0])
        sim.ref(working).send(wait_for_ever)
    assert {working.reason, waiting.reason} == {ShutDown()}
    assert isinstance(stalled.reason, Failed)  # what it had to write before could not be written


# -- what it says when it cannot go on -------------------------------------------------------------


async def wait_for_ever(handler):
    await trio.sleep_forever()


async def spin():
    while True:
        await trio.lowlevel.checkpoint()


def test_a_livelock_tells_at_what_time(monkeypatch):
    monkeypatch.setattr("trioloop.testing._simulation.MAX_TICKS", 500)
    with Simulation(make_app()) as sim:
        poll = sim.get("/poll")
        sim.advance(2.5)
        with pytest.raises(SimulationError, match=r"livelock at t=2\.5: something still runs"):
            sim.ref(poll).send(lambda handler: spin())
    assert poll.reason == ShutDown()


def test_a_livelock_that_cannot_be_cancelled_is_named(tmp_path):
    """In a process of its own, which it spoils."""
    script = tmp_path / "spin.py"
    script.write_text(
        """
import trio, trioloop.testing._simulation as module
from trioloop import App, LoopHandler
from trioloop.testing import Simulation, SimulationError

class Spin(LoopHandler):
    async def init(self, request):
        with trio.CancelScope(shield=True):
            while True:
                await trio.lowlevel.checkpoint()

module.MAX_TICKS = 500
app = App()
app.route("/", Spin)
sim = Simulation(app)
try:
    with sim:
        sim.get("/")
except SimulationError as error:
    print(error, "|", sim.stuck)
try:
    with Simulation(App()):
        pass
except SimulationError as error:
    print(error)
""",
        encoding="utf-8",
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    first, second = result.stdout.splitlines()
    assert first == (
        "the run cannot be ended; still there: client 1, lifespan | ['client 1', 'lifespan']"
    )
    assert second.startswith(f"the simulation that was made at {script}:15 could not be ended")


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(trioloop.__file__).parents[1])}


def test_a_thread_is_refused_with_a_sentence_and_the_simulation_goes_on(sim):
    async def use_thread(handler):
        return await trio.to_thread.run_sync(lambda: Reply(200))

    poll = sim.get("/poll")
    with pytest.raises(
        SimulationError, match=r"the task 'client 1' wants a thread .* not simulated"
    ):
        sim.ref(poll).send(use_thread)
    assert isinstance(poll.reason, Crashed)
    assert isinstance(poll.reason.error, SimulationError)
    with pytest.raises(SimulationError, match="the task 'client 2' wants a thread"):
        sim.get("/thread")  # Starlette calls it in one
    with pytest.raises(SimulationError, match="the task 'run_sync' wants a thread"):
        sim.run(trio.to_thread.run_sync, print)
    assert sim.get("/poll").pending


def test_a_real_socket_is_refused_with_a_sentence():
    async def connect(port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.receive_some()

    with socket.create_server(("127.0.0.1", 0)) as server, Simulation(make_app()) as sim:
        port = server.getsockname()[1]
        poll = sim.get("/poll")
        with pytest.raises(SimulationError, match=r"waits for a socket inside of a simulation"):
            sim.ref(poll).send(lambda handler: connect(port))


def test_the_name_of_a_host_is_not_looked_up(sim):
    with pytest.raises(SimulationError, match="wants a thread"):
        sim.run(trio.open_tcp_stream, "example.org", 80)


def test_a_thread_of_the_tests_own_may_send(sim):
    poll = sim.get("/poll")
    thread = threading.Thread(target=sim.ref(poll).ref.send_from_thread, args=(Reply(200, "hi"),))
    thread.start()
    thread.join()
    sim.settle()
    assert poll.text == "hi"


def test_a_simulation_that_was_not_closed_is_named_by_the_next_one():
    forgotten = Simulation(make_app())
    forgotten.__enter__()
    try:
        with (
            pytest.raises(SimulationError, match=r"test_simulation\.py:\d+ has not been closed"),
            Simulation(make_app()),
        ):
            pass
    finally:
        forgotten.close()
    forgotten.close()
    with Simulation(make_app()) as sim:
        assert sim.get("/poll").pending


async def test_a_simulation_inside_of_an_async_test_says_what_to_use():
    with pytest.raises(SimulationError, match=r"inside of trio.run: .* the fixture fake_client"):
        Simulation(make_app()).__enter__()


def test_nothing_can_be_done_before_the_beginning_or_after_the_end():
    sim = Simulation(make_app())
    with pytest.raises(SimulationError, match="has ended, or has not begun"):
        sim.get("/poll")
    with sim:
        poll = sim.get("/poll")
    for verb in (
        lambda: sim.get("/poll"),
        lambda: sim.advance(1),
        lambda: sim.lag(1),
        lambda: sim.run(trio.sleep, 0),
        lambda: sim.later(1, print),
        sim.shut_down,
        lambda: poll.read(1),
    ):
        with pytest.raises(SimulationError, match="has ended, or has not begun"):
            verb()
    with pytest.raises(SimulationError, match="the simulation has ended; make a new one"):
        sim.__enter__()


def test_an_application_without_a_hub_is_told():
    async def app(scope, receive, send):
        """Nothing."""

    with pytest.raises(
        TypeError, match=r"<function .*app.* has no hub; say which one is meant: hub="
    ):
        Simulation(app)


def test_the_hub_may_hang_elsewhere():
    hub = Hub()
    app = Starlette(routes=[hub.route("/poll", Poll)], lifespan=hub.lifespan)
    with Simulation(app, hub=hub) as sim:
        assert sim.get("/poll").pending
        assert sim.hub is hub


def lifespan_that(start=lambda: None, end=lambda: None):
    @asynccontextmanager
    async def lifespan(app):
        if (waited := start()) is not None:
            await waited
        yield
        end()

    return lifespan


def fail():
    raise ValueError("no database")


def test_a_lifespan_that_fails_at_the_start_fails_the_test_with_its_own_error():
    with (
        pytest.raises(ValueError, match="no database"),
        Simulation(make_app(lifespan=lifespan_that(start=fail))),
    ):
        pass


def test_a_lifespan_that_fails_at_the_end_fails_the_test_with_its_own_error():
    app = make_app(lifespan=lifespan_that(end=fail))
    with pytest.raises(ValueError, match="no database"), Simulation(app) as sim:
        assert sim.get("/poll").pending
    app = make_app(lifespan=lifespan_that(end=fail))
    with pytest.raises(ValueError, match="no database"), Simulation(app) as sim:
        sim.shut_down()


def test_several_errors_of_a_lifespan_stay_together():
    def fail_twice():
        raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])

    with (
        pytest.raises(ExceptionGroup, match="both"),
        Simulation(make_app(lifespan=lifespan_that(start=fail_twice))),
    ):
        pass


def test_a_tests_own_failure_is_not_hidden_by_that_of_the_lifespan():
    app = make_app(lifespan=lifespan_that(end=fail))
    with pytest.raises(AssertionError, match="mine"), Simulation(app):
        raise AssertionError("mine")


def test_a_lifespan_that_never_starts_up_is_told():
    app = make_app(lifespan=lifespan_that(start=trio.sleep_forever))
    with pytest.raises(SimulationError, match="did not complete its start-up"), Simulation(app):
        pass


def test_an_application_that_only_says_that_it_failed():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="no database"), Simulation(app, hub=Hub()):
        pass


@pytest.fixture
def listening():
    """Python's own handler of interrupts: a process in the background begins with none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "interrupt",
    [
        pytest.param(lambda handler: signal.raise_signal(signal.SIGINT), id="signal"),
        pytest.param(lambda handler: raise_interrupt(), id="raise"),
    ],
)
def test_an_interrupt_ends_the_simulation_at_once_and_the_journal_stays(interrupt, listening):
    sim = Simulation(make_app(), laws=True)
    with pytest.raises(KeyboardInterrupt) as interrupted, sim:
        poll, other = sim.get("/poll"), sim.get("/poll")
        sim.advance(3)
        sim.ref(poll).send(interrupt)
    assert sim.now() == 3
    assert [entry.what for entry in sim.journal if entry.who == "test"] == ["advances", "sends"]
    assert (poll.reason, other.reason) == (ShutDown(), ShutDown())
    (told,) = interrupted.value.__notes__
    assert told == "\n" + timeline(sim.journal)
    with Simulation(make_app()):
        pass


def raise_interrupt():
    raise KeyboardInterrupt


def test_an_interrupt_in_the_test_itself_ends_the_simulation():
    sim = Simulation(make_app())
    with pytest.raises(KeyboardInterrupt) as interrupted, sim:
        poll = sim.get("/poll")
        raise KeyboardInterrupt
    assert "asks GET /poll" in interrupted.value.__notes__[0]
    assert sim.closed
    assert poll.reason == ShutDown()


def test_garbage_is_not_collected_in_the_meantime():
    assert gc.isenabled()
    with Simulation(make_app()):
        assert not gc.isenabled()
    assert gc.isenabled()
