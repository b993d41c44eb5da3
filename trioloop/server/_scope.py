"""ASGI scopes, and what this server puts into ``scope["extensions"]``.

All that the library (or any application) can get from this server beyond ASGI is here:

``scope["extensions"]["trioloop.shutdown"]``: ``{"wait": wait}``, in every scope
    ``await wait()`` returns once the server has begun to drain. The stock worker has it too, under
    ``trioloop serve``.

Each of the following has ``is_own(function) -> bool`` besides: whether that is the very ``receive``
or ``send`` that the server has given to the application. Where a middleware has put its own around
them, it wants to see what goes through, and an application should not go past it.

``scope["extensions"]["trioloop.write"]``, ``http`` only
    Functions that write from any task and without a task switch: two of them a piece of the body of
    a response that has started and is not complete, one a response that has not started:

    * ``write_nowait(body: bytes) -> bool`` writes at once.
    * ``write_soon(body: bytes) -> bool`` writes at the end of the scheduler's turn, together with
      what else is written in it; at once where little is being written.
    * ``respond(status: int, headers, body: bytes, *, more: bool = False) -> bool`` writes a
      response in the same way: the whole of it, or with ``more`` its beginning. `ValueError` or `TypeError` where it has something in it that cannot be sent.

    False when the client has gone, or has not taken yet what was written before, or the piece is
    larger than 64 KiB: then nothing was taken, and ``send`` can wait for the client. `RuntimeError`
    where a piece belongs to a response that has not started, is complete or has a
    ``content-length``.

``scope["extensions"]["trioloop.listen"]``, ``http`` and ``websocket``, where the socket allows it
    (Linux, without TLS, not over HTTP/2). For an application that wants to be told what comes instead
    of having a task wait in ``receive``:

    * ``listen(take) -> resume``: from now on nobody calls ``receive``; what it would return is given
      to ``take(message) -> bool``, synchronously and as soon as it comes, in whichever task brings
      it. What is there already is given before ``listen`` returns, and that a request has no body,
      too. ``take`` may call whatever does not wait.
    * ``take`` returns false for "no more until ``resume()``" (which may be called inside of ``take``,
      too, and then counts). Until then nothing is taken from the client, so that it is slowed down.
      Of a request whose body is complete it is still told at once that the client has gone; of an
      unread body and of a WebSocket nothing is known that comes behind it. ``resume`` may give what
      is there before it returns.
    * Behind ``http.disconnect`` and ``websocket.disconnect`` nothing follows, nor when the
      application has returned. After a complete response there is an ``http.disconnect``, as from
      ``receive``; it comes inside of the ``send`` that completes it. Only behind a whole ``respond``
      there is nothing, for whoever has called that knows. A `take` that raises loses its connection,
      is told that, and the error is logged.
    * ``is_free() -> bool`` says whether nobody listens or receives; otherwise ``listen`` raises
      `RuntimeError`.
    * ``cancelled(function)`` has a function called, without arguments, when the worker cancels what
      is left at the end of its grace (or is cancelled itself): synchronously, before any of what is
      cancelled runs on. For an application that is shielded, and has to end by itself. It must not
      wait; a second function takes the place of the first.
    * ``abandon()`` closes the connection at once, before the application returns; ``cut()``, of a
      request, does so only where a response has begun that is not complete, for otherwise the
      server answers with 500 when the application returns.

``scope["extensions"]["trioloop.websocket"]``, ``websocket`` only
    Its presence says that the server understands more messages than ASGI has, and it has a
    function of its own:

    * ``send_soon(message) -> bool`` sends a ``websocket.send`` or ``websocket.ping`` at the end of
      the scheduler's turn, from any task and without a task switch. False when the client has gone,
      or has not taken yet what was written before, or the WebSocket is not open, or the message is
      larger than 64 KiB: then nothing was taken, and ``send`` can wait for the client.
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

``http.disconnect`` and ``websocket.disconnect`` have ``send_timeout`` where it was the server that
gave the client up, since it had taken nothing for so many seconds. The `OSError` of a ``send`` that
nobody will get has a mapping ``why`` with all that such a message would say besides its type.

The laws of this file:

* Each scope is made anew, with all that can be changed in it: one request cannot meddle with
  another.
* What is in it passes ``copy.deepcopy`` and still works: what its functions belong to is not copied
  (Hypercorn's ``ProxyFixMiddleware`` copies scopes).
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
LISTEN: Final = "trioloop.listen"
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
