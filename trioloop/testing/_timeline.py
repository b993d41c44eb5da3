"""A journal for people: lanes of text, or a sequence diagram in Mermaid's language.

Laws of this file:

* Reading changes nothing: both are functions of the entries.
* Nothing that happened is left out; what belongs together (a callback and what it returned) stands
  in one row.
* Lines keep to their width, and frames are plain ASCII: test runners print them.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from ._exchange import Request
from ._journal import Entry
from ._laws import LAWS, Violation

WIDTH: Final = 100
NARROWEST: Final = 16
"""Lanes that would be narrower share one column instead, with the name before each row."""
TIME: Final = 9
"""Characters of the column of virtual seconds."""
LABEL: Final = 60
"""Characters of a label in a diagram."""


@dataclass(frozen=True, slots=True)
class Row:
    """What stands in one line.

    Args:
        time: virtual seconds.
        who: whose lane.
        text: what happened.
        indices: of the entries that it tells of.
        what: the verb of the first of them.
        last: the verb of the last.
        sender: who sent the message, if it is known.
    """

    time: float
    who: str
    text: str
    indices: tuple[int, ...]
    what: str
    last: str
    sender: str = ""


def timeline(
    journal: Iterable[Entry], *, violation: Violation | None = None, width: int = WIDTH
) -> str:
    """A journal in lanes: the test, the handlers, the clients; time runs downwards.

    Args:
        journal: the entries, oldest first.
        violation: the broken law; it is told beneath the line that broke it, which is marked.
        width: of a line, in characters.

    Returns:
        Lines of plain text.
    """
    rows = _rows(journal)
    lanes = _lanes(rows)
    share = (width - TIME) // max(1, len(lanes)) - 3
    layout = _Columns(lanes, width) if share >= NARROWEST else _OneColumn(lanes, width)
    lines = layout.head()
    time, broken = None, -1 if violation is None else violation.index
    for row in rows:
        if time is not None and row.time != time:
            lines.append(layout.gap())
        clock = f"{row.time:g}" if row.time != time else ""
        mark = ">" if broken in row.indices else " "
        lines.append(layout.line(f"{mark}{clock:>{TIME - 2}} ", row))
        lines += _verdict(violation, width) if broken in row.indices else []
        time = row.time
    if not any(broken in row.indices for row in rows):
        lines += _verdict(violation, width)
    return "\n".join(line.rstrip() for line in lines)


def _verdict(violation: Violation | None, width: int) -> list[str]:
    """The broken law, beneath what broke it."""
    if violation is None:
        return []
    law = LAWS.get(violation.law, "")
    where = f"at t={violation.time:g}, {violation.who}: " if violation.who else ""
    text = f"law {violation.law} is broken{law and f' ({law})'}: {where}{violation.sentence}"
    indent = "*" * (TIME - 1) + " "
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=" " * TIME)


class _Columns:
    """One column for everybody, as wide as it has to be, if there is room."""

    def __init__(self, lanes: Mapping[str, int], width: int) -> None:
        self._names = list(lanes)
        self._widths = _fit(list(lanes.values()), width - TIME - 3 * len(lanes))

    def _join(self, time: str, cells: Iterable[str]) -> str:
        pairs = zip(cells, self._widths, strict=True)
        return f"{time}| " + " | ".join(f"{cell:<{width}}" for cell, width in pairs)

    def head(self) -> list[str]:
        rule = "-+-".join("-" * width for width in self._widths)
        return [self._join(f"{'t (s)':>{TIME - 1}} ", self._names), f"{'-' * TIME}+-{rule}"]

    def gap(self) -> str:
        return self._join(" " * TIME, [""] * len(self._names))

    def line(self, time: str, row: Row) -> str:
        lanes = zip(self._names, self._widths, strict=True)
        return self._join(
            time, [shorten(row.text, width) if name == row.who else "" for name, width in lanes]
        )


class _OneColumn:
    """Everybody in one column, behind their names."""

    def __init__(self, lanes: Mapping[str, int], width: int) -> None:
        self._who = max(map(len, lanes), default=0)
        self._width = width - TIME - self._who - 5

    def head(self) -> list[str]:
        rule = f"{'-' * TIME}+-{'-' * self._who}-+-{'-' * self._width}"
        return [f"{'t (s)':>{TIME - 1}} | {'who':<{self._who}} | what", rule]

    def gap(self) -> str:
        return f"{' ' * TIME}| {' ' * self._who} |"

    def line(self, time: str, row: Row) -> str:
        return f"{time}| {row.who:<{self._who}} | {shorten(row.text, self._width)}"


def _fit(wanted: Sequence[int], room: int) -> list[int]:
    """Widths of columns: what each needs, and equal shares for those that need too much."""
    widths = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for done, place in enumerate(order):
        widths[place] = min(wanted[place], room // (len(order) - done))
        room -= widths[place]
    return widths


def _lanes(rows: Iterable[Row]) -> dict[str, int]:
    """Who there is, in the order of lanes, and how long their longest text is."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.who] = max(found.get(row.who, len(row.who)), len(row.text))
    return dict(sorted(found.items(), key=lambda lane: _place(lane[0])))


