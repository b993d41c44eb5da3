"""Outputs: how the commands of one handler become one HTTP response.

Laws of this file:

* The state of the response moves along `LIFE`, and nothing is written that it forbids.
* What is added is kept until it is flushed; one flush is at most one head and one piece of body.
* After a write that failed, nothing more is written.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import trio

from .._core._commands import Continue
from .._core._mailbox import Received
from .._core._reasons import CallbackName, Failed, ShutDown, TerminateReason
from .._wire import LIFE, ResponseState, ResponseStep, ServerSentEvent, encode_event
from ._commands import Chunk, Reply, StartResponse
from ._endings import Ending, Farewell, ending_for
from ._headers import RawHeaders, raw_headers, with_defaults
from ._legality import (
    DONE,
    EVENT_STREAM,
    LOOP,
    OPEN,
    WAITING,
    Table,
    find_problem,
    plain_commands,
)

if TYPE_CHECKING:
    from random import Random

    from ._event_stream_handler import EventStreamHandler
    from ._link import Link
    from ._loop_handler import LoopHandler

EVENT_STREAM_HEADERS: Final = raw_headers(
    {
        "content-type": "text/event-stream",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
    }
)
KEEPALIVE: Final = b":\n\n"
DEFAULT_RETRY: Final = 2000
"""Milliseconds that an event stream's clients are told to wait, give or take, at a shutdown."""


class HTTPOutput:
    """The response of a `LoopHandler`.

    Args:
        handler: whose output it is.
        link: the way to the client.
        random: the source of jitter.
    """

    table: ClassVar[Table] = LOOP

    __slots__ = (
        "_ending",
        "_head",
        "_link",
        "_parts",
        "_random",
        "_start",
        "pending",
        "plain",
        "size",
        "state",
        "tick_due",
    )

    def __init__(self, handler: LoopHandler[Any], link: Link, random: Random) -> None:
        self._link = link
        self._random = random
        self._head: bool = link.scope["method"] == "HEAD"
        self._start: dict[str, Any] | None = None
        self._ending: bool = False  # the next piece of body is the last
        self._parts: list[bytes] = []
        self.state: ResponseState = WAITING
        self.plain: frozenset[type] = plain_commands(self.table, self.state)
        self.pending: int = 0
        self.size: int = 0
        self.tick_due: float = math.inf
        link.send_timeout = handler.send_timeout
        link.receive_timeout = handler.receive_timeout
        link.max_body = handler.max_body

    # -- what the machine asks -------------------------------------------------------------------

    def check(self, callback: CallbackName, commands: Sequence[object]) -> str | None:
        return find_problem(self.table, self.state, callback, commands)

    def regulate(self, command: Continue) -> None:
        if command.receive_timeout is not None:
            self._link.receive_timeout = command.receive_timeout

    def add(self, command: Any) -> bool:
        legal: Reply | StartResponse | Chunk = command  # `check` has let nothing else pass
        match legal:
            case Reply():
                self._reply(legal.status, legal.raw_headers, legal.content)
                return True
            case StartResponse():
                self._open(legal.status, legal.raw_headers)
            case Chunk():
                self._add_data(legal.content)
        return False

    def next_data(self) -> Received:
        raise NotImplementedError("a request's body is read, not received")

    def initialised(self) -> bool:
        return self._head

    def data_done(self) -> None:
        """A request's body is read, not received."""

    def wake_at(self, deadline: float) -> None:
        self._link.wake_at(deadline)

    def tick(self, now: float) -> None:
        self.tick_due = math.inf

    def write(self, now: float) -> Awaitable[object] | None:
        if self._start is not None:
            start, self._start = self._start, None
            whole = self._head or self._ending or self.state is not OPEN
            if not whole and self._link.begin(start, b"".join(self._parts)):
                self._take_parts()
                return None
            return self._link.write(start, now)
        # A head is followed by a body, if an empty one: servers may hold it back until there is one.
        body, more = self._take_parts(), not self._ending
        if more and body and self._link.write_soon(body):
            return None
        message = {"type": "http.response.body", "body": body, "more_body": more}
        return self._link.write(message, now)

    def reason_for(self, error: Exception) -> TerminateReason:
        return self._link.reason_for(error)

    def written(self, now: float) -> None:
        self._link.written()

    def finish_nowait(self, reason: TerminateReason) -> bool:
        if self._link.broken:
            if isinstance(reason, Failed):
                self._cut()
            self._link.finished()
            return True
        ending = ending_for(reason)
        if ending.farewell is Farewell.NONE:
            self._link.finished()
            return True
        if self.state is WAITING:
            self._answer(ending, reason)
        if self._start is None or self.state is not DONE:
            return False  # only what is whole
        body = b"".join(self._parts)
        if not self._link.respond(self._start, b"" if self._head else body):
            return False
        self._start = None
        self._take_parts()
        self._link.finished()
        return True

    async def finish(self, reason: TerminateReason) -> None:
        await self._finish(ending_for(reason), reason)
        self._link.finished()

    def failure(self, error: Exception) -> Callable[[], object] | None:
        return None

    def ended(self) -> None:
        self._link.release()

    # -- the life of the response ----------------------------------------------------------------

    def _step(self, step: ResponseStep) -> None:
        self.state = LIFE[self.state][step]
        self.plain = plain_commands(self.table, self.state)

    def _open(self, status: int, headers: RawHeaders) -> None:
        self._step(ResponseStep.START)
        self._start = {"type": "http.response.start", "status": status, "headers": headers}
        self.pending += 1

    def _reply(self, status: int, headers: RawHeaders, body: bytes) -> None:
        self._step(ResponseStep.REPLY)
        if status not in (204, 304):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        self._start = {"type": "http.response.start", "status": status, "headers": headers}
        self._parts.append(body)
        self.pending += 1

    def _add_data(self, data: bytes) -> None:
        if self.state is not OPEN:  # the step that stays is taken so often
            self._step(ResponseStep.DATA)
        if data:
            self._parts.append(data)
            self.pending += 1
            self.size += len(data)

    def _take_parts(self) -> bytes:
        parts, self._parts = self._parts, []
        self.pending = self.size = 0
        if self._head:
            return b""
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _write_all(self) -> None:
        while self.pending:
            waiting = self.write(trio.current_time())
            if waiting is not None:
                await waiting
            self.written(trio.current_time())

    async def _finish(self, ending: Ending, reason: TerminateReason) -> None:
        if self.state is OPEN and ending.farewell is Farewell.CLEAN:
            self._say_goodbye(reason)
            self._step(ResponseStep.END)
        if self.state is DONE:
            self._ending = True
            self.pending += 1
            await self._write_all()
        else:
            await self._write_all()
            self._cut()

    def _answer(self, ending: Ending, reason: TerminateReason) -> None:
        if ending.status is None:
            return
        headers: RawHeaders = []
        if ending.retry_after:
            headers.append((b"retry-after", b"%d" % self._random.randint(1, 3)))
        self._reply(ending.status, headers, b"")

    def _say_goodbye(self, reason: TerminateReason) -> None:
        """Add what an open response shall end with."""

    def _cut(self) -> None:
        if self.state in (WAITING, OPEN):
            self._step(ResponseStep.CUT)
        self._link.cut()


