"""How a WebSocket is closed: the codes, and what fits into a close frame.

Law of this file: a close frame that RFC 6455 forbids cannot be described. Codes that only report
(1005, 1006, 1015) are never sent, and a reason fits into one control frame.
"""

from __future__ import annotations

import enum
from typing import Final

MAX_CONTROL: Final = 125
"""Bytes of payload in a control frame (RFC 6455, section 5.5)."""

MAX_REASON: Final = MAX_CONTROL - 2
"""Bytes of UTF-8 in a close reason: two of the frame are the code's (RFC 6455, section 5.5.1)."""


class CloseCode(enum.IntEnum):
    """The close codes that trioloop itself sends or reads (RFC 6455, section 7.4.1, and IANA)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    TOO_LARGE = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})


def check_close_code(code: object) -> None:
    """Refuse a code that an endpoint must not send.

    Raises:
        TypeError: no integer.
        ValueError: neither a registered code that may be sent nor one of 3000 to 4999
            (RFC 6455, sections 7.4.1 and 7.4.2).
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"a close code is an integer, not {code!r}")
    if not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in _NEVER_SENT:
        raise ValueError(
            f"{code} cannot be sent as a close code; 1000 to 1014 can (but 1004, 1005, 1006), and"
            " 3000 to 4999, of which 4000 to 4999 are an application's own"
        )


def check_close_reason(reason: object) -> None:
    """Refuse a reason that does not fit.

    Raises:
        TypeError: no `str`.
        ValueError: more than 123 bytes of UTF-8.
    """
    if not isinstance(reason, str):
        raise TypeError(f"a close reason is a str, not {reason!r}")
    size = len(reason.encode())
    if size > MAX_REASON:
        raise ValueError(f"a close reason takes {MAX_REASON} bytes of UTF-8, this one {size}")


def utf8_size_exceeds(text: str, limit: float) -> bool:
    """Whether a text has more bytes of UTF-8 than this, without encoding it where that is plain."""
    length = len(text)
    if length > limit:
        return True
    if text.isascii() or length * 4 <= limit:
        return False
    return len(text.encode()) > limit
