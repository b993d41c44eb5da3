"""What is legal when: command by kind of handler by state of the response by callback.

The table is written down again here, by hand, as the promise that the code is held to.
"""

from __future__ import annotations

import pytest
import trio
from support.fake import Poll, Stream, serve, settle

from trioloop import (
    BadReturn,
    CancelTimer,
    Chunk,
    Continue,
    Crashed,
    EventStreamHandler,
    Hibernate,
    LoopHandler,
    Postpone,
    Reply,
    SendAfter,
    ServerSentEvent,
    StartResponse,
    Stop,
    Then,
)

COMMANDS = {
    "Continue": Continue(),
    "Hibernate": Hibernate(),
    "Stop": Stop(),
    "Then": Then("then"),
    "SendAfter": SendAfter(1, "later"),
    "CancelTimer": CancelTimer("key"),
    "Postpone": Postpone(),
    "Reply": Reply(200, "text"),
    "StartResponse": StartResponse(200),
    "Chunk": Chunk("text"),
    "ServerSentEvent": ServerSentEvent("text"),
}
FLOW = {"Continue", "Hibernate", "Stop", "Then", "SendAfter", "CancelTimer"}

LEGAL = {
    (Poll, "init", "waiting"): FLOW | {"Reply", "StartResponse"},
    (Poll, "info", "waiting"): FLOW | {"Reply", "StartResponse", "Postpone"},
    (Poll, "notify", "waiting"): FLOW | {"Reply", "StartResponse", "Postpone"},
    (Poll, "idle", "waiting"): FLOW | {"Reply", "StartResponse"},
    (Poll, "info", "open"): FLOW | {"Chunk", "Postpone"},
    (Poll, "notify", "open"): FLOW | {"Chunk", "Postpone"},
    (Poll, "idle", "open"): FLOW | {"Chunk"},
    (Stream, "init", "waiting"): FLOW | {"Reply", "StartResponse", "ServerSentEvent"},
    (Stream, "info", "open"): FLOW | {"ServerSentEvent", "Postpone"},
    (Stream, "notify", "open"): FLOW | {"ServerSentEvent", "Postpone"},
    (Stream, "idle", "open"): FLOW | {"ServerSentEvent"},
}


async def outcome_of(kind, callback, state, outcome):
    """Let one callback return this, once; give the handler's first reason, if it has one."""
    returned = []

    def once(*args):
        if returned:
            return None
        returned.append(outcome)
        return outcome

    start = {Poll: StartResponse(200), Stream: None}[kind] if state == "open" else None
    callbacks = {"init": lambda request: start}
    callbacks["answer" if callback == "info" else callback] = once
    handler = kind(idle_timeout=2.0, **callbacks)
    async with serve() as client:
        exchange = client.run(handler)
        await settle()
        if callback == "info":
            handler.ref.send_nowait("message")
        if callback == "notify":
            handler.ref.notify("message")
        await trio.sleep(2.5 if callback == "idle" else 0.5)
        reasons = list(handler.reasons)
    return reasons, exchange, handler


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "place", LEGAL, ids=lambda place: f"{place[0].__name__}-{place[1]}-{place[2]}"
)
async def test_a_command_is_carried_out_where_the_table_has_it_and_a_bad_return_elsewhere(
    autojump_clock, place, name
):
    reasons, _, _ = await outcome_of(*place, outcome=COMMANDS[name])
    if name in LEGAL[place]:
        assert not any(isinstance(reason, Crashed) for reason in reasons)
    else:
        [reason] = reasons
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, BadReturn)
        assert reason.callback == reason.error.callback == place[1]
        assert reason.error.value == COMMANDS[name]


@pytest.mark.parametrize(
    "place",
    [place for place in LEGAL if place[1] != "idle"],
    ids=lambda p: f"{p[0].__name__}-{p[1]}",
)
@pytest.mark.parametrize("end", ["Stop", "Reply"])
async def test_nothing_may_follow_what_ends_the_handler(autojump_clock, place, end):
    if end not in LEGAL[place]:
        end = "Stop"
    [reason], _, _ = await outcome_of(*place, outcome=[COMMANDS[end], Continue()])
    assert isinstance(reason, Crashed)
    assert f"nothing may follow {end}" in str(reason.error)


# -- what may follow what --------------------------------------------------------------------------

