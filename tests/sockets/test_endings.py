"""What a client sees on its socket, and what ``terminate`` hears, for every way to end.

The table of design section 5.3, row by row, under both workers. Each row is met by three
handlers: one that waits with its answer, one whose response is open, and an event stream.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
import trio.testing
from support.sockets import (
    MORE_THAN_BUFFERS,
    Client,
    Cut,
    StockServer,
    Watch,
    obedient,
    request_bytes,
    serving,
)

from trioloop import (
    BadReturn,
    Chunk,
    Completed,
    Continue,
    Crashed,
    Disconnected,
    EventStreamHandler,
    Failed,
    HandlerRef,
    LoopHandler,
    Overflowed,
    Reply,
    SendTimedOut,
    ServerSentEvent,
    ShutDown,
    Stop,
    Stopped,
    TimedOut,
)

KINDS = ("waiting", "open", "event stream")
STREAMS = ("open", "event stream")


class Started(NamedTuple):
    """A handler that waits for messages, and the client of it."""

    server: StockServer
    client: Client
    ref: HandlerRef
    watch: Watch


@asynccontextmanager
async def started(kind, request=None, receive_buffer=None, **options) -> AsyncIterator[Started]:
    """Request a handler, and read what it says at first."""
    watch = Watch()
    async with (
        serving(obedient(kind, watch), **options) as (server, _),
        server.client(receive_buffer=receive_buffer) as client,
    ):
        await client.send(request_bytes() if request is None else request)
        ref = await watch.ref()
        if kind != "waiting":
            assert (await client.head()).status_code == 200
            await client.until("first")
        yield Started(server, client, ref, watch)
    assert len(watch.reasons) == watch.starts, "terminate is called exactly once for each"


async def assert_cut(client):
    with pytest.raises(Cut):
        await client.rest()


# -- Completed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [LoopHandler, EventStreamHandler])
async def test_a_reply_from_init_is_the_answer_and_the_reason_is_completed(base):
    watch = Watch()

    class Refuses(base):
        def init(self, request):
            return Reply(403, body="not you", headers={"x-why": "because"})

        terminate = watch.ended

    async with serving(Refuses) as (server, _), server.client() as client:
        for _ in range(2):  # the second on the same connection
            await client.request()
            answer = await client.answer()
            assert (answer.status, answer.body) == (403, b"not you")
            assert answer.headers["x-why"] == "because"
            assert await watch.reason() == Completed()


@pytest.mark.parametrize("kind", KINDS)
async def test_head_is_answered_with_the_headers_only_and_the_reason_is_completed(kind):
    watch = Watch()
    async with serving(obedient(kind, watch)) as (server, _), server.client() as client:
        await client.request("HEAD")
        answer = await client.answer("HEAD")
        assert (answer.status, answer.body) == (200, b"")
        if kind == "event stream":
            assert answer.headers["content-type"] == "text/event-stream"
        assert await watch.reason() == Completed()
        assert await client.is_served()


# -- Stopped --------------------------------------------------------------------------------------


async def test_a_reply_from_info_is_the_answer_and_the_reason_is_stopped():
    async with started("waiting") as it:
        it.ref.send_nowait(lambda handler: Reply(201, body="made", headers={"x-it": "yes"}))
        answer = await it.client.answer()
        assert (answer.status, answer.body) == (201, b"made")
        assert (answer.headers["x-it"], answer.headers["content-length"]) == ("yes", "4")
        assert await it.watch.reason() == Stopped()
        assert await it.client.is_served()


async def test_stop_before_the_start_is_answered_with_204():
    async with started("waiting") as it:
        it.ref.send_nowait(lambda handler: Stop())
        answer = await it.client.answer()
        assert (answer.status, answer.body) == (204, b"")
        assert await it.watch.reason() == Stopped()
        assert await it.client.is_served()


@pytest.mark.parametrize("kind", STREAMS)
async def test_stop_after_the_start_ends_the_response_completely(kind):
    async with started(kind) as it:
        it.ref.send_nowait(lambda handler: Stop())
        assert b"first" in await it.client.rest()
        assert await it.watch.reason() == Stopped()
        assert await it.client.is_served()


@pytest.mark.parametrize("kind", STREAMS)
async def test_what_was_returned_before_stop_is_written_before_the_end(kind):
    async with started(kind) as it:
        last = Chunk("last") if kind == "open" else ServerSentEvent("last")
        it.ref.send_nowait(lambda handler: [last, Stop()])
        assert b"last" in await it.client.rest()
        assert await it.watch.reason() == Stopped()


async def test_an_event_stream_that_stops_in_init_is_answered_with_204():
    watch = Watch()

    class NoContent(EventStreamHandler):
        def init(self, request):
            return Stop()

        terminate = watch.ended

    async with serving(NoContent) as (server, _), server.client() as client:
        await client.request()
        answer = await client.answer()
        assert (answer.status, answer.body) == (204, b"")
        assert await watch.reason() == Stopped()


# -- TimedOut -------------------------------------------------------------------------------------


async def test_a_silent_mailbox_is_answered_with_204():
    async with started("waiting", idle_timeout=0.05) as it:
        answer = await it.client.answer()
        assert (answer.status, answer.body) == (204, b"")
        assert await it.watch.reason() == TimedOut("mailbox")
        assert await it.client.is_served()


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_silent_mailbox_ends_an_open_response_completely(kind):
    async with started(kind) as it:
        it.ref.send_nowait(lambda handler: Continue(idle_timeout=0.05))
        assert b"first" in await it.client.rest()
        assert await it.watch.reason() == TimedOut("mailbox")
        assert await it.client.is_served()


SLOW_BODY = request_bytes("POST", headers=[("content-length", "10")]) + b"half"


async def read_body(handler):
    await handler.request.body()


async def test_a_body_that_comes_too_slowly_is_answered_with_408():
    async with started("waiting", SLOW_BODY, receive_timeout=0.05) as it:
        it.ref.send_nowait(read_body)
        assert (await it.client.answer()).status == 408
        assert await it.watch.reason() == TimedOut("client")
        assert await it.client.end() == b""


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_body_that_comes_too_slowly_ends_an_open_response_completely(kind):
    async with started(kind, SLOW_BODY, receive_timeout=0.05) as it:
        it.ref.send_nowait(read_body)
        assert b"first" in await it.client.rest()
        assert await it.watch.reason() == TimedOut("client")


async def test_a_body_that_comes_slowly_but_in_time_is_read_whole():
    async with started("waiting", SLOW_BODY) as it:
        pieces = []

        async def read_pieces(handler):
            async for piece in handler.request.stream():
                pieces.append(piece)
                if pieces == [b"half"]:
                    half_read.set()
            return Reply(200, body=b"+".join(pieces))

        half_read = trio.Event()
        it.ref.send_nowait(read_pieces)
        await half_read.wait()
        await it.client.send(b"-half.")
        answer = await it.client.answer()
        assert answer.body.startswith(b"half+-half.")
        assert await it.watch.reason() == Stopped()
        assert await it.client.is_served()


# -- Crashed --------------------------------------------------------------------------------------


class Trouble(Exception):
    pass


def crash(handler):
    raise Trouble


async def crash_later(handler):
    await trio.lowlevel.checkpoint()
    raise Trouble


def crash_in_child(handler):
    async def child():
        raise Trouble

    handler.nursery.start_soon(child)


CRASHES = pytest.mark.parametrize(
    "deed, callback",
    [(crash, "info"), (crash_later, "info"), (crash_in_child, "nursery")],
    ids=["def", "async def", "child task"],
)


@CRASHES
async def test_a_crash_before_the_start_is_answered_with_500(deed, callback):
    async with started("waiting") as it:
        it.ref.send_nowait(deed)
        answer = await it.client.answer()
        assert (answer.status, answer.body) == (500, b"")
        reason = await it.watch.reason()
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, Trouble)
        assert reason.callback == callback
        assert await it.client.is_served()


@CRASHES
@pytest.mark.parametrize("kind", STREAMS)
async def test_a_crash_after_the_start_cuts_the_response_so_that_the_client_can_tell(
    kind, deed, callback
):
    async with started(kind) as it:
        it.ref.send_nowait(deed)
        await assert_cut(it.client)
        reason = await it.watch.reason()
        assert isinstance(reason, Crashed)
        assert reason.callback == callback
        assert await it.server.is_alive()  # law 6: nobody else is harmed


@pytest.mark.parametrize("kind", STREAMS)
async def test_what_was_returned_before_a_crash_is_written_before_the_cut(kind):
    async with started(kind) as it:
        last = Chunk("last") if kind == "open" else ServerSentEvent("last")
        it.ref.send_nowait(lambda handler: last)
        it.ref.send_nowait(crash)
        await assert_cut(it.client)
        assert b"last" in it.client.received


@pytest.mark.parametrize(
    "base, callback",
    [
        (LoopHandler, "__init__"),
        (LoopHandler, "init"),
        (LoopHandler, "idle"),
        (EventStreamHandler, "__init__"),
        (EventStreamHandler, "init"),
    ],
)
async def test_a_crash_in_any_callback_before_the_start_is_answered_with_500(base, callback):
    watch = Watch()

    class Crashes(base):
        idle_timeout = 0.05
        terminate = watch.ended

        def __init__(self):
            if callback == "__init__":
                raise Trouble

        def init(self, request):
            if callback == "init":
                raise Trouble

        def idle(self):
            raise Trouble

    async with serving(Crashes) as (server, _), server.client() as client:
        await client.request()
        assert (await client.answer()).status == 500
        if callback != "__init__":  # where no handler was made, nobody can hear
            reason = await watch.reason()
            assert isinstance(reason, Crashed)
            assert reason.callback == callback
        assert await client.is_served()


async def test_a_bad_return_before_the_start_is_answered_with_500():
    async with started("waiting") as it:
        it.ref.send_nowait(lambda handler: "text")
        assert (await it.client.answer()).status == 500
        reason = await it.watch.reason()
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, BadReturn)
        assert "Reply(200" in str(reason.error)
        assert await it.client.is_served()


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_bad_return_after_the_start_cuts_the_response(kind):
    async with started(kind) as it:
        it.ref.send_nowait(lambda handler: [Reply(200)])
        await assert_cut(it.client)
        reason = await it.watch.reason()
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, BadReturn)


@pytest.mark.parametrize("kind", STREAMS)
async def test_of_a_bad_list_nothing_is_carried_out(kind):
    async with started(kind) as it:
        good = Chunk("good") if kind == "open" else ServerSentEvent("good")
        it.ref.send_nowait(lambda handler: [good, 42])
        await assert_cut(it.client)
        assert b"good" not in it.client.received


@pytest.mark.parametrize("deed", [crash, crash_later], ids=["def", "async def"])
async def test_a_crash_in_terminate_changes_nothing_for_the_client(deed, caplog):
    watch = Watch()

    class CrashesLast(LoopHandler):
        def init(self, request):
            watch.started(self)

        def info(self, message):
            return Reply(200, body=message)

        def terminate(self, reason):
            return deed(self)

    async with serving(CrashesLast) as (server, _), server.client() as client:
        for _ in range(2):
            await client.request()
            ref = await watch.ref()
            ref.send_nowait("fine")
            assert (await client.answer()).body == b"fine"
            assert await ref.wait_ended() == Stopped()
    assert caplog.text.count("Trouble in terminate") == 2


# -- Overflowed -----------------------------------------------------------------------------------


def nothing(handler):
    return None


async def test_a_full_mailbox_before_the_start_is_answered_with_503_and_retry_after():
    async with started("waiting", mailbox_size=1) as it:
        assert it.ref.send_nowait(nothing)
        assert not it.ref.send_nowait(nothing)
        answer = await it.client.answer()
        assert answer.status == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 3
        assert await it.watch.reason() == Overflowed("mailbox", 1)
        assert await it.client.is_served()


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_full_mailbox_after_the_start_cuts_the_response(kind):
    async with started(kind, mailbox_size=1) as it:
        it.ref.send_nowait(nothing)
        it.ref.send_nowait(nothing)
        await assert_cut(it.client)
        assert await it.watch.reason() == Overflowed("mailbox", 1)


FULL_BODY = request_bytes("POST", headers=[("content-length", "1000")]) + bytes(100)


async def test_a_body_that_nobody_reads_is_answered_with_413_when_it_is_too_large():
    async with started("waiting", FULL_BODY, max_body=100) as it:
        await it.client.send(bytes(1))
        assert (await it.client.answer()).status == 413
        assert await it.watch.reason() == Overflowed("body", 100)
        assert await it.client.end() == b""  # nobody can tell where the next request begins


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_body_that_nobody_reads_cuts_an_open_response_when_it_is_too_large(kind):
    async with started(kind, FULL_BODY, max_body=100) as it:
        await it.client.send(bytes(1))
        await assert_cut(it.client)
        assert await it.watch.reason() == Overflowed("body", 100)


@asynccontextmanager
async def reader_of_large_bodies():
    """A handler whose ``init`` reads the body, which is larger than ``max_body``."""
    reading = trio.Event()

    class ReadsAll(LoopHandler):
        async def init(self, request):
            reading.set()
            return Reply(200, body=str(len(await request.body())))

    async with serving(ReadsAll, max_body=100) as (server, _), server.client() as client:
        yield client, reading


LARGE_BODY = bytes(200_000)


async def test_a_body_that_a_callback_reads_may_be_larger_than_max_body():
    async with reader_of_large_bodies() as (client, reading):
        await client.send(request_bytes("POST", headers=[("content-length", "200000")]))
        await reading.wait()
        await client.send(LARGE_BODY)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"200000")


async def test_a_body_that_comes_before_init_was_called_may_be_larger_than_max_body_too():
    async with reader_of_large_bodies() as (client, _):
        for _attempt in range(10):  # nothing may depend on which task runs first
            await client.request("POST", body=LARGE_BODY)
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"200000")


# -- Disconnected ---------------------------------------------------------------------------------


async def leave(client, way):
    if way == "half-close":
        await client.half_close()
    elif way == "reset":
        client.reset()
    else:
        client.close()


WAYS = pytest.mark.parametrize("way", ["close", "reset", "half-close"])


@WAYS
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_ends_its_handler(kind, way):
    async with started(kind) as it:
        await leave(it.client, way)
        assert await it.watch.reason() == Disconnected(None, "")
        if way == "half-close":  # it can still read
            with pytest.raises(Cut):
                await (it.client.answer() if kind == "waiting" else it.client.rest())
        assert await it.server.is_alive()


@WAYS
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_cancels_the_callback_that_is_running(kind, way):
    async with started(kind) as it:
        running = trio.Event()
        ends = []

        async def work(handler):
            try:
                running.set()
                await trio.sleep_forever()
            finally:
                ends.append("callback")

        it.ref.send_nowait(work)
        await running.wait()
        await leave(it.client, way)
        assert await it.watch.reason() == Disconnected()
        assert ends == ["callback"]


async def test_a_client_that_leaves_in_the_middle_of_its_body_ends_its_handler():
    async with started("waiting", SLOW_BODY) as it:
        it.ref.send_nowait(read_body)
        await trio.testing.wait_all_tasks_blocked()
        it.client.close()
        assert await it.watch.reason() == Disconnected()


@pytest.mark.parametrize("kind", KINDS)
async def test_child_tasks_are_finished_before_terminate_when_the_client_leaves(kind):
    events = []
    async with started(kind) as it:
        running = trio.Event()

        async def child():
            try:
                running.set()
                await trio.sleep_forever()
            finally:
                events.append(("child", list(it.watch.reasons)))

        it.ref.send_nowait(lambda handler: handler.nursery.start_soon(child))
        await running.wait()
        it.client.reset()
        await it.watch.reason()
        assert events == [("child", [])]


# -- Failed ---------------------------------------------------------------------------------------


LARGE = "x" * MORE_THAN_BUFFERS


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_stops_reading_ends_its_handler_within_send_timeout(kind):
    async with started(kind, receive_buffer=4096, send_timeout=0.2) as it:
        large = {
            "waiting": Reply(200, body=LARGE),
            "open": Chunk(LARGE),
            "event stream": ServerSentEvent(LARGE),
        }[kind]
        began = trio.current_time()
        it.ref.send_nowait(lambda handler: large)
        reason = await it.watch.reason()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, SendTimedOut)
        assert reason.error.seconds == 0.2
        assert trio.current_time() - began >= 0.2
        if kind == "waiting":
            assert (await it.client.head()).status_code == 200
        await assert_cut(it.client)  # only now is the rest read


async def test_a_client_that_stops_reading_holds_nobody_else():
    async with started("event stream", receive_buffer=4096, send_timeout=0.5) as it:
        it.ref.send_nowait(lambda handler: ServerSentEvent(LARGE))
        assert await it.server.is_alive()
        assert it.watch.reasons == []
        assert isinstance(await it.watch.reason(), Failed)


async def test_a_client_that_begins_to_read_late_gets_everything():
    async with started("event stream", receive_buffer=4096) as it:
        it.ref.send_nowait(lambda handler: [ServerSentEvent(LARGE), ServerSentEvent("last")])
        await trio.testing.wait_all_tasks_blocked()
        await it.client.until("data: last\n\n")
        it.ref.send_nowait(lambda handler: Stop())
        assert len(await it.client.rest()) > MORE_THAN_BUFFERS
        assert await it.watch.reason() == Stopped()


async def test_an_event_that_cannot_be_encoded_cuts_the_stream():
    async with started("event stream") as it:
        bad = ServerSentEvent("two", id="line\nbreak")
        it.ref.send_nowait(lambda handler: [ServerSentEvent("one"), bad])
        await assert_cut(it.client)
        assert b"one" in it.client.received
        assert b"two" not in it.client.received
        reason = await it.watch.reason()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, ValueError)


@pytest.mark.only_worker("stock")
async def test_a_client_that_does_not_read_the_head_is_given_up_after_send_timeout_too():
    """But ``terminate`` waits until it leaves.

    The server would break if the call returned, see "returns while its head is being written" in
    ``test_platform.py``.
    """
    async with started("waiting", receive_buffer=4096, send_timeout=0.1) as it:
        it.ref.send_nowait(lambda handler: Reply(200, headers={"x-large": LARGE}))
        async with it.server.client() as other:  # others are served, for longer than send_timeout
            await other.request()
            (await it.watch.ref()).send_nowait(lambda handler: Continue(idle_timeout=0.5))
            assert (await other.answer()).status == 204
            assert await it.watch.reason() == TimedOut()
        it.client.close()
        reason = await it.watch.reason()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, SendTimedOut)


# -- ShutDown -------------------------------------------------------------------------------------


async def test_stopped_by_an_operator_before_the_start_the_client_gets_503_and_retry_after():
    async with started("waiting") as it:
        it.ref.stop()
        answer = await it.client.answer()
        assert answer.status == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 3
        assert await it.watch.reason() == ShutDown()
        assert await it.client.is_served()


async def test_stopped_by_an_operator_an_open_response_ends_completely():
    async with started("open") as it:
        it.ref.stop()
        assert await it.client.rest() == b"first\n"
        assert await it.watch.reason() == ShutDown()
        assert await it.client.is_served()


def retry_of(body, after=b"data: first\n\n"):
    """The milliseconds that a stream ends with."""
    assert body.startswith(after + b"retry: ")
    assert body.endswith(b"\n\n")
    return int(body[len(after) + len(b"retry: ") : -2])


@pytest.mark.parametrize("retry, base", [(None, 2000), (500, 500)])
async def test_stopped_by_an_operator_an_event_stream_ends_with_retry(retry, base):
    async with started("event stream", retry=retry) as it:
        it.ref.stop()
        body = await it.client.rest()
        greeting = b"data: first\n\n" if retry is None else b"retry: 500\n\ndata: first\n\n"
        assert base <= retry_of(body, greeting) <= 3 * base
        assert await it.watch.reason() == ShutDown()
        assert await it.client.is_served()


async def test_an_event_stream_stopped_in_init_starts_and_ends_with_retry():
    watch = Watch()

    class Slow(EventStreamHandler):
        async def init(self, request):
            watch.started(self)
            await trio.sleep_forever()

        terminate = watch.ended

    async with serving(Slow) as (server, _), server.client() as client:
        await client.request()
        (await watch.ref()).stop()
        answer = await client.answer()
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert 2000 <= retry_of(answer.body, b"") <= 6000
        assert await watch.reason() == ShutDown()


async def test_when_the_server_goes_down_every_client_gets_its_farewell():
    watch = Watch()
    async with contextlib.AsyncExitStack() as stack:
        server, app = await stack.enter_async_context(serving(obedient("waiting", watch)))
        app.route("/open", obedient("open", watch))
        app.route("/events", obedient("event stream", watch))
        clients = []
        for path in ("/", "/open", "/events"):
            client = await stack.enter_async_context(server.client())
            await client.request(path=path)
            await watch.ref()
            clients.append(client)
        waiting, opened, events = clients
        for client in (opened, events):
            await client.head()
            await client.until("first")
        server.shut_down()
        assert (await waiting.answer()).status == 503
        assert await opened.rest() == b"first\n"
        assert 2000 <= retry_of(await events.rest()) <= 6000
        await server.ended.wait()
        assert watch.reasons == [ShutDown()] * 3


async def test_a_client_that_stops_reading_does_not_hold_a_server_that_goes_down():
    async with started("event stream", receive_buffer=4096, send_timeout=60) as it:
        it.ref.send_nowait(lambda handler: ServerSentEvent(LARGE))
        await trio.testing.wait_all_tasks_blocked()
        it.server.shut_down()
        assert await it.watch.reason() == ShutDown()
        await it.server.ended.wait()


async def test_a_client_that_does_not_read_the_head_either_does_not_hold_a_server_that_goes_down():
    async with started("waiting", receive_buffer=4096, send_timeout=60) as it:
        it.ref.send_nowait(lambda handler: Reply(200, headers={"x-large": LARGE}))
        await trio.testing.wait_all_tasks_blocked()
        it.server.shut_down()
        with trio.move_on_after(5):
            await it.watch.reason()
            await it.server.ended.wait()
            return
        it.client.close()
        await it.watch.reason()
        pytest.fail("the server was held until the client left")


async def test_a_server_that_goes_down_answers_requests_that_wait_behind_others():
    async with started("waiting", request_bytes() + request_bytes(path="/alive")) as it:
        it.server.shut_down()
        assert (await it.client.answer()).status == 503
        assert await it.watch.reason() == ShutDown()
        assert await it.client.end() == b""  # the second was not begun
        await it.server.ended.wait()


# -- pipelining -----------------------------------------------------------------------------------


async def test_a_request_behind_a_long_poll_is_answered_after_it():
    async with started("waiting", request_bytes() + request_bytes(path="/alive")) as it:
        it.ref.send_nowait(lambda handler: Reply(200, body="first"))
        assert (await it.client.answer()).body == b"first"
        assert (await it.client.answer()).body == b"alive"
        assert await it.watch.reason() == Stopped()


async def test_a_request_behind_an_event_stream_is_answered_after_it():
    async with started("event stream", request_bytes() + request_bytes(path="/alive")) as it:
        it.ref.send_nowait(lambda handler: [ServerSentEvent("last"), Stop()])
        assert (await it.client.rest()).endswith(b"data: last\n\n")
        assert (await it.client.answer()).body == b"alive"


@WAYS
async def test_a_client_that_leaves_behind_pipelined_bytes_is_heard_or_found_when_idle(way, worker):
    """Hypercorn reads nothing more until the first request is answered; ours looks.

    A write of the answer may find a reset, or not.
    """
    two = request_bytes() + request_bytes(path="/alive")
    async with started("waiting", two, idle_timeout=0.3) as it:
        await leave(it.client, way)
        heard = [Disconnected()] + [TimedOut("mailbox")] * (worker == "stock")
        assert await it.watch.reason() in heard


async def test_a_keepalive_finds_a_client_that_left_behind_pipelined_bytes():
    two = request_bytes() + request_bytes(path="/alive")
    async with started("event stream", two, keepalive=0.05) as it:
        it.client.reset()
        assert await it.watch.reason() == Disconnected()
