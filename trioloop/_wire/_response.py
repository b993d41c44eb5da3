"""The life of an HTTP response, and of a WebSocket, as a table.

Law of this file: a response moves along an arrow of `LIFE` or not at all. Whoever writes
responses asks the table; nobody keeps flags of their own.

A WebSocket has the same life in other words: refused instead of replied, accepted instead of
started, and ended by a close frame (RFC 6455, sections 4.2.2 and 7).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


class ResponseState(enum.Enum):
    """Where a response is."""

    WAITING = "waiting"
    """Nothing was sent; every status is still possible."""
    OPEN = "open"
    """Status and headers are out, the body is not complete."""
    DONE = "done"
    """Complete: the client can tell that nothing is missing."""
    CUT = "cut"
    """Given up: the client can tell that something is missing."""


class ResponseStep(enum.Enum):
    """What can happen to it."""

    REPLY = "reply"
    """The whole response at once."""
    START = "start"
    """Status and headers."""
    DATA = "data"
    """A part of the body."""
    END = "end"
    """The end of the body."""
    CUT = "cut"
    """The connection is dropped."""


# By identity: the hash of the name, which Enum takes, costs a call of Python for every step.
ResponseState.__hash__ = object.__hash__  # type: ignore[method-assign]
ResponseStep.__hash__ = object.__hash__  # type: ignore[method-assign]

_State, _Step = ResponseState, ResponseStep

LIFE: Final[Mapping[ResponseState, Mapping[ResponseStep, ResponseState]]] = MappingProxyType(
    {
        _State.WAITING: {
            _Step.REPLY: _State.DONE,
            _Step.START: _State.OPEN,
            _Step.CUT: _State.CUT,
        },
        _State.OPEN: {
            _Step.DATA: _State.OPEN,
            _Step.END: _State.DONE,
            _Step.CUT: _State.CUT,
        },
        _State.DONE: {},
        _State.CUT: {},
    }
)
"""From a state, by a step, to the next state. What is missing cannot happen (RFC 9112, section 6)."""