def _place(who: str) -> tuple[int, int, str]:
    kind, _, number = who.rpartition(" ")
    kinds = ("test", "handler", "client")
    rank = kinds.index(kind or who) if (kind or who) in kinds else len(kinds)
    return rank, int(number) if number.isdigit() else 0, who


# -- rows ----------------------------------------------------------------------------------------


def _rows(journal: Iterable[Entry]) -> list[Row]:
    """Entries in words.

    What a callback returned joins the row of its call; what the test sends is told by its receipts.
    """
    entries = list(journal)
    receipts = _receipts_of(entries)
    sends = {told: receipt for receipt, told in reversed(receipts.items())}
    rows: list[Row] = []
    for index, entry in enumerate(entries):
        callback, _, end = entry.what.partition(" ")
        last = rows[-1] if rows else None
        if (
            end in ("returned", "raised")
            and last is not None
            and (last.who, last.time, last.last) == (entry.who, entry.time, callback)
        ):
            nothing = end == "returned" and entry.detail is None
            more = "" if nothing else f" {_ARROWS[end]} {show(entry.detail)}"
            rows[-1] = dataclasses.replace(
                last, text=last.text + more, indices=(*last.indices, index), last=entry.what
            )
        elif index in receipts:
            told = receipts[index]
            indices = (told, index) if sends[told] == index else (index,)
            row = Row(entry.time, entry.who, _words(entry), indices, entry.what, entry.what, "test")
            rows.append(row)
        elif index not in sends:
            text = _words(entry)
            rows.append(Row(entry.time, entry.who, text, (index,), entry.what, entry.what))
    return rows


def _receipts_of(entries: Sequence[Entry]) -> dict[int, int]:
    """The receipts of what the test sends, where there is one for each message."""
    found: dict[int, int] = {}
    for index, entry in enumerate(entries):
        if entry.who == "test" and entry.what in ("sends", "sends as planned"):
            handler, _, *messages = entry.detail
            mine: list[int] = []
            for place in range(index + 1, len(entries)):
                if entries[place].who != handler or entries[place].what not in _OF_THE_MAILBOX:
                    break
                mine += [place] if entries[place].what in _SENDS else []
            if len(mine) >= len(messages) > 0:
                found |= dict.fromkeys(mine[: len(messages)], index)
    return found


_ARROWS: Final = {"returned": "->", "raised": "raised"}


def _words(entry: Entry) -> str:
    """An entry without its time and its actor."""
    if entry.who == "test" and entry.what in ("sends", "sends as planned"):
        return _words_of_sending(*entry.detail)
    special = _WORDS.get(entry.what)
    if special is not None:
        return special(entry.detail)
    if entry.what.endswith(" returned"):
        return f"{entry.what.removesuffix(' returned')} -> {show(entry.detail)}"
    return entry.what if entry.detail is None else f"{entry.what} {show(entry.detail)}"


def _words_of_sending(handler: str, verb: str, *messages: Any) -> str:
    does = "notifies" if verb == "notify" else "sends"
    return f"{does} {handler} {', '.join(map(show, messages))}"


