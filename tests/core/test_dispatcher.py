"""Handlers whose messages are handled in one task for all of them, while their own tasks wait."""

from __future__ import annotations

from contextvars import ContextVar

import trio

from trioloop import (
    App,
    EventStreamHandler,
    Hibernate,
    LoopHandler,
    Reply,
    SendAfter,
    ServerSentEvent,
    ShutDown,
)
from trioloop._core._dispatcher import SLICE

WHO: ContextVar[str] = ContextVar("who", default="nobody")


class Obeys(EventStreamHandler):
    """Does what it is told."""

    def init(self, request):
        self.join("all")

    def info(self, message):
        return message(self)


class Around:
    """Middleware that has a scope around each request, and lets no KeyboardInterrupt through.

    Attributes:
        scopes: around the requests so far.
        errors: what came out of the application.
    """

    def __init__(self, app):
        self.app = app
        self.hub = app.hub
        self.scopes = []
        self.errors = []

    async def __call__(self, scope, receive, send):
        with trio.CancelScope() as around:
            if scope["type"] == "http":
                self.scopes.append(around)
            try:
                await self.app(scope, receive, send)
            except* KeyboardInterrupt as group:
                self.errors += group.exceptions


def serving(handler=Obeys):
    app = App()
    app.route("/", handler)
    return app


async def open_streams(client, number):
    """Streams that have handled a message: the first one is handled in the handler's own task."""
    streams = [await client.get("/") for _ in range(number)]
    client.hub.broadcast("all", lambda _: None)
    await client.settle()
    return streams


async def test_def_callbacks_of_all_handlers_are_called_in_one_task(fake_client):
    tasks = set()
    async with fake_client(serving()) as client:
        await open_streams(client, 3)
        client.hub.broadcast("all", lambda _: tasks.add(trio.lowlevel.current_task()))
        await client.settle()
    assert len(tasks) == 1


async def test_the_rest_of_a_callback_is_awaited_in_the_task_of_its_handler(fake_client):
    tasks = set()

    async def note(handler):
        tasks.add(trio.lowlevel.current_task())

    async with fake_client(serving()) as client:
        await open_streams(client, 3)
        client.hub.broadcast("all", note)
        await client.settle()
    assert len(tasks) == 3


async def test_an_async_def_init_does_not_change_that(fake_client):
    tasks = set()

    class Prepares(Obeys):
        async def init(self, request):
            self.join("all")

    async with fake_client(serving(Prepares)) as client:
        await open_streams(client, 3)
        client.hub.broadcast("all", lambda _: tasks.add(trio.lowlevel.current_task()))
        await client.settle()
    assert len(tasks) == 1


async def test_a_def_callback_has_the_context_variables_of_its_handler(fake_client):
    class Named(LoopHandler):
        def init(self, request):
            WHO.set(request.query_params["who"])
            self.join("all")

        def info(self, message):
            if message == "wait":
                return None
            return Reply(200, WHO.get())

    async with fake_client(serving(Named)) as client:
        polls = [await client.get(f"/?who={who}") for who in ("ann", "bob")]
        for message in ("wait", "who are you?"):
            client.hub.broadcast("all", message)
            await client.settle()
        assert [poll.body for poll in polls] == [b"ann", b"bob"]
    assert WHO.get() == "nobody"


async def test_others_have_their_turn_after_a_slice_of_handlers(fake_client):
    handled = []
    seen = []

    async def look():
        seen.append(len(handled))

    def info(handler):
        if not handled:
            handler.nursery.start_soon(look)
        handled.append(handler)

    async with fake_client(serving()) as client:
        await open_streams(client, 3 * SLICE)
        client.hub.broadcast("all", info)
        await client.settle()
        assert len(handled) == 3 * SLICE
    assert seen in ([SLICE], [2 * SLICE])


async def test_handlers_that_never_stop_sending_to_each_other_leave_others_their_turn(fake_client):
    turns = 0

    def ping(handler):
        nonlocal turns
        if turns < 10_000:
            turns += 1
            client.hub.broadcast("all", ping, exclude=handler.ref)

    async with fake_client(serving()) as client:
        await open_streams(client, 2)
        client.hub.broadcast("all", ping)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert 0 < turns < 100


