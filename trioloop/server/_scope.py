"""ASGI scopes, and what this server puts into ``scope["extensions"]``.

All that the library (or any application) can get from this server beyond ASGI is here:

``scope["extensions"]["trioloop.shutdown"]``: ``{"wait": wait}``, in every scope
    ``await wait()`` returns once the server has begun to drain. The stock worker has it too, under
    ``trioloop serve``.

``scope["extensions"]["trioloop.write"]``, ``http`` only
    Two functions that write a piece of the body of a response that has started and is not complete,
    from any task and without a task switch:

    * ``write_nowait(body: bytes) -> bool`` writes at once.
    * ``write_soon(body: bytes) -> bool`` writes at the end of the scheduler's turn, together with
      what else is written in it; while the client takes nothing, at most 64 KiB wait for it.

    False when the client has gone, or is too slow for that, or the piece is larger than 64 KiB:
    then nothing was taken, and ``send`` can wait for the client. `RuntimeError` where the response
    has not started, is complete or has a ``content-length``.

``scope["extensions"]["trioloop.websocket"]``, ``websocket`` only
    Its presence says that the server understands more messages than ASGI has:

    * ``send({"type": "websocket.ping", "bytes": data})`` sends a ping of at most 125 bytes (RFC
      6455, 5.5.2).
    * ``websocket.accept`` may have ``max_message_size`` (bytes, ``math.inf`` for the server's own
      limit) and ``deflate`` (a `bool`), which override the server's settings for this connection.
    * ``receive()`` gives ``{"type": "websocket.pong", "bytes": data}`` for each pong, once the
      application has used one of the others: until then it cannot be known to expect it.
    * ``websocket.disconnect`` has ``violation``, a sentence, where it was the server that closed
      the connection because the client broke the protocol (code 1002), sent what is not UTF-8
      (1007) or too much (1009).

``websocket.disconnect`` has ``code`` and ``reason`` (ASGI 2.3), which are what the client's closing
frame said: 1005 for one without a code, 1006 when there was none.

The laws of this file:

* Each scope is made anew, with all that can be changed in it: one request cannot meddle with
  another.
* What is in it passes ``copy.deepcopy`` and still works: functions, no bound methods of what would
  be copied (Hypercorn's ``ProxyFixMiddleware`` copies scopes).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from ._head import Head

# Any: an application fits whichever TypedDicts it uses for scopes and events.
Scope: TypeAlias = dict[str, Any]
Address: TypeAlias = tuple[str, int] | None

SHUTDOWN: Final = "trioloop.shutdown"
WRITE: Final = "trioloop.write"
WEBSOCKET: Final = "trioloop.websocket"


class Surroundings:
    """What all scopes of one connection have in common.

    Args:
        tls: whether it is encrypted.
        client: the client's address; `None` on a Unix socket.
        server: the server's.
        root_path: ASGI's ``root_path``.
        state: the lifespan's state, copied for each scope.
        wait_for_shutdown: the ``wait`` of ``trioloop.shutdown``.
    """

    __slots__ = ("client", "root_path", "server", "state", "tls", "wait_for_shutdown")

    def __init__(
        self,
        *,
        tls: bool,
        client: Address,
        server: Address,
        root_path: str,
        state: dict[str, Any],
        wait_for_shutdown: Callable[[], Any],
    ) -> None:
        self.tls: bool = tls
        self.client: Address = client
        self.server: Address = server
        self.root_path: str = root_path
        self.state: dict[str, Any] = state
        self.wait_for_shutdown: Callable[[], Any] = wait_for_shutdown


def http_scope(head: Head, around: Surroundings) -> Scope:
    """The scope of a request. ASGI 2.4: `send` raises `OSError` after a disconnect."""
    raw_path, _, query = head.target.partition(b"?")
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.version,
        "method": head.method.upper(),  # as ASGI has it, whatever was sent
        "scheme": "https" if around.tls else "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": around.root_path,
        "headers": head.headers,
        "client": around.client,
        "server": around.server,
        "state": around.state.copy(),
        "extensions": {SHUTDOWN: {"wait": around.wait_for_shutdown}},
    }


def websocket_scope(head: Head, around: Surroundings, subprotocols: list[str]) -> Scope:
    """The scope of a WebSocket."""
    scope = http_scope(head, around)
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if around.tls else "ws"
    scope["subprotocols"] = subprotocols
    scope["extensions"]["websocket.http.response"] = {}
    scope["extensions"][WEBSOCKET] = {}
    return scope


def address_of(family: int, name: Any) -> Address:
    """An address as ASGI has it; `None` where it has no port.

    Args:
        family: of the socket.
        name: what the socket calls itself, or its peer.
    """
    if family in (socket.AF_INET, socket.AF_INET6):
        return (name[0], name[1])
    return None
