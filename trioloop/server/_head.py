"""The head of a request: bytes to a value, or to the reason why not.

The laws of this file:

* RFC 9112 as it is written, with none of its leniencies: what two servers could read differently
  is refused, because the difference is what request smuggling lives on.
* The whole grammar is in two expressions; each is matched once, and neither can backtrack.
* Nothing here waits or knows a socket.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110, 5.6.2
_REQUEST_LINE: Final = re.compile(
    rb"(" + _TOKEN + rb") (/[\x21-\x7e]*+|\*) HTTP/1\.([01])\r\n"  # RFC 9112, 3
)
_FIELDS: Final = re.compile(
    rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"  # RFC 9112, 5
)
_HOST: Final = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*+")  # RFC 3986, 3.2.2
_LENGTH: Final = re.compile(rb"[0-9]{1,18}+")
_BEGINNING: Final = re.compile(_TOKEN + rb"(?: [\x21-\x7e]*+(?: [HTP/0-2.]{0,8}+\r?)?)?\Z|\r\Z")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")

_SPECIAL: Final = frozenset(
    (b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade")
)

_COMMON: Final = (
    b"Accept Accept-Encoding Accept-Language Authorization Cache-Control Connection Content-Length "
    b"Content-Type Cookie DNT Expect Forwarded Host If-Modified-Since If-None-Match Last-Event-ID "
    b"Origin Pragma Referer Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-WebSocket-Extensions "
    b"Sec-WebSocket-Key Sec-WebSocket-Protocol Sec-WebSocket-Version Transfer-Encoding Upgrade "
    b"User-Agent X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Real-IP"
).split()
_LOWER: Final = {
    spelling: name.lower() for name in _COMMON for spelling in (name, name.lower(), name.title())
}
"""Common names in lower case, so that ten thousand requests share the bytes of each."""


class BadRequest(Exception):
    """A request that is refused; its connection is closed, for nobody knows where the next begins.

    Args:
        status: the status of the answer.
        why: what was wrong, for the log.
        headers: more headers of the answer.
    """

    def __init__(self, status: int, why: str, headers: Headers | None = None) -> None:
        super().__init__(why)
        self.status: int = status
        self.headers: Headers = headers or []


class Head:
    """The head of a request.

    Attributes:
        method: as sent.
        target: path and query as sent, or ``*``.
        version: ``"1.0"`` or ``"1.1"``.
        headers: pairs of lower-case name and value, in their order.
        length: bytes of the body; `None` when it is chunked.
        keep_alive: whether the client wants to use the connection again.
        expects_continue: whether it waits for ``100 Continue`` before it sends the body.
        is_websocket: whether it asks for a WebSocket.
    """

    __slots__ = (
        "expects_continue",
        "headers",
        "is_websocket",
        "keep_alive",
        "length",
        "method",
        "target",
        "version",
    )

    def __init__(self, method: str, target: bytes, version: str, headers: Headers) -> None:
        self.method: str = method
        self.target: bytes = target
        self.version: str = version
        self.headers: Headers = headers
        self.length: int | None = 0
        self.keep_alive: bool = version == "1.1"
        self.expects_continue: bool = False
        self.is_websocket: bool = False


def parse_head(data: bytes, max_headers: int) -> Head:
    """Parse the head of a request.

    Args:
        data: from the first byte of the request line to the empty line, inclusive.
        max_headers: header fields that it may have.

    Raises:
        BadRequest: RFC 9112 does not allow it, or this server does not.
    """
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise _bad_request_line(data)
    end = line.end()
    if _FIELDS.fullmatch(data, end) is None:
        raise BadRequest(400, "a malformed header field")
    headers: Headers = []
    special: Headers = []
    if len(data) > end + 2:
        for field in data[end:-4].split(b"\r\n"):
            name, _, value = field.partition(b":")
            pair = _LOWER.get(name) or name.lower(), value.strip(b" \t")
            headers.append(pair)
            if pair[0] in _SPECIAL:
                special.append(pair)
    if len(headers) > max_headers:
        raise BadRequest(431, f"more than {max_headers} header fields")
    method, target, minor = line.groups()
    head = Head(method.decode(), target, "1.1" if minor == b"1" else "1.0", headers)
    if target == b"*" and method != b"OPTIONS":  # RFC 9112, 3.2.4
        raise BadRequest(400, "the target * without OPTIONS")
    if len(special) == 1 and special[0][0] == b"host":
        _check_host(special[0][1])
    else:
        _interpret(head, special)
    return head


def _bad_request_line(data: bytes) -> BadRequest:
    line = data.partition(b"\r\n")[0]
    parts = line.split(b" ")
    if len(parts) == 3 and re.fullmatch(rb"HTTP/[0-9]\.[0-9]", parts[2]):
        if parts[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
            return BadRequest(505, "a version that is not served")
        if parts[0] == b"CONNECT":
            return BadRequest(501, "CONNECT: this is no proxy")
        if re.match(rb"[A-Za-z][A-Za-z0-9+.-]*:", parts[1]):
            return BadRequest(400, "a target in absolute form: this is no proxy")
    return BadRequest(400, "a malformed request line")


def _interpret(head: Head, special: Headers) -> None:
    """Find out what the fields say that concern the connection."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in special:
        values.setdefault(name, []).append(value)
    hosts = values.get(b"host", [])
    if len(hosts) > 1 or (not hosts and head.version == "1.1"):  # RFC 9112, 3.2
        raise BadRequest(400, "not one Host")
    for host in hosts:
        _check_host(host)
    options = _tokens(values.get(b"connection", []))
    if b"close" in options:
        head.keep_alive = False
    elif b"keep-alive" in options and b"transfer-encoding" not in values:
        head.keep_alive = True
    _find_length(head, values)
    _find_expectation(head, values.get(b"expect", []))
    head.is_websocket = (
        head.method == "GET"
        and b"upgrade" in options
        and head.version == "1.1"
        and b"websocket" in _tokens(values.get(b"upgrade", []))
    )


