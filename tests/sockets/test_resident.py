"""A handler's life does not depend on whose task it lives in: that of the ASGI call, or its own.

Under our own worker a handler lives in the ASGI call, so that whatever is around the application is
around the handler, too: scopes, context variables, the next request of the connection.
"""

import contextvars
import gc
import math
import weakref
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from support.sockets import (
    MORE_THAN_BUFFERS,
    Alive,
    Arrivals,
    Watch,
    obedient,
    request_bytes,
    stock_server,
)
from support.websocket_peer import TEXT, RawWebSocket, close_frame, frame

from trioloop import (
    App,
    Continue,
    Crashed,
    Disconnected,
    Hibernate,
    LoopHandler,
    Reply,
    Send,
    SendAfter,
    ServerSentEvent,
    ShutDown,
    Stop,
    Stopped,
    TimedOut,
    WebSocketHandler,
)
from trioloop.server import _turns
from trioloop.server._readiness import available

KINDS = ("waiting", "event stream")


class Around:
    """Middleware with a scope around each request, and nothing else.

    Args:
        app: what is called inside.
        seconds: how long a request may take.

    Attributes:
        scopes: of the requests so far.
        tasks: that they are served in.
    """

    def __init__(self, app, seconds=math.inf):
        self.scopes: Arrivals[trio.CancelScope] = Arrivals()
        self.tasks: list[trio.lowlevel.Task] = []
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        self.tasks.append(trio.lowlevel.current_task())
        with trio.move_on_after(self._seconds) as around:
            self.scopes.put(around)
            await self._app(scope, receive, send)


class Started:
    """A handler that waits for messages, the client of it, and what is around it.

    Attributes:
        heard: what the handler's callbacks note.
    """

    def __init__(self, server, client, watch, around):
        self.server = server
        self.client = client
        self.watch = watch
        self.around = around
        self.heard: Arrivals = Arrivals()
        self.scope = None
        self.ref = None

    def tell(self, *messages):
        """Send what the handler shall do."""
        for message in messages:
            self.ref.send_nowait(message)

    async def noted(self, *values):
        """Wait until the callbacks have noted these, and nothing in between."""
        assert [await self.heard.next() for _ in values] == list(values)

    async def busy(self, *_):
        """A callback that never ends by itself."""
        self.heard.put("begun")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.heard.put("interrupted")
            raise

    def note(self, value):
        """A message, or a function of the handler, that notes something."""
        return lambda handler: self.heard.put(value)


@asynccontextmanager
async def served(handler, seconds=math.inf, middleware=lambda app: app, **options):
    """A server of this handler with a scope around each request; server, application, middleware."""
    app = App()
    app.route("/", handler, **options)
    app.route("/alive", Alive)
    around = Around(middleware(app), seconds)
    async with stock_server(around) as server:
        yield server, app, around


@asynccontextmanager
async def started(kind="waiting", receive_buffer=None, seconds=math.inf, **options):
    """Request a handler, and read what it says at first."""
    watch = Watch()
    async with (
        served(obedient(kind, watch), seconds, **options) as (server, _, around),
        server.client(receive_buffer=receive_buffer) as client,
    ):
        it = Started(server, client, watch, around)
        await client.request()
        it.ref = await watch.ref()
        it.scope = await around.scopes.next()
        if kind != "waiting":
            await client.head()
            await client.until("first")
        yield it
    assert len(watch.reasons) == watch.starts, "terminate is called exactly once for each"


async def assert_farewell(it, kind):
    """The client sees what it would see in a shutdown, and the handler hears of one."""
    if kind == "waiting":
        answer = await it.client.answer()
        assert answer.status == 503
        assert "retry-after" in answer.headers
    else:
        assert b"\nretry: " in await it.client.rest()
    assert await it.watch.reason() == ShutDown()


# -- where it lives -------------------------------------------------------------------------------


