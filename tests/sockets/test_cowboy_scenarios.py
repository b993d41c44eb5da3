"""What Cowboy's own suites ask of loop handlers, asked of trioloop over sockets.

The cases named are those of ninenines/cowboy: ``test/loop_handler_SUITE.erl`` of
Cowboy 2 and of 2.0.0-pre.1, and the loop cases of ``test/http_SUITE.erl`` of 0.8 to 1.1. What is
different on purpose is said where it is. The handlers are written anew; times are shorter.
"""

from contextlib import aclosing, asynccontextmanager

import pytest
import trio
import trio.testing
from support.sockets import (
    MORE_THAN_BUFFERS,
    Cut,
    Watch,
    request_bytes,
    serving,
    stock_server,
)

from trioloop import (
    App,
    Chunk,
    Completed,
    Continue,
    Failed,
    Hibernate,
    LoopHandler,
    Overflowed,
    Reply,
    SendAfter,
    SendTimedOut,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
    TimedOut,
)

BODY = bytes(100_000)

# A time that is waited for, and one that ends the test if it comes first.
SOON, NEVER = 0.02, 600.0


@asynccontextmanager
async def asking(handler, **options):
    """A client of this handler."""
    async with serving(handler, **options) as (server, _), server.client() as client:
        yield client


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def long_poll(watch):
    """Hibernates between three messages to itself, and answers after the last."""

    class LongPoll(LoopHandler):
        def init(self, request):
            self.left = 2
            watch.started(self)
            return [SendAfter(SOON, "tick"), Hibernate(idle_timeout=NEVER)]

        def info(self, message):
            if self.left == 0:
                return Reply(299)
            self.left -= 1
            return [SendAfter(SOON, "tick"), Hibernate()]

        terminate = watch.ended

    return LongPoll


# -- long polling ---------------------------------------------------------------------------------


async def test_a_long_poll_is_answered_after_its_messages(long_poll, watch):
    """Case long_polling."""
    async with asking(long_poll) as client:
        await client.request()
        assert (await client.answer()).status == 299
        assert await watch.reason() == Stopped()


@pytest.mark.parametrize("size", [0, 1, 5000])
async def test_a_body_within_the_limit_does_not_disturb_a_long_poll(long_poll, watch, size):
    """Case long_polling_body. Cowboy's limit was the environment's ``loop_max_buffer``, 5000."""
    async with asking(long_poll, max_body=5000) as client:
        await client.request("POST", body=bytes(size))
        assert (await client.answer()).status == 299
        assert await watch.reason() == Stopped()
        await client.request()  # the unread body is not taken for a request
        assert (await client.answer()).status == 299


@pytest.mark.parametrize("size", [5001, len(BODY)])
async def test_a_body_beyond_the_limit_ends_a_long_poll(long_poll, watch, size):
    """Cases long_polling_body_too_large, loop_body overflow. Cowboy said 500, trioloop says 413."""
    async with asking(long_poll, max_body=5000) as client:
        await client.send(request_bytes("POST", headers=[("content-length", str(size))]))
        await watch.ref()
        await client.send(bytes(size))
        assert (await client.answer()).status == 413
        assert await watch.reason() == Overflowed("body", 5000)


async def test_a_body_that_is_never_read_does_not_disturb_a_long_poll(long_poll, watch):
    """Case long_polling_unread_body."""
    async with asking(long_poll) as client:
        await client.request("POST", body=BODY)
        assert (await client.answer()).status == 299
        assert await watch.reason() == Stopped()


async def test_pipelined_long_polls_are_answered_one_after_the_other(long_poll, watch):
    """Case long_polling_pipeline, and pipeline_long_polling of http_SUITE."""
    async with asking(long_poll) as client:
        await client.send(request_bytes() * 2)
        await watch.ref()
        assert (await client.answer()).status == 299
        assert await watch.reason() == Stopped()
        await watch.ref()  # the second handler was made when the first had ended
        assert (await client.answer()).status == 299
        assert await watch.reason() == Stopped()


async def test_a_pipelined_long_poll_is_the_last_of_its_connection_if_it_says_so(long_poll):
    """Case pipeline_long_polling of http_SUITE in 0.8."""
    last = request_bytes(headers=[("connection", "close")])
    async with asking(long_poll) as client:
        await client.send(request_bytes() + last)
        assert (await client.answer()).status == 299
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.end() == b""


# -- reading the body -----------------------------------------------------------------------------


async def test_a_body_can_be_read_in_info(watch):
    """Cases info_read_body, loop_body, loop_recv."""

    class ReadsInInfo(LoopHandler):
        def init(self, request):
            self.ref.send_nowait("read")
            return Hibernate()

        async def info(self, message):
            return Reply(200, body=str(len(await self.request.body())))

        terminate = watch.ended

    async with asking(ReadsInInfo) as client:
        for _ in range(2):
            await client.request("POST", body=BODY)
            assert (await client.answer()).body == b"100000"
            assert await watch.reason() == Stopped()


