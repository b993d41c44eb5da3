"""What lasse's own suite asks of an event stream, asked of trioloop over sockets.

The cases named are those of inaka/lasse, ``test/lasse_handler_SUITE.erl``. What
is different on purpose is said where it is. The handlers are written anew.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from support.sockets import MORE_THAN_BUFFERS, Client, Cut, StockServer, Watch, serving

from trioloop import (
    App,
    Completed,
    Crashed,
    Disconnected,
    EventStreamDecoder,
    EventStreamHandler,
    Failed,
    HandlerRef,
    Reply,
    SendTimedOut,
    ServerSentEvent,
    StartResponse,
    Stop,
    Stopped,
)

LARGE = "x" * MORE_THAN_BUFFERS


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def errors():
    """What ``error`` was called with."""
    return []


@pytest.fixture
def events_handler(watch, errors):
    """Takes its name from a header, and does what messages say; lasse's ``events_handler``."""
    notified = {
        "send": ServerSentEvent("notify chunk"),
        "send_id": ServerSentEvent("notify chunk", id="1", event=""),
        "no_data": ServerSentEvent(id="2", event="no_data"),
        "nosend": None,
        "comments": ServerSentEvent("some data", comment="Comment 1\nComment 2"),
        "unencodable": ServerSentEvent("data", event="two\nlines"),
        "large": ServerSentEvent(LARGE, id="large"),
        "stop": Stop(),
    }
    informed = {"send": ServerSentEvent("info chunk"), "nosend": None, "stop": Stop()}

    class EventsHandler(EventStreamHandler):
        def init(self, request):
            name = request.headers.get("process-name")
            if name is not None:
                self.register(name)
            watch.started(self)

        def notify(self, message):
            if message == "last_event_id":
                return ServerSentEvent(self.last_event_id)
            return notified[message]

        def info(self, message):
            return informed[message]

        def error(self, event, error):
            errors.append((event, error))

        terminate = watch.ended

    return EventsHandler


class Stream(NamedTuple):
    """An event stream that is open, and how to reach both of its ends."""

    client: Client
    ref: HandlerRef
    server: StockServer
    decoder: EventStreamDecoder

    async def event(self):
        """The next event, read as a browser does."""
        while True:
            piece = await self.client.piece()
            assert piece is not None
            for event in self.decoder.feed(piece):
                return event

    async def no_event(self):
        """Whether nothing comes before what is sent next; that is taken away."""
        self.ref.send_nowait("send")
        return (await self.event()).data == "info chunk"


@asynccontextmanager
async def stream_of(handler, watch, headers=(), **options) -> AsyncIterator[Stream]:
    """Open a stream under the name ``stream``."""
    async with (
        serving(handler, **options) as (server, app),
        server.client(receive_buffer=4096) as client,
    ):
        await client.request(headers=[("process-name", "stream"), *headers])
        head = await client.head()
        assert head.status_code == 200
        assert (b"content-type", b"text/event-stream") in list(head.headers)
        await watch.ref()
        ref = app.hub.whereis("stream")
        assert ref is not None
        yield Stream(client, ref, server, EventStreamDecoder())


# -- init -----------------------------------------------------------------------------------------


async def test_init_gets_the_arguments_that_the_route_gives():
    """Case init_with_module_option: a route takes any callable that makes a handler."""

    class Greets(EventStreamHandler):
        def __init__(self, greeting="hello"):
            self.greeting = greeting

        def init(self, request):
            return ServerSentEvent(self.greeting)

    for handler, greeting in ((Greets, "hello"), (lambda: Greets("good morning"), "good morning")):
        async with serving(handler) as (server, _), server.client() as client:
            await client.request()
            await client.head()
            await client.until(f"data: {greeting}\n\n")


@pytest.mark.parametrize("handler", [[], {"init_args": []}, "events_handler", 42, object])
def test_a_route_without_a_handler_is_refused_when_it_is_made(handler):
    """Case init_without_module_option. lasse threw at the first request."""
    with pytest.raises(TypeError):
        App().route("/", handler)


async def test_a_callable_that_makes_no_handler_is_answered_with_500(caplog):
    """Case init_without_module_option."""
    async with serving(lambda: None) as (server, _), server.client() as client:
        await client.request()
        assert (await client.answer()).status == 500
        assert await client.is_served()
    assert "no handler for GET /" in caplog.text


