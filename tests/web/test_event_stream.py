"""`EventStreamHandler`: server-sent events as the client sees them."""

from __future__ import annotations

import math

import pytest
import trio
from support.fake import Poll, Stream, serve, settle

from trioloop import (
    Completed,
    Crashed,
    Failed,
    Hibernate,
    Overflowed,
    Reply,
    SendTimedOut,
    ServerSentEvent,
    StartResponse,
    Stop,
    Stopped,
    TimedOut,
)

# -- the start -------------------------------------------------------------------------------------


async def test_the_response_starts_when_init_has_returned(autojump_clock):
    async def init(request):
        await trio.sleep(2)

    stream = Stream(init=init)
    async with serve() as client:
        exchange = client.run(stream)
        await trio.sleep(1)
        assert exchange.status is None
        await trio.sleep(2)
        assert exchange.status == 200
        assert exchange.messages[0][0] == 2.0


async def test_the_head_goes_out_without_waiting_for_a_first_event(autojump_clock):
    async with serve() as client:
        exchange = client.run(Stream())
        await settle()
        # Servers may hold back the head until there is a body, if an empty one.
        assert [message["type"] for _, message in exchange.messages] == [
            "http.response.start",
            "http.response.body",
        ]


async def test_the_usual_headers_are_sent(autojump_clock):
    async with serve() as client:
        exchange = client.run(Stream())
        await settle()
        assert exchange.headers == {
            "content-type": "text/event-stream",
            "cache-control": "no-store, no-transform",
            "x-accel-buffering": "no",
        }


async def test_start_response_adds_headers_and_may_replace_the_usual_ones(autojump_clock):
    headers = [("X-Room", "7"), ("Set-Cookie", "a=1"), ("Cache-Control", "no-cache")]
    stream = Stream(init=lambda request: StartResponse(200, headers))
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        assert exchange.headers["x-room"] == "7"
        assert exchange.headers["set-cookie"] == "a=1"
        assert exchange.headers["cache-control"] == "no-cache"
        assert exchange.headers["content-type"] == "text/event-stream"


async def test_init_may_return_initial_events(autojump_clock):
    stream = Stream(init=lambda request: [ServerSentEvent("one"), ServerSentEvent("two", id="2")])
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        assert exchange.body == b"data: one\n\nid: 2\ndata: two\n\n"


async def test_headers_and_initial_events_go_together(autojump_clock):
    stream = Stream(init=lambda request: [StartResponse(200, {"x-a": "1"}), ServerSentEvent("one")])
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        assert (exchange.headers["x-a"], exchange.body) == ("1", b"data: one\n\n")


async def test_a_reply_refuses(autojump_clock):
    stream = Stream(init=lambda request: Reply(403, "no", {"x-why": "because"}))
    async with serve() as client:
        exchange = client.run(stream)
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (403, b"no")
        assert exchange.headers["content-type"] == "text/plain; charset=utf-8"
        assert exchange.headers["x-why"] == "because"
        assert stream.reasons == [Completed()]


async def test_stop_without_an_event_is_no_content(autojump_clock):
    stream = Stream(init=lambda request: Stop())
    async with serve() as client:
        exchange = client.run(stream)
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (204, b"")
        assert "content-length" not in exchange.headers
        assert stream.reasons == [Stopped()]


async def test_stop_after_an_event_is_a_short_stream(autojump_clock):
    stream = Stream(init=lambda request: [ServerSentEvent("only"), Stop()])
    async with serve() as client:
        exchange = client.run(stream)
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (200, b"data: only\n\n")
        assert exchange.complete


@pytest.mark.parametrize("with_events", [False, True])
async def test_retry_is_told_at_the_start_and_once(autojump_clock, with_events):
    events = [ServerSentEvent("one"), ServerSentEvent("two")] if with_events else None
    stream = Stream(init=lambda request: events, retry=500)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        assert exchange.body.startswith(b"retry: 500\n\n")
        assert exchange.body.count(b"retry") == 1


async def test_no_retry_is_told_when_there_is_none(autojump_clock):
    async with serve() as client:
        exchange = client.run(Stream())
        await settle()
        assert exchange.body == b""