def _words_of_plan(seconds: float, handler: str, what: Any, *args: Any) -> str:
    name = getattr(what, "__qualname__", what)
    does = _words_of_sending(handler, what, *args) if handler else f"calls {name}"
    return f"in {seconds:g} s {does}"


_WORDS: Final[Mapping[str, Callable[[Any], str]]] = {
    "later": lambda plan: _words_of_plan(*plan),
    "advances": lambda seconds: f"advances {seconds:g} s",
    "lags": lambda seconds: f"lags {seconds:g} s",
    "shuts down": lambda grace: f"shuts down, grace {grace:g} s",
    "asks": lambda request: f"asks {_request_line(request)}",
    "disconnects": lambda how: f"disconnects ({how})",
    "stalls": lambda window: f"stalls ({window})",
    "reads": lambda size: f"reads {size} bytes",
    "sees head": lambda head: f"sees {head[0]}",
    "sees body": lambda data: f"sees {show(data)}",
    "sends data": lambda data: f"sends {show(data)}",
    "bursts": lambda data: f"sends {', '.join(map(show, data))}",
    "sees message": lambda data: f"sees {show(data)}",
    "sees close": lambda how: f"sees close {_close(how)}",
    "closes": lambda how: f"closes {_close(how)}",
    "sees eof": lambda how: "sees the end" if how == "end" else "sees the connection cut",
    "overflows": lambda limit: f"overflows, takes {limit}",
    "left behind": lambda what: f"left behind: {what}",
}


def _close(how: Any) -> str:
    code, reason = how
    return " ".join(str(part) for part in (code, reason) if part)


def _request_line(request: Any) -> str:
    if not isinstance(request, Request):
        return str(request)
    method = "WebSocket" if request.is_websocket else request.method
    return f"{method} {request.target}"


def show(value: Any) -> str:
    """A value in a row: its repr, bytes as the text that they are, without what says nothing."""
    if isinstance(value, (bytes, bytearray)):
        try:
            return repr(bytes(value).decode())
        except UnicodeDecodeError:
            return repr(bytes(value))
    if isinstance(value, BaseException):
        return _show_error(value)
    if _is_list(value):
        return f"[{', '.join(map(show, value))}]"
    if dataclasses.is_dataclass(value) and _has_usual_repr(type(value)):
        return _show_fields(value)
    return _ADDRESS.sub("", repr(value))


_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")


def _show_error(error: BaseException) -> str:
    name, text = type(error).__name__, str(error)
    if isinstance(error, trio.Cancelled) or not text:  # Trio's text has addresses, and no news
        return name
    return f"{name}: {_ADDRESS.sub('', text)}"


def _is_list(value: object) -> bool:
    return type(value) is list


def _has_usual_repr(cls: Any) -> bool:
    params = getattr(cls, "__dataclass_params__", None)
    return params is not None and params.repr and "__repr__" in vars(cls)


def _show_fields(value: Any) -> str:
    """A dataclass without the fields that have their default."""
    parts: list[str] = []
    for field in dataclasses.fields(value):
        content = getattr(value, field.name, None)
        made: Any = field.default_factory
        usual = field.default if made is dataclasses.MISSING else made()
        if field.repr and not (type(content) is type(usual) and content == usual):
            parts.append(f"{field.name}={show(content)}")
    return f"{type(value).__qualname__.rpartition('.')[2]}({', '.join(parts)})"