async def test_initial_events_come_first_and_in_order(watch):
    """Case send_and_receive_initial_events."""

    class Initial(EventStreamHandler):
        def init(self, request):
            self.ref.send_nowait("message")
            return [ServerSentEvent("initial 1"), ServerSentEvent("initial 2")]

        def info(self, message):
            return [ServerSentEvent(message), Stop()]

        terminate = watch.ended

    async with serving(Initial) as (server, _), server.client() as client:
        await client.request()
        answer = await client.answer()
        assert answer.body == b"data: initial 1\n\ndata: initial 2\n\ndata: message\n\n"
        assert await watch.reason() == Stopped()


async def test_init_may_add_headers_to_those_of_an_event_stream(watch):
    class Headers(EventStreamHandler):
        def init(self, request):
            return [StartResponse(headers={"x-more": "yes"}), ServerSentEvent("first"), Stop()]

    async with serving(Headers) as (server, _), server.client() as client:
        await client.request()
        answer = await client.answer()
        assert answer.body == b"data: first\n\n"
        assert answer.headers["x-more"] == "yes"
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"


async def test_init_may_say_that_there_is_no_content(watch):
    """Case check_no_content: ``{no_content, Req, State}``."""

    class NoContent(EventStreamHandler):
        def init(self, request):
            return Reply(204)

        terminate = watch.ended

    async with serving(NoContent) as (server, _), server.client() as client:
        await client.request()
        answer = await client.answer()
        assert (answer.status, answer.body) == (204, b"")
        assert "content-type" not in answer.headers
        assert await watch.reason() == Completed()
        assert await client.is_served()


async def test_init_may_refuse_with_a_status_headers_and_a_body(watch):
    """Case shutdown: ``{shutdown, Status, Headers, Body, Req, State}``."""

    class Refuses(EventStreamHandler):
        def init(self, request):
            headers = {"content-type": "text/html", "x-why": "maintenance"}
            return Reply(404, body="Sorry, shutdown!", headers=headers)

        terminate = watch.ended

    async with serving(Refuses) as (server, _), server.client() as client:
        await client.request()
        answer = await client.answer()
        assert (answer.status, answer.body) == (404, b"Sorry, shutdown!")
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["x-why"] == "maintenance"
        assert await watch.reason() == Completed()


async def test_a_post_is_refused_with_the_methods_that_are_served(events_handler, watch):
    """Case send_post_and_fail. lasse called ``init`` and ``terminate`` for it; here no handler is made."""
    async with serving(events_handler) as (server, _), server.client() as client:
        await client.request("POST", body=b"")
        answer = await client.answer()
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD"
        assert watch.reasons == []


# -- messages -------------------------------------------------------------------------------------


async def test_notify_and_info_each_send_an_event(events_handler, watch):
    """Case send_and_receive_two_chunks."""
    async with stream_of(events_handler, watch) as stream:
        stream.ref.notify("send")
        assert (await stream.event()).data == "notify chunk"
        stream.ref.send_nowait("send")
        assert (await stream.event()).data == "info chunk"
        stream.ref.notify("stop")
        await stream.client.rest()
        assert await watch.reason() == Stopped()


async def test_notify_and_info_may_send_nothing(events_handler, watch):
    """Case send_and_do_not_receive_anything."""
    async with stream_of(events_handler, watch) as stream:
        stream.ref.notify("nosend")
        assert await stream.no_event()
        stream.ref.send_nowait("nosend")
        assert await stream.no_event()


async def test_an_event_has_its_id(events_handler, watch):
    """Case send_data_and_id. The empty type is written, as lasse and Cowboy do; browsers ignore it."""
    async with stream_of(events_handler, watch) as stream:
        stream.ref.notify("send_id")
        event = await stream.event()
        assert (event.id, event.data) == ("1", "notify chunk")
        assert stream.client.received == b"id: 1\nevent: \ndata: notify chunk\n\n"


async def test_comments_stand_before_the_data_line_by_line(events_handler, watch):
    """Case send_comments_and_data."""
    async with stream_of(events_handler, watch) as stream:
        stream.ref.notify("comments")
        assert (await stream.event()).data == "some data"
        assert stream.client.received == b": Comment 1\n: Comment 2\ndata: some data\n\n"


