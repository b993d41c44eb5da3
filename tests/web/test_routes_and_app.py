"""Routes, `App`, and a hub inside of Starlette and FastAPI applications."""

from __future__ import annotations

import copy
import logging
import math
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

import fastapi
import pytest
import trio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router
from support.fake import Client, Poll, Stream, serve, serve_without_lifespan, settle

from trioloop import (
    App,
    EventStreamHandler,
    HandlerRoute,
    Hub,
    LoopHandler,
    Overflow,
    Reply,
    ResponseAborted,
    ServerSentEvent,
    ShutDown,
)


class Hello(LoopHandler):
    """Answers at once."""

    greeting = "hello"

    def init(self, request):
        return Reply(200, f"{self.greeting} {request.path_params.get('who', 'world')}")


class Wait(LoopHandler):
    """Waits for ever."""


class Count(EventStreamHandler):
    """Sends one event."""

    def init(self, request):
        return ServerSentEvent("one")


async def get(client: Client, path: str = "/", method: str = "GET", **request):
    exchange = client.open(method, path, **request)
    await exchange.wait_returned()
    return exchange


# -- making routes ---------------------------------------------------------------------------------


async def test_route_is_a_decorator_that_gives_the_class_back(autojump_clock):
    app = App()

    @app.route("/hello/{who}")
    class Decorated(Hello):
        pass

    assert issubclass(Decorated, Hello)
    async with serve(app) as client:
        assert (await get(client, "/hello/ann")).body == b"hello ann"


async def test_route_is_a_plain_call_too(autojump_clock):
    app = App()
    assert app.route("/hello", Hello) is Hello
    async with serve(app) as client:
        assert (await get(client, "/hello")).body == b"hello world"


async def test_a_handler_route_is_the_same_as_a_value(autojump_clock):
    app = App(routes=[HandlerRoute("/hello", Hello), HandlerRoute("/hi", Hello, greeting="hi")])
    async with serve(app) as client:
        assert (await get(client, "/hello")).body == b"hello world"
        assert (await get(client, "/hi")).body == b"hi world"


async def test_other_routes_stand_beside_handlers(autojump_clock):
    async def plain(request):
        return PlainTextResponse("plain")

    app = App(routes=[Route("/plain", plain), HandlerRoute("/hello", Hello)])
    async with serve(app) as client:
        assert (await get(client, "/plain")).body == b"plain"
        assert (await get(client, "/hello")).body == b"hello world"
        assert (await get(client, "/nowhere")).status == 404


async def test_a_callable_may_make_the_handlers(autojump_clock):
    def make():
        handler = Hello()
        handler.greeting = "made"
        return handler

    app = App()
    app.route("/", make)
    app.route("/partial", partial(Hello))
    async with serve(app) as client:
        assert (await get(client)).body == b"made world"
        assert (await get(client, "/partial")).body == b"hello world"


async def test_path_parameters_are_converted_as_in_starlette(autojump_clock):
    seen = []

    class Room(LoopHandler):
        def init(self, request):
            seen.append(request.path_params)
            return Reply(200)

    app = App()
    app.route("/rooms/{number:int}", Room)
    async with serve(app) as client:
        await get(client, "/rooms/7")
        assert (await get(client, "/rooms/seven")).status == 404
    assert seen == [{"number": 7}]


async def test_a_handler_serves_any_method_of_its_path(autojump_clock):
    app = App()
    app.route("/", Hello)
    async with serve(app) as client:
        for method in ("GET", "POST", "DELETE", "BREW"):
            assert (await get(client, "/", method)).status == 200


async def test_methods_limits_them(autojump_clock):
    app = App()
    app.route("/", Hello, methods=("GET", "PUT"))
    async with serve(app) as client:
        assert (await get(client, "/", "PUT")).status == 200
        refused = await get(client, "/", "POST")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, PUT")


async def test_url_path_for_knows_handlers_by_their_names(autojump_clock):
    app = App()
    app.route("/hello/{who}", Hello)
    app.route("/other/{who}", Hello, name="other")
    assert app.url_path_for("Hello", who="ann") == "/hello/ann"
    assert app.url_path_for("other", who="ann") == "/other/ann"


