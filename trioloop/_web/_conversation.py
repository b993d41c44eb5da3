"""`Conversation`: one handler that a client reaches as it can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from typing_extensions import TypeVar

from ._websocket_handler import WebSocketHandler

if TYPE_CHECKING:
    from typing import Any

MessageT = TypeVar("MessageT", default="Any")

Transport: TypeAlias = Literal["WebSocket", "event stream", "long poll"]
"""What a client has chosen."""


class Conversation(WebSocketHandler[MessageT]):
    """A `WebSocketHandler` that is also reachable where there are no WebSockets.

    Write ``init``, ``receive`` and ``info`` once, as for a WebSocket. The request chooses:

    * a WebSocket's handshake: a WebSocket;
    * ``GET`` that accepts ``text/event-stream``: an event stream, whose first event ``session`` is
      the session's id; the client sends with ``POST``;
    * ``POST`` without a session: a session for long polls. The answer 201 is JSON with its id in
      ``session``; ``GET`` waits for messages, ``POST`` sends one.

    Behind the last two the handler lives in a *session*: it goes on when a request ends, and ends
    with `Disconnected` when no request has come for ``session_expiry`` seconds. What it sends
    waits for the client, numbered; nothing is lost between two polls, or when an event stream is
    opened again with ``Last-Event-ID``. A session that has ended or never was is answered 410.

    A session belongs to its route or endpoint, so ``hub.response`` and ``hub.run`` can only serve a
    conversation's WebSocket.

    Attributes:
        session_expiry: seconds without any request after which a session ends.
        poll_timeout: seconds after which a long poll is answered without a message.
        max_outbox: bytes that wait for a client to fetch them; more end the handler with
            ``Failed(OutboxFull)``.
        transport: what the client has chosen. Set before ``init``.
    """

    session_expiry: float = 30.0
    poll_timeout: float = 25.0
    max_outbox: int = 2**20

    transport: Transport
