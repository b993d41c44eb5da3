"""Law 7: the idle time runs from the end of `init`, `info` or `idle` to the next message."""

from __future__ import annotations

import math

import pytest
import trio
from support.fake import Poll, Stream, serve, settle

from trioloop import Chunk, Continue, Hibernate, ServerSentEvent, StartResponse, TimedOut


async def take(seconds, then=None):
    await trio.sleep(seconds)
    return then


async def test_it_runs_from_the_end_of_init(autojump_clock):
    poll = Poll(init=lambda request: take(3), idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        await settle()
        await poll.ref.wait_ended()
        assert (poll.ended_at, poll.reasons) == (7.0, [TimedOut("mailbox")])


async def test_it_runs_from_the_end_of_info(autojump_clock):
    poll = Poll(lambda message: take(3), idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(2)
        poll.ref.send_nowait("message")
        await poll.ref.wait_ended()
        assert poll.ended_at == 2 + 3 + 4


async def test_it_runs_from_the_end_of_notify(autojump_clock):
    poll = Poll(notify=lambda message: take(3), idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(2)
        poll.ref.notify("message")
        await poll.ref.wait_ended()
        assert poll.ended_at == 2 + 3 + 4


async def test_it_runs_from_the_end_of_idle(autojump_clock):
    times = []

    async def idle():
        times.append(trio.current_time())
        await trio.sleep(1)

    poll = Poll(idle=idle, idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(16)
        assert times == [4.0, 9.0, 14.0]


async def test_it_ends_with_the_next_message(autojump_clock):
    poll = Poll(idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        for _ in range(5):
            await trio.sleep(3)
            poll.ref.send_nowait("message")
        await poll.ref.wait_ended()
        assert poll.ended_at == 5 * 3 + 4


async def test_the_last_of_several_ready_messages_counts(autojump_clock):
    poll = Poll(lambda message: take(1), idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        await settle()
        for number in range(3):
            poll.ref.send_nowait(number)
        await poll.ref.wait_ended()
        assert poll.ended_at == 3 + 4


async def test_a_slow_write_does_not_prolong_it(autojump_clock):
    stream = Stream(idle_timeout=4.0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall()
        stream.ref.send_nowait(ServerSentEvent("x"))
        await trio.sleep(3)
        exchange.resume()
        await stream.ref.wait_ended()
        assert stream.ended_at == 4.0


async def test_a_slow_write_of_a_whole_batch_does_not_prolong_it(autojump_clock):
    stream = Stream(idle_timeout=4.0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall()
        for _ in range(64):  # the write comes at once, not when the mailbox is found empty
            stream.ref.send_nowait(ServerSentEvent("x"))
        await trio.sleep(3)
        exchange.resume()
        await stream.ref.wait_ended()
        assert stream.ended_at == 4.0


async def test_keepalives_never_move_it(autojump_clock):
    stream = Stream(keepalive=1.0, idle_timeout=4.5)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        await stream.ref.wait_ended()
        assert stream.ended_at == 4.5
        assert [time for time, _ in exchange.writes] == [1.0, 2.0, 3.0, 4.0]


async def test_a_keepalive_at_the_very_instant_of_the_deadline_does_not_move_it(autojump_clock):
    stream = Stream(keepalive=2.0, idle_timeout=4.0)
    async with serve() as client:
        client.run(stream)
        await settle()
        await stream.ref.wait_ended()
        assert stream.ended_at == 4.0


async def test_body_data_never_moves_it(autojump_clock):
    poll = Poll(idle_timeout=4.0)
    async with serve() as client:
        exchange = client.run(poll, "POST", more=True)
        for _ in range(3):
            await trio.sleep(1)
            exchange.send_body(b"data")
        await poll.ref.wait_ended()
        assert poll.ended_at == 4.0


async def test_a_child_task_that_ends_does_not_move_it(autojump_clock):
    poll = Poll(init=lambda request: poll.nursery.start_soon(trio.sleep, 3), idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        await settle()
        await poll.ref.wait_ended()
        assert poll.ended_at == 4.0


async def test_reading_the_statistics_does_not_move_it(autojump_clock):
    poll = Poll(idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(3)
        poll.ref.statistics()
        await poll.ref.wait_ended()
        assert poll.ended_at == 4.0


@pytest.mark.parametrize("command", [Continue(idle_timeout=2.0), Hibernate(idle_timeout=2.0)])
async def test_a_command_changes_it_and_it_stays_so(autojump_clock, command):
    poll = Poll(lambda message: command if message == "change" else None, idle_timeout=50.0)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("change")
        for _ in range(4):
            await trio.sleep(1)
            poll.ref.send_nowait("message")
        await poll.ref.wait_ended()
        assert poll.ended_at == 4 + 2


@pytest.mark.parametrize("command", [None, Continue(), Hibernate(), StartResponse(200)])
async def test_a_command_without_an_idle_timeout_leaves_it(autojump_clock, command):
    poll = Poll(init=lambda request: Continue(idle_timeout=2.0), answer=lambda message: command)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1)
        poll.ref.send_nowait("message")
        await poll.ref.wait_ended()
        assert poll.ended_at == 1 + 2


async def test_infinity_is_no_timeout(autojump_clock):
    poll = Poll(init=lambda request: Continue(idle_timeout=math.inf))
    async with serve() as client:
        client.run(poll)
        await trio.sleep(10**4)
        assert poll.reasons == []


async def test_zero_is_the_next_moment_without_a_message(autojump_clock):
    poll = Poll(idle_timeout=0.0)
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.reasons == [TimedOut()]
        assert poll.ended_at == 0.0


async def test_idle_may_change_it(autojump_clock):
    times = []

    def idle():
        times.append(trio.current_time())
        return Continue(idle_timeout=3.0)

    poll = Poll(idle=idle, idle_timeout=1.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(8)
        assert times == [1.0, 4.0, 7.0]


async def test_what_idle_returns_is_written(autojump_clock):
    poll = Poll(
        init=lambda request: StartResponse(200), idle=lambda: Chunk("tick"), idle_timeout=1.0
    )
    async with serve() as client:
        exchange = client.run(poll)
        await trio.sleep(2.5)
        assert exchange.writes == [(1.0, b"tick"), (2.0, b"tick")]
