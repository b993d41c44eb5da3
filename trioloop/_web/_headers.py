"""Headers as a handler writes them, checked and turned into ASGI's pairs of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, cast

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""A mapping, or pairs when a name occurs more than once."""

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_FORBIDDEN_IN_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5
_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "connection"})


def raw_headers(headers: Headers | None) -> RawHeaders:
    """Check headers and encode them.

    Args:
        headers: names and values; names are lower-cased, as ASGI wants them.

    Raises:
        TypeError: not a mapping or pairs of `str`.
        ValueError: a name that is no token, a value with CR, LF or other control characters or
            beyond Latin-1, or a header that frames the message, which is the server's business.
    """
    if headers is None:
        return []
    pairs = cast("Mapping[str, str]", headers).items() if isinstance(headers, Mapping) else headers
    try:
        return [_raw_pair(name, value) for name, value in pairs]
    except TypeError as error:
        raise TypeError(
            f"headers must map str to str, or be pairs of str, not {headers!r}"
        ) from error


def _raw_pair(name: object, value: object) -> tuple[bytes, bytes]:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"header {name!r}: {value!r}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is no header name (RFC 9110, section 5.1)")
    if name.lower() in _FRAMING:
        raise ValueError(f"the header {name!r} frames the message; leave it to the server")
    if _FORBIDDEN_IN_VALUE.search(value):
        raise ValueError(f"the value of header {name!r} has control characters: {value!r}")
    try:
        return name.lower().encode("ascii"), value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"the value of header {name!r} is not Latin-1: {value!r}") from None


def with_defaults(headers: RawHeaders, defaults: RawHeaders) -> RawHeaders:
    """Add the defaults whose names are missing."""
    given = {name for name, _ in headers}
    return [*headers, *(pair for pair in defaults if pair[0] not in given)]
