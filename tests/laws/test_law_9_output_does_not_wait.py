"""Law 9: output never waits for somebody else's time."""

from __future__ import annotations

from itertools import pairwise

import trio
from support.fake import Poll, Stream, serve, settle

from trioloop import Chunk, SendAfter, ServerSentEvent, StartResponse, Stop, Then


def events(*texts):
    return b"".join(b"data: %b\n\n" % text.encode() for text in texts)


async def test_ready_messages_of_def_callbacks_share_a_write(autojump_clock):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        for text in ("one", "two", "three"):
            stream.ref.send_nowait(ServerSentEvent(text))
        await settle()
        assert [piece for _, piece in exchange.writes] == [events("one", "two", "three")]


async def test_messages_that_are_not_ready_have_writes_of_their_own(autojump_clock):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        for text in ("one", "two"):
            await settle()
            stream.ref.send_nowait(ServerSentEvent(text))
        await settle()
        assert [piece for _, piece in exchange.writes] == [events("one"), events("two")]


async def test_at_most_64_messages_share_a_write(autojump_clock):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        for _ in range(200):
            stream.ref.send_nowait(ServerSentEvent("x"))
        await settle()
        counts = [piece.count(b"data: x") for _, piece in exchange.writes]
        assert counts == [64, 64, 64, 8]


async def test_a_write_of_64_kib_waits_for_no_other_message(autojump_clock):
    poll = Poll(Chunk, init=lambda request: StartResponse(200))
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        for _ in range(9):
            poll.ref.send_nowait(b"x" * 16 * 1024)
        await settle()
        assert [len(piece) for _, piece in exchange.writes] == [65536, 65536, 16384]


async def test_what_is_pending_is_written_before_an_async_callback_starts(autojump_clock):
    at_the_start = []

    async def slow():
        at_the_start.append(exchange.body)
        await trio.sleep(5)
        return ServerSentEvent("slow")

    stream = Stream(lambda message: slow() if message == "slow" else message)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait(ServerSentEvent("before"))
        stream.ref.send_nowait("slow")
        await trio.sleep(10)
        assert at_the_start == [events("before")]
        assert exchange.writes == [(0.0, events("before")), (5.0, events("slow"))]


async def test_what_is_pending_is_written_before_an_async_idle_starts(autojump_clock):
    at_the_start = []

    async def idle():
        at_the_start.append(exchange.writes[-1])
        await trio.sleep(5)
        return Stop()

    stream = Stream(idle=idle, keepalive=2.0, idle_timeout=2.0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        await stream.ref.wait_ended()
        assert at_the_start == [(2.0, b":\n\n")]


async def test_what_an_async_callback_returned_is_written_before_the_next_one_starts(
    autojump_clock,
):
    async def answer(message):
        written_before.append(exchange.body)
        await trio.sleep(1)
        return ServerSentEvent(message)

    written_before = []
    stream = Stream(answer)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        for text in ("one", "two", "three"):
            stream.ref.send_nowait(text)
        await trio.sleep(5)
        assert written_before == [b"", events("one"), events("one", "two")]


async def test_what_is_pending_is_written_before_the_handler_waits(autojump_clock):
    stream = Stream(lambda message: [ServerSentEvent("now"), SendAfter(5, "later")])
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait("message")
        await settle()
        assert exchange.body == events("now")


async def test_what_is_pending_is_written_before_terminate_starts(autojump_clock):
    async def terminate(reason):
        seen.append((exchange.body, exchange.complete))
        await trio.sleep(3)

    seen = []
    stream = Stream(lambda message: [ServerSentEvent("last"), Stop()], terminate=terminate)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait("message")
        await stream.ref.wait_ended()
        assert seen == [(events("last"), True)]


async def test_what_is_pending_is_written_before_a_then_message_is_handled(autojump_clock):
    def answer(message):
        if message == "start":
            return [ServerSentEvent("saving"), Then("save")]
        seen.append(exchange.body)
        return None

    seen = []
    stream = Stream(answer)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait("start")
        await settle()
        assert seen == [events("saving")]


async def test_a_handler_with_endless_ready_messages_lets_others_run(autojump_clock):
    def answer(message):
        if message < 10_000:
            return Then(message + 1)
        return Stop()

    poll = Poll(answer)
    steps = []

    async def bystander():
        while not poll.reasons:
            steps.append(len(poll.handled))
            await trio.lowlevel.checkpoint()

    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait(0)
        await bystander()
        # Two batches when Trio's order of the two tasks changes in between.
        assert max(after - before for before, after in pairwise(steps)) <= 2 * 64