@pytest.mark.parametrize("middleware", [[], [Middleware(GZipMiddleware)]])
async def test_a_handler_finds_its_app_and_other_routes_with_and_without_middleware(
    autojump_clock, middleware
):
    class Links(LoopHandler):
        def init(self, request):
            assert request.app is app
            return Reply(200, str(request.url_for("Hello", who="ann")))

    app = App(middleware=middleware)
    app.route("/links", Links)
    app.route("/hello/{who}", Hello)
    async with serve(app) as client:
        assert (await get(client, "/links")).body.endswith(b"/hello/ann")


async def test_who_wraps_the_middleware_stack_of_an_app_sees_its_handlers(autojump_clock):
    """As instruments for tracing do."""
    app, seen = App(), []
    app.route("/hello", Hello)
    build = app.build_middleware_stack

    def wrapped():
        stack = build()

        async def traced(scope, receive, send):
            seen.append(scope["type"])
            await stack(scope, receive, send)

        return traced

    app.build_middleware_stack = wrapped
    async with serve(app) as client:
        assert (await get(client, "/hello")).status == 200
    assert "http" in seen


async def test_a_route_of_starlettes_that_comes_first_is_taken(autojump_clock):
    async def plain(request):
        return PlainTextResponse("plain")

    app = App(routes=[Route("/hello", plain)])
    app.route("/{path}", Hello)
    async with serve(app) as client:
        assert (await get(client, "/hello")).body == b"plain"
        assert (await get(client, "/other")).body == b"hello world"


async def test_a_name_that_another_route_has_is_refused(autojump_clock):
    app = App()
    app.route("/one", Hello, name="hello")
    with pytest.raises(ValueError, match="hello"):
        app.route("/two", Hello, name="hello")


async def test_a_name_that_two_handler_routes_were_given_is_refused(autojump_clock):
    routes = [HandlerRoute("/one", Hello, name="hello"), HandlerRoute("/two", Hello, name="hello")]
    with pytest.raises(ValueError, match="hello"):
        App(routes=routes)


async def test_one_handler_may_have_several_paths_without_names(autojump_clock):
    app = App()
    app.route("/one", Hello)
    app.route("/two", Hello)
    async with serve(app) as client:
        assert (await get(client, "/one")).status == (await get(client, "/two")).status == 200


@pytest.mark.parametrize("path", ["hello", "", "/{a}/{a}", "/{who:nothing}", 7, None])
async def test_a_bad_path_is_refused_at_once(autojump_clock, path):
    with pytest.raises((ValueError, TypeError)):
        App().route(path, Hello)


async def endpoint(request):
    """An endpoint of Starlette's, which is no handler."""


class Greet(LoopHandler[str]):
    def __init__(self, greeting):
        self.greeting = greeting

    def init(self, request):
        return Reply(200, body=self.greeting)


@pytest.mark.parametrize(
    "make",
    [
        lambda: App().route("/", endpoint),
        lambda: HandlerRoute("/", endpoint),
        lambda: Hub().endpoint(endpoint),
    ],
)
async def test_a_plain_endpoint_is_refused_at_once_with_the_way_out(autojump_clock, make):
    message = r"endpoint is no handler: .*'request'; .* without arguments .* Starlette's own"
    with pytest.raises(TypeError, match=message):
        make()


async def test_a_class_that_needs_arguments_is_refused_at_once_with_the_way_out(autojump_clock):
    with pytest.raises(TypeError, match=r"Greet\(\) .*'greeting'; .*functools\.partial\(Greet, .*"):
        App().route("/", Greet)


@pytest.mark.parametrize("make", [partial(Greet, "hello"), lambda: Greet("hello")])
async def test_a_callable_gives_a_class_its_arguments(autojump_clock, make):
    app = App()
    app.route("/", make)
    async with serve(app) as client:
        assert (await get(client)).body == b"hello"


async def test_a_callable_whose_signature_cannot_be_read_is_accepted(autojump_clock):
    class Unreadable:
        __signature__ = "none"

        def __call__(self):
            return Greet("hello")

    app = App()
    app.route("/", Unreadable())
    async with serve(app) as client:
        assert (await get(client)).body == b"hello"


# -- options ---------------------------------------------------------------------------------------


async def test_overrides_win_over_the_class_for_their_route_only(autojump_clock):
    app = App()
    app.route("/short", Wait, idle_timeout=1.0)
    app.route("/long", Wait)
    async with serve(app) as client:
        await get(client, "/short")
        assert trio.current_time() == 1.0
        await get(client, "/long")
        assert trio.current_time() == 1.0 + 60.0
    assert "idle_timeout" not in vars(Wait)


