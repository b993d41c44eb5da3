"""What the client sees for every terminate reason: the table of DESIGN 5.3, for HTTP, row by row."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import trio
from support.fake import Poll, Stream, serve, settle

from trioloop import (
    Chunk,
    Completed,
    Crashed,
    Disconnected,
    Failed,
    Overflowed,
    Reply,
    ServerSentEvent,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
    TimedOut,
)

BEGIN = {Poll: [StartResponse(200), Chunk("begin\n\n")], Stream: ServerSentEvent("begin")}
BEGUN = {Poll: b"begin\n\n", Stream: b"data: begin\n\n"}


class Scene:
    """A request whose response has started or not, and a callback that is told what to do.

    An event stream's response starts when ``init`` has returned: there the callback is ``init``.
    """

    def __init__(self, client, kind, started, options):
        self.in_init = kind is Stream and not started
        self._told = trio.Event()
        self._act: Any = None
        if self.in_init:
            init = self._wait_in_init
        else:
            init = lambda request: BEGIN[kind] if started else None  # noqa: E731 - beside the other
        self.handler = kind(lambda act: act(), init=init, methods=None, **options)
        body = {"body": b"x", "more": True} if "max_body" in options else {}
        self.exchange = client.run(self.handler, "POST" if body else "GET", **body)

    async def _wait_in_init(self, request):
        await self._told.wait()
        outcome = self._act()
        return (await outcome) if hasattr(outcome, "__await__") else outcome

    def tell(self, act=lambda: None):
        """Let the callback do this."""
        self._act = act
        self._told.set()
        if not self.in_init:
            self.handler.ref.send_nowait(act)


def returns(value):
    return lambda scene: scene.tell(lambda: value)


def crashes(scene):
    scene.tell(lambda: 1 / 0)


def read_body(scene):
    scene.tell(scene.handler.request.body)


def stay_silent(scene):
    if scene.in_init:
        scene.tell(lambda: Stop(TimedOut()))


def overfill(scene):
    if scene.in_init:
        scene.handler.ref.send_nowait(lambda: None)
        scene.handler.ref.send_nowait(lambda: None)
        scene.tell()
    else:
        scene.tell()
        scene.tell()


async def a_little_later():
    await trio.sleep(0.125)


def send_too_much(scene):
    scene.exchange.send_body(b"too much")
    if scene.in_init:
        scene.tell(a_little_later)


# Row: what happens, the options it needs, the reason's type, the status and whether there is a
# Retry-After when nothing was sent before, and whether an open response ends cleanly.
ROWS = {
    "Stop": (returns(Stop()), {}, Stopped(), 204, False, True),
    "idle": (stay_silent, {"idle_timeout": 1.0}, TimedOut(), 204, False, True),
    "Stop as TimedOut": (returns(Stop(TimedOut())), {}, TimedOut(), 204, False, True),
    "Stop as silent client": (
        *(returns(Stop(TimedOut("client"))), {}, TimedOut("client")),
        *(408, False, True),
    ),
    "crash": (crashes, {}, Crashed, 500, False, False),
    "bad return": (returns("text"), {}, Crashed, 500, False, False),
    "full mailbox": (
        *(overfill, {"mailbox_size": 1}, Overflowed("mailbox", 1)),
        *(503, True, False),
    ),
    "full body": (send_too_much, {"max_body": 1}, Overflowed("body", 1), 413, False, False),
    "ref.stop": (lambda scene: scene.handler.ref.stop(), {}, ShutDown(), 503, True, True),
    "hub": (lambda scene: scene.handler.hub.shut_down(), {}, ShutDown(), 503, True, True),
    "cancelled": (lambda scene: scene.exchange.cancel(), {}, ShutDown(), 503, True, True),
}


@pytest.mark.parametrize("kind", [Poll, Stream])
@pytest.mark.parametrize("row", ROWS)
async def test_a_response_that_has_not_started_is_the_status_of_the_reason(
    autojump_clock, row, kind
):
    happen, options, reason, status, retry_after, _ = ROWS[row]
    async with serve() as client:
        scene = Scene(client, kind, False, options)
        await settle()
        happen(scene)
        await scene.exchange.wait_returned()
        assert is_reason(await scene.handler.ref.wait_ended(), reason)
        assert len(scene.handler.reasons) == 1
        if kind is Stream and reason == ShutDown():
            return  # 503 would make browsers give up: see below
        assert scene.exchange.status == status
        assert scene.exchange.body == b""
        assert scene.exchange.complete
        headers = scene.exchange.headers
        assert headers.get("retry-after", "") in (("1", "2", "3") if retry_after else ("",))


@pytest.mark.parametrize("kind", [Poll, Stream])
@pytest.mark.parametrize("row", ROWS)
async def test_an_open_response_ends_cleanly_or_is_aborted_as_the_reason_wants(
    autojump_clock, row, kind
):
    happen, options, reason, _, _, clean = ROWS[row]
    async with serve() as client:
        scene = Scene(client, kind, True, options)
        await settle()
        happen(scene)
        await scene.exchange.wait_returned()
        assert is_reason(await scene.handler.ref.wait_ended(), reason)
        assert len(scene.handler.reasons) == 1
        assert scene.exchange.status == 200
        assert scene.exchange.complete == clean
        assert scene.exchange.aborted == (not clean)
        body = scene.exchange.body
        if kind is Stream and reason == ShutDown():
            assert re.fullmatch(re.escape(BEGUN[kind]) + rb"retry: \d+\n\n", body)
        else:
            assert body == BEGUN[kind]


def is_reason(reason, expected):
    return type(reason) is expected if isinstance(expected, type) else reason == expected


# -- the client's silence --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Poll, Stream])
@pytest.mark.parametrize("started", [False, True])
async def test_a_client_that_is_silent_while_its_body_is_read(autojump_clock, kind, started):
    async with serve() as client:
        scene = Scene(client, kind, started, {"receive_timeout": 2.0, "max_body": 100})
        await settle()
        read_body(scene)
        await scene.exchange.wait_returned()
        assert await scene.handler.ref.wait_ended() == TimedOut("client")
        assert scene.handler.ended_at == 2.0
        assert scene.exchange.complete
        assert scene.exchange.status == (200 if started else 408)


# -- Completed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Poll, Stream])
async def test_a_reply_from_init_is_the_response_and_completes(autojump_clock, kind):
    handler = kind(init=lambda request: Reply(401, "who?"))
    async with serve() as client:
        exchange = client.run(handler)
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (401, b"who?")
        assert exchange.headers["content-length"] == "4"
        assert exchange.complete
        assert handler.reasons == [Completed()]


@pytest.mark.parametrize("kind", [Poll, Stream])
async def test_head_gets_the_headers_and_completes(autojump_clock, kind):
    handler = kind(init=lambda request: BEGIN[kind])
    async with serve() as client:
        exchange = client.run(handler, "HEAD")
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (200, b"")
        assert exchange.complete
        assert handler.reasons == [Completed()]
        assert trio.current_time() == 0.0


async def test_a_reply_from_another_callback_stops(autojump_clock):
    poll = Poll()
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait(Reply(200, "text"))
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (200, b"text")
        assert poll.reasons == [Stopped()]


async def test_a_reply_from_idle_stops(autojump_clock):
    poll = Poll(idle=lambda: Reply(200, "nothing new"), idle_timeout=2.0)
    async with serve() as client:
        exchange = client.run(poll)
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (200, b"nothing new")
        assert poll.reasons == [Stopped()]


# -- Disconnected ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Poll, Stream])
@pytest.mark.parametrize("started", [False, True])
async def test_nothing_more_is_sent_to_a_client_that_has_gone(autojump_clock, kind, started):
    async with serve() as client:
        scene = Scene(client, kind, started, {})
        await settle()
        sent_before = len(scene.exchange.messages)
        scene.exchange.disconnect()
        await scene.exchange.wait_returned()
        assert scene.handler.reasons == [Disconnected(None, "")]
        assert len(scene.exchange.messages) == sent_before
        assert scene.exchange.error is None


async def test_a_client_that_goes_during_a_callback_interrupts_it(autojump_clock):
    async def answer(message):
        await trio.sleep_forever()

    poll = Poll(answer)
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        await trio.sleep(1)
        exchange.disconnect()
        await poll.ref.wait_ended()
        assert (poll.reasons, poll.ended_at) == ([Disconnected()], 1.0)


async def test_a_send_that_raises_oserror_means_that_the_client_has_gone(autojump_clock):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.fail_sends(OSError("gone"))
        stream.ref.send_nowait(ServerSentEvent("x"))
        await stream.ref.wait_ended()
        assert stream.reasons == [Disconnected()]


async def test_the_servers_own_disconnect_after_a_complete_response_is_no_reason(autojump_clock):
    poll = Poll()
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait(Stop())
        await exchange.wait_returned()
        await settle()
        assert poll.reasons == [Stopped()]


# -- Failed ----------------------------------------------------------------------------------------


async def test_a_write_that_fails_drops_the_connection(autojump_clock):
    error = RuntimeError("the server is confused")
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.fail_sends(error)
        stream.ref.send_nowait(ServerSentEvent("x"))
        await exchange.wait_returned()
        assert await stream.ref.wait_ended() == Failed(error)
        assert exchange.aborted


async def test_an_event_that_cannot_be_encoded_drops_the_connection_after_what_came_before(
    autojump_clock,
):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait([ServerSentEvent("good"), ServerSentEvent("bad", id="a\nb")])
        await exchange.wait_returned()
        reason = await stream.ref.wait_ended()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, ValueError)
        assert exchange.body == b"data: good\n\n"
        assert exchange.aborted


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("confused")])
async def test_an_ending_that_cannot_be_written_replaces_the_reason(autojump_clock, error):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.fail_sends(error)
        stream.ref.send_nowait(Stop())
        reason = await stream.ref.wait_ended()
        assert reason == (Disconnected() if isinstance(error, OSError) else Failed(error))
        assert stream.reasons == [reason]


async def test_a_crash_is_reported_also_when_its_ending_cannot_be_written(autojump_clock, caplog):
    stream = Stream(lambda message: message if message != "crash" else 1 / 0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.fail_sends(OSError("gone"))
        stream.ref.send_nowait(ServerSentEvent("x"))
        stream.ref.send_nowait("crash")
        await stream.ref.wait_ended()
    assert "ZeroDivisionError" in caplog.text


# -- ShutDown --------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", [None, 0, 500])
@pytest.mark.parametrize("started", [False, True])
async def test_a_shutdown_tells_event_streams_to_come_back_between_one_and_three_retries(
    autojump_clock, retry, started
):
    drawn = set()
    for seed in range(30):
        async with serve(random=random.Random(seed)) as client:
            scene = Scene(client, Stream, started, {"retry": retry})
            await settle()
            scene.handler.ref.stop()
            await scene.exchange.wait_returned()
            assert scene.exchange.status == 200
            assert scene.exchange.headers["content-type"] == "text/event-stream"
            assert scene.exchange.complete
            drawn.add(int(re.findall(rb"retry: (\d+)\n", scene.exchange.body)[-1]))
            assert scene.exchange.body.endswith(b"\n\n")
    base = 2000 if retry is None else retry
    assert min(drawn) >= base
    assert max(drawn) <= 3 * base
    assert len(drawn) > 10 or retry == 0


async def test_retry_after_is_drawn_from_one_to_three_seconds(autojump_clock):
    drawn = set()
    for seed in range(30):
        async with serve(random=random.Random(seed)) as client:
            poll = Poll()
            exchange = client.run(poll)
            await settle()
            poll.ref.stop()
            await exchange.wait_returned()
            drawn.add(exchange.headers["retry-after"])
    assert drawn == {"1", "2", "3"}


async def test_the_same_seed_draws_the_same(autojump_clock):
    bodies = set()
    for _ in range(3):
        async with serve(random=random.Random(7)) as client:
            stream = Stream()
            exchange = client.run(stream)
            await settle()
            stream.ref.stop()
            await exchange.wait_returned()
            bodies.add(exchange.body)
    assert len(bodies) == 1


async def test_a_hub_that_shuts_down_turns_new_requests_away(autojump_clock):
    async with serve() as client:
        client.hub.shut_down()
        poll, stream = Poll(), Stream()
        waiting, opened = client.run(poll), client.run(stream)
        await waiting.wait_returned()
        await opened.wait_returned()
        assert waiting.status == 503
        assert waiting.headers["retry-after"] in ("1", "2", "3")
        assert re.fullmatch(rb"retry: \d+\n\n", opened.body)
        assert poll.reasons == stream.reasons == []


async def test_a_server_that_gives_notice_lets_every_handler_end_in_its_own_way(autojump_clock):
    notice = trio.Event()
    poll, stream = Poll(), Stream()
    async with serve() as client:
        exchanges = []
        for handler in (poll, stream):
            exchange = client.run(handler)
            exchange.scope["extensions"]["trioloop.shutdown"] = {"wait": notice.wait}
            exchanges.append(exchange)
        await settle()
        assert poll.reasons == stream.reasons == []
        notice.set()
        for exchange in exchanges:
            await exchange.wait_returned()
        assert [exchange.status for exchange in exchanges] == [503, 200]
        assert all(exchange.complete for exchange in exchanges)
        assert poll.reasons == stream.reasons == [ShutDown()]
