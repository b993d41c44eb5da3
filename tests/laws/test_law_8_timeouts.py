"""Law 8: nothing that a client does holds a handler or a shutdown for longer than its timeouts."""

from __future__ import annotations

import pytest
import trio
from support.fake import Poll, Stream, serve, settle

from trioloop import (
    Chunk,
    Disconnected,
    Failed,
    Reply,
    SendTimedOut,
    ServerSentEvent,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
)

both_servers = pytest.mark.parametrize("shielded", [False, True])


@both_servers
async def test_a_write_that_has_not_returned_after_send_timeout_ends_the_handler(
    autojump_clock, shielded
):
    stream = Stream(send_timeout=5.0)
    async with serve() as client:
        exchange = client.run(stream)
        await trio.sleep(1)
        exchange.stall(shielded=shielded)
        stream.ref.send_nowait(ServerSentEvent("never read"))
        reason = await stream.ref.wait_ended()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, SendTimedOut)
        assert reason.error.seconds == 5.0
        assert stream.reasons == [reason]
        assert stream.ended_at == 1 + 5
        assert exchange.aborted


@both_servers
async def test_the_send_timeout_is_30_seconds_by_default(autojump_clock, shielded):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall(shielded=shielded)
        stream.ref.send_nowait(ServerSentEvent("never read"))
        await stream.ref.wait_ended()
        assert stream.ended_at == 30.0


@both_servers
async def test_a_keepalive_that_nobody_reads_ends_the_handler(autojump_clock, shielded):
    stream = Stream(keepalive=2.0, send_timeout=5.0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall(shielded=shielded)
        await stream.ref.wait_ended()
        assert stream.ended_at == 2 + 5


@both_servers
async def test_the_first_write_has_the_same_limit(autojump_clock, shielded):
    stream = Stream(send_timeout=5.0)
    async with serve() as client:
        exchange = client.run(stream)
        exchange.stall(shielded=shielded)
        await settle()
        reason = await stream.ref.wait_ended()
        assert isinstance(reason, Failed)
        assert stream.ended_at == 5.0


@both_servers
async def test_a_reply_that_nobody_reads_ends_as_failed(autojump_clock, shielded):
    poll = Poll(init=lambda request: Reply(200, "text"), send_timeout=5.0)
    async with serve() as client:
        exchange = client.run(poll)
        exchange.stall(shielded=shielded)
        await settle()
        reason = await poll.ref.wait_ended()
        assert isinstance(reason, Failed)
        assert poll.reasons == [reason]
        assert poll.ended_at == 5.0
        assert exchange.aborted


@both_servers
async def test_the_ending_that_nobody_reads_replaces_the_reason(autojump_clock, shielded):
    stream = Stream(send_timeout=5.0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall(shielded=shielded)
        stream.ref.send_nowait(Stop())
        reason = await stream.ref.wait_ended()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, SendTimedOut)
        assert stream.ended_at == 5.0


@both_servers
async def test_a_client_that_reads_slowly_but_in_time_harms_nothing(autojump_clock, shielded):
    stream = Stream(send_timeout=5.0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        for _ in range(4):
            exchange.stall(shielded=shielded)
            stream.ref.send_nowait(ServerSentEvent("x"))
            await trio.sleep(4.75)
            exchange.resume()
            await settle()
        assert exchange.body.count(b"data: x\n\n") == 4
        assert stream.reasons == []


async def test_a_message_is_not_handled_while_a_write_is_stuck_and_none_is_lost_when_it_is_freed(
    autojump_clock,
):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall()
        stream.ref.send_nowait(ServerSentEvent("one"))
        await trio.sleep(1)
        stream.ref.send_nowait(ServerSentEvent("two"))
        await trio.sleep(1)
        assert len(stream.handled) == 1
        exchange.resume()
        await settle()
        assert exchange.body == b"data: one\n\ndata: two\n\n"


@both_servers
async def test_a_disconnect_during_a_stuck_write_ends_the_handler_at_once(autojump_clock, shielded):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall(shielded=shielded)
        stream.ref.send_nowait(ServerSentEvent("x"))
        await trio.sleep(2)
        exchange.disconnect()
        assert await stream.ref.wait_ended() == Disconnected()
        assert stream.ended_at == 2.0


# -- shutdown --------------------------------------------------------------------------------------


async def test_a_cancelled_call_still_says_goodbye(autojump_clock):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.cancel()
        await exchange.wait_returned()
        assert exchange.complete
        assert await stream.ref.wait_ended() == ShutDown()
        assert trio.current_time() == 0.0


@both_servers
async def test_the_goodbye_of_a_cancelled_call_has_one_second(autojump_clock, shielded):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await trio.sleep(1)
        exchange.stall(shielded=shielded)
        exchange.cancel()
        await exchange.wait_returned()
        assert trio.current_time() == 1 + 1
        await stream.ref.wait_ended()
        assert stream.ended_at == 1 + 1


@both_servers
async def test_no_goodbye_is_tried_while_a_write_is_stuck(autojump_clock, shielded):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall(shielded=shielded)
        stream.ref.send_nowait(ServerSentEvent("stuck"))
        await trio.sleep(1)
        exchange.cancel()
        await exchange.wait_returned()
        await stream.ref.wait_ended()
        assert trio.current_time() == 1.0


async def test_a_callback_that_waits_is_cancelled_by_the_shutdown(autojump_clock):
    async def answer(message):
        await trio.sleep_forever()

    poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        await trio.sleep(1)
        await client.shut_down()
        assert trio.current_time() == 1.0
        assert poll.reasons == [ShutDown()]


@both_servers
async def test_a_shutdown_ends_within_a_second_and_the_terminate_timeout(autojump_clock, shielded):
    async def terminate(reason):
        await trio.sleep_forever()

    handlers = [Stream(terminate=terminate), Poll(terminate=terminate), Stream()]
    async with serve() as client:
        exchanges = [client.run(handler) for handler in handlers]
        await settle()
        for exchange in exchanges:
            exchange.stall(shielded=shielded)
            exchange.cancel()
        await client.shut_down()
        assert trio.current_time() <= 1 + 5


async def test_a_lifespan_that_ends_by_itself_ends_every_handler(autojump_clock):
    stream, poll = Stream(), Poll()
    async with serve() as client:
        opened = client.run(stream)
        waiting = client.run(poll)
        await settle()
        client.hub.shut_down()
        await opened.wait_returned()
        await waiting.wait_returned()
        assert stream.reasons == poll.reasons == [ShutDown()]
        assert waiting.status == 503
        assert opened.complete


# -- output that was returned is written -----------------------------------------------------------


async def test_output_of_earlier_messages_survives_a_later_crash(autojump_clock):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait(ServerSentEvent("one"))
        stream.ref.send_nowait(["two", "is no command"])
        stream.ref.send_nowait(ServerSentEvent("three"))
        await exchange.wait_returned()
        assert exchange.body == b"data: one\n\n"
        assert exchange.aborted


async def test_output_that_was_returned_is_written_before_the_farewell(autojump_clock):
    poll = Poll(lambda message: [StartResponse(200), Chunk("text"), Stop()])
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        await exchange.wait_returned()
        assert exchange.body == b"text"
        assert exchange.complete
        assert poll.reasons == [Stopped()]


async def test_a_shielded_callback_may_still_answer_during_a_shutdown(autojump_clock):
    async def answer(message):
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)
        return Reply(200, "finished")

    poll = Poll(answer)
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        await settle()
        poll.ref.stop()
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (200, b"finished")
        assert poll.reasons == [ShutDown()]