LISTS = {
    "StartResponse, Chunk": (Poll, [StartResponse(200), Chunk("x")], True),
    "StartResponse, Chunk, Stop": (Poll, [StartResponse(200), Chunk("x"), Stop()], True),
    "StartResponse twice": (Poll, [StartResponse(200), StartResponse(200)], False),
    "StartResponse, Reply": (Poll, [StartResponse(200), Reply(200)], False),
    "Chunk first": (Poll, [Chunk("x"), StartResponse(200)], False),
    "Reply twice": (Poll, [Reply(200), Reply(200)], False),
    "Postpone twice": (Poll, [Postpone(), Postpone()], False),
    "None in a list": (Poll, [None], False),
    "a list in a list": (Poll, [[Continue()]], False),
    "Stream: StartResponse, event": (Stream, [StartResponse(200), ServerSentEvent("x")], True),
    "Stream: event, StartResponse": (Stream, [ServerSentEvent("x"), StartResponse(200)], False),
    "Stream: event, Reply": (Stream, [ServerSentEvent("x"), Reply(200)], False),
    "Stream: event, Stop": (Stream, [ServerSentEvent("x"), Stop()], True),
}


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_is_legal_when_each_step_of_it_is(autojump_clock, name):
    kind, commands, legal = LISTS[name]
    callback = "init" if kind is Stream else "info"
    reasons, _, _ = await outcome_of(kind, callback, "waiting", commands)
    assert legal != any(isinstance(reason, Crashed) for reason in reasons)


@pytest.mark.parametrize("kind", [Poll, Stream])
async def test_nothing_is_carried_out_when_one_command_of_a_list_is_illegal(autojump_clock, kind):
    good = {Poll: Chunk("carried out"), Stream: ServerSentEvent("carried out")}[kind]
    commands = [good, Then("then"), SendAfter(0, "timer"), Continue(idle_timeout=0), "illegal"]
    [reason], exchange, handler = await outcome_of(kind, "info", "open", commands)
    assert isinstance(reason, Crashed)
    assert exchange.body == b""
    assert handler.handled == ["message"]
    assert handler.ref.statistics().timers == 0


async def test_a_tuple_is_as_good_as_a_list(autojump_clock):
    _, exchange, _ = await outcome_of(Poll, "info", "waiting", (StartResponse(200), Chunk("x")))
    assert exchange.body == b"x"


@pytest.mark.parametrize("kind", [LoopHandler, EventStreamHandler])
async def test_receive_is_for_websockets(autojump_clock, kind):
    handler = kind()
    async with serve() as client:
        client.run(handler)
        await settle()
        handler.ref.send_nowait(Continue(receive=False))
        reason = await handler.ref.wait_ended()
        assert isinstance(reason, Crashed)
        assert "WebSocket" in str(reason.error)


# -- the sentence ----------------------------------------------------------------------------------


async def agen():
    yield Stop()


def gen():
    yield Stop()


VALUES = {
    "text": ("text", "Reply(200, body=...)"),
    "bytes": (b"bytes", "Reply(200, body=...)"),
    "dict": ({"a": 1}, "Reply(200, body=...)"),
    "number": (7, "return None, a command, or a list or tuple of commands"),
    "class": (Stop, "Stop(...)"),
    "true": (True, "return None, a command"),
    "set": ({1}, "return None, a command"),
    "event on a poll": (ServerSentEvent("x"), "EventStreamHandler"),
    "chunk too early": (Chunk("x"), "StartResponse"),
    "postpone in init": (Postpone(), "info and notify"),
}


@pytest.mark.parametrize("name", VALUES)
async def test_a_bad_return_names_the_callback_the_value_and_the_way_out(autojump_clock, name):
    value, way_out = VALUES[name]
    [reason], exchange, _ = await outcome_of(Poll, "init", "waiting", value)
    assert isinstance(reason, Crashed)
    assert str(reason.error).startswith(f"init() returned {value!r}: ")
    assert way_out in str(reason.error)
    assert exchange.status == 500


async def test_data_on_an_event_stream_is_to_be_wrapped_in_an_event(autojump_clock):
    [reason], _, _ = await outcome_of(Stream, "info", "open", "text")
    assert "ServerSentEvent(...)" in str(reason.error)


@pytest.mark.parametrize("make", [agen, gen], ids=["async generator", "generator"])
@pytest.mark.parametrize("callback", ["init", "info", "notify", "idle"])
async def test_a_generator_is_a_bad_return_that_says_not_to_yield(autojump_clock, make, callback):
    [reason], _, _ = await outcome_of(Poll, callback, "waiting", make())
    assert isinstance(reason, Crashed)
    assert isinstance(reason.error, BadReturn)
    assert reason.callback == callback
    assert "yield" in str(reason.error)


async def test_a_bad_return_of_an_async_callback_is_the_same(autojump_clock):
    async def bad(message):
        return "text"

    poll = Poll(bad)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        reason = await poll.ref.wait_ended()
        assert isinstance(reason, Crashed)
        assert str(reason.error).startswith("info() returned 'text': ")


async def test_a_subclass_of_nothing_legal_is_not_a_command(autojump_clock):
    class Lookalike:
        status = 200

    [reason], _, _ = await outcome_of(Poll, "info", "waiting", Lookalike())
    assert isinstance(reason.error, BadReturn)
