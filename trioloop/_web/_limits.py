"""How many handlers may be open, and who is turned away.

Laws of this file:

* A request that is turned away costs an answer: no handler is made for it.
* What is counted is given back when the handler has ended, not when its client has gone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from ._proxies import Network, find_client, parse_networks

if TYPE_CHECKING:
    from .._core._hub import HubCore

KeyT = TypeVar("KeyT")

RETRY_AFTER: Final = (1, 3)
"""Seconds after which who was turned away may come back, drawn between these."""


def check_count(name: str, value: Any) -> None:
    """Refuse what is no number of handlers.

    Raises:
        TypeError: neither an integer nor ``math.inf``.
        ValueError: less than one.
    """
    if isinstance(value, bool) or not (isinstance(value, int) or value == math.inf):
        raise TypeError(f"{name} must be a number of handlers, or math.inf, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value!r}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one hub takes, and whose word it believes.

    Args:
        handlers: handlers open at a time; more are answered 503 with ``Retry-After``.
        handlers_per_client: of one client's address; more are answered 429 with ``Retry-After``.
            Behind a proxy all clients have one address unless it is trusted, so there is no such
            limit by default.
        trusted_proxies: addresses and networks of proxies (``"10.0.0.0/8"``), whose
            ``X-Forwarded-For``, ``-Proto`` and ``-Host`` are believed.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: an impossible number, address or network.
    """

    handlers: float = 100_000
    handlers_per_client: float = math.inf
    trusted_proxies: tuple[str, ...] = ()
    networks: tuple[Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("handlers", self.handlers)
        check_count("handlers_per_client", self.handlers_per_client)
        if isinstance(self.trusted_proxies, str):
            raise TypeError(f"trusted_proxies is a tuple of str, not {self.trusted_proxies!r}")
        object.__setattr__(self, "networks", parse_networks(self.trusted_proxies))


class Place:
    """What one handler takes up, until `Gate.leave`."""

    __slots__ = ("client", "route")

    def __init__(self, client: str | None, route: object) -> None:
        self.client: str | None = client
        self.route: object = route


class Gate:
    """Counts who is in.

    Args:
        limits: of the hub.
        hub: whose ``random`` is the source of ``Retry-After``.

    Attributes:
        limits: of the hub.
        refused: how many were turned away so far.
    """

    __slots__ = ("_clients", "_hub", "_routes", "limits", "refused")

    def __init__(self, limits: Limits, hub: HubCore) -> None:
        self.limits: Limits = limits
        self.refused: int = 0
        self._hub = hub
        self._clients: Counter[str] = Counter()
        self._routes: Counter[object] = Counter()

    def turn_away(
        self, scope: Scope, route: object, max_handlers: float, inside: int
    ) -> Response | None:
        """The answer to a request for which there is no place, if there is none.

        Args:
            scope: the ASGI scope.
            route: what is counted together; `None` for what has a place already.
            max_handlers: of the route.
            inside: handlers of the hub that are open.
        """
        limits = self.limits
        full = max_handlers < math.inf and self._routes[route] >= max_handlers
        if full or inside >= limits.handlers:
            return self._refusal("Service Unavailable", 503)
        most = limits.handlers_per_client
        if most < math.inf and route is not None:
            client = find_client(scope, limits.networks)
            if client is not None and self._clients[client] >= most:
                return self._refusal("Too Many Requests", 429)  # RFC 6585, section 4
        return None

    def enter(self, scope: Scope, route: object, max_handlers: float) -> Place | None:
        """Count a handler in, where anything about it is limited."""
        client = None
        if self.limits.handlers_per_client < math.inf:
            client = find_client(scope, self.limits.networks)
        counted = route if max_handlers < math.inf else None
        if client is None and counted is None:
            return None
        if client is not None:
            self._clients[client] += 1
        if counted is not None:
            self._routes[counted] += 1
        return Place(client, counted)

    def leave(self, place: Place) -> None:
        """Count a handler out."""
        if place.client is not None:
            _count_out(self._clients, place.client)
        if place.route is not None:
            _count_out(self._routes, place.route)

    def refuse(self, response: Response) -> Response:
        """Count an answer that turns somebody away."""
        self.refused += 1
        return response

    def _refusal(self, text: str, status: int) -> Response:
        response = PlainTextResponse(text, status)
        response.headers["retry-after"] = str(self._hub.random.randint(*RETRY_AFTER))
        return self.refuse(response)


def _count_out(counter: Counter[KeyT], key: KeyT) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
