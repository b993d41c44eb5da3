"""`Hub`: what one process runs handlers in, and the ways to serve them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from .._core._handler import Handler
from .._core._hub import DeadLetterHook, HubCore
from .._core._instrument import Instrument
from .._core._machine import Machine
from ._headers import RawHeaders
from ._limits import Gate, Limits, Place
from ._options import Factory, Recipe, check_options, check_overrides
from ._routes import HandlerRoute
from ._serving import SHUTDOWN_NOTICE, serve_call
from ._session import Session


class Hub(HubCore):
    """Where the handlers of one process run: their nursery, names, groups and hooks.

    An `App` has one. Inside a Starlette or FastAPI application make your own, give that
    application ``lifespan=hub.lifespan``, and serve handlers with `route`, `endpoint`, `response`
    or `run`.

    Args:
        dead_letter: called as ``dead_letter(ref, message, cause)`` with every message that was
            accepted and not handled; what it raises is logged.
        random: the source of jitter; tests give a seeded ``random.Random``.
        limits: how many handlers may be open, and which proxies are believed.
        instruments: `Instrument` values that look on; a hub without any pays nothing for them.

    Attributes:
        limits: as given.
        id: a string that is unique to this hub.
        random: the source of jitter.
        draining: whether the hub shuts down.
    """

    def __init__(
        self,
        *,
        dead_letter: DeadLetterHook | None = None,
        random: Random | None = None,
        limits: Limits | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        super().__init__(dead_letter=dead_letter, random=random, instruments=instruments)
        self.gate: Gate = Gate(Limits() if limits is None else limits, self)
        self.sessions: dict[str, Session] = {}  # conversations without a WebSocket, by their keys
        self._places: dict[Machine, Place] = {}

    @property
    def limits(self) -> Limits:
        """How many handlers may be open, and which proxies are believed."""
        return self.gate.limits

    @property
    def refused(self) -> int:
        return self.gate.refused

    def seat(self, machine: Machine, place: Place | None) -> None:
        """Remember what a handler takes up, until it has ended."""
        if place is not None:
            self._places[machine] = place

    def forget(self, machine: Machine) -> None:
        super().forget(machine)
        place = self._places.pop(machine, None)
        if place is not None:
            self.gate.leave(place)

    def lifespan(self, app: Any = None) -> AbstractAsyncContextManager[None]:
        """Run the hub.

        Write ``Starlette(lifespan=hub.lifespan)``, or ``async with hub.lifespan(app):`` inside of
        your own lifespan. At the end every handler gets `ShutDown`, and the context ends when they have terminated.

        Args:
            app: ignored; Starlette passes it.

        Raises:
            RuntimeError: the hub is running already, or this is not Trio.
        """
        return self.running_here()

    def route(
        self, path: str, handler: Factory, *, name: str | None = None, **overrides: Any
    ) -> HandlerRoute:
        """A route for the route list of a Starlette or FastAPI application.

        Args:
            path: a path of Starlette's, such as ``"/rooms/{room}"``.
            handler: a handler class, or a callable that returns a new handler.
            name: the route's name for ``url_path_for``.
            overrides: the handler's options for this route.

        Raises:
            TypeError: no handler, an unknown option or a value of the wrong type.
            ValueError: a bad path or an impossible value.
        """
        route = HandlerRoute(path, handler, name=name, **overrides)
        route.hub = self
        return route

    def endpoint(self, handler: Factory, **overrides: Any) -> Endpoint:
        """A handler as an ASGI application, to be mounted or routed to.

        Args:
            handler: a handler class, or a callable that returns a new handler.
            overrides: the handler's options here.

        Raises:
            TypeError: no handler, an unknown option or a value of the wrong type.
            ValueError: an impossible value.
        """
        return Endpoint(self, handler, overrides)

    def response(self, handler: Handler[Any]) -> Response:
        """A handler as a response: ``return hub.response(Inbox(user))`` from a route.

        Headers and cookies that are set on it are sent with the handler's own. A body that the
        route has read is gone; give what was in it to the handler.

        Args:
            handler: a new handler.

        Raises:
            TypeError: no handler, or an option of the wrong type.
            ValueError: an impossible option.
        """
        return HandlerResponse(self, handler)

    async def run(self, handler: Handler[Any], connection: Request | WebSocket) -> None:
        """Run a handler on a request or WebSocket that is being served, until it has ended.

        Args:
            handler: a new handler.
            connection: Starlette's request, made with ``receive`` and ``send``, or its WebSocket,
                which is the handler's to accept.

        Raises:
            TypeError: no handler, or an option of the wrong type.
            ValueError: an impossible option.
            RuntimeError: the WebSocket has been accepted already.
            ResponseAborted: the server shall cut the connection.
        """
        if (
            isinstance(connection, WebSocket)
            and connection.client_state is not WebSocketState.CONNECTING
        ):
            raise RuntimeError("the WebSocket is accepted; leave accept() to the handler's init")
        receive: Receive = connection._receive  # noqa: SLF001 - WebSocket.receive is another thing
        send: Send = connection._send  # noqa: SLF001 - there is no other way to it
        await serve_call(self, ready(handler), connection.scope, receive, send)

    def describe(self, machine: Machine) -> str:
        """A handler and its request, without the query, which may hold what is nobody's business."""
        scope = machine.handler.request.scope
        return f"{machine.ref!r} of {scope.get('method', 'WebSocket')} {quote(scope['path'])}"

    def follow_server(self, scope: Scope) -> None:
        """Drain when the server does, if it says when."""
        extensions: Mapping[str, Any] = scope.get("extensions") or {}
        notice = extensions.get(SHUTDOWN_NOTICE)
        if notice is not None:
            self.drain_after(notice["wait"])


def ready(handler: Handler[Any]) -> Recipe:
    """A factory of one handler that exists.

    Raises:
        TypeError: no handler, or an option of the wrong type.
        ValueError: an impossible option.
    """
    if not isinstance(handler, Handler):
        raise TypeError(f"a handler, not {handler!r}")
    check_options(handler, {})
    return Recipe(lambda: handler, {})


class Endpoint:
    """A handler as an ASGI application. Made by `Hub.endpoint`."""

    def __init__(self, hub: Hub, handler: Factory, overrides: Mapping[str, Any]) -> None:
        check_overrides(handler, overrides)
        self._hub = hub
        self._make = Recipe(handler, overrides)
        self.__name__: str = getattr(handler, "__name__", type(handler).__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve_call(self._hub, self._make, scope, receive, send)


class HandlerResponse(Response):
    """A handler as a response. Made by `Hub.response`."""

    def __init__(self, hub: Hub, handler: Handler[Any]) -> None:
        super().__init__()
        self.raw_headers: RawHeaders = []  # a stream's length is not known
        self._hub = hub
        self._make = ready(handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self.raw_headers]}
            await send(message)

        own = send_with_headers if self.raw_headers else send
        await serve_call(self._hub, self._make, scope, receive, own)
        if self.background is not None:
            await self.background()
