"""What may differ between the kit and a server on sockets, and why: the only place where it is removed.

Laws of this file:

* Everything else is compared as it is: statuses, the application's headers, every byte of the
  bodies, how the stream ended, what callbacks, plain applications and ``terminate`` were told,
  dead letters, and the virtual time of each of these.
* Every rule below is a row of `RULES` with its reason; a rule without a reason is a bug that nobody
  has looked at yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from trioloop.testing import Seen

RULES: Final = {
    "server's headers": (
        "date and server are written by Hypercorn's clock and name, transfer-encoding and connection"
        " by h11's framing. The fake counts their bytes, but shows the application's headers only."
    ),
    "adjacent chunks": (
        "pieces of a body that the client reads at one instant are joined: how many reads they took"
        " is a matter of buffers. Those of different instants stay apart."
    ),
    "errors": (
        "an exception is compared by its type's name and its text, because two exceptions are never"
        " equal; UnexpectedMessage is the fake's name for Hypercorn's UnexpectedMessageError and h11's"
        " LocalProtocolError, whose texts name the state in other words."
    ),
    "ties with the server's clock": (
        "when the server's grace, or the second for a farewell after it, ends at the very instant at"
        " which a callback does, either may come first: Trio decides by lot, here and there. So"
        " shutdowns are placed between the instants at which anything else happens."
    ),
    "stalls over TCP": (
        "the kernel's buffers, megabytes with auto-tuning, hide a slow reader, so scenarios in"
        " which somebody stops reading are played in memory only (`scenarios(stalls=False)`)."
    ),
    "early closes of WebSockets": (
        "a client that wants to close waits for the answer to its handshake, behind which the"
        " handler may write more at the same instant. Its close comes before that or after it: on"
        " the fake and in memory, where nothing is on its way, the order of tasks decides, and each"
        " has its own; over TCP the close comes last. So clients of generated scenarios do not close"
        " before the handshake is over (`tell(early=False)`); they do send."
    ),
}
"""Each difference that is not compared, with its reason."""

_SERVERS_HEADERS: Final = frozenset({b"date", b"server", b"transfer-encoding", b"connection"})
_REFUSALS: Final = frozenset({"UnexpectedMessage", "UnexpectedMessageError", "LocalProtocolError"})


@dataclass(frozen=True, slots=True)
class Account:
    """What one tier tells of a scenario, request by request, normalised.

    Args:
        seen: what the client saw: ``(time, what, value)``.
        notes: what the application met: ``(time, what, detail)``.
        letters: dead letters: ``(message, cause)``.
    """

    seen: tuple[tuple[Any, ...], ...]
    notes: tuple[tuple[Any, ...], ...]
    letters: tuple[tuple[Any, ...], ...]


def account(exchanges: Iterable[Any], app: Any) -> tuple[Account, ...]:
    """The accounts of all requests of a scenario, in the order in which they were opened."""
    return tuple(
        Account(
            seen=seen(exchange.transcript),
            notes=tuple(plain(app.record.notes.get(str(number), []))),
            letters=tuple(plain(app.letters.get(str(number), []))),
        )
        for number, exchange in enumerate(exchanges)
    )


def seen(transcript: Iterable[Seen]) -> tuple[tuple[Any, ...], ...]:
    """A transcript without the server's headers, and with adjacent chunks joined."""
    found: list[tuple[Any, ...]] = []
    for one in transcript:
        if one.what == "head":
            status, headers = one.value
            own = tuple(pair for pair in headers if pair[0] not in _SERVERS_HEADERS)
            found.append((one.time, "head", (status, own)))
        elif one.what == "body" and found and found[-1][:2] == (one.time, "body"):
            found[-1] = (one.time, "body", found[-1][2] + one.value)
        else:
            found.append((one.time, one.what, one.value))
    return tuple(found)


def plain(value: Any) -> Any:
    """A value that is equal to another tier's when it says the same."""
    if isinstance(value, BaseException):
        name = type(value).__name__
        return "refused by the server" if name in _REFUSALS else f"{name}({value})"
    if is_dataclass(value) and not isinstance(value, type):
        arguments = ", ".join(str(plain(getattr(value, one.name))) for one in fields(value))
        return f"{type(value).__name__}({arguments})"
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    return value
