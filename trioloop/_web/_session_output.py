"""Output of a conversation without a WebSocket: what is sent waits in its session.

Law of this file: the commands of a WebSocket mean here what they mean there. What is sent is kept at
once and written by others, so nothing is ever pending.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from .._core._commands import Continue
from .._core._mailbox import Received
from .._core._reasons import CallbackName, Failed, TerminateReason
from .._wire import LIFE, CloseCode, ResponseState, ResponseStep
from ._commands import Reply
from ._endings import ending_for
from ._legality import WEBSOCKET, find_problem, plain_commands
from ._websocket_commands import Accept, Close, Ping, Send
from ._websocket_output import find_fault

if TYPE_CHECKING:
    from ._conversation import Conversation
    from ._session import Session


class SessionOutput:
    """The client's side of a `Conversation` that has a session.

    Args:
        handler: whose output it is.
        session: where it waits.
    """

    __slots__ = ("_handler", "_session", "pending", "plain", "size", "state", "tick_due")

    def __init__(self, handler: Conversation[Any], session: Session) -> None:
        self._handler = handler
        self._session = session
        self.state: ResponseState = ResponseState.WAITING
        self.plain: frozenset[type] = plain_commands(WEBSOCKET, self.state)
        self.pending: int = 0
        self.size: int = 0
        self.tick_due: float = math.inf

    def check(self, callback: CallbackName, commands: Sequence[object]) -> str | None:
        problem = find_problem(WEBSOCKET, self.state, callback, commands)
        if problem is None and self.state is ResponseState.WAITING:
            for command in commands:
                if isinstance(command, Accept):
                    return find_fault(command, ())
        return problem

    def add(self, command: Any) -> bool:
        legal: Reply | Accept | Send | Close | Ping = command  # `check` has let nothing else pass
        match legal:
            case Reply():
                self._step(ResponseStep.REPLY)
                self._session.refusal = legal
                return True
            case Accept():
                self._begin()
            case Send(data):
                self._begin()
                self._session.put(data)
            case Ping():
                self._begin()
            case Close(code, reason):
                self._begin()
                self._step(ResponseStep.END)
                self._session.close(code, reason)
                return True
        return False

    def _begin(self) -> None:
        if self.state is ResponseState.WAITING:
            self._step(ResponseStep.START)

    def _step(self, step: ResponseStep) -> None:
        self.state = LIFE[self.state][step]
        self.plain = plain_commands(WEBSOCKET, self.state)

    def next_data(self) -> Received:
        return Received(self._handler.receive, self._session.take_data())

    def data_done(self) -> None:
        """`Session.give` has waited for room, not for this."""

    def initialised(self) -> bool:
        self._begin()
        self._session.opened.set()
        return False

    def wake_at(self, deadline: float) -> None:
        self._session.wake_at(deadline)

    def tick(self, now: float) -> None:
        self.tick_due = math.inf

    def write(self, now: float) -> Awaitable[object]:
        raise NotImplementedError("nothing is ever pending")

    def reason_for(self, error: Exception) -> TerminateReason:
        return Failed(error)

    def written(self, now: float) -> None:
        raise NotImplementedError("nothing is ever pending")

    def finish_nowait(self, reason: TerminateReason) -> bool:
        return False

    async def finish(self, reason: TerminateReason) -> None:
        ending = ending_for(reason)
        if self.state is ResponseState.WAITING and ending.status is not None:
            self._step(ResponseStep.REPLY)
            self._session.refusal = Reply(ending.status)
        code = ending.close_code
        self._session.close(CloseCode.INTERNAL_ERROR if code is None else code, "")

    def regulate(self, command: Continue) -> None:
        if command.receive is not None:
            self._session.pause(paused=not command.receive)

    def failure(self, error: Exception) -> Callable[[], object] | None:
        return None

    def ended(self) -> None:
        """Nobody waits for it: the session is forgotten when its time is up."""
