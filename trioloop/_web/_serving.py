"""One ASGI call, from the scope to the handler's end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
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


def serve_call(
    hub: Hub,
    make: Callable[[], Handler[Any]],
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
    if scope["type"] != "http":
        return refuse_websocket(receive, send)
    try:
        handler = make()
        hub.check_running()
    except HubNotRunning as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
        return PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
    except Exception:
        logger.exception("no handler for %s %s", scope["method"], scope["path"])
        return PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
    assert isinstance(handler, LoopHandler)
    if handler.methods is not None and scope["method"] not in handler.methods:
        response = PlainTextResponse("Method Not Allowed", 405)
        response.headers["allow"] = ", ".join(handler.methods)
        return response(scope, receive, send)
    hub.follow_server(scope)
    link = Link(scope, receive, send)
    machine = equip(handler, hub, link)
    hub.start(machine)
    return link.attend(machine)


async def refuse_websocket(receive: Receive, send: Send) -> None:
    """Answer a handshake where no WebSocket is served."""
    await receive()
    await send({"type": "websocket.close", "code": 1000})  # becomes 403


def equip(handler: LoopHandler[Any], hub: Hub, link: Link) -> Machine:
    """Give a handler all that it has before ``init``."""
    handler.request = Request(link.scope, link.read_body)
    if isinstance(handler, EventStreamHandler):
        handler.last_event_id = find_last_event_id(link.scope)
    return Machine(handler, hub, handler.output_type(handler, link, hub.random))