async def test_overrides_work_for_callables_too(autojump_clock):
    app = App()
    app.route("/", partial(Wait), idle_timeout=1.0)
    async with serve(app) as client:
        await get(client)
        assert trio.current_time() == 1.0


async def test_an_unknown_option_is_refused_with_those_that_there_are(autojump_clock):
    with pytest.raises(TypeError, match=r"no option 'idle_timout'.*idle_timeout"):
        App().route("/", Hello, idle_timout=1.0)


@pytest.mark.parametrize(
    "name",
    ["ref", "hub", "request", "nursery", "init", "info", "terminate", "_private", "keepalive"],
)
async def test_what_is_no_option_of_the_handler_is_unknown(autojump_clock, name):
    with pytest.raises(TypeError, match=name):
        App().route("/", Hello, **{name: 1})


TYPE_ERRORS = [
    *({name: "1"} for name in ("idle_timeout", "receive_timeout", "send_timeout")),
    {"terminate_timeout": None},
    {"idle_timeout": True},
    {"mailbox_size": 1.5},
    {"mailbox_size": True},
    {"overflow": "STOP"},
    {"overflow": None},
    {"max_body": "1"},
    {"methods": "GET"},
    {"methods": 7},
]
VALUE_ERRORS = [
    {"idle_timeout": -1},
    {"idle_timeout": math.nan},
    {"mailbox_size": 0},
    {"max_body": -1},
    {"methods": ("get",)},
    {"methods": ("",)},
]


@pytest.mark.parametrize("options", TYPE_ERRORS, ids=str)
async def test_a_value_of_the_wrong_type_is_refused_when_the_route_is_made(autojump_clock, options):
    [name] = options
    with pytest.raises(TypeError, match=name):
        App().route("/", Hello, **options)


@pytest.mark.parametrize("options", VALUE_ERRORS, ids=str)
async def test_an_impossible_value_is_refused_when_the_route_is_made(autojump_clock, options):
    [name] = options
    with pytest.raises(ValueError, match=name):
        App().route("/", Hello, **options)


@pytest.mark.parametrize("options", [{"keepalive": 0}, {"retry": -1}, {"keepalive": -1}], ids=str)
async def test_an_impossible_value_of_an_event_stream_is_refused_too(autojump_clock, options):
    [name] = options
    with pytest.raises(ValueError, match=name):
        App().route("/", Count, **options)


async def test_a_bad_value_in_the_class_is_refused_when_the_route_is_made(autojump_clock):
    class Broken(Hello):
        mailbox_size = 0

    with pytest.raises(ValueError, match="mailbox_size"):
        App().route("/", Broken)


async def test_good_values_at_the_edge_are_taken(autojump_clock):
    App().route(
        "/",
        Count,
        idle_timeout=0,
        mailbox_size=math.inf,
        max_body=math.inf,
        keepalive=math.inf,
        retry=0,
        overflow=Overflow.BLOCK,
        methods=None,
        send_timeout=math.inf,
    )


@pytest.mark.parametrize("handler", [object(), 7, "Hello", dict, Hello()])
async def test_what_makes_no_handlers_is_refused(autojump_clock, handler):
    with pytest.raises(TypeError, match="handler"):
        App().route("/", handler)


@pytest.mark.parametrize("make", [lambda: None, lambda: 1 / 0, partial(dict)])
async def test_a_callable_that_makes_no_handler_gets_500_and_a_log_entry(
    autojump_clock, make, caplog
):
    app = App()
    app.route("/", make)
    async with serve(app) as client:
        assert (await get(client)).status == 500
    assert "no handler for GET /" in caplog.text


async def test_a_callable_that_gives_the_same_handler_twice_is_told_so(autojump_clock, caplog):
    same = Hello()
    app = App()
    app.route("/", lambda: same)
    async with serve(app) as client:
        assert (await get(client)).status == 200
        assert (await get(client)).status == 500
    assert "one request" in caplog.text


# -- the hub inside of Starlette -------------------------------------------------------------------


def starlette(hub: Hub, *routes, lifespan=None) -> Starlette:
    return Starlette(routes=routes, lifespan=lifespan or hub.lifespan)


async def test_hub_route_stands_in_the_route_list_of_a_starlette_app(autojump_clock):
    hub = Hub()
    app = starlette(hub, hub.route("/hello/{who}", Hello, greeting="hi"))
    async with serve(app) as client:
        assert (await get(client, "/hello/ann")).body == b"hi ann"


