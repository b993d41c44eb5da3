"""The set of terminate reasons is closed: a new one makes this file an error.

Checked by ``nox -s types``; never executed.
"""

from typing import assert_never

from trioloop import (
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


def name(reason: TerminateReason) -> str:
    """Every reason has its case, and there is no other."""
    match reason:
        case Completed() | Stopped() | ShutDown():
            return type(reason).__name__
        case TimedOut(what):
            return what
        case Crashed(error, callback):
            return f"{callback}: {error!r}"
        case Overflowed(what, limit):
            return f"{what} {limit}"
        case Disconnected(code, text):
            return f"{code} {text}"
        case Failed(error):
            return repr(error)
        case _:
            assert_never(reason)
