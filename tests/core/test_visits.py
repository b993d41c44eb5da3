"""Looking at a living handler: its state, suspend and resume, between its callbacks only."""

from __future__ import annotations

import math

import pytest
import trio
from support.fake import Poll, Stream, serve, settle
from support.fake_websocket import Socket

from trioloop import (
    Disconnected,
    HandlerEnded,
    Hibernate,
    Reply,
    SendAfter,
    ServerSentEvent,
    ShutDown,
    Stop,
    TimedOut,
)


async def test_get_state_shows_what_the_handler_remembers(autojump_clock):
    async with serve() as client:
        poll = Poll()
        client.run(poll)
        await settle()
        poll.ref.send_nowait("one")
        await settle()
        state = await poll.ref.get_state()
        assert state["handled"] == ["one"]
        assert not {"ref", "hub", "request"} & set(state)


@pytest.mark.parametrize("callback", ["init", "info", "idle"])
async def test_get_state_waits_for_the_callback_that_runs(autojump_clock, callback):
    async def work(*args):
        poll.half = True
        await trio.sleep(1)
        poll.half = False

    attributes = {"answer" if callback == "info" else callback: work}
    poll = Poll(idle_timeout=0.5 if callback == "idle" else 60.0, **attributes)
    async with serve() as client:
        client.run(poll)
        await settle()
        if callback == "info":
            poll.ref.send_nowait("x")
            poll.ref.send_nowait("y")
        await trio.sleep(0.75)
        assert poll.half
        assert not (await poll.ref.get_state())["half"]


async def test_get_state_of_a_handler_that_has_ended_or_ends_says_so(autojump_clock):
    async def answer(message):
        await trio.sleep(1)
        return Stop()

    async with serve() as client:
        poll = Poll(answer)
        client.run(poll)
        await settle()
        poll.ref.send_nowait("x")
        await settle()
        client.hub.shut_down()
        with pytest.raises(HandlerEnded):
            await poll.ref.get_state()
        with pytest.raises(HandlerEnded) as ended:
            await poll.ref.suspend()
        assert ended.value.reason == ShutDown()


async def test_a_handler_cannot_visit_itself(autojump_clock):
    errors = []

    class Visitor(Poll):
        async def info(self, message):
            for visit in (self.ref.get_state, self.ref.suspend):
                try:
                    await visit()
                except RuntimeError as error:
                    errors.append(error)

    async with serve() as client:
        poll = Visitor()
        client.run(poll)
        await settle()
        poll.ref.send_nowait("x")
        await settle()
        assert len(errors) == 2


async def test_a_suspended_handler_handles_nothing_until_it_is_resumed(autojump_clock):
    async with serve() as client:
        poll = Poll(init=lambda request: SendAfter(1, "timer"))
        client.run(poll)
        await settle()
        await poll.ref.suspend()
        assert poll.ref.statistics().phase == "suspended"
        assert poll.ref.send_nowait("one")
        await trio.sleep(5)
        poll.ref.send_nowait("two")
        await trio.sleep(5)
        assert poll.handled == []
        assert poll.ref.statistics().messages_waiting == 3
        poll.ref.resume()
        await settle()
        assert poll.handled == ["one", "timer", "two"]


async def test_a_suspended_websocket_receives_nothing(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        await socket.ref.suspend()
        websocket.send("x")
        await trio.sleep(5)
        assert socket.received == []
        socket.ref.resume()
        await settle()
        assert socket.received == ["x"]


async def test_the_idle_time_starts_anew_after_a_suspension(autojump_clock):
    poll = Poll(idle_timeout=2.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1)
        await poll.ref.suspend()
        await trio.sleep(10)
        assert poll.reasons == []
        poll.ref.resume()
        assert await poll.ref.wait_ended() == TimedOut()
        assert poll.ended_at == 13.0


async def test_keepalives_go_on_while_a_handler_is_suspended(autojump_clock):
    stream = Stream(keepalive=1.0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        await stream.ref.suspend()
        stream.ref.send_nowait(ServerSentEvent("x"))
        await trio.sleep(3.5)
        assert exchange.body == b":\n\n" * 3


@pytest.mark.parametrize("how", ["disconnect", "stop"])
async def test_what_ends_a_handler_ends_a_suspended_one(autojump_clock, how):
    poll = Poll()
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        await poll.ref.suspend()
        poll.ref.send_nowait("never")
        {"disconnect": exchange.disconnect, "stop": poll.ref.stop}[how]()
        reason = await poll.ref.wait_ended()
        assert reason == (Disconnected() if how == "disconnect" else ShutDown())
        assert client.hub.statistics().dead_letters == 1


async def test_a_hibernating_handler_can_be_looked_at_and_suspended(autojump_clock):
    poll = Poll(init=lambda request: Hibernate(idle_timeout=math.inf))
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        assert (await poll.ref.get_state())["handled"] == []
        await poll.ref.suspend()
        poll.ref.send_nowait(Reply(200, "x"))
        await trio.sleep(1)
        assert exchange.status is None
        poll.ref.resume()
        await exchange.wait_returned()
        assert exchange.body == b"x"


async def test_suspending_twice_and_resuming_once_is_enough(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.resume()
        await poll.ref.suspend()
        await poll.ref.suspend()
        poll.ref.resume()
        poll.ref.send_nowait("x")
        await settle()
        assert poll.handled == ["x"]


async def test_a_callback_that_runs_comes_to_its_end_before_the_suspension(autojump_clock):
    done = []

    async def answer(message):
        await trio.sleep(1)
        done.append(message)

    poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("one")
        poll.ref.send_nowait("two")
        await trio.sleep(0.5)
        await poll.ref.suspend()
        assert done == ["one"]
        await trio.sleep(5)
        assert done == ["one"]