async def test_hub_endpoint_is_an_asgi_application(autojump_clock):
    hub = Hub()
    app = starlette(hub, Mount("/hello", app=hub.endpoint(Hello, greeting="hi")))
    async with serve(app) as client:
        assert (await get(client, "/hello")).status in (200, 307)
        assert (await get(client, "/hello/")).body == b"hi world"


async def test_hub_endpoint_can_be_routed_to(autojump_clock):
    hub = Hub()
    app = starlette(hub, Route("/hello/{who}", hub.endpoint(Hello)))
    async with serve(app) as client:
        assert (await get(client, "/hello/ann")).body == b"hello ann"


async def test_hub_response_is_returned_from_a_route(autojump_clock):
    hub = Hub()

    async def endpoint(request):
        return hub.response(Poll(init=lambda request: Reply(200, "text")))

    async with serve(starlette(hub, Route("/", endpoint))) as client:
        assert (await get(client)).body == b"text"


async def test_headers_and_cookies_of_hub_response_are_sent_with_the_handlers_own(autojump_clock):
    hub = Hub()

    async def endpoint(request):
        response = hub.response(Count())
        response.headers["x-more"] = "1"
        response.set_cookie("session", "abc")
        return response

    async with serve(starlette(hub, Route("/", endpoint))) as client:
        exchange = client.open()
        await settle()
        assert exchange.headers["x-more"] == "1"
        assert exchange.headers["set-cookie"].startswith("session=abc")
        assert exchange.headers["content-type"] == "text/event-stream"
        assert "content-length" not in exchange.headers


async def test_hub_run_serves_a_request_that_is_being_served(autojump_clock):
    hub = Hub()

    async def application(scope, receive, send):
        await hub.run(Hello(), Request(scope, receive, send))

    async with serve(starlette(hub, Mount("/", app=application))) as client:
        assert (await get(client)).body == b"hello world"


@pytest.mark.parametrize("what", [Hello, None, "Hello", object()])
async def test_hub_response_and_run_take_handlers_and_nothing_else(autojump_clock, what):
    with pytest.raises(TypeError, match="handler"):
        Hub().response(what)
    with pytest.raises(TypeError, match="handler"):
        await Hub().run(what, Request({"type": "http"}))


async def test_hub_response_refuses_a_handler_with_impossible_options(autojump_clock):
    with pytest.raises(ValueError, match="mailbox_size"):
        Hub().response(Poll(mailbox_size=0))


async def test_a_handler_can_be_given_to_one_response_only(autojump_clock, caplog):
    hub, same = Hub(), Hello()

    async def endpoint(request):
        return hub.response(same)

    async with serve(starlette(hub, Route("/", endpoint))) as client:
        assert (await get(client)).status == 200
        assert (await get(client)).status == 500


async def test_a_hub_of_its_own_can_be_given_to_an_app(autojump_clock):
    hub = Hub()
    app = App(hub=hub)
    app.route("/", Hello)
    assert app.hub is hub
    async with serve(app) as client:
        assert (await get(client)).status == 200


# -- the hub inside of FastAPI ---------------------------------------------------------------------


class Inbox(LoopHandler):
    def __init__(self, user, text=""):
        self.user = user
        self.text = text

    def init(self, request):
        return Reply(200, f"{self.user}: {self.text}")


async def current_user(request: Request) -> str:
    return request.headers["x-user"]


User = Annotated[str, fastapi.Depends(current_user)]


def fast_app(hub: Hub) -> fastapi.FastAPI:
    app = fastapi.FastAPI(lifespan=hub.lifespan)

    @app.get("/inbox")
    async def inbox(user: User):
        return hub.response(Inbox(user))

    @app.post("/inbox")
    async def post(user: User, body: Annotated[dict, fastapi.Body()]):
        return hub.response(Inbox(user, body["text"]))

    @app.post("/wait")
    async def wait(user: User, body: Annotated[dict, fastapi.Body()]):
        return hub.response(Poll(idle_timeout=2.0))

    app.router.routes.append(hub.route("/hello/{who}", Hello))
    app.mount("/count", hub.endpoint(Count))
    return app


async def test_fastapi_injects_dependencies_first(autojump_clock):
    async with serve(fast_app(Hub())) as client:
        exchange = await get(client, "/inbox", headers={"X-User": "ann"})
        assert exchange.body == b"ann: "


