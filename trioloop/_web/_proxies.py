"""Who a client is, and what it has asked for, when proxies stand in between.

Laws of this file:

* A header is believed only when the peer of the connection is a proxy that was named.
* Of ``X-Forwarded-For`` the entry of the last named proxy counts: whatever stands to the left of it
  was written by the client.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from starlette.types import Scope

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_networks(networks: Iterable[object]) -> tuple[Network, ...]:
    """Addresses and networks, checked.

    Raises:
        TypeError: one is no `str`.
        ValueError: one is neither an address nor a network.
    """
    parsed: list[Network] = []
    for one in networks:
        if not isinstance(one, str):
            raise TypeError(f"trusted_proxies are addresses or networks as str, not {one!r}")
        parsed.append(ipaddress.ip_network(one))
    return tuple(parsed)


def find_client(scope: Scope, trusted: Sequence[Network]) -> str | None:
    """Whom a request comes from, as far as that can be known.

    Args:
        scope: the ASGI scope.
        trusted: the proxies' networks.

    Returns:
        What caps count by: an IPv4 address, or the /64 of an IPv6 one, since a client has all of
        that (RFC 6177). `None` where the server tells no address.
    """
    client = scope.get("client")
    address = None if not client else _parse(client[0])
    if address is None:
        return None
    if _is_trusted(address, trusted):
        for entry in reversed(_forwarded(scope, b"x-forwarded-for")):
            forwarded = _parse(entry)
            if forwarded is None:
                break
            address = forwarded
            if not _is_trusted(address, trusted):
                break
    return _client_of(address)


def find_host(scope: Scope, trusted: Sequence[Network]) -> tuple[str, str | None]:
    """The scheme and host that the client has asked for.

    Args:
        scope: the ASGI scope.
        trusted: the proxies' networks.

    Returns:
        ``"http"`` or ``"https"``, and the host with its port if there is one; `None` for no host.
    """
    asked: str = scope["scheme"]
    scheme = {"ws": "http", "wss": "https"}.get(asked, asked)
    hosts = _values(scope, b"host")
    host = hosts[0] if len(hosts) == 1 else None
    client = scope.get("client")
    peer = None if not client else _parse(client[0])
    if peer is not None and _is_trusted(peer, trusted):
        schemes = _forwarded(scope, b"x-forwarded-proto")
        forwarded = _forwarded(scope, b"x-forwarded-host")
        scheme = schemes[-1].lower() if schemes else scheme
        host = forwarded[-1] if forwarded else host
    return scheme, host


def _parse(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)


def _client_of(address: Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _forwarded(scope: Scope, name: bytes) -> list[str]:
    """The entries of a list header, in the order in which proxies have added them."""
    entries = ",".join(_values(scope, name)).split(",")
    return [entry.strip() for entry in entries if entry.strip()]
