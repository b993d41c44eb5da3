"""A handler outside of any run, so that its callbacks can be called as plain functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import trio
from starlette.requests import Request
from starlette.types import Message

from .._core._handler import Handler
from .._web._hub import Hub
from .._web._link import Link
from .._web._options import check_options
from .._web._serving import equip
from .._web._websocket_handler import WebSocketHandler
from .._web._websocket_link import WebSocketLink
from ._world import make_handshake, make_request

HandlerT = TypeVar("HandlerT", bound=Handler[Any])


def detached(
    handler: HandlerT,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    hub: Hub | None = None,
    path_params: Mapping[str, Any] | None = None,
) -> HandlerT:
    """Give a handler its ref, hub and request, without running it.

    Its callbacks can be called as functions, and what they return can be compared::

        poll = detached(Poll(), path="/poll?who=ann")
        assert poll.init(poll.request) is None
        assert poll.info("hi") == Reply(200, body="hi")

    Args:
        handler: a new handler.
        path: the request's path, with a query if there is one.
        method: the request's method.
        headers: the request's headers.
        hub: where names and groups are; a new one by default. Give several handlers the same one
            to let them meet: what is sent to them waits in their mailboxes.
        path_params: what the route would have found in the path.

    Returns:
        The same handler.

    Raises:
        TypeError: no handler, one that has been used, or an option of the wrong type.
        ValueError: an impossible option or path.
    """
    if not isinstance(handler, Handler):
        raise TypeError(f"a handler, not {handler!r}")
    if "ref" in vars(handler):
        raise TypeError(f"{handler!r} has been used; a handler serves one request")
    check_options(handler, {})
    hub = Hub() if hub is None else hub
    is_websocket = isinstance(handler, WebSocketHandler)
    request = make_request(method, path, headers=headers, body=b"")
    if is_websocket:
        request = make_handshake(path, (), origin=None, headers=headers)
    scope = {**request.scope(None), "path_params": dict(path_params or {})}
    if is_websocket:
        equip(handler, hub, WebSocketLink(scope, _receive, _send))
    else:
        equip(handler, hub, Link(scope, _receive, _send))
        handler.request = Request(scope, _receive)  # nobody listens to the link
    return handler


async def _receive() -> Message:
    await trio.lowlevel.checkpoint()
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_message: Message) -> None:
    raise RuntimeError("a detached handler has no client")