async def test_a_callback_may_cancel_what_is_around_its_own_application(fake_client):
    """What it returned is written, what comes after is a dead letter."""

    def leave(handler):
        app.scopes[0].cancel()
        return ServerSentEvent("the last")

    app = Around(serving())
    async with fake_client(app, hub=app.hub) as client:
        [stream] = await open_streams(client, 1)
        client.ref(stream).send_nowait(leave)
        await client.settle()
        assert await stream.wait_ended() == ShutDown()
        assert "data: the last\n\n" in stream.text


async def test_what_is_around_an_application_may_be_cancelled_before_its_handler_has_its_turn(
    fake_client,
):
    app = Around(serving())
    async with fake_client(app, hub=app.hub) as client:
        [stream] = await open_streams(client, 1)
        client.ref(stream).send_nowait(print)
        app.scopes[0].cancel()
        await client.settle()
        assert await stream.wait_ended() == ShutDown()
        assert [(message, cause) for _, message, cause in client.dead_letters] == [
            (print, ShutDown())
        ]


async def test_what_ends_the_run_is_raised_in_the_task_of_its_handler(fake_client):
    """So terminate hears of it, and nobody else is harmed by where the callback was called."""

    def interrupt(handler):
        raise KeyboardInterrupt

    app = Around(serving())
    async with fake_client(app, hub=app.hub) as client:
        stream, other = await open_streams(client, 2)
        client.ref(stream).send_nowait(interrupt)
        await client.settle()
        assert await stream.wait_ended() == ShutDown()
        assert [type(error) for error in app.errors] == [KeyboardInterrupt]
        client.ref(other).send_nowait(lambda _: ServerSentEvent("alive"))
        await client.settle()
        assert "data: alive\n\n" in other.text


async def test_a_nursery_that_was_replaced_while_its_handler_waited_is_opened_in_the_right_task(
    fake_client,
):
    def have_a_child(handler):
        handler.nursery.start_soon(trio.sleep_forever)
        nurseries.append(handler.nursery)

    nurseries = []
    async with fake_client(serving()) as client:
        [stream] = await open_streams(client, 1)
        client.ref(stream).send_nowait(have_a_child)
        await client.settle()
        nurseries[0].cancel_scope.cancel()
        await client.settle()
        client.ref(stream).send_nowait(have_a_child)
        await client.settle()
        assert nurseries[1] is not nurseries[0]
        assert len({nursery.parent_task for nursery in nurseries}) == 1


async def test_a_handler_that_was_resumed_while_it_slept_has_its_nursery_in_the_right_task(
    fake_client,
):
    def have_a_child(handler):
        handler.nursery.start_soon(trio.sleep_forever)
        parents.append(handler.nursery.parent_task.name)

    parents = []
    async with fake_client(serving()) as client:
        [stream] = await open_streams(client, 1)
        client.ref(stream).send_nowait(lambda _: Hibernate())
        await client.settle()
        await client.ref(stream).suspend()
        client.ref(stream).resume()
        await client.settle()
        client.ref(stream).send_nowait(have_a_child)
        await client.settle()
        client.ref(stream).stop()
        assert await stream.wait_ended() == ShutDown()
    assert "Dispatcher" not in parents[0]


async def test_a_turn_that_comes_too_late_wakes_nobody_who_sleeps(fake_client):
    """Its own task was faster: the handler sleeps, and a timer of it is due before the alarm rings."""
    awaited = []

    async def wait(handler):
        awaited.append(trio.lowlevel.current_task().name)

    def obey(handler):
        if handler.ref is refs[-1]:
            return [Hibernate(), SendAfter(1, wait)]
        if handler.ref is refs[-2]:
            fake_client.move_to(1)
        return None

    async with fake_client(serving()) as client:
        streams = await open_streams(client, 2 * SLICE + 2)
        refs = [client.ref(stream) for stream in streams]
        await refs[-1].suspend()
        client.hub.broadcast("all", obey)
        refs[-1].resume()
        await client.settle()
        assert streams[-1].reason is None
        assert len(awaited) == 1


async def test_a_callback_that_was_handed_over_does_not_begin_after_the_end(fake_client):
    begun = []

    async def begin(handler):
        begun.append(handler)

    async with fake_client(serving()) as client:
        one, other = await open_streams(client, 2)
        client.ref(one).send_nowait(begin)
        client.ref(other).send_nowait(lambda _: client.ref(one).stop())
        await client.settle()
        assert begun == []
        assert [(message, cause) for _, message, cause in client.dead_letters] == [
            (begin, ShutDown())
        ]
