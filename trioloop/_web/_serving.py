"""One ASGI call, from the scope to the handler's end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from .._core._errors import HubNotRunning
from .._core._handler import Handler
from .._core._machine import Machine
from ._event_stream_handler import EventStreamHandler, find_last_event_id
from ._link import Link
from ._loop_handler import LoopHandler

if TYPE_CHECKING:
    from ._hub import Hub

logger = logging.getLogger("trioloop")

SHUTDOWN_NOTICE = "trioloop.shutdown"
"""The scope extension by which a server tells of its shutdown: ``{"wait": async function}``."""


async def serve_call(
    hub: Hub,
    make: Callable[[], Handler[Any]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Serve one ASGI call with a handler.

    Args:
        hub: where the handler runs.
        make: makes the handler.
        scope: the ASGI scope, ``http`` or ``websocket``.
        receive: the server's ``receive``.
        send: the server's ``send``.
    """
    if scope["type"] != "http":
        await receive()
        await send({"type": "websocket.close", "code": 1000})  # becomes 403: no WebSocket here
        return
    try:
        handler = make()
        hub.check_running()
    except HubNotRunning as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
        await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
        return
    except Exception:
        logger.exception("no handler for %s %s", scope["method"], scope["path"])
        await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
        return
    assert isinstance(handler, LoopHandler)
    if handler.methods is not None and scope["method"] not in handler.methods:
        response = PlainTextResponse("Method Not Allowed", 405)
        response.headers["allow"] = ", ".join(handler.methods)
        await response(scope, receive, send)
        return
    await serve_http(hub, handler, scope, receive, send)


async def serve_http(
    hub: Hub, handler: LoopHandler[Any], scope: Scope, receive: Receive, send: Send
) -> None:
    """Run a handler of HTTP to its end."""
    hub.follow_server(scope)
    link = Link(scope, receive, send)
    machine = equip(handler, hub, link)
    hub.start(machine)
    await link.attend(machine)


def equip(handler: LoopHandler[Any], hub: Hub, link: Link) -> Machine:
    """Give a handler all that it has before ``init``."""
    handler.request = Request(link.scope, link.read_body)
    if isinstance(handler, EventStreamHandler):
        handler.last_event_id = find_last_event_id(link.scope)
    return Machine(handler, hub, handler.output_type(handler, link, hub.random))
