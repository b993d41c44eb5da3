"""The requests in which the client of a conversation's session appears: ordinary handlers.

Laws of this file:

* Each is one HTTP request; the conversation behind them never sees it.
* What is told is numbered: ``after`` of a poll and the id of an event say what the client has.
"""

from __future__ import annotations

import base64
from contextlib import aclosing
from typing import Any

from starlette.requests import Request

from .._core._commands import Stop
from .._core._reasons import TerminateReason
from .._wire import ServerSentEvent
from ._commands import Commands, Outcome, Reply
from ._event_stream_handler import EventStreamHandler
from ._loop_handler import LoopHandler
from ._session import Item, News, Session

GONE = Reply(410, "the session has ended")


class _Attached(LoopHandler[Any]):
    session: Session

    def terminate(self, reason: TerminateReason) -> None:
        self.session.leave(self.ref)


class Opening(_Attached):
    """``POST`` without a session: answers with the id of a new one."""

    async def init(self, request: Request) -> Commands:
        self.session.enter()
        await self.session.opened.wait()
        if self.session.refusal is not None:
            return self.session.refusal
        return Reply.json({"session": self.session.key, "next": 0}, 201, _NO_STORE)


class Posting(_Attached):
    """``POST`` with a session: one message of the client."""

    async def init(self, request: Request) -> Commands:
        self.session.enter()
        limit = self.session.handler.max_message_size
        content = bytearray()
        async with aclosing(request.stream()) as pieces:
            async for piece in pieces:
                content += piece
                if len(content) > limit:
                    return Reply(413, f"a message takes {limit} bytes")
        data: str | bytes = bytes(content)
        if request.headers.get("content-type", "").partition(";")[0] != "application/octet-stream":
            try:
                data = content.decode()
            except UnicodeDecodeError:
                return Reply(400, "text is UTF-8; send bytes as application/octet-stream")
        return Reply(204) if await self.session.give(data) else GONE


class Leaving(_Attached):
    """``DELETE``: the client goes."""

    def init(self, request: Request) -> Outcome:
        self.session.enter()
        self.session.end()
        return Reply(204)


class Polling(_Attached):
    """``GET`` with a session: waits for messages.

    Attributes:
        after: the number up to which the client has them.
    """

    after: int

    def init(self, request: Request) -> Outcome:
        self.session.enter()
        if not self.session.knows(self.after):
            return GONE
        self.session.acknowledge(self.after)
        self.session.attach(self.ref)
        return self._answer()

    def info(self, message: Any) -> Outcome:
        return self._answer() if isinstance(message, News) else self.idle()

    def idle(self) -> Commands:
        return self._reply([])

    def _answer(self) -> Commands:
        items = self.session.after(self.after)
        return self._reply(items) if items or self.session.closed else None

    def _reply(self, items: list[Item]) -> Reply:
        closed = self.session.closed
        answer = {
            "messages": [_as_json(item) for item in items],
            "next": items[-1].number if items else self.after,
            "closed": None if closed is None else {"code": closed.code, "reason": closed.reason},
        }
        return Reply.json(answer, 200, _NO_STORE)


class Streaming(EventStreamHandler[Any]):
    """``GET`` that accepts an event stream: the messages as events.

    Attributes:
        session: whose.
        after: the number up to which the client has them.
        is_new: whether the session begins with this request.
    """

    session: Session
    after: int
    is_new: bool

    async def init(self, request: Request) -> Commands:
        self.session.enter()
        await self.session.opened.wait()
        if self.session.refusal is not None:
            return self.session.refusal
        if not self.session.knows(self.after):
            return GONE
        self.session.attach(self.ref)
        hello = ServerSentEvent(self.session.key, event="session", id=self._id(self.after))
        return [hello, *self._news()]

    def info(self, message: Any) -> Outcome:
        return self._news() if isinstance(message, News) else Stop()

    def terminate(self, reason: TerminateReason) -> None:
        self.session.leave(self.ref)

    def _id(self, number: int) -> str:
        return f"{self.session.key}.{number}"

    def _news(self) -> list[ServerSentEvent | Stop]:
        news: list[ServerSentEvent | Stop] = []
        for item in self.session.after(self.after):
            self.after = item.number
            news.append(_as_event(item, self._id(item.number)))
        self.session.wrote(self.after)
        closed = self.session.closed
        if closed is not None:
            news.append(ServerSentEvent.json(closed._asdict(), event="close"))
            news.append(Stop())
        return news


_NO_STORE = {"cache-control": "no-store"}


def _as_json(item: Item) -> dict[str, str]:
    if isinstance(item.data, str):
        return {"text": item.data}
    return {"base64": base64.b64encode(item.data).decode()}


def _as_event(item: Item, event_id: str) -> ServerSentEvent:
    if isinstance(item.data, str):
        return ServerSentEvent(item.data, id=event_id)
    return ServerSentEvent(base64.b64encode(item.data).decode(), event="binary", id=event_id)