async def test_a_body_can_be_read_piece_by_piece_in_info_while_it_comes(watch):
    """Case loop_stream_recv. Numbers in order, of four bytes each, in chunks that do not respect them."""
    numbers = b"".join(number.to_bytes(4, "big") for number in range(1, 1001))

    class ReadsPieces(LoopHandler):
        def init(self, request):
            self.ref.send_nowait("read")
            watch.started(self)

        async def info(self, message):
            unread, expected = b"", 1
            async for piece in self.request.stream():
                unread += piece
                while len(unread) >= 4:
                    assert int.from_bytes(unread[:4], "big") == expected
                    unread, expected = unread[4:], expected + 1
            return Reply(200, body=str(expected - 1))

        terminate = watch.ended

    async with asking(ReadsPieces) as client:
        await client.send(request_bytes("POST", headers=[("transfer-encoding", "chunked")]))
        await watch.ref()
        for start in range(0, len(numbers), 15):
            piece = numbers[start : start + 15]
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).body == b"1000"
        assert await watch.reason() == Stopped()


async def test_an_answer_may_come_before_the_body_has_been_read_to_its_end(watch):
    """Case loop_handler_abort. The connection is closed: nobody knows what the rest would be."""

    class ReadsALittle(LoopHandler):
        def init(self, request):
            self.ref.send_nowait("read")

        async def info(self, message):
            async with aclosing(self.request.stream()) as stream:
                return Reply(200, body=str(len(await anext(stream))))

        terminate = watch.ended

    async with asking(ReadsALittle) as client:
        await client.send(request_bytes("POST", headers=[("content-length", "100000")]))
        await client.send(bytes(1000))
        assert (await client.answer()).body == b"1000"
        assert await watch.reason() == Stopped()
        assert await client.end() == b""


# -- the idle time --------------------------------------------------------------------------------


async def test_a_message_that_comes_too_late_finds_that_the_long_poll_had_204(watch):
    """Case loop_timeout of 0.8 to 2.0.0-pre."""

    class TooLate(LoopHandler):
        idle_timeout = SOON

        def init(self, request):
            return [SendAfter(NEVER, "late"), Hibernate()]

        def info(self, message):
            return Reply(500)

        terminate = watch.ended

    async with asking(TooLate) as client:
        await client.request()
        assert (await client.answer()).status == 204
        assert await watch.reason() == TimedOut()


@pytest.fixture
def race(watch):
    """A message comes after one time of the query, the idle timeout after another."""

    class Race(LoopHandler):
        def init(self, request):
            message, idle = (float(request.query_params[name]) for name in ("message", "idle"))
            return [SendAfter(message, "message"), Continue(idle_timeout=idle)]

        def info(self, message):
            return Reply(200)

        def idle(self):
            return Reply(299)

        terminate = watch.ended

    return Race


async def test_an_idle_timeout_given_in_init_is_kept(race, watch):
    """Case timeout_init. Both ways on one connection."""
    async with asking(race) as client:
        await client.request(path=f"/?message={SOON}&idle={NEVER}")
        assert (await client.answer()).status == 200
        await client.request(path=f"/?message={NEVER}&idle={SOON}")
        assert (await client.answer()).status == 299
    assert watch.reasons == [Stopped(), Stopped()]


async def test_an_idle_timeout_that_is_no_number_is_a_crash_that_terminate_hears_of(race, watch):
    """Cowboy's suite asks for ``timeout=abc`` and gets 400 or 500; ``terminate`` may be skipped."""
    async with asking(race) as client:
        await client.request(path="/?message=0&idle=abc")
        assert (await client.answer()).status == 500
        assert type(await watch.reason()).__name__ == "Crashed"


async def test_an_idle_timeout_given_in_info_is_kept(watch):
    """Case timeout_info."""

    class GivenInInfo(LoopHandler):
        idle_timeout = NEVER

        def init(self, request):
            self.ref.send_nowait("message")

        def info(self, message):
            return [SendAfter(NEVER, "message"), Continue(idle_timeout=SOON)]

        def idle(self):
            return Reply(299)

        terminate = watch.ended

    async with asking(GivenInInfo) as client:
        await client.request()
        assert (await client.answer()).status == 299
        assert await watch.reason() == Stopped()


async def test_hibernate_without_an_idle_timeout_waits_for_the_messages_only(watch):
    """Case timeout_hibernate. Cowboy 2.11's ``hibernate`` is ``Hibernate(idle_timeout=math.inf)``."""

    class Hibernates(LoopHandler):
        idle_timeout = SOON

        def init(self, request):
            self.ref.send_nowait(1)

        def info(self, message):
            if message == 1:
                return [SendAfter(2 * SOON, 2), Hibernate(idle_timeout=float("inf"))]
            if message == 2:
                return SendAfter(2 * SOON, 3)  # and the idle timeout stays what it was
            return Reply(200)

        def idle(self):
            return Reply(299)

        terminate = watch.ended

    async with asking(Hibernates) as client:
        await client.request()
        assert (await client.answer()).status == 200
        assert await watch.reason() == Stopped()


