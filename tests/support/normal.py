"""What may differ between the fake and a real server, and why: the only place where it is removed.

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

from trioloop._wire import CloseCode
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
    "endings that nobody gets under trioloop serve": (
        "a send after the client has gone, or has ended its sending side, or after the grace of a"
        " shutdown, raises OSError there, so an ending that was not written yet becomes Disconnected;"
        " the stock worker writes it to whoever still reads, swallows it or refuses it in its own"
        " words, and the reason stays, or is Failed."
    ),
    "half a request under trioloop serve": (
        "a client that ends its sending side in the middle of its request gets no answer there, only"
        " the end of the connection; the stock worker answers 400 when it has answered nothing yet."
    ),
    "lengths under trioloop serve": (
        "a response that is complete when its head is written gets a content-length there, where"
        " the stock worker writes chunks."
    ),
    "WebSockets' closes under trioloop serve": (
        "the code and the reason of the client's close are told there, where the stock worker knows"
        " none; a close for what is too large, 1009, says in its reason what was; an ending that"
        " finds the client gone is Disconnected, as for requests, and so is any write, where the"
        " stock worker swallows it and lets the handler go on to what the client had sent before."
    ),
    "crowded WebSockets under trioloop serve": (
        "one message waits for its handler there, and what comes behind it stays with the kernel, for"
        " backpressure. So a close behind such a message is answered when the messages before it have"
        " been handled; that the client has left, or sent what is too large, is found then, or when"
        " the server looks for pings, once a second, and a write in the meantime finds the client"
        " gone or is still read; and a message is there as soon as the one before it is taken. The"
        " stock worker reads ten messages ahead: it answers at once, cuts and swallows writes from"
        " then on, leaves sizes to the handler's side, and gives it the next message a turn later,"
        " behind one more of the mailbox. So clients of generated scenarios do nothing behind a"
        " message that waits (`tell(crowded=False)`)."
    ),
    "early closes of WebSockets": (
        "a client that wants to close waits for the answer to its handshake, behind which the"
        " handler may write more at the same instant. Its close comes before that or after it: on"
        " the fake and in memory, where nothing is on its way, the order of tasks decides, and each"
        " has its own; over TCP the close comes last. So clients of generated scenarios do not close"
        " before the handshake is over (`tell(early=False)`); they do send."
    ),
    "other applications under trioloop serve": (
        "an ASGI application that is no handler can tell the two workers apart: trioloop's raises"
        " OSError from a send that nobody will get, joins the end of a body to its last piece,"
        " answers 500 where nothing was sent yet, and has other words for what it refuses. So"
        " scenarios against it have handlers only (`scenarios(plain=False)`)."
    ),
}
"""Each difference that is not compared, with its reason."""

_SERVERS_HEADERS: Final = frozenset({b"date", b"server", b"transfer-encoding", b"connection"})
LOST: Final = "Disconnected(None, )"
REFUSAL: Final = [("head", (400, ((b"content-length", b"0"),))), ("eof", "end")]
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


def as_trioloop_serve(fake: Account, real: Account) -> Account:
    """The fake's account of a request with the last rules applied, for the real one's worker."""
    return Account(
        seen=_with_length(_without_what_is_lost(fake, real), real.seen),
        notes=tuple(_lost(note, fake, real) for note in fake.notes),
        letters=tuple(_lost(letter, fake, real) for letter in fake.letters),
    )


def _lost(entry: tuple[Any, ...], fake: Account, real: Account) -> tuple[Any, ...]:
    """An entry whose last part is the terminate reason, when that could not be told any more."""
    ours, theirs = _reason(fake), _reason(real)
    is_lost = theirs == LOST and ours is not None and entry[-1] == ours
    return (*entry[:-1], LOST) if is_lost else entry


def _reason(told: Account) -> str | None:
    return next((detail for _, what, detail in told.notes if what == "terminate"), None)


def _without_what_is_lost(fake: Account, real: Account) -> tuple[tuple[Any, ...], ...]:
    """What the client sees when the connection ends before the ending, or instead of a refusal."""
    refused = [(what, value) for _, what, value in fake.seen] == REFUSAL
    if not (refused or _reason(real) == LOST):
        return fake.seen
    is_cut = bool(real.seen) and real.seen[-1][1:] == ("eof", "cut")
    kept = real.seen[:-1] if is_cut else real.seen
    return real.seen if fake.seen[: len(kept)] == kept else fake.seen


def websocket_as_trioloop_serve(
    fake: tuple[list[Any], list[Any]], real: tuple[list[Any], list[Any]]
) -> tuple[list[Any], list[Any]]:
    """The fake's account of a WebSocket with the rules for that worker applied.

    Args:
        fake: what the client saw and what the application noted.
        real: the same on the other tier.
    """
    reasons = [note for note in real[1] if note[1] == "terminate"]
    is_lost = bool(reasons) and reasons[0][2].startswith("Disconnected(")
    notes: list[Any] = []
    unmatched = list(real[1])
    for note in fake[1]:
        own = reasons[0] if is_lost and note[:2] == reasons[0][:2] else note
        if own in unmatched:
            unmatched.remove(own)
        elif is_lost and _is_of_the_end(note, reasons[0][0]):
            continue
        notes.append(own)
    return [_with_reason(one, real[0]) for one in fake[0]], notes


def _is_of_the_end(note: tuple[Any, ...], end: float) -> bool:
    """Whether a callback began at the instant of the end, as on the fake, which swallows writes."""
    return note[0] == end and note[1] in ("receive", "info")


def _with_reason(one: tuple[Any, ...], real: list[Any]) -> tuple[Any, ...]:
    """A close for what is too large, with the real one's reason; else what it is."""
    if one[1] != "close" or one[2][0] != CloseCode.TOO_LARGE:
        return one
    same = (other for other in real if other[:2] == one[:2] and other[2][0] == one[2][0])
    return next(same, one)


def _with_length(
    fake: tuple[tuple[Any, ...], ...], real: tuple[tuple[Any, ...], ...]
) -> tuple[tuple[Any, ...], ...]:
    if not (fake and real and fake[0][1] == real[0][1] == "head"):
        return fake
    (time, what, (status, headers)), *rest = fake
    length = tuple(pair for pair in real[0][2][1] if pair[0] == b"content-length")
    has_own = any(name == b"content-length" for name, _ in headers)
    return fake if has_own else ((time, what, (status, (*headers, *length))), *rest)


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
