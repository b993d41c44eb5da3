"""What can be set: Hypercorn's own settings, and those that it does not have.

The laws of this file:

* Hypercorn's ``Config`` is the only place to set anything. It keeps attributes that it does not
  know, so a line ``send_timeout = 10`` in any form of its configuration arrives here.
* All durations are seconds, all sizes bytes. ``math.inf`` is no limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from hypercorn.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one worker.

    Args:
        keep_alive_timeout: how long a connection may be without a request (Hypercorn's).
        keep_alive_max_requests: requests after which a connection is closed (Hypercorn's).
        request_timeout: how long the head of a request may take, from its first byte to its last.
        read_timeout: how long a body may make no progress while the application waits for it
            (Hypercorn's, where unset means no limit; here it means a minute).
        send_timeout: how long a write may make no progress before the connection is cut.
        close_timeout: how long a closing handshake may take, and how long a client may take to read
            an answer that came before its request was complete.
        tls_handshake_timeout: Hypercorn's ``ssl_handshake_timeout``.
        max_head_size: the head of a request (Hypercorn's ``h11_max_incomplete_size``).
        max_headers: header fields of a request.
        max_body_size: the body of a request.
        max_connections: open connections of this worker; others are answered with 503.
        max_message_size: a WebSocket message, uncompressed (Hypercorn's
            ``websocket_max_message_size``).
        ping_interval: seconds between two pings of a WebSocket (Hypercorn's
            ``websocket_ping_interval``); a client that is silent for three of them is gone.
        deflate: whether WebSockets are compressed when the client offers it
            (``websocket_deflate``). It costs memory, so it is off.
    """

    keep_alive_timeout: float = 5.0
    keep_alive_max_requests: float = 1000
    request_timeout: float = 10.0
    read_timeout: float = 60.0
    send_timeout: float = 30.0
    close_timeout: float = 2.0
    tls_handshake_timeout: float = 60.0
    max_head_size: int = 16 * 1024
    max_headers: int = 100
    max_body_size: float = math.inf
    max_connections: float = math.inf
    max_message_size: int = 16 * 2**20
    ping_interval: float = math.inf
    deflate: bool = False

    @classmethod
    def of(cls, config: Config) -> Self:
        """Read the settings from Hypercorn's configuration."""
        theirs: dict[str, Any] = {
            "keep_alive_timeout": config.keep_alive_timeout,
            "keep_alive_max_requests": config.keep_alive_max_requests,
            "read_timeout": config.read_timeout,
            "tls_handshake_timeout": config.ssl_handshake_timeout,
            "max_head_size": config.h11_max_incomplete_size,
            "max_message_size": config.websocket_max_message_size,
            "ping_interval": config.websocket_ping_interval,
            "deflate": getattr(config, "websocket_deflate", None),
        }
        ours = {name: getattr(config, name, None) for name in cls.__slots__ if name not in theirs}
        given = {**theirs, **ours}
        return cls(**{name: value for name, value in given.items() if value is not None})


OWN = (
    "request_timeout",
    "send_timeout",
    "close_timeout",
    "max_headers",
    "max_body_size",
    "max_connections",
    "websocket_deflate",
    "worker",
)
"""Settings that Hypercorn does not have."""