async def test_hibernate_alone_keeps_the_idle_timeout(watch):
    """As in Cowboy 0.8 to 1.1: ``{loop, Req, State, Timeout, hibernate}``."""

    class Hibernates(LoopHandler):
        idle_timeout = SOON

        def init(self, request):
            return Hibernate()

        def idle(self):
            return Reply(299)

        terminate = watch.ended

    async with asking(Hibernates) as client:
        await client.request()
        assert (await client.answer()).status == 299


async def test_the_idle_event_comes_again_and_again_while_the_handler_goes_on(watch):
    """Case loop_idle. Since Cowboy 2.11 a message, here a callback: no message can imitate it."""

    class Counts(LoopHandler):
        idle_timeout = SOON

        def init(self, request):
            return StartResponse(200)

        def idle(self):
            return Chunk("idle\n")

        terminate = watch.ended

    async with asking(Counts) as client:
        await client.request()
        await client.head()
        await client.until("idle\n" * 3)


async def test_the_silence_of_the_client_does_not_end_a_request_that_is_being_served(long_poll):
    """Case request_timeout. The keep-alive timeout is for connections without a request."""
    app = App()
    app.route("/", long_poll)
    async with stock_server(app, keep_alive_timeout=SOON / 2) as server, server.client() as client:
        await client.request()
        assert (await client.answer()).status == 299
        assert await client.end() == b"", "now it is without"


# -- the end --------------------------------------------------------------------------------------


async def test_a_reply_may_come_from_init_at_once(watch):
    """Plain handlers: ``{ok, Req, State}``."""

    class AtOnce(LoopHandler):
        def init(self, request):
            return Reply(200, body="hello")

        terminate = watch.ended

    async with asking(AtOnce) as client:
        await client.send(request_bytes() * 5)  # [pipeline of http_SUITE]
        for _ in range(5):
            assert (await client.answer()).body == b"hello"
    assert watch.reasons == [Completed()] * 5


async def test_a_reply_may_come_late_from_any_message(watch):
    """A delayed reply: ``{stop, Req, State}`` after ``cowboy_req:reply``."""

    class Late(LoopHandler):
        def init(self, request):
            watch.started(self)

        def info(self, message):
            return None if message is None else Reply(200, body=message)

        terminate = watch.ended

    async with asking(Late) as client:
        await client.request()
        ref = await watch.ref()
        for message in (None, None, "late", "too late"):
            ref.send_nowait(message)
        assert (await client.answer()).body == b"late"
        assert await watch.reason() == Stopped()


async def test_stop_without_a_reply_is_204_and_after_the_start_a_complete_end(watch):
    """What ``{stop, Req, State}`` does."""

    class Stops(LoopHandler):
        def init(self, request):
            self.ref.send_nowait("stop")
            return StartResponse(200) if request.query_params else None

        def info(self, message):
            return Stop()

        terminate = watch.ended

    async with asking(Stops) as client:
        await client.send(request_bytes() + request_bytes(path="/?stream=1") + request_bytes())
        assert (await client.answer()).status == 204
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"")
        assert (await client.answer()).status == 204
    assert watch.reasons == [Stopped()] * 3


async def test_an_endless_stream_to_a_client_that_does_not_read_ends_at_the_send_timeout(watch):
    """Case send_timeout_close of http_SUITE."""

    class Endless(LoopHandler):
        send_timeout = 0.1

        def init(self, request):
            return [StartResponse(200), SendAfter(0, "more")]

        def info(self, message):
            return [Chunk(bytes(MORE_THAN_BUFFERS // 64)), SendAfter(0, "more")]

        terminate = watch.ended

    async with (
        serving(Endless) as (server, _),
        server.client(receive_buffer=4096) as client,
    ):
        await client.request()
        await client.head()
        reason = await watch.reason()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, SendTimedOut)
        with pytest.raises(Cut):
            await client.rest()


@pytest.mark.only_worker("stock")
async def test_a_request_in_flight_may_be_answered_while_the_server_goes_down(watch):
    """Case graceful_shutdown_connection of http_SUITE. Under Hypercorn's own worker, within the grace."""

    class DelayedHello(LoopHandler):
        def init(self, request):
            watch.started(self)

        def info(self, message):
            return Reply(200, body=message)

        terminate = watch.ended

    app = App()
    app.route("/", DelayedHello)
    async with stock_server(app, graceful_timeout=60) as server, server.client() as client:
        await client.request()
        ref = await watch.ref()
        server.shut_down()
        await trio.testing.wait_all_tasks_blocked(0.01)
        ref.send_nowait("hello")
        assert (await client.answer()).body == b"hello"
        assert await client.end() == b""
        assert await watch.reason() == Stopped()


async def test_an_operator_can_end_a_handler_that_waits(watch):
    """Case ``sys:terminate`` of sys_SUITE. Cowboy answers 204; here the client is told to come back."""

    class Waits(LoopHandler):
        def init(self, request):
            watch.started(self)
            return Hibernate()

        terminate = watch.ended

    async with asking(Waits) as client:
        await client.request()
        (await watch.ref()).stop()
        assert (await client.answer()).status == 503
        assert await watch.reason() == ShutDown()
