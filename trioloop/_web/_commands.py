"""Commands that write: whole responses and parts of them.

Laws of this file:

* What can be checked is checked when the command is made, so the traceback shows who made it.
* ``str`` is UTF-8, ``bytes`` are what they are.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from .._core._commands import FlowCommand
from .._wire import ServerSentEvent
from ._headers import Headers, RawHeaders, raw_headers, with_defaults
from ._websocket_commands import Accept, Close, Ping, Send

_EMPTY_STATUS = frozenset({204, 205, 304})
_PLAIN_TEXT = raw_headers({"content-type": "text/plain; charset=utf-8"})
_OCTETS = raw_headers({"content-type": "application/octet-stream"})


def _check_status(status: object) -> None:
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"status must be an integer, not {status!r}")
    if not 200 <= status <= 599:
        raise ValueError(f"status must be a final one, 200 to 599, not {status}")


def _encode(name: str, data: object) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)  # pyright: ignore[reportUnknownArgumentType] - of a memoryview's items
    raise TypeError(f"{name} must be str or bytes, not {data!r}")


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """The whole response, after which the handler ends: `Completed` from ``init``, else `Stopped`.

    Args:
        status: an HTTP status, 200 to 599.
        body: ``str`` (sent as UTF-8) or ``bytes``.
        headers: a mapping or pairs of ``str``.
        media_type: the content type; ``text/plain; charset=utf-8`` for ``str`` unless given here
            or in the headers, ``application/octet-stream`` for ``bytes``.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: an impossible status or header, or a body with a status that has none.

    Source: ``cowboy_req:reply/4``.
    """

    status: int = 200
    body: str | bytes = b""
    headers: Headers | None = None
    media_type: str | None = None
    content: bytes = field(init=False, repr=False, compare=False)
    raw_headers: RawHeaders = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_status(self.status)
        content = _encode("body", self.body)
        if content and self.status in _EMPTY_STATUS:
            raise ValueError(f"a response with status {self.status} has no body (RFC 9110)")
        headers = raw_headers(self.headers)
        if content and not (headers or self.media_type):
            headers = [*(_PLAIN_TEXT if isinstance(self.body, str) else _OCTETS)]
        elif content or self.media_type:
            media_type = self.media_type or (
                "text/plain; charset=utf-8"
                if isinstance(self.body, str)
                else "application/octet-stream"
            )
            headers = with_defaults(headers, raw_headers({"content-type": media_type}))
        object.__setattr__(self, "content", content)
        object.__setattr__(self, "raw_headers", headers)

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Headers | None = None) -> Reply:
        """A reply with a JSON body.

        Args:
            value: anything that `json.dumps` takes.
            status: an HTTP status, 200 to 599.
            headers: a mapping or pairs of ``str``.

        Raises:
            TypeError: the value is not JSON.
            ValueError: it contains NaN or an infinity, which JSON has not.
        """
        body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return cls(status, body, headers, "application/json")


@final
@dataclass(frozen=True, slots=True)
class StartResponse:
    """The status and headers of a streamed response.

    On an event stream, where it may only come first in ``init``, it adds headers to the usual ones.

    Args:
        status: an HTTP status, 200 to 599.
        headers: a mapping or pairs of ``str``.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: an impossible status or header.

    Source: ``cowboy_req:stream_reply/3``.
    """

    status: int = 200
    headers: Headers | None = None
    raw_headers: RawHeaders = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_status(self.status)
        object.__setattr__(self, "raw_headers", raw_headers(self.headers))


@final
@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the body of a streamed response. An empty one writes nothing.

    Args:
        data: ``str`` (sent as UTF-8) or ``bytes``.

    Raises:
        TypeError: neither.

    Source: ``cowboy_req:stream_body/3``.
    """

    data: str | bytes
    content: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", _encode("data", self.data))


Command: TypeAlias = (
    FlowCommand | Reply | StartResponse | Chunk | ServerSentEvent | Accept | Send | Close | Ping
)
"""What a callback may return; when which is legal is one table, `trioloop._web._legality`."""

Commands: TypeAlias = Command | Sequence[Command] | None
"""`None`, one command, or a list or tuple of commands."""

Outcome: TypeAlias = Commands | Awaitable[Commands]
"""What a callback returns: a ``def`` its commands, an ``async def`` an awaitable of them."""
