"""Instruments: what they hear, and that they cost and harm nothing."""

from __future__ import annotations

import dataclasses

import pytest
import trio
from support.fake import Poll, serve, settle
from support.fake_websocket import Socket

from trioloop import (
    CallbackDone,
    CommandReturned,
    Continue,
    DeadLetter,
    HandlerStarted,
    HandlerTerminated,
    Instrument,
    Send,
    ShutDown,
    Stop,
    Stopped,
)


class Ear(Instrument):
    """Remembers all that it hears."""

    def __init__(self):
        self.heard = []
        self.started = self.message = self.command = self.heard.append
        self.terminated = self.dead_letter = self.heard.append

    def of(self, kind):
        return [detail for detail in self.heard if type(detail) is kind]


async def test_an_instrument_hears_of_a_life_in_its_order(autojump_clock):
    ear = Ear()
    async with serve(instruments=[ear]) as client:
        poll = Poll()
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait([Continue(), Stop()])
        await exchange.wait_returned()
        await settle()
    ref = poll.ref
    assert ear.heard == [
        HandlerStarted(ref, "Poll"),
        CallbackDone(ref, "init", None, 0.0),
        CallbackDone(ref, "info", [Continue(), Stop()], 0.0),
        CommandReturned(ref, "info", Continue()),
        CommandReturned(ref, "info", Stop()),
        HandlerTerminated(ref, Stopped(), 0.0, 1),
    ]


async def test_the_time_of_an_async_callback_is_told(autojump_clock):
    async def answer(message):
        await trio.sleep(2)

    ear = Ear()
    async with serve(instruments=[ear]) as client:
        poll = Poll(answer)
        client.run(poll)
        await settle()
        poll.ref.send_nowait("x")
        await trio.sleep(3)
        assert ear.of(CallbackDone)[-1] == CallbackDone(poll.ref, "info", "x", 2.0)


async def test_a_crash_is_told_with_its_error(autojump_clock):
    error = ValueError("planned")

    def answer(message):
        raise error

    ear = Ear()
    async with serve(instruments=[ear]) as client:
        poll = Poll(answer)
        client.run(poll)
        await settle()
        poll.ref.send_nowait("x")
        await poll.ref.wait_ended()
        assert ear.of(CallbackDone)[-1] == CallbackDone(poll.ref, "info", "x", 0.0, error)


async def test_notify_and_idle_and_receive_are_told_once_each(autojump_clock):
    ear = Ear()
    async with serve(instruments=[ear]) as client:
        socket = Socket(idle=lambda: None, idle_timeout=1.0, receive=Send)
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.notify("note")
        websocket.send("data")
        await trio.sleep(1.5)
        done = [(detail.callback, detail.message) for detail in ear.of(CallbackDone)]
        assert sorted(done[1:3]) == [("notify", "note"), ("receive", "data")]
        assert done[3:] == [("idle", None)]
        assert ear.of(CommandReturned) == [CommandReturned(socket.ref, "receive", Send("data"))]


async def test_dead_letters_are_told(autojump_clock):
    ear = Ear()
    async with serve(instruments=[ear]) as client:
        poll = Poll()
        client.run(poll)
        await settle()
        poll.ref.send_nowait(Stop())
        poll.ref.send_nowait("late")
        await poll.ref.wait_ended()
        assert ear.of(DeadLetter) == [DeadLetter(poll.ref, "late", Stopped())]


async def test_a_handler_that_never_began_is_told_too(autojump_clock):
    ear = Ear()
    async with serve(instruments=[ear]) as client:
        client.hub.shut_down()
        await client.run(Poll()).wait_returned()
        assert [type(detail) for detail in ear.heard] == [HandlerStarted, HandlerTerminated]
        assert ear.heard[-1].reason == ShutDown()


async def test_what_an_instrument_raises_harms_nobody(autojump_clock, caplog):
    def fail(detail):
        raise ValueError("planned")

    class Broken(Instrument):
        def __init__(self):
            self.started = self.message = self.command = fail
            self.terminated = self.dead_letter = fail

    ear = Ear()
    async with serve(instruments=[Broken(), ear]) as client:
        poll = Poll()
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait(Stop())
        poll.ref.send_nowait("late")
        await exchange.wait_returned()
        assert poll.reasons == [Stopped()]
    assert len(ear.heard) == 6
    assert "Broken" in caplog.text


async def test_a_callback_that_never_began_is_not_told(autojump_clock):
    begun = []

    async def receive(data):
        begun.append(data)

    ear = Ear()
    async with serve(instruments=[ear]) as client:
        socket = Socket(lambda message: Send("stuck"), receive=receive, send_timeout=1.0)
        websocket = client.run_websocket(socket)
        await settle()
        websocket.stall()
        socket.ref.send_nowait("x")
        websocket.send("data")
        await websocket.wait_returned()
        await socket.ref.wait_ended()
        told = [detail.callback for detail in ear.of(CallbackDone)]
        assert told.count("receive") == len(begun)


async def test_a_hub_without_instruments_wraps_nothing(autojump_clock):
    async with serve() as client:
        poll = Poll()
        client.run(poll)
        await settle()
        assert client.hub.orchestra is None
        assert "info" not in vars(poll)


def test_details_are_frozen():
    detail = CommandReturned(None, "info", Stop())
    with pytest.raises(dataclasses.FrozenInstanceError):
        detail.callback = "idle"
