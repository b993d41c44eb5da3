"""Why a handler ended: a closed set of frozen values.

Laws of this file:

* Every handler ends with exactly one of these values, and ``terminate`` always hears it.
* The set is closed: `TerminateReason` is a union, so ``match`` with ``assert_never`` is exhaustive.
* A reason says who or what ended the handler; it carries the facts that a log line needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, final

CallbackName: TypeAlias = Literal[
    "__init__", "init", "info", "notify", "idle", "receive", "error", "nursery", "overflow"
]
"""Where a crash happened. ``"nursery"`` is a child task, ``"overflow"`` the key of `KeepLatest`."""


@final
@dataclass(frozen=True, slots=True)
class Completed:
    """``init`` answered the request by itself: a `Reply` from ``init``, or a HEAD request."""


@final
@dataclass(frozen=True, slots=True)
class Stopped:
    """The handler said so: `Stop`, or a `Reply` from any callback but ``init``."""


@final
@dataclass(frozen=True, slots=True)
class TimedOut:
    """Somebody was silent for too long.

    Args:
        what: ``"mailbox"`` when no message came for ``idle_timeout`` seconds, ``"client"`` when
            the client sent nothing for ``receive_timeout`` seconds while it was its turn.
    """

    what: Literal["mailbox", "client"] = "mailbox"

    def __post_init__(self) -> None:
        if self.what not in ("mailbox", "client"):
            raise ValueError(f"TimedOut(what) is 'mailbox' or 'client', not {self.what!r}")


@final
@dataclass(frozen=True, slots=True)
class Crashed:
    """An exception left a callback or a child task, or a callback returned something illegal.

    Args:
        error: the exception; a `BadReturn` when the return value was at fault.
        callback: the name of the callback; ``"nursery"`` for a child task.
    """

    error: BaseException
    callback: CallbackName


@final
@dataclass(frozen=True, slots=True)
class Overflowed:
    """More came in than the handler takes.

    Args:
        what: ``"mailbox"`` (full under ``Overflow.STOP``), ``"body"`` (unread request body) or
            ``"rate"`` (a WebSocket's client was faster than ``max_rate``).
        limit: the limit that was reached: messages for a mailbox, bytes for a body, messages or
            bytes per second for a rate.
    """

    what: Literal["mailbox", "body", "rate"]
    limit: int


@final
@dataclass(frozen=True, slots=True)
class Disconnected:
    """The client went away.

    Args:
        code: the WebSocket close code where the server passes it on, else `None`.
        reason: the WebSocket close reason, else ``""``.
    """

    code: int | None = None
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class Failed:
    """Output could not be encoded or written.

    Args:
        error: what went wrong; `SendTimedOut` when a write made no progress for ``send_timeout``.
    """

    error: Exception


@final
@dataclass(frozen=True, slots=True)
class ShutDown:
    """The server is going down, or an operator called ``ref.stop()``."""


TerminateReason: TypeAlias = (
    Completed | Stopped | TimedOut | Crashed | Overflowed | Disconnected | Failed | ShutDown
)
"""Every way in which a handler can end. Closed: no other type ever reaches ``terminate``."""

INTERRUPTING = (Disconnected, Failed, ShutDown)
"""Reasons that cancel a running callback; all others are found between callbacks."""