class EventStreamOutput(HTTPOutput):
    """The response of an `EventStreamHandler`."""

    table = EVENT_STREAM

    __slots__ = ("_first", "_handler", "_unencodable")

    def __init__(self, handler: EventStreamHandler[Any], link: Link, random: Random) -> None:
        super().__init__(handler, link, random)
        self._handler = handler
        self._first: ServerSentEvent | None = None  # ... of those that are not written yet
        self._unencodable: ServerSentEvent | None = None

    def add(self, command: Any) -> bool:
        if type(command) is not ServerSentEvent:
            return super().add(command)
        if self._start is None and self.state is WAITING:
            self._open_stream(200, [])
        try:
            data = encode_event(command)
        except (TypeError, ValueError):
            self._unencodable = command
            raise
        if self.state is OPEN:
            self._parts.append(data)
            self.pending += 1
            self.size += len(data)
        else:
            self._add_data(data)
        if self._first is None:
            self._first = command
        return False

    def _open(self, status: int, headers: RawHeaders) -> None:
        self._open_stream(status, headers)

    def _open_stream(self, status: int, headers: RawHeaders) -> None:
        super()._open(status, with_defaults(headers, EVENT_STREAM_HEADERS))
        if self._handler.retry is not None:
            self._add_data(encode_event(ServerSentEvent(retry=self._handler.retry)))

    def initialised(self) -> bool:
        if self.state is WAITING:
            self._open_stream(200, [])
        return self._head

    def tick(self, now: float) -> None:
        if now >= self.tick_due:
            self._add_data(KEEPALIVE)

    def written(self, now: float) -> None:
        self._link.written()
        if not (self._link.broken or self.pending):
            self._first = None
        self.tick_due = now + self._handler.keepalive  # a slow write is no silence

    def failure(self, error: Exception) -> Callable[[], object] | None:
        event = self._unencodable or self._first
        return None if event is None else partial(self._handler.error, event, error)

    def _answer(self, ending: Ending, reason: TerminateReason) -> None:
        if not isinstance(reason, ShutDown):
            super()._answer(ending, reason)
            return
        self._open_stream(200, [])  # a 503 would make browsers give up
        self._say_goodbye(reason)
        self._step(ResponseStep.END)

    def _say_goodbye(self, reason: TerminateReason) -> None:
        if isinstance(reason, ShutDown):
            base = self._handler.retry if self._handler.retry is not None else DEFAULT_RETRY
            self._add_data(
                encode_event(ServerSentEvent(retry=self._random.randint(base, 3 * base)))
            )
