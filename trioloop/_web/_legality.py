"""What is legal when: command by kind of handler by state of the response, as one table.

Law of this file: a command is legal when the table has an arrow for it, and only then. The
sentences for what is not legal name the way out.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from .._core._commands import CancelTimer, Continue, Hibernate, Postpone, SendAfter, Stop, Then
from .._core._reasons import CallbackName
from .._wire import ResponseState, ServerSentEvent
from ._commands import Chunk, Reply, StartResponse
from ._websocket_commands import Accept, Close, Ping, Send

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

WEBSOCKET: Final[Table] = {
    WAITING: {
        **_flow(WAITING),
        Reply: DONE,
        Accept: OPEN,
        Send: OPEN,
        Ping: OPEN,
        Close: DONE,
    },
    OPEN: {**_flow(OPEN), Send: OPEN, Ping: OPEN, Close: DONE},
    DONE: {},
}
"""`WebSocketHandler`; it is waiting in ``init`` only, and what is not `Reply` accepts."""

POSTPONING: Final = ("info", "notify")
"""The callbacks that may return `Postpone`: those that have a message to put back."""

COMMANDS: Final = (
    *(Continue, Hibernate, Stop, Then, SendAfter, CancelTimer, Postpone),
    *(Reply, StartResponse, Chunk, ServerSentEvent),
    *(Accept, Send, Close, Ping),
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
        elif type(command) is Continue and command.receive is not None and table is not WEBSOCKET:
            return f"{command!r}: receive is for WebSockets; an HTTP client is always read"
        else:
            state = after
        last = command
    return None


_PLAIN: Final = {
    id(table): {
        state: frozenset(table.get(state, ())) - {Continue, Accept, Then} for state in ResponseState
    }
    for table in (LOOP, EVENT_STREAM, WEBSOCKET)
}


def plain_commands(table: Table, state: ResponseState) -> frozenset[type]:
    """Commands that, alone, are legal in a state whatever they hold and whoever returned them.

    Without `Then`, whose message the machine has to put first before it carries out the rest.
    """
    return _PLAIN[id(table)][state]


_KINDS: Final = {
    id(LOOP): ("a LoopHandler", "Reply(200, body=...)"),
    id(EVENT_STREAM): ("an EventStreamHandler", "ServerSentEvent(...)"),
    id(WEBSOCKET): ("a WebSocketHandler", "Send(...)"),
}
"""By the identity of a table: the kind of handler, and what its data is wrapped in."""


def _explain(table: Table, state: ResponseState, command: Any, last: Any) -> str:
    kind, wrapped = _KINDS[id(table)]
    if not isinstance(command, COMMANDS):
        return _explain_value(command, wrapped)
    name = type(command).__name__
    if state is DONE:
        return f"nothing may follow {type(last).__name__}, which ends the handler"
    match command:
        case Postpone():
            return "only info and notify have a message to postpone"
        case Accept() | Send() | Close() | Ping() if table is not WEBSOCKET:
            return f"{kind} is no WebSocket; derive from WebSocketHandler for {name}"
        case _ if table is WEBSOCKET:
            return _explain_websocket(command)
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


def _explain_websocket(command: Any) -> str:
    name = type(command).__name__
    if isinstance(command, (Accept, Reply)):
        return f"the WebSocket is open; {name} is for init, before any data; use Close or Stop"
    return f"a WebSocketHandler sends Send(...), and refuses with Reply(...), not with {name}"


def _explain_value(value: Any, wrapped: str) -> str:
    way_out = "return None, a command, or a list or tuple of commands"
    if inspect.isasyncgen(value) or inspect.isgenerator(value):
        return f"a callback returns its commands, it does not yield them; {way_out}"
    if isinstance(value, type) and issubclass(value, COMMANDS):
        return f"{value.__name__} is a class; call it: {value.__name__}(...)"
    if isinstance(value, (str, bytes, dict)):
        return f"{value!r} is data, not a command; wrap it, as in {wrapped}"
    return f"{value!r} is not a command; {way_out}"
