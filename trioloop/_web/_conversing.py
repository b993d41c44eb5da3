"""Which of a conversation's requests one is, and the handler that serves it.

Law of this file: a session's id is looked for in the query (``session``) and in ``Last-Event-ID``.
One that is not known here, or belongs to another route, is answered 410.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from .._core._handler import Handler
from .._core._machine import Machine
from ._attached import Leaving, Opening, Polling, Posting, Streaming
from ._conversation import Conversation
from ._event_stream_handler import find_last_event_id
from ._session import Session
from ._session_output import SessionOutput

if TYPE_CHECKING:
    from ._hub import Hub
    from ._options import Recipe


def find_attached(hub: Hub, scope: Scope, route: object) -> Handler[Any] | Response | None:
    """The handler of a request in a session of this route, or its answer; `None` for no session."""
    key, after = _position(scope)
    session = None if key is None else hub.sessions.get(key)
    if session is None or session.route is not route:
        return None
    if after is None:
        return PlainTextResponse("the session has ended", 410)
    method: str = scope["method"]
    return _attached(session, method, after, streams=method == "GET" and _accepts_events(scope))


def find_opening(
    hub: Hub, handler: Conversation[Any], scope: Scope, route: Recipe
) -> Handler[Any] | Response:
    """The handler of a request that begins a session, or the answer to it.

    Args:
        hub: where the sessions are.
        handler: a new conversation.
        scope: the ASGI scope.
        route: what the session will belong to.
    """
    method: str = scope["method"]
    if _position(scope)[0] is not None:
        return PlainTextResponse("the session has ended", 410)
    if method == "GET" and _accepts_events(scope):
        return _equipped(Streaming(), _open(hub, handler, scope, route), after=0)
    if method == "POST":
        return _equipped(Opening(), _open(hub, handler, scope, route))
    if method == "GET":
        return PlainTextResponse("accept text/event-stream, or POST to open a session", 400)
    return _not_allowed()


def _attached(
    session: Session, method: str, after: int, *, streams: bool
) -> Handler[Any] | Response:
    match method:
        case "GET" if streams:
            return _equipped(Streaming(), session, after=after)
        case "GET":
            waits = session.handler.poll_timeout
            return _equipped(Polling(), session, after=after, idle_timeout=waits)
        case "POST":
            return _equipped(Posting(), session)
        case "DELETE":
            return _equipped(Leaving(), session)
        case _:
            return _not_allowed()


def _equipped(request: Handler[Any], session: Session, **attributes: Any) -> Handler[Any]:
    for name, value in {"session": session, **attributes}.items():
        setattr(request, name, value)
    handler = session.handler
    for name in ("origins", "send_timeout", "receive_timeout"):
        setattr(request, name, getattr(handler, name))
    return request


def _open(hub: Hub, handler: Conversation[Any], scope: Scope, route: Recipe) -> Session:
    handler.transport = "event stream" if scope["method"] == "GET" else "long poll"
    handler.request = Request(scope)
    session = Session(hub, secrets.token_urlsafe(24), handler, route)
    machine = Machine(handler, hub, SessionOutput(handler, session))
    session.begin(machine)
    hub.seat(machine, hub.gate.enter(scope, route, route.max_handlers))
    hub.start(machine)
    return session


def _position(scope: Scope) -> tuple[str | None, int | None]:
    """The session that a request names, and up to where its client has the messages."""
    query = parse_qs(scope["query_string"].decode("latin-1"))
    given = query.get("session")
    if given:
        return given[0], _number(query.get("after", ["0"])[0])
    last = find_last_event_id(scope)
    if last is None:
        return None, 0
    key, _, number = last.rpartition(".")
    return key, _number(number)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _accepts_events(scope: Scope) -> bool:
    return any(
        b"text/event-stream" in value.lower()
        for name, value in scope["headers"]
        if name == b"accept"
    )


def _not_allowed() -> Response:
    response = PlainTextResponse("Method Not Allowed", 405)
    response.headers["allow"] = "GET, POST, DELETE"
    return response
