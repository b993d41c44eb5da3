"""The tables of the reference say what the code does: they are compared with it, cell by cell."""

import re
from pathlib import Path
from typing import get_args

import pytest

from trioloop import (
    Accept,
    CancelTimer,
    Chunk,
    Close,
    Completed,
    Continue,
    Conversation,
    Crashed,
    Disconnected,
    EventStreamHandler,
    Failed,
    Hibernate,
    LoopHandler,
    MessageTooLarge,
    Overflowed,
    Ping,
    Postpone,
    ProtocolViolation,
    Reply,
    Send,
    SendAfter,
    ServerSentEvent,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
    TerminateReason,
    Then,
    TimedOut,
    WebSocketHandler,
)
from trioloop._web._endings import Farewell, ending_for
from trioloop._web._legality import (
    COMMANDS,
    DONE,
    EVENT_STREAM,
    LOOP,
    OPEN,
    WAITING,
    WEBSOCKET,
    find_problem,
)
from trioloop._web._options import _CHECKS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def table_below(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, without its head."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    section = text.split(f"## {heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines is not None
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[0].splitlines()]
    assert set(rows[1]) == {"---"}
    return rows[2:]


# ── What is legal when ───────────────────────────────────────────────────────────────────────────

EXAMPLES = [
    Continue(),
    Hibernate(),
    Stop(),
    Then("again"),
    SendAfter(1, "later"),
    CancelTimer("key"),
    Postpone(),
    Reply(),
    StartResponse(),
    Chunk("x"),
    ServerSentEvent("x"),
    Accept(),
    Send("x"),
    Close(),
    Ping(),
]
COLUMNS = [
    (LOOP, WAITING, ("init", "info", "notify", "idle")),
    (LOOP, OPEN, ("init", "info", "notify", "idle")),
    (EVENT_STREAM, WAITING, ("init",)),
    (EVENT_STREAM, OPEN, ("init", "info", "notify", "idle")),
    (WEBSOCKET, WAITING, ("init",)),
    (WEBSOCKET, OPEN, ("init", "info", "notify", "idle", "receive")),
]


def cell_of(command, table, state, callbacks) -> str:
    """What the code says about one command in one column."""
    legal = [each for each in callbacks if find_problem(table, state, each, [command]) is None]
    if not legal:
        return "–"
    if legal != list(callbacks):
        return "in " + ", ".join(f"`{each}`" for each in legal)
    after = table[state][type(command)]
    if after is DONE:
        return "ends the handler"
    if after is state:
        return "yes"
    return "accepts" if table is WEBSOCKET else "starts the response"


def test_the_table_of_commands_has_a_row_for_each():
    rows = table_below("commands.md", "What is legal when")
    assert [row[0] for row in rows] == [f"`{command.__name__}`" for command in COMMANDS]


@pytest.mark.parametrize("command", EXAMPLES, ids=lambda command: type(command).__name__)
def test_the_table_of_commands_says_what_the_code_does(command):
    rows = {row[0]: row[1:] for row in table_below("commands.md", "What is legal when")}
    assert rows[f"`{type(command).__name__}`"] == [cell_of(command, *column) for column in COLUMNS]


# ── What the client sees ─────────────────────────────────────────────────────────────────────────

REASONS = {
    "`Completed()`": Completed(),
    "`Stopped()`": Stopped(),
    '`TimedOut("mailbox")`': TimedOut("mailbox"),
    '`TimedOut("client")`': TimedOut("client"),
    "`Crashed(error, callback)`": Crashed(ValueError(), "info"),
    '`Overflowed("mailbox", limit)`': Overflowed("mailbox", 1000),
    '`Overflowed("body", limit)`': Overflowed("body", 1000),
    '`Overflowed("rate", limit)`': Overflowed("rate", 10),
    "`Disconnected()`": Disconnected(),
    "`Failed(error)`": Failed(OSError()),
    "`Failed(MessageTooLarge(...))`": Failed(MessageTooLarge(1)),
    "`Failed(ProtocolViolation(...))`": Failed(ProtocolViolation(1002)),
    "`ShutDown()`": ShutDown(),
}
ENDINGS = {Farewell.CLEAN: "clean end", Farewell.CUT: "cut", Farewell.NONE: "–"}


def columns_of(reason) -> list[str]:
    """What the code says about one reason: not started, started, and for an open WebSocket."""
    ending = ending_for(reason)
    started = ENDINGS[ending.farewell]
    closed = started if ending.close_code is None else f"close {ending.close_code}"
    if ending.status is None:
        return [started, started, closed]
    status = f"{ending.status} with `Retry-After`" if ending.retry_after else f"{ending.status}"
    return [status, started, closed]


def test_the_table_of_reasons_has_a_row_for_each():
    assert [row[0] for row in table_below("reasons.md", "What the client sees")] == [*REASONS]
    assert {type(reason) for reason in REASONS.values()} == set(get_args(TerminateReason))


@pytest.mark.parametrize("name", REASONS)
def test_the_table_of_reasons_says_what_the_code_does(name):
    rows = {row[0]: row[2:] for row in table_below("reasons.md", "What the client sees")}
    assert rows[name] == columns_of(REASONS[name])


# ── Options ──────────────────────────────────────────────────────────────────────────────────────


def default_of(kind: type, option: str) -> str:
    """A default as the table writes it."""
    if not hasattr(kind, option):
        return "–"
    value = getattr(kind, option)
    text = {"inf": "math.inf", str(2**20): "2**20"}.get(str(value), repr(value))
    return "`{}`".format(text.replace("'", '"'))


def test_the_table_of_options_has_the_defaults():
    rows = {row[0]: row[1:5] for row in table_below("handlers.md", "Options")}
    kinds = (LoopHandler, EventStreamHandler, WebSocketHandler, Conversation)
    assert rows == {
        f"`{option}`": [default_of(kind, option) for kind in kinds] for option in _CHECKS
    }
