"""The request's body: read in callbacks, buffered within bounds, never in the mailbox."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import trio
from support.fake import Poll, serve, settle

from trioloop import Continue, Disconnected, Overflowed, Reply, TimedOut


async def test_a_body_of_100_000_bytes_is_read_inside_info(autojump_clock):
    async def answer(message):
        return Reply(200, str(len(await poll.request.body())))

    poll: Poll = Poll(answer)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"x" * 1000, more=True)
        for number in range(99):
            exchange.send_body(b"x" * 1000, more=number < 98)
        await settle()
        poll.ref.send_nowait("read")
        await exchange.wait_returned()
        assert exchange.body == b"100000"


async def test_a_body_is_read_inside_init(autojump_clock):
    async def init(request):
        return Reply(200, await request.body())

    async with serve() as client:
        exchange = client.run(Poll(init=init), "POST", body=b"text")
        await exchange.wait_returned()
        assert exchange.body == b"text"


async def test_a_body_may_be_streamed(autojump_clock):
    async def init(request):
        return Reply(200, b"|".join([chunk async for chunk in request.stream() if chunk]))

    async with serve() as client:
        exchange = client.run(Poll(init=init), "POST", body=b"one", more=True)
        for chunk, more in ((b"two", True), (b"three", False)):
            await trio.sleep(1)
            exchange.send_body(chunk, more)
        await exchange.wait_returned()
        assert exchange.body == b"one|two|three"


async def test_an_empty_body_is_read_at_once(autojump_clock):
    async def init(request):
        return Reply(200, repr(await request.body()))

    async with serve() as client:
        exchange = client.run(Poll(init=init))
        await exchange.wait_returned()
        assert (exchange.body, trio.current_time()) == (b"b''", 0.0)


async def test_a_json_body_is_read_as_in_starlette(autojump_clock):
    async def init(request):
        return Reply.json(await request.json())

    async with serve() as client:
        exchange = client.run(Poll(init=init), "POST", body=b'{"a": [1, 2]}')
        await exchange.wait_returned()
        assert exchange.body == b'{"a":[1,2]}'


async def test_a_body_that_came_long_before_is_there_when_it_is_read(autojump_clock):
    async def answer(message):
        return Reply(200, await poll.request.body())

    poll: Poll = Poll(answer)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"early")
        await trio.sleep(30)
        poll.ref.send_nowait("read")
        await exchange.wait_returned()
        assert exchange.body == b"early"


async def test_a_body_is_no_message(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll, "POST", body=b"text")
        await settle()
        assert poll.handled == []


# -- max_body --------------------------------------------------------------------------------------


async def test_a_body_that_nobody_reads_may_be_as_large_as_max_body(autojump_clock):
    poll = Poll(max_body=10)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"x" * 10, more=True)
        await settle()
        assert poll.reasons == []
        exchange.send_body(b"")
        await settle()
        assert poll.reasons == []


async def test_one_byte_more_overflows_with_413(autojump_clock):
    poll = Poll(max_body=10)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"x" * 10, more=True)
        await settle()
        exchange.send_body(b"x")
        await exchange.wait_returned()
        assert poll.reasons == [Overflowed("body", 10)]
        assert exchange.status == 413


async def test_the_limit_is_a_mebibyte_by_default(autojump_clock):
    poll = Poll()
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"x" * 2**20, more=True)
        await settle()
        assert poll.reasons == []
        exchange.send_body(b"x")
        await exchange.wait_returned()
        assert poll.reasons == [Overflowed("body", 2**20)]


async def test_a_reader_may_read_more_than_max_body(autojump_clock):
    async def init(request):
        return Reply(200, str(len(await request.body())))

    async with serve() as client:
        exchange = client.run(Poll(init=init, max_body=10), "POST", body=b"x" * 8, more=True)
        for number in range(50):
            exchange.send_body(b"x" * 8, more=number < 49)
        await exchange.wait_returned()
        assert exchange.body == str(51 * 8).encode()


async def test_a_slow_reader_gets_backpressure(autojump_clock):
    left = []

    async def init(request):
        async for _ in request.stream():
            await trio.sleep(1)
            left.append(waiting(exchange))
        return Reply(200)

    async with serve() as client:
        exchange = client.run(Poll(init=init, max_body=20), "POST", body=b"x" * 10, more=True)
        for number in range(9):
            exchange.send_body(b"x" * 10, more=number < 8)
        await exchange.wait_returned()
        assert exchange.status == 200
        # The server keeps what does not fit into max_body; each read takes one more piece.
        assert all(before - after <= 1 for before, after in pairwise(left))
        assert left[0] >= 5


def waiting(exchange):
    """How many pieces the server still has."""
    return exchange._from_client.statistics().current_buffer_used


async def test_a_reader_that_stops_reading_is_nobody_again(autojump_clock):
    async def init(request):
        stream = request.stream()
        await anext(stream)
        await stream.aclose()

    poll = Poll(init=init, max_body=10, receive_timeout=5.0, idle_timeout=math.inf)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"x" * 5, more=True)
        for _ in range(10):
            exchange.send_body(b"x" * 5)
        await exchange.wait_returned()
        assert poll.reasons == [Overflowed("body", 10)]
        assert poll.ended_at == 5.0


# -- receive_timeout -------------------------------------------------------------------------------


async def read_in_init(request):
    return Reply(200, await request.body())


async def test_a_client_that_is_silent_while_its_body_is_read_gets_408(autojump_clock):
    poll = Poll(init=read_in_init, receive_timeout=4.0)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"begin", more=True)
        await exchange.wait_returned()
        assert exchange.status == 408
        assert (poll.reasons, poll.ended_at) == ([TimedOut("client")], 4.0)


async def test_the_receive_timeout_is_a_minute_by_default(autojump_clock):
    poll = Poll(init=read_in_init)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"begin", more=True)
        await exchange.wait_returned()
        assert trio.current_time() == 60.0


async def test_a_slow_body_is_read_as_long_as_something_comes(autojump_clock):
    poll = Poll(init=read_in_init, receive_timeout=4.0)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"0", more=True)
        for number in range(1, 6):
            await trio.sleep(3)
            exchange.send_body(str(number).encode(), more=number < 5)
        await exchange.wait_returned()
        assert exchange.body == b"012345"


async def test_a_client_may_be_silent_while_nobody_reads(autojump_clock):
    poll = Poll(receive_timeout=1.0, idle_timeout=math.inf)
    async with serve() as client:
        client.run(poll, "POST", body=b"begin", more=True)
        await trio.sleep(100)
        assert poll.reasons == []


async def test_a_callback_may_wait_for_something_else_than_the_body(autojump_clock):
    async def init(request):
        await trio.sleep(10)
        return Reply(200)

    poll = Poll(init=init, receive_timeout=1.0)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"begin", more=True)
        await exchange.wait_returned()
        assert exchange.status == 200


async def test_continue_changes_the_receive_timeout(autojump_clock):
    async def answer(message):
        return Reply(200, await poll.request.body())

    poll: Poll = Poll(answer, init=lambda request: Continue(receive_timeout=2.0))
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"begin", more=True)
        await settle()
        poll.ref.send_nowait("read")
        await exchange.wait_returned()
        assert (exchange.status, poll.ended_at) == (408, 2.0)


async def test_a_callback_that_catches_the_timeout_cannot_go_on(autojump_clock):
    async def init(request):
        with pytest.raises(trio.TooSlowError):
            await request.body()

    poll = Poll(init=init, receive_timeout=4.0)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"begin", more=True)
        await exchange.wait_returned()
        assert (poll.reasons, exchange.status) == ([TimedOut("client")], 408)


# -- the client goes -------------------------------------------------------------------------------


async def test_a_client_that_goes_while_its_body_is_read_interrupts_the_callback(autojump_clock):
    poll = Poll(init=read_in_init)
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"begin", more=True)
        await trio.sleep(1)
        exchange.disconnect()
        await poll.ref.wait_ended()
        assert (poll.reasons, poll.ended_at) == ([Disconnected()], 1.0)


async def test_a_disconnect_is_seen_behind_a_body_that_nobody_reads(autojump_clock):
    poll = Poll()
    async with serve() as client:
        exchange = client.run(poll, "POST", body=b"x", more=True)
        for _ in range(50):
            exchange.send_body(b"x")
        exchange.disconnect()
        await settle()
        assert poll.reasons == [Disconnected()]