@pytest.mark.skipif(not available, reason="sockets are waited for by Trio here")
async def test_under_our_worker_a_handler_lives_in_the_task_of_the_asgi_call(worker):
    async with started() as it:

        async def hear_the_task(_handler):
            it.heard.put(trio.lowlevel.current_task())

        it.tell(hear_the_task)
        in_call = await it.heard.next() is it.around.tasks[0]
        assert in_call == (worker == "trioloop")


# -- a scope around the application ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_scope_around_the_application_ends_a_handler_that_waits(kind):
    async with started(kind) as it:
        it.scope.cancel()
        await assert_farewell(it, kind)
        assert await it.client.is_served()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_around_the_application_ends_a_handler(kind):
    async with started(kind, seconds=0.1) as it:
        await assert_farewell(it, kind)
        assert await it.client.is_served()
        assert it.scope.cancelled_caught


@pytest.mark.parametrize("kind", KINDS)
async def test_a_scope_around_the_application_interrupts_the_callback_that_runs(kind):
    async with started(kind) as it:
        it.tell(it.busy, it.note("never"))
        await it.noted("begun")
        it.scope.cancel()
        await assert_farewell(it, kind)
        await it.noted("interrupted")
        assert await it.client.is_served()
    assert it.heard.all == ["begun", "interrupted"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_scope_around_the_application_ends_a_handler_that_hibernates(kind):
    async with started(kind) as it:
        it.tell(lambda handler: Hibernate())
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert it.ref.statistics().hibernating
        it.scope.cancel()
        await assert_farewell(it, kind)
        assert await it.client.is_served()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_scope_around_the_application_ends_child_tasks_before_terminate(kind):
    async def child():
        try:
            await it.busy()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            it.heard.put(list(it.watch.reasons))

    async with started(kind) as it:
        it.tell(lambda handler: handler.nursery.start_soon(child))
        await it.noted("begun")
        it.scope.cancel()
        await assert_farewell(it, kind)
        await it.noted("interrupted", [])
        assert await it.client.is_served()


@pytest.mark.parametrize("used", ["before", "inside"])
async def test_a_scope_around_the_application_interrupts_a_callback_beside_child_tasks(used):
    def use(handler):
        handler.nursery.start_soon(trio.sleep_forever)

    async def use_and_work(handler):
        use(handler)
        await it.busy()

    async with started() as it:
        if used == "before":
            it.tell(use, it.busy)
        else:
            it.tell(use_and_work)
        await it.noted("begun")
        await trio.testing.wait_all_tasks_blocked(0.01)
        it.scope.cancel()
        await assert_farewell(it, "waiting")
        await it.noted("interrupted")
        assert await it.client.is_served()


async def test_a_callback_that_shields_itself_is_awaited_before_the_end():
    go_on = trio.Event()

    async def shielded(handler):
        with trio.CancelScope(shield=True):
            it.heard.put("begun")
            await go_on.wait()
        it.heard.put("done")

    async with started() as it:
        it.tell(shielded)
        await it.noted("begun")
        it.scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert it.watch.reasons == []
        go_on.set()
        await it.noted("done")
        await assert_farewell(it, "waiting")


@pytest.mark.only_worker("trioloop")  # the stock one shields its writes
async def test_a_scope_around_the_application_does_not_wait_for_a_client_that_does_not_read():
    async with started("event stream", receive_buffer=4096, send_timeout=3600) as it:
        it.tell(lambda handler: ServerSentEvent("x" * MORE_THAN_BUFFERS), it.note("never"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        it.scope.cancel()
        assert await it.watch.reason() == ShutDown()
    assert it.heard.all == []


@pytest.mark.parametrize("kind", KINDS)
async def test_terminate_may_wait_although_a_scope_around_the_application_is_cancelled(kind):
    watch = Watch()

    class SlowToTerminate(obedient(kind, watch)):
        async def terminate(self, reason):
            await trio.sleep(0.05)
            watch.ended(reason)

    async with (
        served(SlowToTerminate) as (server, _, around),
        server.client() as client,
    ):
        it = Started(server, client, watch, around)
        await client.request()
        await watch.ref()
        if kind != "waiting":
            await client.head()
            await client.until("first")
        (await around.scopes.next()).cancel()
        await assert_farewell(it, kind)
        assert await it.client.is_served()


async def test_a_scope_that_is_cancelled_while_terminate_runs_does_not_interrupt_it():
    watch = Watch()
    begun, go_on = trio.Event(), trio.Event()

    class SlowToTerminate(obedient("waiting", watch)):
        async def terminate(self, reason):
            begun.set()
            await go_on.wait()
            watch.ended(reason)

    async with served(SlowToTerminate) as (server, _, around), server.client() as client:
        await client.request()
        (await watch.ref()).send_nowait(lambda handler: Reply(200, "x"))
        await begun.wait()
        (await around.scopes.next()).cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert watch.reasons == []
        go_on.set()
        assert await watch.reason() == Stopped()
        assert (await client.answer()).body == b"x"


async def test_a_call_that_was_cancelled_before_it_began_is_answered_with_503():
    watch = Watch()
    async with (
        served(obedient("waiting", watch), seconds=0) as (server, _, _),
        server.client() as client,
    ):
        for _ in range(2):  # the second on the same connection
            await client.request()
            assert (await client.answer()).status == 503
    assert watch.reasons == [ShutDown()] * watch.starts


# -- child tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("used", ["before", "inside"])
async def test_a_child_task_that_crashes_does_not_interrupt_the_callback_that_runs(used):
    crash, go_on = trio.Event(), trio.Event()
    error = ArithmeticError("of a child")

    async def child():
        await crash.wait()
        raise error

    def start(handler):
        handler.nursery.start_soon(child)

    async def work(handler):
        if used == "inside":
            start(handler)
        it.heard.put("begun")
        crash.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        it.heard.put("crashed")
        await go_on.wait()
        await trio.lowlevel.checkpoint()
        it.heard.put("done")

    async with started() as it:
        if used == "before":
            it.tell(start)
        it.tell(work, it.note("never"))
        await it.noted("begun", "crashed")
        go_on.set()
        await it.noted("done")
        assert await it.watch.reason() == Crashed(error, "nursery")
        assert (await it.client.answer()).status == 500
    assert it.heard.all == ["begun", "crashed", "done"]


async def test_a_child_task_that_crashes_ends_a_handler_that_waits():
    error = ArithmeticError("of a child")

    async def child():
        raise error

    async with started() as it:
        it.tell(lambda handler: handler.nursery.start_soon(child))
        assert await it.watch.reason() == Crashed(error, "nursery")
        assert (await it.client.answer()).status == 500


@pytest.mark.parametrize("used", ["before", "inside"])
async def test_a_callback_that_cancels_its_nursery_is_not_cancelled_and_gets_a_new_one(used):
    def start(handler):
        handler.nursery.start_soon(child)

    async def child():
        try:
            await trio.sleep_forever()
        finally:
            it.heard.put("child ended")

    async def cancel(handler):
        if used == "inside":
            start(handler)
        await trio.testing.wait_all_tasks_blocked()
        handler.nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await trio.lowlevel.checkpoint()
        it.heard.put("not cancelled")

    async with started() as it:
        if used == "before":
            it.tell(start)
        it.tell(cancel)
        await it.noted("child ended", "not cancelled")
        it.tell(lambda handler: handler.nursery.start_soon(it.busy))
        await it.noted("begun")
        it.tell(lambda handler: Reply(200, "x"))
        assert (await it.client.answer()).body == b"x"
        assert await it.watch.reason() == Stopped()
        await it.noted("interrupted")
        assert await it.client.is_served()


# -- hibernation ----------------------------------------------------------------------------------


async def hibernated(it):
    """Wait until the handler hibernates."""
    while not it.ref.statistics().hibernating:
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()


def hibernate(handler):
    return Hibernate()


async def test_messages_and_timers_wake_a_handler_that_hibernates_again_and_again():
    async with started() as it:
        for number in range(5):
            it.tell(hibernate)
            await hibernated(it)
            it.tell(lambda handler, number=number: it.heard.put(number))
            await it.noted(number)
            it.tell(lambda handler: [SendAfter(0.02, it.note("rung")), Hibernate()])
            await it.noted("rung")
        it.tell(lambda handler: Reply(200, "x"))
        assert (await it.client.answer()).body == b"x"
        assert await it.watch.reason() == Stopped()


async def test_a_handler_that_hibernates_is_asked_at_its_idle_timeout_and_may_go_on_hibernating():
    watch = Watch()
    idled: Arrivals[int] = Arrivals()

    class Idles(obedient("waiting", watch)):
        idle_timeout = 0.03

        def init(self, request):
            watch.started(self)
            return Hibernate()

        def idle(self):
            idled.put(len(idled.all))
            return Hibernate() if len(idled.all) < 4 else Stop(TimedOut())

    async with served(Idles) as (server, _, _), server.client() as client:
        await client.request()
        assert (await client.answer()).status == 204
        assert await watch.reason() == TimedOut()
    assert idled.all == [0, 1, 2, 3]


async def test_a_client_that_leaves_ends_a_handler_that_hibernates():
    async with started() as it:
        it.tell(hibernate)
        await hibernated(it)
        it.client.close()
        assert await it.watch.reason() == Disconnected()


async def test_a_shutdown_ends_a_handler_that_hibernates():
    async with started() as it:
        it.tell(hibernate)
        await hibernated(it)
        it.server.shut_down()
        assert (await it.client.answer()).status == 503
        assert await it.watch.reason() == ShutDown()


# -- context variables ----------------------------------------------------------------------------

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_a_handler_keeps_its_context_variables_when_it_hibernates():
    def set_variable(handler):
        VARIABLE.set("mine")
        return Hibernate()

    async with started() as it, it.server.client() as other:
        it.tell(set_variable)
        await hibernated(it)
        await other.request()
        (await it.watch.ref()).send_nowait(lambda handler: Reply(200, VARIABLE.get()))
        assert (await other.answer()).body == b"unset"
        it.tell(lambda handler: Reply(200, VARIABLE.get()))
        assert (await it.client.answer()).body == b"mine"
    assert VARIABLE.get() == "unset"


@pytest.mark.parametrize("pipelined", [False, True])
async def test_the_next_request_of_a_connection_does_not_see_context_variables_of_the_last(
    pipelined,
):
    class Sets(LoopHandler):
        async def init(self, request):
            before = VARIABLE.get()
            VARIABLE.set("of an earlier request")
            return Reply(200, before)

    async with served(Sets) as (server, _, _), server.client() as client:
        if pipelined:
            await client.send(request_bytes() * 3)
        for _ in range(3):
            if not pipelined:
                await client.request()
            assert (await client.answer()).body == b"unset"


# -- middleware -----------------------------------------------------------------------------------


class Sees:
    """Middleware that sees messages.

    Args:
        app: what is called inside.
        what: ``receive`` or ``send``.
        seen: takes the messages.
    """

    def __init__(self, app, what, seen):
        self._app = app
        self._what = what
        self._seen = seen

    async def __call__(self, scope, receive, send):
        async def see_receive():
            message = await receive()
            self._seen.put(message)
            return message

        async def see_send(message):
            self._seen.put(message)
            await send(message)

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif self._what == "receive":
            await self._app(scope, see_receive, send)
        else:
            await self._app(scope, receive, see_send)


async def test_middleware_around_receive_sees_all_that_comes():
    watch = Watch()
    seen: Arrivals = Arrivals()
    handler = obedient("waiting", watch)
    async with (
        served(handler, middleware=lambda app: Sees(app, "receive", seen)) as (server, _, around),
        server.client() as client,
    ):
        await client.send(request_bytes("POST", headers=[("content-length", "6")]) + b"abc")
        assert (await seen.next())["body"] == b"abc"
        await client.send(b"def")
        while (message := await seen.next())["more_body"]:
            assert message["body"] in (b"", b"def")
        tasks: Arrivals = Arrivals()
        (await watch.ref()).send_nowait(lambda handler: tasks.put(trio.lowlevel.current_task()))
        assert await tasks.next() is not around.tasks[0], "it has a task of its own"
        client.close()
        assert await watch.reason() == Disconnected()
    assert seen.all[-1]["type"] == "http.disconnect"
    assert b"".join(message.get("body", b"") for message in seen.all) == b"abcdef"


async def test_middleware_around_send_sees_all_that_goes():
    watch = Watch()
    seen: Arrivals = Arrivals()
    handler = obedient("event stream", watch)
    async with (
        served(handler, middleware=lambda app: Sees(app, "send", seen)) as (server, _, _),
        server.client() as client,
    ):
        await client.request()
        ref = await watch.ref()
        for number in range(5):
            ref.send_nowait(lambda handler, number=number: ServerSentEvent(f"number {number}"))
        ref.send_nowait(lambda handler: Stop())
        await client.head()
        body = await client.rest()
        assert await watch.reason() == Stopped()
    start, *pieces = seen.all
    assert start["type"] == "http.response.start"
    assert b"".join(piece["body"] for piece in pieces) == body
    assert b"number 4" in body
    assert not pieces[-1]["more_body"]


# -- time -----------------------------------------------------------------------------------------


async def test_timers_ring_in_the_order_of_their_times_and_the_idle_time_ends_behind_them():
    async with started(idle_timeout=0.15) as it:
        it.tell(
            lambda handler: [SendAfter(delay, it.note(delay)) for delay in (0.06, 0.02, 0.1, 0.04)]
        )
        assert (await it.client.answer()).status == 204
        assert await it.watch.reason() == TimedOut()
    assert it.heard.all == [0.02, 0.04, 0.06, 0.1]


async def test_an_idle_timeout_that_is_shortened_while_the_handler_waits_counts():
    async with started(idle_timeout=3600) as it:
        it.tell(lambda handler: Continue(idle_timeout=0.02))
        assert (await it.client.answer()).status == 204
        assert await it.watch.reason() == TimedOut()


async def test_an_event_stream_that_is_silent_is_kept_alive_by_comments():
    async with started("event stream", keepalive=0.03) as it:
        for _ in range(3):
            piece = await it.client.piece()
            assert piece is not None
            assert piece.startswith(b":")
        it.tell(lambda handler: Stop())
        assert await it.watch.reason() == Stopped()


# -- many -----------------------------------------------------------------------------------------


async def test_two_hundred_handlers_all_get_a_broadcast():
    watch = Watch()

    class Joins(obedient("waiting", watch)):
        def init(self, request):
            watch.started(self)
            self.join("all")

    async def poll(server):
        async with server.client() as client:
            await client.request()
            assert (await client.answer()).body == b"news"
            answered.append(client)

    answered: list = []
    async with served(Joins) as (server, app, _):
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(poll, server)
            for _ in range(200):
                await watch.ref()
            assert app.hub.broadcast("all", lambda handler: Reply(200, "news")) == 200
        assert len(answered) == 200
        assert [await watch.reason() for _ in answered] == [Stopped()] * 200
        assert app.hub.handlers_open == 0


async def test_a_connection_serves_many_polls_each_with_a_handler_and_a_terminate_of_its_own():
    watch = Watch()
    refs = set()
    async with (
        served(obedient("waiting", watch)) as (server, app, _),
        server.client() as client,
    ):
        for number in range(50):
            await client.request()
            ref = await watch.ref()
            refs.add(ref)
            ref.send_nowait(lambda handler, number=number: Reply(200, str(number)))
            assert (await client.answer()).body == str(number).encode()
            assert await watch.reason() == Stopped()
        assert app.hub.handlers_open == 0
    assert len(refs) == 50


# -- the end --------------------------------------------------------------------------------------


async def test_the_lifespan_ends_only_when_every_handler_has_terminated():
    watch = Watch()
    order = []

    class SlowToTerminate(obedient("waiting", watch)):
        async def terminate(self, reason):
            await trio.sleep(0.05)
            order.append(reason)

    inner = App()
    inner.route("/", SlowToTerminate)

    async def app(scope, receive, send):
        await inner(scope, receive, send)
        if scope["type"] == "lifespan":
            order.append("lifespan")

    async with stock_server(app, graceful_timeout=1) as server, server.client() as client:
        await client.request()
        await watch.ref()
        server.shut_down()
        assert (await client.answer()).status == 503
        await server.ended.wait()
    assert order == [ShutDown(), "lifespan"]


# -- what is around it, and the server's side ------------------------------------------------------


class Receiving:
    """Middleware that has a task in ``receive`` already."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await self._app(scope, receive, send)
            nursery.cancel_scope.cancel()


async def test_a_handler_is_served_although_somebody_else_is_in_receive():
    watch = Watch()
    async with (
        served(obedient("waiting", watch), middleware=Receiving) as (server, app, _),
        server.client() as client,
    ):
        await client.send(request_bytes("POST", headers=[("content-length", "3")]))
        (await watch.ref()).send_nowait(lambda handler: Reply(200, "seen"))
        assert (await client.answer()).body == b"seen"
        assert await watch.reason() == Stopped()
        assert app.hub.statistics().handlers == 0


@pytest.mark.only_worker("trioloop")  # the stock one's waits for ever behind a disconnect
async def test_who_receives_after_the_handler_is_told_that_it_is_over():
    told: Arrivals = Arrivals()

    def receives_afterwards(app):
        async def around(scope, receive, send):
            await app(scope, receive, send)
            if scope["type"] == "http":
                told.put(await receive())

        return around

    async with (
        served(Alive, middleware=receives_afterwards) as (server, _, _),
        server.client() as client,
    ):
        await client.request()
        assert (await client.answer()).body == b"alive"
        await client.half_close()
        assert await told.next() == {"type": "http.disconnect"}


@pytest.mark.parametrize("kind", [*KINDS, "websocket"])
@pytest.mark.parametrize("leaves", [False, True], ids=["stopped", "client leaves"])
async def test_what_belonged_to_a_handler_does_not_wait_for_the_collector(
    kind, leaves, free_of_collection, worker
):
    """However many come and go: what they leave is freed where they end."""
    if leaves and worker == "stock":
        kind = "waiting"  # what h11 raises when somebody writes to nobody keeps its own frames
    alive = []

    base: Any = WebSocketHandler if kind == "websocket" else obedient(kind, Watch())

    class Kept(base):
        def init(self, request):
            alive.extend([weakref.ref(self), weakref.ref(request)])
            refs.put(self.ref)
            return super().init(request)

    refs = Arrivals()
    app = App()
    app.route("/", Kept)
    async with stock_server(app) as server:
        for _ in range(3):
            async with server.client() as client:
                if kind == "websocket":
                    await RawWebSocket(client).open()
                else:
                    await client.request()
                ref = await refs.next()
                if leaves:
                    client.close()
                else:
                    ref.stop()
                await ref.wait_ended()
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(alive) == 6
        assert [found() for found in alive] == [None] * 6


async def test_a_handler_that_has_ended_is_not_kept_by_who_handled_its_last_message():
    alive = []

    class Leaves(LoopHandler):
        def init(self, request):
            alive.append(weakref.ref(self.ref))

        def info(self, message):
            return Stop() if message == "leave" else None

    async with served(Leaves) as (server, _, _), server.client() as client:
        await client.request()
        for message in ("stay", "leave"):
            await trio.testing.wait_all_tasks_blocked(0.01)
            alive[0]().send_nowait(message)
        assert (await client.answer()).status == 204
        client.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        gc.collect()
        assert alive[0]() is None


async def test_what_is_in_the_context_of_a_request_ends_with_its_connection():
    """Tasks that it is the first to need, and that go on, have a context of their own."""
    alive = []

    class Value:
        pass

    async def sets_a_variable(scope, receive, send):
        if scope["type"] == "http":
            variable.set(Value())
            alive.append(weakref.ref(variable.get()))
        await app(scope, receive, send)

    variable = contextvars.ContextVar("variable")
    watch = Watch()
    app = App()
    app.route("/", obedient("event stream", watch))
    async with stock_server(sets_a_variable) as server:
        for _ in range(2):
            async with server.client() as client:
                await client.request()
                ref = await watch.ref()
                for _ in range(2):  # for the handler, and then for the dispatcher
                    ref.send_nowait(lambda _: ServerSentEvent("hello"))
                    await trio.testing.wait_all_tasks_blocked(0.01)
            await ref.wait_ended()
        gc.collect()
        first, _ = alive
        assert first() is None


@pytest.fixture
def free_of_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_a_handler_that_has_ended_is_a_stranger_to_the_next_one_of_its_connection():
    refs = []

    class Asks(LoopHandler):
        async def init(self, request):
            refs.append(self.ref)
            return Reply(200, repr(await refs[0].wait_ended()) if self.ref is not refs[0] else "")

    async with served(Asks) as (server, _, _), server.client() as client:
        for expected in (b"", b"Completed()"):
            await client.request()
            assert (await client.answer()).body == expected


async def test_a_client_that_leaves_is_heard_by_a_callback_whose_body_was_too_large():
    heard: Arrivals = Arrivals()

    class Reads(LoopHandler):
        async def init(self, request):
            try:
                async with aclosing(request.stream()) as pieces:
                    async for _ in pieces:
                        await trio.sleep_forever()
            finally:
                heard.put("out")

    options = {"max_body": 1000, "receive_timeout": 0.05}
    async with served(Reads, **options) as (server, _, _), server.client() as client:
        await client.send(request_bytes("POST", headers=[("content-length", "300000")]))
        await client.send(b"x" * 500)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(b"x" * 2000)
        await trio.sleep(0.1)
        assert heard.all == []
        client.close()
        assert await heard.next() == "out"


class Echo(WebSocketHandler):
    """Echoes, and notes what becomes of the callback for the word ``wait``."""

    heard: Arrivals

    async def receive(self, data):
        if data == "wait":
            try:
                await trio.sleep_forever()
            finally:
                self.heard.put("out")
        return Send(data)

    def terminate(self, reason):
        self.heard.put(type(reason))


@pytest.mark.parametrize("end", ["close", "frame"])
async def test_a_websocket_that_ends_right_behind_a_message_interrupts_its_callback(end):
    heard: Arrivals = Arrivals()

    class Noting(Echo):
        pass

    Noting.heard = heard
    async with served(Noting) as (server, _, _), server.client() as client:
        websocket = RawWebSocket(client)
        assert await websocket.open() == 101
        closing = close_frame(1000) if end == "frame" else b""
        await client.send(frame(TEXT, b"wait") + closing)
        if end == "close":
            client.close()
        assert await heard.next() == "out"
        assert await heard.next() is Disconnected


async def test_a_websocket_is_answered_while_large_messages_go_the_other_way(monkeypatch, worker):
    if worker == "trioloop":
        monkeypatch.setattr(_turns.Turns, "may_write_at_once", lambda turns: False)

    class Busy(WebSocketHandler):
        def init(self, request):
            return SendAfter(0.001, "tick")

        def info(self, message):
            return [Send(b"y" * 40_000), SendAfter(0.001, "tick")]

        def receive(self, data):
            return Send(data)

    async with served(Busy) as (server, _, _), server.client() as client:
        websocket = RawWebSocket(client)
        assert await websocket.open() == 101
        for number in range(300):
            await websocket.send(frame(TEXT, b"%d" % number))
            while (answer := await websocket.next()).opcode != TEXT:
                pass
            assert answer.payload == b"%d" % number
