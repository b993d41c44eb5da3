"""What the client sees when a handler ends: DESIGN's table of reasons.

Law of this file: every terminate reason has a row; what the columns say is all that is done.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from .._core._errors import MessageTooLarge, ProtocolViolation
from .._core._reasons import (
    Completed,
    Crashed,
    Disconnected,
    Failed,
    Overflowed,
    ShutDown,
    Stopped,
    TerminateReason,
    TimedOut,
)
from .._wire import CloseCode


class Farewell(enum.Enum):
    """How an open response ends."""

    CLEAN = "clean"
    """Complete, so that the client knows that nothing is missing."""
    CUT = "cut"
    """The connection is dropped, so that the client can tell."""
    NONE = "none"
    """There is nobody to tell."""


@dataclass(frozen=True, slots=True)
class Ending:
    """One row.

    Args:
        status: the whole answer when the response has not started; `None` for none.
        farewell: how a response ends that has started.
        close_code: with which an open WebSocket is closed; `None` when it is dropped.
        retry_after: whether that answer has a ``Retry-After``.
    """

    status: int | None
    farewell: Farewell
    close_code: int | None
    retry_after: bool = False


_OVERFLOWS: Final[Mapping[str, Ending]] = {
    "mailbox": Ending(503, Farewell.CUT, CloseCode.TRY_AGAIN_LATER, retry_after=True),
    "body": Ending(413, Farewell.CUT, CloseCode.TOO_LARGE),  # RFC 9110, section 15.5.14
    "rate": Ending(429, Farewell.CUT, CloseCode.POLICY_VIOLATION, retry_after=True),  # RFC 6585
}


_NO_CONTENT: Final = Ending(204, Farewell.CLEAN, CloseCode.NORMAL)


def ending_for(reason: TerminateReason) -> Ending:
    """The row of a reason."""
    match reason:
        case Completed():  # HEAD: the headers of a response without a body
            return Ending(200, Farewell.CLEAN, CloseCode.NORMAL)
        case Stopped() | TimedOut("mailbox"):
            return _NO_CONTENT
        case TimedOut():  # RFC 9110, section 15.5.9
            return Ending(408, Farewell.CLEAN, CloseCode.NORMAL)
        case Crashed():
            return Ending(500, Farewell.CUT, CloseCode.INTERNAL_ERROR)
        case Overflowed(what):
            return _OVERFLOWS[what]
        case ShutDown():
            return Ending(503, Farewell.CLEAN, CloseCode.SERVICE_RESTART, retry_after=True)
        case Failed(error):
            return Ending(None, Farewell.CUT, _code_for(error))
        case Disconnected():
            return Ending(None, Farewell.NONE, None)
        case _:
            assert_never(reason)


def _code_for(error: Exception) -> int | None:
    match error:
        case MessageTooLarge():
            return CloseCode.TOO_LARGE
        case ProtocolViolation(code=code):
            return code
        case _:
            return None