async def test_messages_that_came_during_init_follow_its_events(autojump_clock):
    def init(request):
        stream.ref.send_nowait(ServerSentEvent("mailbox"))
        return ServerSentEvent("init")

    stream = Stream(init=init)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        assert exchange.body == b"data: init\n\ndata: mailbox\n\n"


# -- events ----------------------------------------------------------------------------------------


async def test_events_are_written_as_they_come(autojump_clock):
    stream = Stream()
    async with serve() as client:
        exchange = client.run(stream)
        for number in range(3):
            await trio.sleep(1)
            stream.ref.send_nowait(ServerSentEvent(str(number)))
        await settle()
        assert exchange.writes == [
            (1.0, b"data: 0\n\n"),
            (2.0, b"data: 1\n\n"),
            (3.0, b"data: 2\n\n"),
        ]


async def test_a_notification_goes_to_notify(autojump_clock):
    stream = Stream(notify=lambda message: ServerSentEvent(f"notified of {message}"))
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.notify("it")
        await settle()
        assert exchange.body == b"data: notified of it\n\n"


async def test_a_stream_never_times_out_by_default(autojump_clock):
    stream = Stream(keepalive=math.inf)
    async with serve() as client:
        client.run(stream)
        await trio.sleep(10**4)
        assert stream.reasons == []


async def test_a_stream_may_have_an_idle_timeout_and_ends_cleanly_then(autojump_clock):
    stream = Stream(idle_timeout=2.0)
    async with serve() as client:
        exchange = client.run(stream)
        await exchange.wait_returned()
        assert exchange.complete
        assert stream.reasons == [TimedOut()]


# -- last_event_id ---------------------------------------------------------------------------------

IDS = {
    "none": ({}, "/", None),
    "header": ({"Last-Event-ID": "7"}, "/", "7"),
    "query": ({}, "/?last_event_id=7", "7"),
    "header wins": ({"Last-Event-ID": "7"}, "/?last_event_id=8", "7"),
    "header is UTF-8": ({"Last-Event-ID": "日本"}, "/", "日本"),
    "query is percent-encoded UTF-8": ({}, "/?last_event_id=%E6%97%A5", "日"),
    "spaces stay": ({"Last-Event-ID": "a b"}, "/", "a b"),
    "empty header": ({"Last-Event-ID": ""}, "/", None),
    "empty header, query": ({"Last-Event-ID": ""}, "/?last_event_id=8", "8"),
    "empty query": ({}, "/?last_event_id=", None),
    "NUL": ({"Last-Event-ID": "a\0b"}, "/", None),
    "CR": ({"Last-Event-ID": "a\rb"}, "/", None),
    "LF": ({"Last-Event-ID": "a\nb"}, "/", None),
    "NUL in the query": ({}, "/?last_event_id=a%00b", None),
    "LF in the query": ({}, "/?last_event_id=a%0Ab", None),
    "another parameter": ({}, "/?my_last_event_id=7", None),
}


@pytest.mark.parametrize("name", IDS)
async def test_the_last_event_id_is_the_header_else_the_query_parameter_and_never_harmful(
    autojump_clock, name
):
    headers, path, expected = IDS[name]
    seen = []
    stream = Stream(init=lambda request: seen.append(stream.last_event_id))
    async with serve() as client:
        client.run(stream, path=path, headers=headers)
        await settle()
        assert seen == [expected]


# -- keepalive -------------------------------------------------------------------------------------


async def test_a_comment_is_written_after_15_silent_seconds(autojump_clock):
    async with serve() as client:
        exchange = client.run(Stream())
        await trio.sleep(46)
        assert exchange.writes == [(15.0, b":\n\n"), (30.0, b":\n\n"), (45.0, b":\n\n")]


async def test_a_keepalive_comes_only_when_nothing_else_was_written(autojump_clock):
    stream = Stream(keepalive=4.0)
    async with serve() as client:
        exchange = client.run(stream)
        for _ in range(3):
            await trio.sleep(3)
            stream.ref.send_nowait(ServerSentEvent("x"))
        await trio.sleep(5)
        comments = [time for time, piece in exchange.writes if piece == b":\n\n"]
        assert comments == [9 + 4]