async def test_fastapi_reads_the_body_of_a_post_before(autojump_clock):
    async with serve(fast_app(Hub())) as client:
        exchange = await get(
            client,
            "/inbox",
            "POST",
            headers={"X-User": "ann", "content-type": "application/json"},
            body=b'{"text": "hi"}',
        )
        assert exchange.body == b"ann: hi"


async def test_a_handler_waits_and_sees_disconnects_after_a_post_in_fastapi(autojump_clock):
    hub = Hub()
    headers = {"X-User": "ann", "content-type": "application/json"}
    async with serve(fast_app(hub)) as client:
        exchange = await get(client, "/wait", "POST", headers=headers, body=b"{}")
        assert (exchange.status, trio.current_time()) == (204, 2.0)
        gone = client.open("POST", "/wait", headers=headers, body=b"{}")
        await trio.sleep(1)
        gone.disconnect()
        await gone.wait_returned()
        assert trio.current_time() == 3.0
        assert hub.statistics().handlers == 0


async def test_fastapi_takes_routes_and_mounted_endpoints(autojump_clock):
    async with serve(fast_app(Hub())) as client:
        assert (await get(client, "/hello/ann")).body == b"hello ann"
        exchange = client.open(path="/count/")
        await settle()
        assert exchange.body == b"data: one\n\n"


async def test_fastapi_answers_its_own_errors(autojump_clock):
    async with serve(fast_app(Hub())) as client:
        exchange = await get(
            client,
            "/inbox",
            "POST",
            headers={"X-User": "ann", "content-type": "application/json"},
            body=b"no json",
        )
        assert exchange.status == 422


# -- a hub that does not run -----------------------------------------------------------------------


def unstarted_apps():
    app, hub = App(), Hub()
    app.route("/", Hello)

    async def response(request):
        return hub.response(Hello())

    return {
        "App": app,
        "hub.route": Starlette(routes=[hub.route("/", Hello)]),
        "hub.endpoint": hub.endpoint(Hello),
        "hub.response": Starlette(routes=[Route("/", response)]),
        "mounted App": Starlette(routes=[Mount("/", app=app)]),
    }


@pytest.mark.parametrize("name", unstarted_apps())
async def test_a_hub_that_does_not_run_answers_500_and_logs_one_clear_sentence(
    autojump_clock, name, caplog
):
    async with serve_without_lifespan(unstarted_apps()[name]) as client:
        with caplog.at_level(logging.ERROR):
            exchange = await get(client)
    assert exchange.status == 500
    assert exchange.complete
    assert exchange.error is None
    [record] = caplog.records
    assert record.exc_info is None
    assert "hub is not running" in record.getMessage()
    assert "lifespan=hub.lifespan" in record.getMessage()


async def test_a_handler_route_without_a_hub_says_how_to_get_one(autojump_clock):
    app = Starlette(routes=[HandlerRoute("/", Hello)])
    async with serve_without_lifespan(app) as client:
        exchange = await get(client)
    assert exchange.status == 500
    assert "hub.route(" in str(exchange.error)


async def test_a_hub_that_has_stopped_does_not_run(autojump_clock):
    app = App()
    app.route("/", Hello)
    async with serve(app) as client:
        assert (await get(client)).status == 200
        await client.shut_down()
        assert (await get(client)).status == 500


async def test_a_hub_may_run_again_after_it_has_stopped(autojump_clock):
    app = App()
    app.route("/", Hello)
    for _ in range(2):
        async with serve(app) as client:
            assert (await get(client)).status == 200


async def test_a_hub_runs_once_at_a_time(autojump_clock):
    hub = Hub()
    async with hub.lifespan():
        with pytest.raises(RuntimeError, match="running already"):
            async with hub.lifespan():
                pass
        assert hub.running
    assert not hub.running


# -- lifespans, mounting, middleware ---------------------------------------------------------------


async def test_an_app_runs_its_users_lifespan_inside_of_the_hubs(autojump_clock):
    events = []

    @asynccontextmanager
    async def lifespan(app):
        events.append(app.hub.running)
        yield {"value": 42}
        events.append(app.hub.running)

    app = App(lifespan=lifespan)
    app.route("/", Hello)
    async with serve(app) as client:
        assert (await get(client)).status == 200
        assert events == [True]
    assert events == [True, True]


async def test_hub_lifespan_can_be_nested_inside_of_ones_own(autojump_clock):
    hub, events = Hub(), []

    @asynccontextmanager
    async def lifespan(app):
        events.append("before")
        async with hub.lifespan(app):
            yield
        events.append("after")

    async with serve(starlette(hub, hub.route("/", Hello), lifespan=lifespan)) as client:
        assert (await get(client)).status == 200
    assert events == ["before", "after"]


