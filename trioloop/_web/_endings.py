"""What the client sees when a handler ends: DESIGN's table of reasons, for HTTP.

Law of this file: every terminate reason has a row; what the columns say is all that is done.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import assert_never

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
        retry_after: whether that answer has a ``Retry-After``.
        farewell: how a response ends that has started.
    """

    status: int | None
    farewell: Farewell
    retry_after: bool = False


def ending_for(reason: TerminateReason) -> Ending:
    """The row of a reason."""
    match reason:
        case Completed():
            return Ending(200, Farewell.CLEAN)  # HEAD: the headers of a response without a body
        case Stopped() | TimedOut("mailbox"):
            return Ending(204, Farewell.CLEAN)
        case TimedOut():
            return Ending(408, Farewell.CLEAN)  # RFC 9110, section 15.5.9
        case Crashed():
            return Ending(500, Farewell.CUT)
        case Overflowed("body"):
            return Ending(413, Farewell.CUT)  # RFC 9110, section 15.5.14
        case Overflowed():
            return Ending(503, Farewell.CUT, retry_after=True)
        case ShutDown():
            return Ending(503, Farewell.CLEAN, retry_after=True)
        case Failed():
            return Ending(None, Farewell.CUT)
        case Disconnected():
            return Ending(None, Farewell.NONE)
        case _:
            assert_never(reason)