async def test_a_message_that_writes_nothing_does_not_hold_the_keepalive_back(autojump_clock):
    stream = Stream(keepalive=4.0)
    async with serve() as client:
        exchange = client.run(stream)
        await trio.sleep(3)
        stream.ref.send_nowait("nothing to write")
        await trio.sleep(2)
        assert exchange.writes == [(4.0, b":\n\n")]


async def test_no_keepalive_during_init(autojump_clock):
    async def init(request):
        await trio.sleep(10)

    async with serve() as client:
        exchange = client.run(Stream(init=init, keepalive=4.0))
        await trio.sleep(13)
        assert exchange.writes == []
        await trio.sleep(2)
        assert exchange.writes == [(14.0, b":\n\n")]


async def test_infinity_is_no_keepalive(autojump_clock):
    async with serve() as client:
        exchange = client.run(Stream(keepalive=math.inf))
        await trio.sleep(10**4)
        assert exchange.writes == []


async def test_a_slow_read_counts_as_silence_from_its_end(autojump_clock):
    stream = Stream(keepalive=4.0)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall()
        stream.ref.send_nowait(ServerSentEvent("x"))
        await trio.sleep(3)
        exchange.resume()
        await trio.sleep(5)
        assert exchange.writes == [(3.0, b"data: x\n\n"), (7.0, b":\n\n")]


# -- the error callback ----------------------------------------------------------------------------


class Careful(Stream):
    def __init__(self, **attributes):
        super().__init__(**attributes)
        self.errors = []

    def error(self, event, error):
        self.errors.append((event, error))


async def test_error_hears_of_an_event_that_cannot_be_encoded(autojump_clock):
    stream, event = Careful(), ServerSentEvent("x", event="two\nlines")
    async with serve() as client:
        client.run(stream)
        await settle()
        stream.ref.send_nowait([ServerSentEvent("good"), event])
        reason = await stream.ref.wait_ended()
        assert isinstance(reason, Failed)
        assert stream.errors == [(event, reason.error)]


async def test_error_hears_of_an_initial_event_that_cannot_be_encoded(autojump_clock):
    event = ServerSentEvent()
    stream = Careful(init=lambda request: event)
    async with serve() as client:
        client.run(stream)
        await settle()
        assert [each for each, _ in stream.errors] == [event]
        assert isinstance(stream.reasons[0], Failed)


async def test_an_unencodable_event_is_checked_when_it_is_encoded_and_not_before(autojump_clock):
    assert ServerSentEvent("x", id="a\nb").id == "a\nb"


async def test_error_hears_of_the_first_event_that_was_not_written(autojump_clock):
    stream, failure = Careful(), RuntimeError("confused")
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait(ServerSentEvent("written"))
        await settle()
        exchange.fail_sends(failure)
        first, second = ServerSentEvent("first"), ServerSentEvent("second")
        stream.ref.send_nowait(first)
        stream.ref.send_nowait(second)
        assert await stream.ref.wait_ended() == Failed(failure)
        assert stream.errors == [(first, failure)]


@pytest.mark.parametrize("shielded", [False, True])
async def test_error_hears_of_an_event_that_the_client_did_not_read_in_time(
    autojump_clock, shielded
):
    stream, event = Careful(send_timeout=2.0), ServerSentEvent("never read")
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.stall(shielded=shielded)
        stream.ref.send_nowait(event)
        await stream.ref.wait_ended()
        [(unwritten, error)] = stream.errors
        assert unwritten == event
        assert isinstance(error, SendTimedOut)


async def test_error_hears_of_the_last_event_too(autojump_clock):
    stream, failure = Careful(), RuntimeError("confused")
    event = ServerSentEvent("last")
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.fail_sends(failure)
        stream.ref.send_nowait([event, Stop()])
        assert await stream.ref.wait_ended() == Failed(failure)
        assert stream.errors == [(event, failure)]


async def test_error_is_called_before_terminate(autojump_clock):
    order = []
    stream = Stream(
        error=lambda event, error: order.append("error"),
        terminate=lambda reason: order.append("terminate"),
    )
    async with serve() as client:
        client.run(stream)
        await settle()
        stream.ref.send_nowait(ServerSentEvent("x", id="\n"))
        await stream.ref.wait_ended()
    assert order == ["error", "terminate"]