def _check_host(value: bytes) -> None:
    if _HOST.fullmatch(value) is None:
        raise BadRequest(400, "a malformed Host")


def _find_length(head: Head, values: dict[bytes, list[bytes]]) -> None:
    """RFC 9112, 6.1 to 6.3, without the ways out: whatever could be read twice is refused."""
    codings = values.get(b"transfer-encoding")
    lengths = values.get(b"content-length")
    if codings is not None:
        if lengths is not None or head.version == "1.0":
            raise BadRequest(400, "conflicting lengths")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadRequest(501, "a transfer coding that is not served")
        head.length = None
    elif lengths is not None:
        if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
            raise BadRequest(400, "a malformed Content-Length")
        head.length = int(lengths[0])


def _find_expectation(head: Head, values: list[bytes]) -> None:
    if values and head.version == "1.1":  # RFC 9110, 10.1.1: HTTP/1.0 knows no expectations
        if len(values) > 1 or values[0].lower() != b"100-continue":
            raise BadRequest(417, "an unknown expectation")
        head.expects_continue = head.length != 0


def _tokens(values: list[bytes]) -> set[bytes]:
    return {token.strip(b" \t").lower() for value in values for token in value.split(b",")}


def check_beginning(data: bytes) -> None:
    """Refuse a head that is not complete yet and never can be right.

    Args:
        data: what has come so far, without an empty line.

    Raises:
        BadRequest: whatever follows, it will be refused; so nobody waits for the rest.
    """
    if _BARE_LF.search(data) is not None:
        raise BadRequest(400, "a bare CR or LF")
    line, complete, _ = data.partition(b"\r\n")
    if complete:
        if _REQUEST_LINE.match(data) is None:
            raise _bad_request_line(data)
    elif _BEGINNING.match(line) is None:
        raise BadRequest(400, "not the beginning of a request")
