"""One ASGI call, from the scope to the handler's end."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from .._core._errors import HubNotRunning
from .._core._handler import Handler
from .._core._machine import Machine
from ._conversation import Conversation
from ._conversing import find_attached, find_opening
from ._event_stream_handler import EventStreamHandler, find_last_event_id
from ._link import Link
from ._loop_handler import LoopHandler
from ._options import Recipe
from ._origins import Origins, may_open
from ._websocket_handler import WebSocketHandler
from ._websocket_link import WebSocketLink
from ._websocket_output import REFUSAL, WebSocketOutput

if TYPE_CHECKING:
    from ._hub import Hub

logger = logging.getLogger("trioloop")

SHUTDOWN_NOTICE = "trioloop.shutdown"
"""The scope extension by which a server tells of its shutdown: ``{"wait": async function}``."""


def serve_call(
    hub: Hub,
    make: Recipe,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> Awaitable[None]:
    """Serve one ASGI call with a handler. The handler starts before anything is awaited.

    Args:
        hub: where the handler runs.
        make: makes the handler.
        scope: the ASGI scope, ``http`` or ``websocket``.
        receive: the server's ``receive``.
        send: the server's ``send``.

    Returns:
        What to await, which is the rest of the call. (A coroutine less for each open request.)
    """
    if scope["type"] == "websocket":
        return serve_websocket(hub, make, scope, receive, send)
    return begin(hub, make, scope, receive, send)


async def serve_websocket(
    hub: Hub, make: Recipe, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve a WebSocket, once the server has said that there is one."""
    if (await receive())["type"] == "websocket.connect":
        await begin(hub, make, scope, receive, send)


def begin(hub: Hub, make: Recipe, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Make the handler of a request and start it, or answer without one."""
    is_http = scope["type"] == "http"
    handler: Handler[Any] | Response
    try:
        hub.check_running()
        found = find_attached(hub, scope, make) if is_http and hub.sessions else None
        # What belongs to a session takes no place of its own: the session has one.
        route, most = (make, make.max_handlers) if found is None else (None, math.inf)
        refusal = hub.gate.turn_away(scope, route, most, hub.handlers_open)
        if refusal is not None:
            return answer(refusal, scope, receive, send)
        handler = make() if found is None else found
    except HubNotRunning as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
        return answer(PlainTextResponse("Internal Server Error", 500), scope, receive, send)
    except Exception:
        logger.exception("no handler for %s %s", scope.get("method", "WebSocket"), scope["path"])
        return answer(PlainTextResponse("Internal Server Error", 500), scope, receive, send)
    if isinstance(handler, Response):
        return answer(handler, scope, receive, send)
    refusal = foreign(handler, scope, hub)
    if refusal is None and isinstance(handler, Conversation):
        handler.transport = "WebSocket"
        if is_http:
            route = None
            handler = find_opening(hub, handler, scope, make)
            if isinstance(handler, Response):
                return answer(handler, scope, receive, send)
    refusal = refusal or misdirected(handler, scope)
    if refusal is not None:
        return answer(refusal, scope, receive, send)
    hub.follow_server(scope)
    make_link = WebSocketLink if scope["type"] == "websocket" else Link
    link = make_link(scope, receive, send)
    machine = equip(handler, hub, link)
    machine.resident = link.resident
    if route is not None:
        hub.seat(machine, hub.gate.enter(scope, route, make.max_handlers))
    hub.start(machine)
    return link.attend(machine)


def misdirected(handler: Handler[Any], scope: Scope) -> Response | None:
    """The answer to a request that this kind of handler does not serve, if it is one."""
    if isinstance(handler, WebSocketHandler):
        return None if scope["type"] == "websocket" else upgrade_required(scope)
    if scope["type"] == "websocket":
        return PlainTextResponse("Forbidden", 403)  # no WebSocket here
    methods: tuple[str, ...] | None = getattr(handler, "methods", None)
    if methods is None or scope["method"] in methods:
        return None
    response = PlainTextResponse("Method Not Allowed", 405)
    response.headers["allow"] = ", ".join(methods)
    return response


def foreign(handler: Handler[Any], scope: Scope, hub: Hub) -> Response | None:
    """The answer to a web page that may not open this handler, if it is one."""
    origins: Origins = getattr(handler, "origins", None)
    if may_open(scope, origins, hub.limits.networks):
        return None
    return hub.gate.refuse(PlainTextResponse("Forbidden: foreign origin", 403))


def upgrade_required(scope: Scope) -> Response:
    """The answer to a plain request where there is a WebSocket (RFC 9110, section 15.5.22)."""
    response = PlainTextResponse("Upgrade Required", 426)
    if scope.get("http_version", "1.1") == "1.1":
        response.headers["upgrade"] = "websocket"
        response.headers["connection"] = "upgrade"
    return response


async def answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a handler; a WebSocket whose server knows no other answer gets 403."""
    if scope["type"] == "websocket" and REFUSAL not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
    else:
        await response(scope, receive, send)


def equip(handler: Handler[Any], hub: Hub, link: Link) -> Machine:
    """Give a handler all that it has before ``init``."""
    if isinstance(handler, WebSocketHandler):
        assert isinstance(link, WebSocketLink)
        handler.request = HTTPConnection(link.scope)
        return Machine(handler, hub, WebSocketOutput(handler, link, hub.random))
    assert isinstance(handler, LoopHandler)
    handler.request = Request(link.scope, link.read_body)
    if isinstance(handler, EventStreamHandler):
        handler.last_event_id = find_last_event_id(link.scope)
    return Machine(handler, hub, handler.output_type(handler, link, hub.random))
