"""`EventStreamHandler`: server-sent events."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qs

from starlette.types import Scope
from typing_extensions import TypeVar

from .._wire import ServerSentEvent
from ._loop_handler import LoopHandler
from ._output import EventStreamOutput, HTTPOutput

if TYPE_CHECKING:
    from typing import Any

MessageT = TypeVar("MessageT", default="Any")


class EventStreamHandler(LoopHandler[MessageT]):
    """A stream of server-sent events (WHATWG HTML, section 9.2).

    The response starts when ``init`` has returned, unless that was a `Reply`: a refusal, or
    ``Reply(204)`` for no content, which tells a browser not to come back. ``init`` may return
    initial events, and a `StartResponse` first to add headers; `Stop` without an event gives 204.

    Attributes:
        keepalive: seconds of silence after which a comment line is written; ``math.inf`` for none.
        retry: milliseconds after which a client shall reconnect, as in `ServerSentEvent`; the base
            of what clients are told at a shutdown (2,000 when `None`).
        last_event_id: where the client wants to go on: the ``Last-Event-ID`` header, else the
            query parameter ``last_event_id``; `None` when it said nothing usable.

    Source: lasse_handler of lasse 1.2.0.
    """

    idle_timeout: float = math.inf
    methods: tuple[str, ...] | None = ("GET", "HEAD")
    keepalive: float = 15.0
    retry: int | None = None

    last_event_id: str | None

    output_type: ClassVar[type[HTTPOutput]] = EventStreamOutput

    def error(self, event: ServerSentEvent, error: Exception) -> None | Awaitable[None]:
        """An event could not be encoded or written; the handler ends with `Failed` after this.

        Args:
            event: the first event that was not written whole.
            error: why.

        Source: lasse's ``handle_error/3``.
        """


def find_last_event_id(scope: Scope) -> str | None:
    """The id that a reconnecting client sent; `None` when there is none or it is no id.

    The header is UTF-8 (WHATWG HTML, section 9.2.4), unlike what Latin-1 decoding makes of it.
    """
    for name, value in scope["headers"]:
        if name == b"last-event-id" and (found := _usable(value)) is not None:
            return found
    query: bytes = scope["query_string"]
    if b"last_event_id" in query:
        values = parse_qs(query.decode("latin-1"), encoding="latin-1").get("last_event_id", ())
        for value in values:
            return _usable(value.encode("latin-1"))
    return None


def _usable(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if not text or set(text) & {"\0", "\r", "\n"} else text
