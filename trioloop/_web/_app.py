"""`App`: a Starlette application with a hub of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, overload

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from .._core._errors import ResponseAborted
from ._hub import Hub
from ._limits import Limits
from ._options import Factory
from ._routes import HandlerRoute

FactoryT = TypeVar("FactoryT", bound=Factory)


class App(Starlette):
    """An ASGI application: Starlette's routing and middleware, and a `Hub` that runs the handlers.

    Args:
        routes: `HandlerRoute` values, and any other routes of Starlette's.
        hub: the hub; a new one by default.
        limits: of the new hub: how many handlers may be open, and which proxies are believed.
        middleware: Starlette's ``Middleware`` values.
        exception_handlers: as in Starlette.
        lifespan: your own lifespan; it runs inside of the hub's.
        debug: as in Starlette.

    Raises:
        TypeError: both a hub and limits.
        ValueError: two handler routes were given the same name.

    Attributes:
        hub: where the handlers run.
    """

    def __init__(  # noqa: PLR0913 - five of them are Starlette's
        self,
        routes: Sequence[BaseRoute] | None = None,
        *,
        hub: Hub | None = None,
        limits: Limits | None = None,
        middleware: Sequence[Middleware] | None = None,
        exception_handlers: Mapping[Any, Callable[..., Any]] | None = None,
        lifespan: Lifespan[Any] | None = None,
        debug: bool = False,
    ) -> None:
        if hub is not None and limits is not None:
            raise TypeError("limits belong to the hub: Hub(limits=...)")
        self.hub: Hub = Hub(limits=limits) if hub is None else hub

        @asynccontextmanager
        async def run_hub(app: Any) -> AsyncGenerator[Any]:
            async with self.hub.lifespan(app):
                if lifespan is None:
                    yield None
                else:
                    async with lifespan(app) as state:
                        yield state

        super().__init__(
            debug=debug,
            routes=routes,
            middleware=middleware,
            exception_handlers=exception_handlers,
            lifespan=run_hub,
        )
        for route in self.routes:
            if isinstance(route, HandlerRoute):
                if route.hub is None:
                    route.hub = self.hub
                if route.was_named:
                    self._refuse_taken(route.name, besides=route)

    @overload
    def route(
        self, path: str, handler: FactoryT, *, name: str | None = None, **overrides: Any
    ) -> FactoryT: ...

    @overload
    def route(
        self, path: str, *, name: str | None = None, **overrides: Any
    ) -> Callable[[FactoryT], FactoryT]: ...

    def route(
        self, path: str, handler: Any = None, *, name: str | None = None, **overrides: Any
    ) -> Any:
        """Serve a handler at a path: a decorator, or a plain call.

        Args:
            path: a path of Starlette's, such as ``"/rooms/{room}"``.
            handler: a handler class, or a callable that returns a new handler; without it the
                result is a decorator.
            name: the route's name for ``url_path_for``; the handler's name by default.
            overrides: the handler's options for this route.

        Returns:
            The handler as it was given, or a decorator.

        Raises:
            TypeError: no handler, an unknown option or a value of the wrong type.
            ValueError: a bad path, an impossible value, or a name that another route has.
        """
        if handler is None:

            def serve(decorated: FactoryT) -> FactoryT:
                return self.route(path, decorated, name=name, **overrides)

            return serve
        if name is not None:
            self._refuse_taken(name)
        self.router.routes.append(self.hub.route(path, handler, name=name, **overrides))
        return handler

    def _refuse_taken(self, name: str, besides: BaseRoute | None = None) -> None:
        others = (route for route in self.routes if route is not besides)
        if any(getattr(route, "name", None) == name for route in others):
            raise ValueError(f"another route has the name {name!r}; url_path_for could not tell")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI call."""
        scope["app"] = self
        # Starlette makes the stack for its first call; then to go around that call is a coroutine less.
        call = self.middleware_stack or super().__call__
        try:
            await call(scope, receive, send)
        except ResponseAborted:
            return  # an unfinished response makes every server cut the connection

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette's, which handlers go around where nobody has added to it.

        It answers what an endpoint raises, and a handler raises nothing. To go around it saves five
        coroutines for each open request, two of them for each event.
        """
        stack = super().build_middleware_stack()
        if self.user_middleware:
            return stack

        def shortest_way(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            if scope["type"] == "lifespan":  # which the rest of the stack lets pass
                return self.router(scope, receive, send)
            route = self._find_handler_route(scope)
            return (stack if route is None else route.app)(scope, receive, send)

        return shortest_way

    def _find_handler_route(self, scope: Scope) -> HandlerRoute | None:
        """The handler route that the router would find, if it finds one first."""
        if scope["type"] not in ("http", "websocket"):
            return None
        for route in self.router.routes:
            match, child_scope = route.matches(scope)
            if match is Match.FULL:
                if not isinstance(route, HandlerRoute):
                    return None
                scope.setdefault("router", self.router)
                scope.update({"route": route, **child_scope})
                return route
        return None
