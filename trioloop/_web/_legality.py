"""What is legal when: command by kind of handler by state of the response, as one table.

Law of this file: a command is legal when the table has an arrow for it, and only then. The
sentences for what is not legal name the way out.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from .._core._commands import CancelTimer, Continue, Hibernate, Postpone, SendAfter, Stop, Then
from .._core._reasons import CallbackName
from .._wire import ResponseState, ServerSentEvent
from ._commands import Chunk, Reply, StartResponse

Arrows: TypeAlias = Mapping[type, ResponseState]
Table: TypeAlias = Mapping[ResponseState, Arrows]

WAITING, OPEN, DONE = ResponseState.WAITING, ResponseState.OPEN, ResponseState.DONE


def _flow(state: ResponseState) -> dict[type, ResponseState]:
    stay = (Continue, Hibernate, Then, SendAfter, CancelTimer)
    return {**dict.fromkeys(stay, state), Stop: DONE}


LOOP: Final[Table] = {
    WAITING: {**_flow(WAITING), Reply: DONE, StartResponse: OPEN},
    OPEN: {**_flow(OPEN), Chunk: OPEN},
    DONE: {},
}
"""`LoopHandler`."""

EVENT_STREAM: Final[Table] = {
    WAITING: {**_flow(WAITING), Reply: DONE, StartResponse: OPEN, ServerSentEvent: OPEN},
    OPEN: {**_flow(OPEN), ServerSentEvent: OPEN},
    DONE: {},
}
"""`EventStreamHandler`; it is waiting in ``init`` only."""

POSTPONING: Final = ("info", "notify")
"""The callbacks that may return `Postpone`: those that have a message to put back."""

COMMANDS: Final = (
    *(Continue, Hibernate, Stop, Then, SendAfter, CancelTimer, Postpone),
    *(Reply, StartResponse, Chunk, ServerSentEvent),
)


def find_problem(
    table: Table,
    state: ResponseState,
    callback: CallbackName,
    commands: Sequence[object],
) -> str | None:
    """Follow the arrows without doing anything.

    Returns:
        `None` when all is legal, else a sentence that says what is not, and the way out.
    """
    last: Any = None
    for command in commands:
        after = table[state].get(type(command))
        if after is None:
            if type(command) is not Postpone or state is DONE or callback not in POSTPONING:
                return _explain(table, state, command, last)
            if sum(type(one) is Postpone for one in commands) > 1:
                return "Postpone() twice; a message can be put back once"
        elif type(command) is Continue and command.receive is not None:
            return f"{command!r}: receive is for WebSockets; an HTTP client is always read"
        else:
            state = after
        last = command
    return None


@functools.cache
def _plain_commands(streaming: bool, state: ResponseState) -> frozenset[type]:  # noqa: FBT001 - a key
    table = EVENT_STREAM if streaming else LOOP
    return frozenset(table.get(state, {})) - {Continue}


def plain_commands(table: Table, state: ResponseState) -> frozenset[type]:
    """Commands that, alone, are legal in a state whatever they hold and whoever returned them."""
    return _plain_commands(table is EVENT_STREAM, state)


def _explain(table: Table, state: ResponseState, command: Any, last: Any) -> str:
    kind = "an EventStreamHandler" if table is EVENT_STREAM else "a LoopHandler"
    if not isinstance(command, COMMANDS):
        return _explain_value(command, table)
    name = type(command).__name__
    if state is DONE:
        return f"nothing may follow {type(last).__name__}, which ends the handler"
    match command:
        case Postpone():
            return "only info and notify have a message to postpone"
        case ServerSentEvent():
            return f"{kind} sends no events; derive from EventStreamHandler"
        case Chunk() if table is EVENT_STREAM:
            return f"{kind} sends ServerSentEvent(...), not chunks"
        case Chunk():
            return "the response has not started; return StartResponse(...) first"
        case _ if table is EVENT_STREAM:
            return f"the event stream has started; {name} is for init, before any event"
        case _:
            return f"the response has started already, so {name} comes too late; use Chunk or Stop"


def _explain_value(value: Any, table: Table) -> str:
    way_out = "return None, a command, or a list or tuple of commands"
    if inspect.isasyncgen(value) or inspect.isgenerator(value):
        return f"a callback returns its commands, it does not yield them; {way_out}"
    if isinstance(value, type) and issubclass(value, COMMANDS):
        return f"{value.__name__} is a class; call it: {value.__name__}(...)"
    if isinstance(value, (str, bytes, dict)):
        wrapped = "ServerSentEvent(...)" if table is EVENT_STREAM else "Reply(200, body=...)"
        return f"{value!r} is data, not a command; wrap it, as in {wrapped}"
    return f"{value!r} is not a command; {way_out}"
