"""trioloop: long polling, server-sent events and WebSockets as small state machines on Trio.

A handler waits on its mailbox until it has something to say. Messages go in, commands come out.
"""

from __future__ import annotations

import inspect
import typing

from ._core._commands import CancelTimer as CancelTimer
from ._core._commands import Continue as Continue
from ._core._commands import Hibernate as Hibernate
from ._core._commands import Postpone as Postpone
from ._core._commands import SendAfter as SendAfter
from ._core._commands import Stop as Stop
from ._core._commands import Then as Then
from ._core._errors import BadReturn as BadReturn
from ._core._errors import HandlerEnded as HandlerEnded
from ._core._errors import HubNotRunning as HubNotRunning
from ._core._errors import MessageTooLarge as MessageTooLarge
from ._core._errors import NameTaken as NameTaken
from ._core._errors import ProtocolViolation as ProtocolViolation
from ._core._errors import ReceiveTimedOut as ReceiveTimedOut
from ._core._errors import ResponseAborted as ResponseAborted
from ._core._errors import SendTimedOut as SendTimedOut
from ._core._hub import DeadLetterCause as DeadLetterCause
from ._core._hub import HubStatistics as HubStatistics
from ._core._instrument import CallbackDone as CallbackDone
from ._core._instrument import CommandReturned as CommandReturned
from ._core._instrument import DeadLetter as DeadLetter
from ._core._instrument import HandlerStarted as HandlerStarted
from ._core._instrument import HandlerTerminated as HandlerTerminated
from ._core._instrument import Instrument as Instrument
from ._core._mailbox import KeepLatest as KeepLatest
from ._core._mailbox import Overflow as Overflow
from ._core._mailbox import OverflowPolicy as OverflowPolicy
from ._core._reasons import Completed as Completed
from ._core._reasons import Crashed as Crashed
from ._core._reasons import Disconnected as Disconnected
from ._core._reasons import Failed as Failed
from ._core._reasons import Overflowed as Overflowed
from ._core._reasons import ShutDown as ShutDown
from ._core._reasons import Stopped as Stopped
from ._core._reasons import TerminateReason as TerminateReason
from ._core._reasons import TimedOut as TimedOut
from ._core._ref import Call as Call
from ._core._ref import Down as Down
from ._core._ref import HandlerRef as HandlerRef
from ._core._ref import HandlerStatistics as HandlerStatistics
from ._core._registry import Joined as Joined
from ._core._registry import Left as Left
from ._core._registry import Member as Member
from ._web._app import App as App
from ._web._commands import Chunk as Chunk
from ._web._commands import Command as Command
from ._web._commands import Commands as Commands
from ._web._commands import Outcome as Outcome
from ._web._commands import Reply as Reply
from ._web._commands import StartResponse as StartResponse
from ._web._conversation import Conversation as Conversation
from ._web._event_stream_handler import EventStreamHandler as EventStreamHandler
from ._web._hub import Hub as Hub
from ._web._limits import Limits as Limits
from ._web._loop_handler import LoopHandler as LoopHandler
from ._web._routes import HandlerRoute as HandlerRoute
from ._web._session import OutboxFull as OutboxFull
from ._web._websocket_commands import Accept as Accept
from ._web._websocket_commands import Close as Close
from ._web._websocket_commands import Ping as Ping
from ._web._websocket_commands import Send as Send
from ._web._websocket_handler import WebSocketHandler as WebSocketHandler
from ._wire import EventStreamDecoder as EventStreamDecoder
from ._wire import EventTooLarge as EventTooLarge
from ._wire import Rate as Rate
from ._wire import ServerSentEvent as ServerSentEvent
from ._wire import encode_event as encode_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._serve import serve as serve

__version__ = "0.1.0"

__all__ = [
    "Accept",
    "App",
    "BadReturn",
    "Call",
    "CallbackDone",
    "CancelTimer",
    "Chunk",
    "Close",
    "Command",
    "CommandReturned",
    "Commands",
    "Completed",
    "Continue",
    "Conversation",
    "Crashed",
    "DeadLetter",
    "DeadLetterCause",
    "Disconnected",
    "Down",
    "EventStreamDecoder",
    "EventStreamHandler",
    "EventTooLarge",
    "Failed",
    "HandlerEnded",
    "HandlerRef",
    "HandlerRoute",
    "HandlerStarted",
    "HandlerStatistics",
    "HandlerTerminated",
    "Hibernate",
    "Hub",
    "HubNotRunning",
    "HubStatistics",
    "Instrument",
    "Joined",
    "KeepLatest",
    "Left",
    "Limits",
    "LoopHandler",
    "Member",
    "MessageTooLarge",
    "NameTaken",
    "OutboxFull",
    "Outcome",
    "Overflow",
    "OverflowPolicy",
    "Overflowed",
    "Ping",
    "Postpone",
    "ProtocolViolation",
    "Rate",
    "ReceiveTimedOut",
    "Reply",
    "ResponseAborted",
    "Send",
    "SendAfter",
    "SendTimedOut",
    "ServerSentEvent",
    "ShutDown",
    "StartResponse",
    "Stop",
    "Stopped",
    "TerminateReason",
    "Then",
    "TimedOut",
    "WebSocketHandler",
    "encode_event",
    "serve",
]


def __getattr__(name: str) -> object:
    # Handlers and their tests need no server: it is imported when it is asked for.
    if name == "serve":
        from ._serve import serve

        serve.__module__ = __name__
        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "serve"})


def _show_public_names(facade: dict[str, typing.Any], names: list[str]) -> None:
    """Let tracebacks and reprs say ``trioloop.Crashed``, not where the class is written.

    `typing.get_type_hints` evaluates annotations in the module that their class names as its own.
    So they are evaluated before that is the facade, where some of their names are not known.
    """
    home = facade["__name__"]
    for name in names:
        value: typing.Any = facade.get(name)
        if not getattr(value, "__module__", "").startswith(f"{home}."):
            continue
        if inspect.isclass(value):
            value.__annotations__ = inspect.get_annotations(value, locals=facade, eval_str=True)
        value.__module__ = home


_show_public_names(globals(), __all__)