async def test_the_end_of_the_lifespan_ends_every_handler_and_waits_for_terminate(autojump_clock):
    finished = []

    async def terminate(reason):
        await trio.sleep(2)
        finished.append((reason, trio.current_time()))

    poll = Poll(terminate=terminate)
    app = App()
    app.route("/", lambda: poll)
    async with serve(app) as client:
        client.open()
        await settle()
    assert finished == [(ShutDown(), 2.0)]


async def test_handlers_in_mounts_and_routers_of_an_app_find_its_hub(autojump_clock):
    app = App(
        routes=[
            Mount("/mounted", routes=[HandlerRoute("/hello", Hello)]),
            Mount("/router", app=Router(routes=[HandlerRoute("/hello", Hello)])),
        ]
    )
    async with serve(app) as client:
        assert (await get(client, "/mounted/hello")).status == 200
        assert (await get(client, "/router/hello")).status == 200


async def test_an_app_can_be_mounted_when_the_outer_one_runs_its_hub(autojump_clock):
    inner = App()
    inner.route("/hello", Hello)
    outer = Starlette(routes=[Mount("/inner", app=inner)], lifespan=inner.hub.lifespan)
    async with serve(outer) as client:
        assert (await get(client, "/inner/hello")).status == 200


class CopiesTheScope:
    """What Hypercorn's proxy middleware does."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            scope = copy.deepcopy(scope)
        await self.app(scope, receive, send)


async def test_a_server_that_copies_the_scope_changes_nothing(autojump_clock):
    seen = []

    class Look(LoopHandler):
        def init(self, request):
            seen.append(self.hub)
            return Reply(200)

    app = App(routes=[HandlerRoute("/", Look), Mount("/mounted", routes=[HandlerRoute("/", Look)])])
    async with serve(app) as client:
        for path in ("/", "/mounted/"):
            assert (await get(client, path, app=CopiesTheScope(app))).status == 200
    assert seen == [app.hub] * 2


async def test_middleware_that_copies_the_scope_changes_nothing(autojump_clock):
    class CopiesItInside(CopiesTheScope):
        async def __call__(self, scope, receive, send):
            # Starlette's own application cannot be copied; a hub among its values can.
            await super().__call__({**scope, "app": None, "hub": hub}, receive, send)

    hub, seen = Hub(), []

    class Look(LoopHandler):
        def init(self, request):
            seen.append((self.hub, request.scope["hub"]))
            return Reply(200)

    app = Starlette(
        routes=[hub.route("/", Look)],
        middleware=[Middleware(CopiesItInside)],
        lifespan=hub.lifespan,
    )
    async with serve(app) as client:
        assert (await get(client)).status == 200
    assert seen == [(hub, hub)]


async def test_middleware_sees_the_response_of_a_handler(autojump_clock):
    class AddsHeader:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            async def add(message):
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"x-added", b"1")]
                await send(message)

            await self.app(scope, receive, add)

    app = App(middleware=[Middleware(AddsHeader)])
    app.route("/", Hello)
    async with serve(app) as client:
        assert (await get(client)).headers["x-added"] == "1"


# -- aborting --------------------------------------------------------------------------------------


async def crash_an_open_stream(app, handler):
    async with serve(app) as client:
        exchange = client.open()
        await settle()
        handler.ref.send_nowait("crash")
        await exchange.wait_returned()
    return exchange


async def test_an_app_swallows_response_aborted(autojump_clock):
    stream = Stream(lambda message: 1 / 0)
    app = App()
    app.route("/", lambda: stream)
    exchange = await crash_an_open_stream(app, stream)
    assert exchange.aborted
    assert exchange.error is None


async def test_a_foreign_app_lets_response_aborted_through_to_the_server(autojump_clock):
    stream, hub = Stream(lambda message: 1 / 0), Hub()
    app = starlette(hub, hub.route("/", lambda: stream))
    exchange = await crash_an_open_stream(app, stream)
    assert exchange.aborted
    assert isinstance(exchange.error, ResponseAborted)


async def test_an_app_lets_other_errors_through(autojump_clock):
    async def broken(request):
        raise ValueError("boom")

    async with serve(App(routes=[Route("/", broken)])) as client:
        exchange = await get(client)
        assert exchange.status == 500
        assert isinstance(exchange.error, ValueError)
