"""Output of WebSockets: how the commands of one handler become a handshake, messages and a close.

Laws of this file:

* The state moves along `LIFE`: refused is replied, accepted is started, closed is ended.
* One command is one ASGI message; they are written in the order in which they were returned.
* After a write that failed, nothing more is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from .._core._commands import Continue
from .._core._mailbox import Received
from .._core._reasons import CallbackName, Failed, TerminateReason
from .._wire import LIFE, ResponseState, ResponseStep
from ._commands import Reply
from ._endings import Ending, Farewell, ending_for
from ._headers import RawHeaders, raw_headers
from ._legality import DONE, OPEN, WAITING, WEBSOCKET, find_problem, plain_commands
from ._websocket_commands import Accept, Close, Ping, Send
from ._websocket_handler import WebSocketHandler, sets_receive_timeout

if TYPE_CHECKING:
    from random import Random

    from ._websocket_link import WebSocketLink

PINGS: Final = 3
"""How often a silent client is pinged within ``receive_timeout``."""
MIN_PING_INTERVAL: Final = 0.1
"""Seconds between two of these pings: while reading is paused, the shortest timeout ends nothing."""

REFUSAL: Final = "websocket.http.response"
"""The ASGI extension by which a handshake is answered with something else than 403."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2


class WebSocketOutput:
    """The client's side of a `WebSocketHandler`.

    Args:
        handler: whose output it is.
        link: the way to the client.
        random: the source of jitter.
    """

    __slots__ = (
        "_begun",
        "_handler",
        "_link",
        "_messages",
        "_random",
        "pending",
        "plain",
        "size",
        "state",
        "tick_due",
    )

    def __init__(self, handler: WebSocketHandler[Any], link: WebSocketLink, random: Random) -> None:
        self._handler = handler
        self._link = link
        self._random = random
        self._messages: list[dict[str, Any]] = []  # a deque takes 600 bytes, even when empty
        self._begun = 0  # of them
        self.state: ResponseState = WAITING
        self.plain: frozenset[type] = plain_commands(WEBSOCKET, self.state)
        self.pending: int = 0
        self.size: int = 0
        self.tick_due: float = math.inf
        link.send_timeout = handler.send_timeout
        link.receive_timeout = handler.receive_timeout
        link.max_message_size = handler.max_message_size
        if handler.max_rate is not None:
            link.limit_rate(handler.max_rate)
        link.watches_silence = link.speaks_ping or sets_receive_timeout(handler)

    # -- what the machine asks -------------------------------------------------------------------

    def check(self, callback: CallbackName, commands: Sequence[object]) -> str | None:
        problem = find_problem(WEBSOCKET, self.state, callback, commands)
        if problem is None and self.state is WAITING:
            for command in commands:
                if isinstance(command, Accept):
                    return find_fault(command, self._link.scope.get("subprotocols") or ())
        return problem

    def add(self, command: Any) -> bool:
        legal: Reply | Accept | Send | Close | Ping = command  # `check` has let nothing else pass
        match legal:
            case Send(data):
                self._begin()
                self._add_data(data)
            case Reply():
                self._refuse(legal.status, legal.raw_headers, legal.content)
                return True
            case Accept():
                self._accept(legal.subprotocol, raw_headers(legal.headers))
            case Ping(data):
                self._begin()
                self._ping(data)
            case Close(code, reason):
                self._begin()
                self._close(code, reason)
                return True
        return False

    def next_data(self) -> Received:
        return Received(self._handler.receive, self._link.take_data())

    def data_done(self) -> None:
        self._link.read_on()

    def initialised(self) -> bool:
        self._begin()
        return False

    def wake_at(self, deadline: float) -> None:
        self._link.wake_at(deadline)

    def tick(self, now: float) -> None:
        if self.state is OPEN:
            self._ping(b"")
        self._schedule_ping(now)

    def write(self, now: float) -> Awaitable[object] | None:
        message = self._messages[self._begun]
        self._begun += 1
        if message["type"] == "websocket.send" and self._link.send_soon(message):
            return None
        return self._link.write(message, now)

    def reason_for(self, error: Exception) -> TerminateReason:
        return self._link.reason_for(error)

    def written(self, now: float) -> None:
        self._link.written()
        self.pending = len(self._messages) - self._begun
        if not self.pending:
            self._messages.clear()
            self._begun = self.size = 0

    def finish_nowait(self, reason: TerminateReason) -> bool:
        return False

    async def finish(self, reason: TerminateReason) -> None:
        if self._link.gone:
            pass
        elif not self._link.broken:
            await self._finish(ending_for(reason))
        elif isinstance(reason, Failed):
            self._link.cut()
        self._link.finished()

    def regulate(self, command: Continue) -> None:
        self._link.regulate(receive=command.receive, receive_timeout=command.receive_timeout)
        self._schedule_ping(trio.current_time())

    def failure(self, error: Exception) -> Callable[[], object] | None:
        return None

    def ended(self) -> None:
        self._link.release()

    # -- the life of the WebSocket ---------------------------------------------------------------

    def _step(self, step: ResponseStep) -> None:
        self.state = LIFE[self.state][step]
        self.plain = plain_commands(WEBSOCKET, self.state)

    def _put(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        self.pending += 1

    def _begin(self) -> None:
        """Accept, unless that was done."""
        if self.state is WAITING:
            self._accept(None, [])

    def _accept(self, subprotocol: str | None, headers: RawHeaders) -> None:
        self._step(ResponseStep.START)
        message: dict[str, Any] = {
            "type": "websocket.accept",
            "subprotocol": subprotocol,
            "headers": headers,
        }
        if self._link.speaks_ping:
            message["max_message_size"] = self._handler.max_message_size
            if self._handler.compress is not None:
                message["deflate"] = self._handler.compress
        self._put(message)
        self._schedule_ping(trio.current_time())

    def _add_data(self, data: str | bytes) -> None:
        kind = "text" if isinstance(data, str) else "bytes"
        self._put({"type": "websocket.send", kind: data})
        self.size += len(data)

    def _ping(self, data: bytes) -> None:
        if self._link.speaks_ping:
            self._put({"type": "websocket.ping", "bytes": data})

    def _schedule_ping(self, now: float) -> None:
        if self._link.speaks_ping:
            self.tick_due = now + max(self._link.receive_timeout / PINGS, MIN_PING_INTERVAL)

    def _close(self, code: int, reason: str) -> None:
        self._step(ResponseStep.END)
        self._put({"type": "websocket.close", "code": int(code), "reason": reason})

    def _refuse(self, status: int, headers: RawHeaders, body: bytes) -> None:
        self._step(ResponseStep.REPLY)
        if REFUSAL not in (self._link.scope.get("extensions") or {}):
            self._put({"type": "websocket.close", "code": 1000, "reason": ""})  # becomes 403
            return
        if status not in (204, 304):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        self._put({"type": f"{REFUSAL}.start", "status": status, "headers": headers})
        self._put({"type": f"{REFUSAL}.body", "body": body, "more_body": False})

    async def _finish(self, ending: Ending) -> None:
        if ending.farewell is Farewell.NONE:
            return
        if self.state is WAITING:
            self._answer(ending)
        elif self.state is OPEN and ending.close_code is not None:
            self._close(ending.close_code, "")
        while self.pending:
            waiting = self.write(trio.current_time())
            if waiting is not None:
                await waiting
            self.written(trio.current_time())
        if self.state is not DONE:
            self._step(ResponseStep.CUT)
            self._link.cut()

    def _answer(self, ending: Ending) -> None:
        if ending.status is not None:
            headers: RawHeaders = []
            if ending.retry_after:
                headers.append((b"retry-after", b"%d" % self._random.randint(1, 3)))
            self._refuse(ending.status, headers, b"")


def find_fault(accept: Accept, offered: Sequence[str]) -> str | None:
    """Say what of an `Accept` a server could not send, or `None`.

    Args:
        accept: what the handler has returned.
        offered: the subprotocols that the client has offered.
    """
    chosen = accept.subprotocol
    if chosen is not None:
        if chosen not in offered:
            return f"the subprotocol {chosen!r} was not offered; the client has {list(offered)!r}"
        if not _TOKEN.fullmatch(chosen):
            return f"{chosen!r} is no name of a subprotocol (RFC 6455, section 4.1)"
    try:
        names = [name for name, _ in raw_headers(accept.headers)]
    except (TypeError, ValueError) as error:
        return str(error)
    for name in names:
        if name.startswith(b"sec-websocket-") or name == b"upgrade":
            return f"the header {name.decode()!r} is the handshake's; leave it to the server"
    return None