def shorten(text: str, width: int) -> str:
    """At most so many characters: what is too much is taken out of the middle."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    if len(text) <= width:
        return text
    kept = max(0, width - 3)
    return f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"[:width]


# -- diagrams ------------------------------------------------------------------------------------


def clients_of(journal: Iterable[Entry]) -> dict[str, str]:
    """The client of each handler, by their names in the journal.

    A handler starts for the request before it that has no handler and no answer yet.
    """
    found: dict[str, str] = {}
    waiting: list[str] = []
    for entry in journal:
        if entry.what == "asks":
            waiting.append(entry.who)
        elif entry.what == "sees head" and entry.who in waiting:
            waiting.remove(entry.who)
        elif entry.who.startswith("handler ") and entry.who not in found and waiting:
            found[entry.who] = waiting.pop()
    return found


def sequence_diagram(journal: Iterable[Entry], violation: Violation | None = None) -> str:
    """A journal as a sequence diagram for Mermaid, which GitHub and Sphinx can draw.

    Args:
        journal: the entries, oldest first.
        violation: the broken law; it stands beneath what broke it.
    """
    entries = list(journal)
    rows = _rows(entries)
    names = {who: _identifier(who) for who in sorted({"test", *_lanes(rows)}, key=_place)}
    lines = ["sequenceDiagram", *(f"    participant {i} as {who}" for who, i in names.items())]
    everybody = f"{next(iter(names.values()))},{list(names.values())[-1]}"
    arrows = _Arrows(names, clients_of(entries))
    time, broken = None, -1 if violation is None else violation.index
    for row in rows:
        if row.time != time:
            lines.append(f"    Note over {everybody}: t = {row.time:g} s")
            time = row.time
        lines.append("    " + arrows.draw(row))
        lines += _verdict_note(violation, everybody) if broken in row.indices else []
    if not any(broken in row.indices for row in rows):
        lines += _verdict_note(violation, everybody)
    return "\n".join(lines)


def _verdict_note(violation: Violation | None, everybody: str) -> list[str]:
    if violation is None:
        return []
    text = f"law {violation.law} is broken: {violation.sentence}"
    return [f"    Note over {everybody}: {_escape(shorten(text, 2 * LABEL))}"]


def _identifier(who: str) -> str:
    """``H1`` for ``handler 1``, ``T`` for ``test``."""
    kind, _, number = who.rpartition(" ")
    return "".join(c for c in (kind or who)[:1].upper() + number * bool(kind) if c.isalnum())


class _Arrows:
    """Draws rows as arrows and notes.

    Args:
        names: identifiers by name.
        clients: of the handlers.
    """

    def __init__(self, names: Mapping[str, str], clients: Mapping[str, str]) -> None:
        self._names = names
        self._clients = clients
        self._handlers = {client: handler for handler, client in clients.items()}
        self._calling: dict[str, float] = {}  # handlers in a callback, and since when

    def draw(self, row: Row) -> str:
        """One line of the diagram."""
        me = self._names[row.who]
        handler = self._names.get(self._handlers.get(row.who, ""))
        text = _escape(shorten(row.text, LABEL))
        self._follow(row)
        if row.what in _SENDS:
            arrow = "->>" if row.what != "refuses" else "-x"
            return f"{self._sender(row)}{arrow}{me}: {text}"
        if handler is not None and row.what.startswith("sees "):
            return f"{handler}-->>{me}: {text}"
        if handler is not None and row.what in _ASKS:
            return f"{me}{_ASKS[row.what]}{handler}: {text}"
        return f"Note over {me}: {text}"

    def _follow(self, row: Row) -> None:
        if row.what in _CALLBACKS and row.last == row.what:
            self._calling[row.who] = row.time
        elif row.last.endswith((" returned", " raised")):
            self._calling.pop(row.who, None)

    def _sender(self, row: Row) -> str:
        """Whoever is known for it, or is in a callback at this instant, or else the test."""
        if row.sender:
            return self._names[row.sender]
        calling = [who for who, since in self._calling.items() if since == row.time]
        return self._names[calling[-1] if calling else "test"]


_SENDS: Final = ("accepts", "replaces", "refuses")
_OF_THE_MAILBOX: Final = {
    *_SENDS,
    *("accepts own", "displaces", "overflows", "dead letter", "key raised"),
}
_ASKS: Final = {"asks": "->>", "sends": "->>", "disconnects": "-x"}
_CALLBACKS: Final = ("init", "info", "notify", "idle", "terminate")


def _escape(text: str) -> str:
    """Text that Mermaid takes for nothing else: its entities begin with a hash."""
    return "".join(_ENTITIES.get(character, character) for character in text)


_ENTITIES: Final = {c: f"#{ord(c)};" for c in "#;%\\<>"}
