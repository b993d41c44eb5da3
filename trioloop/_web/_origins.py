"""Which web pages may open a handler (RFC 6455, section 10.2).

Laws of this file:

* Only browsers send ``Origin``, and they always tell the truth: a request without one is let pass.
* The same origin is always allowed; every other one must have been written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, cast
from urllib.parse import urlsplit

from starlette.types import Scope

from ._proxies import Network, find_host

Origins: TypeAlias = tuple[str, ...] | None
"""`None` for the same origin only, else others too; ``("*",)`` for all."""

ANY: Final = "*"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def check_origins(name: str, value: object) -> None:
    """Refuse what are no origins.

    Raises:
        TypeError: neither `None` nor a tuple or list of `str`.
        ValueError: an origin with a path, or without a scheme.
    """
    if value is None:
        return
    if not isinstance(value, (tuple, list)):
        raise TypeError(
            f'{name} must be None or a tuple like ("https://example.org",), not {value!r}'
        )
    for origin in cast("Sequence[object]", value):
        if not isinstance(origin, str):
            raise TypeError(f"{name}: {origin!r} is no str")
        if origin not in (ANY, "null") and _normalised(origin) is None:
            raise ValueError(f"{name}: {origin!r} is no origin, such as 'https://example.org'")


def may_open(scope: Scope, origins: Origins, trusted: Sequence[Network]) -> bool:
    """Whether a request may open a handler.

    Args:
        scope: the ASGI scope.
        origins: what is allowed besides the same origin.
        trusted: the networks of proxies whose headers are believed.
    """
    if origins is not None and ANY in origins:
        return True
    sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    if not sent:
        return True
    if len(sent) > 1:
        return False
    if sent[0] == "null":  # a sandboxed page, a file
        return "null" in (origins or ())
    origin = _normalised(sent[0])
    if origin is None:
        return False
    return origin in map(_normalised, origins or ()) or _is_same(origin, scope, trusted)


def _is_same(origin: tuple[str, str, int], scope: Scope, trusted: Sequence[Network]) -> bool:
    scheme, host = find_host(scope, trusted)
    if host is None or (scheme == "https" and origin[0] != "https"):
        return False
    # A page of https may ask a server of http: a proxy in between has taken the TLS off.
    return _normalised(f"{origin[0]}://{host}") == origin


def _normalised(origin: str) -> tuple[str, str, int] | None:
    """Scheme, host and port (RFC 6454, section 4)."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    extra = parts.path or parts.query or parts.fragment or parts.username or parts.password
    if not parts.scheme or not parts.hostname or extra:
        return None
    scheme = parts.scheme.lower()
    return scheme, parts.hostname.lower(), port or _DEFAULT_PORTS.get(scheme, 0)