async def test_an_event_without_data_is_written_but_is_none_for_the_client(events_handler, watch):
    """Case do_not_send_data. lasse refused it, and then crashed; its id counts all the same."""
    async with stream_of(events_handler, watch) as stream:
        stream.ref.notify("no_data")
        assert await stream.no_event()
        assert stream.client.received.startswith(b"id: 2\nevent: no_data\n\n")
        assert stream.decoder.last_event_id == "2"


async def test_the_last_event_id_of_the_client_is_known(events_handler, watch):
    """Case send_last_event_id."""
    async with stream_of(events_handler, watch, headers=[("last-event-id", "42")]) as stream:
        stream.ref.notify("last_event_id")
        assert (await stream.event()).data == "42"


@pytest.mark.parametrize("send", ["notify", "send_nowait"])
async def test_a_message_that_nobody_knows_is_a_crash_that_cuts_the_stream(
    events_handler, watch, send
):
    """A ``case_clause`` in lasse; under Cowboy 2 its clients saw a complete end."""
    async with stream_of(events_handler, watch) as stream:
        getattr(stream.ref, send)("unknown")
        with pytest.raises(Cut):
            await stream.client.rest()
        reason = await watch.reason()
        assert isinstance(reason, Crashed)
        assert reason.callback == ("notify" if send == "notify" else "info")


@pytest.mark.parametrize("send", ["notify", "send_nowait"])
async def test_stop_ends_the_stream_completely(events_handler, watch, send):
    """The end of every case."""
    async with stream_of(events_handler, watch) as stream:
        getattr(stream.ref, send)("stop")
        assert await stream.client.rest() == b""
        assert await watch.reason() == Stopped()
        assert await stream.client.is_served()


# -- errors and the end ---------------------------------------------------------------------------


async def test_error_is_called_with_the_event_that_cannot_be_encoded_then_the_handler_ends(
    events_handler, watch, errors
):
    """Case cause_chunk_to_fail. As lasse's README says; its 1.2.0 went on with a broken state."""
    async with stream_of(events_handler, watch) as stream:
        stream.ref.notify("send")
        stream.ref.notify("unencodable")
        with pytest.raises(Cut):
            await stream.client.rest()
        assert stream.client.received == b"data: notify chunk\n\n"
        reason = await watch.reason()
        assert isinstance(reason, Failed)
        assert errors == [(ServerSentEvent("data", event="two\nlines"), reason.error)]


async def test_error_is_called_with_the_first_event_that_was_not_written_whole(
    events_handler, watch, errors
):
    """Case cause_chunk_to_fail. Under Cowboy 2 lasse never heard of a client that does not read."""
    async with stream_of(events_handler, watch, send_timeout=0.1) as stream:
        stream.ref.notify("large")
        stream.ref.notify("send")
        reason = await watch.reason()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, SendTimedOut)
        assert [(event.id, error) for event, error in errors] == [("large", reason.error)]


async def test_error_is_not_called_when_the_client_leaves(events_handler, watch, errors):
    async with stream_of(events_handler, watch) as stream:
        stream.client.reset()
        assert await watch.reason() == Disconnected()
        assert errors == []


async def test_terminate_is_called_and_the_name_is_free_when_the_client_leaves(
    events_handler, watch
):
    """Under Cowboy 2 lasse's ``terminate`` was not called then."""
    async with stream_of(events_handler, watch) as stream:
        stream.client.close()
        assert await watch.reason() == Disconnected()
        async with stream.server.client() as client:
            await client.request(headers=[("process-name", "stream")])
            assert (await client.head()).status_code == 200
            (await watch.ref()).notify("stop")
            assert await client.rest() == b""
        assert await watch.reason() == Stopped()


async def test_the_chunks_that_are_written_are_whole_events(events_handler, watch):
    async with stream_of(events_handler, watch) as stream:
        for _ in range(3):
            stream.ref.notify("send")
            while not stream.client.received.endswith(b"\n\n"):
                assert await stream.client.piece() is not None
            stream.client.received.clear()
        assert await stream.no_event()
