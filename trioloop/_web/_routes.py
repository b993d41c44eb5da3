"""`HandlerRoute`: a handler at a path, as a route of Starlette's."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .._core._errors import HubNotRunning
from ._options import Factory, Recipe, check_overrides
from ._serving import serve_call

if TYPE_CHECKING:
    from ._hub import Hub


class HandlerRoute(Route):
    """A route to a handler. It matches HTTP and WebSocket requests of any method.

    Args:
        path: a path of Starlette's, such as ``"/rooms/{room}"``.
        handler: a handler class, or a callable that returns a new handler.
        name: the route's name for ``url_path_for``; the handler's name by default.
        overrides: the handler's options for this route. They win over the class.

    Raises:
        TypeError: no handler, an unknown option or a value of the wrong type.
        ValueError: a bad path or an impossible value.

    Attributes:
        hub: where its handlers run; an `App` sets it for its routes.
    """

    def __init__(
        self, path: str, handler: Factory, *, name: str | None = None, **overrides: Any
    ) -> None:
        check_overrides(handler, overrides)
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(f"a path starts with '/', unlike {path!r}")
        self.hub: Hub | None = None
        self.was_named: bool = name is not None
        self._make = Recipe(handler, overrides)
        name = name or getattr(handler, "__name__", type(handler).__name__)
        try:
            super().__init__(path, self._serve, name=name)
        except (AssertionError, ValueError) as error:
            raise ValueError(f"the path {path!r} is not one of Starlette's: {error}") from None
        self.endpoint: Factory = handler
        self.app: ASGIApp = self._serve
        self.methods: set[str] | None = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match by path alone; which methods a handler serves is its own option."""
        if scope["path"] == self.path and not (self.param_convertors or scope.get("root_path")):
            path_params = dict(scope.get("path_params", ()))
            return Match.FULL, {"endpoint": self.endpoint, "path_params": path_params}
        if scope["type"] == "websocket":
            scope = {**scope, "type": "http", "method": "GET"}
        return super().matches(scope)

    def _serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        hub = self.hub or getattr(scope.get("app"), "hub", None)
        if hub is None:
            raise HubNotRunning(
                f"{self!r} belongs to no hub; use hub.route({self.path!r}, ...) in applications"
                " that are not a trioloop App"
            )
        return serve_call(hub, self._make, scope, receive, send)
