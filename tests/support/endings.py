"""Every way to end × every phase × both transports: a short directed script for each cell.

``python tests/support/endings.py`` plays all of them and prints the matrix (``nox -s matrix``).

Laws of this file:

* A script is an async function of a `Face`, and the same one serves the synchronous `Simulation`
  and the asynchronous `FakeClient`.
* The phase is where the handler is, as the kit sees it from outside, when what ends it happens;
  every script makes sure of that before it goes on.
* A cell without a script says why there can be none.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import trio

from trioloop import (
    App,
    Chunk,
    Completed,
    Crashed,
    Disconnected,
    EventStreamHandler,
    Failed,
    LoopHandler,
    Overflowed,
    Reply,
    SendTimedOut,
    ServerSentEvent,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
    TimedOut,
)
from trioloop.testing import Simulation

INIT, WAITING, CALLBACK, SENDING, TERMINATING = PHASES = (
    "before the start",
    "waiting",
    "in a callback",
    "sending",
    "terminating",
)

# -- the handlers ---------------------------------------------------------------------------------

Act: TypeAlias = Callable[[Any], Any]
"""What a callback does: a function of the handler. Messages are acts."""


class _Obedient:
    """Does what it is told."""

    methods = None
    idle_timeout = 4.0
    receive_timeout = 2.0
    send_timeout = 8.0
    mailbox_size = 2
    max_body = 20
    begin: Any = None
    say: Any = None

    def __init__(self, init: Act | None) -> None:
        self.first = init
        self.last: Act | None = None  # of `terminate`
        self.heard: list[Any] = []

    def init(self, request: Any) -> Any:
        return type(self).begin if self.first is None else self.first(self)

    def info(self, act: Act) -> Any:
        return act(self)

    def terminate(self, reason: Any) -> Any:
        self.heard.append(reason)
        return None if self.last is None else self.last(self)


class Poll(_Obedient, LoopHandler[Any]):
    """A long poll, which has not answered yet while it waits."""

    say = Chunk("x" * 100)


class Stream(_Obedient, EventStreamHandler[Any]):
    """An event stream."""

    begin = ServerSentEvent("begin")
    say = ServerSentEvent("x" * 100)


TRANSPORTS: Final = {"long poll": Poll, "event stream": Stream}


def nothing(handler: Any) -> None:
    """No command."""


def returns(*commands: Any) -> Act:
    return lambda handler: list(commands)


def crash(handler: Any) -> None:
    raise ArithmeticError("planted")


def send_the_unsendable(handler: Any) -> ServerSentEvent:
    return ServerSentEvent("x", event="two\nlines")


async def read_body(handler: Any) -> None:
    await handler.request.body()


def slowly(act: Act) -> Act:
    """The same in an ``async def`` callback, a second later."""

    async def callback(handler: Any) -> Any:
        await trio.sleep(1)
        outcome = act(handler)
        return await outcome if inspect.isawaitable(outcome) else outcome

    return callback


def start_child(handler: Any) -> None:
    async def child() -> None:
        await trio.sleep(1)
        crash(handler)

    handler.nursery.start_soon(child)


# -- both faces as one ----------------------------------------------------------------------------


async def awaited(result: Any) -> Any:
    """What a verb gives: at once in a simulation, later in an async test."""
    return await result if inspect.isawaitable(result) else result


class Face:
    """One client of one handler.

    Args:
        client: a `Simulation` or a `FakeClient` of ``app``.
        app: made by `make_app`.
        kind: the handler's class.
    """

    def __init__(self, client: Any, app: Any, kind: type) -> None:
        self.client = client
        self.kind = kind
        self.started = False  # the client has seen the head before the end began
        self._app = app

    async def open(self, init: Act | None = None, method: str = "POST") -> None:
        """The client asks, and may send a body later."""
        self.handler = self._app.handler = self.kind(init)
        body = None if method == "POST" else b""
        self.exchange = await awaited(self.client.request(method, "/", body=body))

    async def tell(self, *acts: Act) -> None:
        """Messages reach the handler at once."""
        ref = self.client.ref(self.exchange)
        for act in acts:
            getattr(ref, "ref", ref).send_nowait(act)
        await awaited(self.client.settle())

    async def stop(self) -> None:
        """An operator stops the handler."""
        self.client.ref(self.exchange).stop()
        await awaited(self.client.settle())

    async def advance(self, seconds: float) -> None:
        await awaited(self.client.advance(seconds))

    async def shut_down(self) -> None:
        await awaited(self.client.shut_down(3))

    async def client_does(self, verb: str, *args: Any) -> None:
        await awaited(getattr(self.exchange, verb)(*args))

    async def reach(self, phase: str, act: Act = nothing) -> None:
        """Bring the handler into a phase, in which the callback that runs will do this."""
        if phase == INIT:
            await self.open(slowly(act))
        else:
            await self.open()
        if phase == CALLBACK:
            await self.tell(slowly(act))
        elif phase == SENDING:
            if self.kind is Poll:
                await self.tell(returns(StartResponse(), Chunk("begin")))
            await self.client_does("stall")
            more = act(self.handler) or []
            await self.tell(lambda handler: [handler.say, *more])
        elif phase == TERMINATING:
            self.handler.last = slowly(act)
            await self.tell(returns(Stop()))
        self.must_be(phase)

    def must_be(self, phase: str) -> None:
        assert self.exchange.phase == phase, f"{self.exchange.phase}, not {phase}"
        assert self.exchange.reason is None
        self.started = self.exchange.status is not None

    async def go_on(self, phase: str, act: Act = nothing) -> None:
        """Let the callback return, the write go through, or a message come that does this."""
        if phase == WAITING:
            await self.tell(act)
        elif phase == SENDING:
            await self.client_does("resume")
        else:
            await self.advance(1)


class Application(App):
    """Serves one handler, which is made beforehand."""

    handler: Any

    def __init__(self) -> None:
        super().__init__()
        self.route("/", lambda: self.handler)


# -- scripts --------------------------------------------------------------------------------------

Script: TypeAlias = Callable[[Face], Awaitable[None]]
Event: TypeAlias = Callable[[Face], Awaitable[None]]


def callback(phase: str, act: Act) -> Script:
    """A callback ends it: by what it returns or raises."""

    async def script(face: Face) -> None:
        await face.reach(phase, act)
        await face.go_on(phase, act)

    return script


def event(phase: str, happen: Event, *, then: bool = True) -> Script:
    """Something from outside ends it; ``then`` what was under way goes on."""

    async def script(face: Face) -> None:
        await face.reach(phase)
        await happen(face)
        if then and phase != WAITING:
            await face.go_on(phase)

    return script


async def overfill(face: Face) -> None:
    await face.tell(nothing, nothing, nothing)


async def send_too_much(face: Face) -> None:
    await face.client_does("send", "x" * 21)


async def stop(face: Face) -> None:
    await face.stop()


async def shut_down(face: Face) -> None:
    await face.shut_down()


def leave(how: str) -> Event:
    return lambda face: face.client_does("disconnect", how)


async def reply_to_a_stalled_reader(face: Face) -> None:
    await face.open(slowly(returns(Reply(200, "text"))))
    await face.client_does("stall")
    await face.advance(1)
    face.must_be(SENDING)
    await face.client_does("resume")


async def head(face: Face) -> None:
    await face.open(slowly(nothing), "HEAD")
    face.must_be(INIT)
    await face.advance(1)


async def stay_idle(face: Face) -> None:
    await face.reach(WAITING)
    await face.advance(4)


async def stay_idle_slowly(face: Face) -> None:
    await face.open()
    face.handler.idle = partial(slowly(returns(Stop(TimedOut()))), face.handler)
    await face.advance(4)
    face.must_be(CALLBACK)
    await face.advance(1)


async def stay_idle_while_sending(face: Face) -> None:
    await face.reach(SENDING)
    await face.advance(5)
    face.must_be(SENDING)
    await face.client_does("resume")


def let_child_crash(phase: str) -> Script:
    async def script(face: Face) -> None:
        await face.reach(phase, start_child) if phase == INIT else await face.open()
        await face.go_on(INIT) if phase == INIT else await face.tell(start_child)
        if phase in (CALLBACK, SENDING):
            face.exchange = face.exchange
        await face.advance(1)

    return script


async def child_crashes_while_waiting(face: Face) -> None:
    await face.open()
    await face.tell(start_child)
    face.must_be(WAITING)
    await face.advance(1)


async def child_crashes_while_sending(face: Face) -> None:
    await face.reach(SENDING, start_child)
    await face.advance(1)
    face.must_be(SENDING)
    await face.client_does("resume")


def stay_silent(phase: str) -> Script:
    """The client is silent while the body is read."""

    async def script(face: Face) -> None:
        await face.reach(phase, read_body)
        await face.advance(1)
        face.must_be(phase)
        await face.advance(2)

    return script


async def read_nothing(face: Face) -> None:
    await face.reach(SENDING)
    await face.advance(8)


async def vanish(face: Face) -> None:
    await face.open()
    if face.kind is Poll:
        await face.tell(returns(StartResponse(), Chunk("begin")))
    await face.client_does("disconnect", "vanish")
    await face.tell(returns(*[face.kind.say] * 1000))
    face.must_be(SENDING)
    await face.advance(8)


async def come_while_draining(face: Face) -> None:
    """Another client keeps the server busy, and this one's ``init`` is never entered."""
    face.client.hub.shut_down()
    await face.open()


# -- the table ------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What the client sees (5.3 of the design): of a response that has not started, and of an open one."""

    status: int | None
    open: str


@dataclass(frozen=True)
class Row:
    """One cause of an ending.

    Args:
        reason: what ``terminate`` hears; a type where the value has an error in it.
        seen: by the client.
        scripts: for each phase a script, or why there can be none; for a pair of a phase and a
            transport too.
        notice: whether the server tells of its shutdown.
    """

    reason: Any
    seen: Seen
    scripts: dict[Any, Script | str]
    notice: bool = True
    heard: bool = True  # init was entered

    @property
    def name(self) -> str:
        """The reason as it is written."""
        return self.reason.__name__ if isinstance(self.reason, type) else repr(self.reason)

    def cell(self, phase: str, transport: str) -> Script | str:
        """A script, or why there can be none."""
        own = self.scripts.get((phase, transport))
        return self.scripts[phase] if own is None else own

    def matches(self, reason: object) -> bool:
        """Whether this is the reason."""
        if isinstance(self.reason, type):
            return type(reason) is self.reason
        return reason == self.reason
