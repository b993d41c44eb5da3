"""The head of a response and the framing of its body: ASGI's values to bytes.

The laws of this file:

* What an application says can be wrong, but never becomes a second response: names and values are
  checked whole before anything is written (RFC 9110, 5.5).
* The framing is this server's: it is chosen once, by `Framing`, and written nowhere else.
* Nothing here waits or knows a socket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto
from http import HTTPStatus
from typing import Final, TypeAlias

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""Names in lower case, each with its whole field, as it is written."""

_FIELDS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++: [\t\x20-\x7e\x80-\xff]*+\r\n)*+")
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

_CONNECTIONS_OWN: Final = frozenset((b"connection", b"content-length", b"transfer-encoding"))
_NOTHING: Final[frozenset[bytes]] = frozenset()

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


class Framing(Enum):
    """How a client knows where a body ends (RFC 9112, 6)."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


# To get a member of its class costs more than to call a function, and each response asks often.
NONE: Final = Framing.NONE
LENGTH: Final = Framing.LENGTH
CHUNKED: Final = Framing.CHUNKED
CLOSE: Final = Framing.CLOSE


class Response:
    """A response that an application has started.

    Args:
        status: its status, 200 to 999.
        headers: pairs of bytes.
        method: of the request.
        version: of the request, ``"1.0"`` or ``"1.1"``.

    Attributes:
        headers: as the application gave them.
        framing: how its body is framed.
        sent: bytes of its body that were framed.
        wants_close: whether the application asks for the connection to be closed.

    Raises:
        ValueError: a status or a header that cannot be sent.
        TypeError: a status or a header of the wrong type.
    """

    __slots__ = (
        "_fields",
        "_left",
        "_names",
        "framing",
        "headers",
        "sent",
        "status",
        "wants_close",
    )

    def __init__(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], method: str, version: str
    ) -> None:
        if not 200 <= status <= 999:
            raise ValueError(f"{status!r} is no status of a response")
        self.status: int = status
        self.headers: list[tuple[bytes, bytes]] = list(headers)
        self.sent: int = 0
        self.wants_close: bool = False
        self._left = -1  # bytes that the body still has to have; -1 where nobody knows
        fields: list[bytes] = []
        names: set[bytes] = set()
        for name, value in self.headers:
            lower = name.lower()
            names.add(lower)
            if lower not in _CONNECTIONS_OWN or self._interpret(lower, value):
                fields.append(b"%b: %b\r\n" % (name, value.strip(b" \t")))
        self._fields: bytes = b"".join(fields)
        check_fields(self._fields, len(fields))
        self._names: set[bytes] | frozenset[bytes] = names
        if method == "HEAD" or status in (204, 304):
            self.framing: Framing = NONE
        elif self._left >= 0:
            self.framing = LENGTH
        else:
            self.framing = CHUNKED if version == "1.1" else CLOSE

    def _interpret(self, name: bytes, value: bytes) -> bool:
        """Find out what a field says that concerns the connection; whether it is sent as it is."""
        if name == b"content-length":
            if self._left >= 0 or not value.isdigit():
                raise ValueError(f"content-length: {value!r}")
            self._left = int(value)
            return self.status != 204  # RFC 9110, 8.6: it must not have one
        if name == b"connection" and b"close" in value.lower():
            self.wants_close = True
            return False
        return name != b"transfer-encoding"

    def give_length(self, length: int) -> None:
        """The whole body is known before the head is written."""
        if self.framing in (CHUNKED, CLOSE):
            self.framing = LENGTH
            self._left = length
            self._fields += b"content-length: %d\r\n" % length

    def encode(self, defaults: Fields, *, keep_alive: bool, version: str) -> bytes:
        """The head as bytes, from the status line to the empty line.

        Args:
            defaults: fields that are added where the application has none of that name.
            keep_alive: whether the connection will be used again.
            version: of the request.
        """
        line = _STATUS_LINES.get(self.status) or b"HTTP/1.1 %d \r\n" % self.status
        parts = [line, self._fields]
        names = self._names
        for name, field in defaults:
            if name not in names:
                parts.append(field)
        if self.framing is CHUNKED:
            parts.append(b"transfer-encoding: chunked\r\n")
        if not keep_alive:
            parts.append(b"connection: close\r\n")
        elif version == "1.0":
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        self._fields, self._names = b"", _NOTHING  # a stream lives on without them
        return b"".join(parts)

    def frame(self, body: bytes) -> bytes:
        """A piece of the body as bytes.

        Raises:
            RuntimeError: it is more than the ``content-length`` promises.
        """
        if not body or self.framing is NONE:
            return b""
        size = len(body)
        if self.framing is LENGTH:
            if size > self._left:
                more = size - self._left
                raise RuntimeError(f"the response has {more} bytes more than its content-length")
            self._left -= size
        self.sent += size
        return chunk(body) if self.framing is CHUNKED else bytes(body)

    def end(self) -> bytes:
        """The end of the body as bytes.

        Raises:
            RuntimeError: the body is less than the ``content-length`` promises.
        """
        if self.framing is LENGTH and self._left:
            raise RuntimeError(f"the response ends {self._left} bytes before its content-length")
        return LAST_CHUNK if self.framing is CHUNKED else b""


def check_fields(fields: bytes, number: int) -> None:
    """Check that so many encoded fields are what they seem.

    Raises:
        ValueError: a name is no token, or a value has a control character in it.
    """
    if fields.count(b"\n") != number or _FIELDS.fullmatch(fields) is None:
        raise ValueError(f"a header that cannot be sent, among {fields!r}")


def chunk(data: bytes) -> bytes:
    """Frame some of a chunked body. It must not be empty, for that would be its end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def refusal(status: int, defaults: Fields, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A whole response without a body, after which the connection is closed."""
    head = Response(status, [(b"content-length", b"0"), *headers], "GET", "1.1")
    return head.encode(defaults, keep_alive=False, version="1.1")