async def test_an_async_error_callback_is_awaited(autojump_clock):
    finished = []

    async def error(event, error):
        await trio.sleep(1)
        finished.append(event)

    stream, event = Stream(error=error), ServerSentEvent("x", id="\n")
    async with serve() as client:
        client.run(stream)
        await settle()
        stream.ref.send_nowait(event)
        await stream.ref.wait_ended()
    assert finished == [event]


async def test_what_the_error_callback_raises_is_reported_and_changes_nothing(
    autojump_clock, caplog
):
    def error(event, error):
        raise KeyError("in the error callback")

    stream = Stream(error=error)
    async with serve() as client:
        client.run(stream)
        await settle()
        stream.ref.send_nowait(ServerSentEvent("x", id="\n"))
        reason = await stream.ref.wait_ended()
    assert isinstance(reason, Failed)
    assert isinstance(reason.error, ValueError)
    assert stream.reasons == [reason]
    assert "in the error callback" in caplog.text


async def test_error_is_not_called_when_the_client_has_gone(autojump_clock):
    stream = Careful()
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        exchange.disconnect()
        await stream.ref.wait_ended()
        assert stream.errors == []


# -- methods ---------------------------------------------------------------------------------------


async def test_head_runs_init_and_gets_the_headers(autojump_clock):
    stream = Stream(init=lambda request: ServerSentEvent("not for HEAD"), retry=500)
    async with serve() as client:
        exchange = client.run(stream, "HEAD")
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (200, b"")
        assert exchange.headers["content-type"] == "text/event-stream"
        assert stream.reasons == [Completed()]


async def test_head_of_a_refusal_is_its_head(autojump_clock):
    stream = Stream(init=lambda request: Reply(403, "no"))
    async with serve() as client:
        exchange = client.run(stream, "HEAD")
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (403, b"")
        assert exchange.headers["content-length"] == "2"
        assert stream.reasons == [Completed()]


async def test_head_of_a_crash_is_500(autojump_clock):
    stream = Stream(init=lambda request: 1 / 0)
    async with serve() as client:
        exchange = client.run(stream, "HEAD")
        await exchange.wait_returned()
        assert exchange.status == 500
        assert isinstance(stream.reasons[0], Crashed)


async def test_head_ends_a_handler_that_wanted_to_hibernate(autojump_clock):
    stream = Stream(init=lambda request: Hibernate())
    async with serve() as client:
        exchange = client.run(stream, "HEAD")
        await exchange.wait_returned()
        assert stream.reasons == [Completed()]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_not_allowed_and_run_nothing(autojump_clock, method):
    stream = Stream(init=lambda request: 1 / 0)
    async with serve() as client:
        exchange = client.run(stream, method)
        await exchange.wait_returned()
        assert exchange.status == 405
        assert exchange.headers["allow"] == "GET, HEAD"
        assert stream.reasons == []


async def test_post_streams_are_possible(autojump_clock):
    async def init(request):
        return ServerSentEvent(await request.body())

    stream = Stream(init=init, methods=("POST",))
    async with serve() as client:
        exchange = client.run(stream, "POST", body=b"question")
        await settle()
        assert exchange.body == b"data: question\n\n"
        refused = client.run(Stream(methods=("POST",)))
        await refused.wait_returned()
        assert (refused.status, refused.headers["allow"]) == (405, "POST")


async def test_a_loop_handler_serves_any_method_by_default(autojump_clock):
    async with serve() as client:
        for method in ("GET", "POST", "PATCH", "BREW"):
            exchange = client.run(Poll(init=lambda request: Reply(200)), method)
            await exchange.wait_returned()
            assert exchange.status == 200


async def test_an_overflow_aborts_an_open_stream(autojump_clock):
    stream = Stream(mailbox_size=1)
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait(1)
        stream.ref.send_nowait(2)
        await exchange.wait_returned()
        assert exchange.aborted
        assert stream.reasons == [Overflowed("mailbox", 1)]
