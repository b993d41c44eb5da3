"""Commands of WebSockets: the handshake's answer, data, and the close.

Law of this file: what can be checked is checked when the command is made. Only `Accept` is checked
when it is returned, since what it may say depends on what the client has offered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from .._wire import MAX_CONTROL, CloseCode, check_close_code, check_close_reason
from ._headers import Headers


@final
@dataclass(frozen=True, slots=True)
class Accept:
    """Accept the WebSocket. Legal in ``init`` only, before any data; it is the default there.

    Args:
        subprotocol: one of those that the client has offered
            (``request.scope["subprotocols"]``); `None` for none, at which browsers that have
            offered some give up.
        headers: of the handshake's answer, a mapping or pairs of ``str``. What the handshake itself
            says (``sec-websocket-...``, ``upgrade``, ``connection``) is not the handler's.

    What is not so is a `BadReturn`, and the client gets 500.

    Source: RFC 6455, section 4.2.2; Cowboy's ``{cowboy_websocket, Req, State}``.
    """

    subprotocol: str | None = None
    headers: Headers | None = None

    def __post_init__(self) -> None:
        if isinstance(self.headers, Iterator):  # it is read twice
            object.__setattr__(self, "headers", tuple(self.headers))


@final
@dataclass(frozen=True, slots=True)
class Send:
    """One message to the client.

    Args:
        data: ``str`` is sent as a text message, ``bytes`` as a binary one. Both may be empty.

    Raises:
        TypeError: neither.
        ValueError: text that has no UTF-8, such as half a surrogate pair.

    Source: Cowboy's frames ``{text, Data}`` and ``{binary, Data}``, cowboy_websocket(3).
    """

    data: str | bytes

    def __post_init__(self) -> None:
        data: object = self.data
        if isinstance(data, str):
            if not data.isascii():
                data.encode()
        elif isinstance(data, (bytearray, memoryview)):
            content = bytes(data)  # pyright: ignore[reportUnknownArgumentType] - of its items
            object.__setattr__(self, "data", content)
        elif not isinstance(data, bytes):
            raise TypeError(f"data must be str or bytes, not {data!r}")

    @classmethod
    def json(cls, value: Any) -> Send:
        """A text message with JSON.

        Args:
            value: anything that `json.dumps` takes.

        Raises:
            TypeError: the value is not JSON.
            ValueError: it contains NaN or an infinity, which JSON has not.
        """
        return cls(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


@final
@dataclass(frozen=True, slots=True)
class Close:
    """Close the WebSocket, after which the handler ends: `Completed` from ``init``, else `Stopped`.

    Args:
        code: 1000 to 1014 without 1004, 1005 and 1006, or 3000 to 4999; those from 4000 are yours.
        reason: at most 123 bytes of UTF-8.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a code that must not be sent, or a reason that is too long.

    Source: RFC 6455, sections 5.5.1 and 7.4; Cowboy's frame ``{close, Code, Reason}``.
    """

    code: int = CloseCode.NORMAL
    reason: str = ""

    def __post_init__(self) -> None:
        check_close_code(self.code)
        check_close_reason(self.reason)


@final
@dataclass(frozen=True, slots=True)
class Ping:
    """A ping frame. It does nothing on a server that cannot send one: ASGI has no word for it.

    Args:
        data: at most 125 bytes, which the client's pong repeats.

    Raises:
        TypeError: not ``bytes``.
        ValueError: too long.

    Source: RFC 6455, section 5.5.2; Cowboy's frames ``ping`` and ``{ping, Data}``.
    """

    data: bytes = b""

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes):
            raise TypeError(f"data must be bytes, not {self.data!r}")
        if len(self.data) > MAX_CONTROL:
            raise ValueError(f"a ping takes {MAX_CONTROL} bytes, not {len(self.data)}")
