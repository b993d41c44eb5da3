"""The library's own state machines: handlers whose messages reach every branch of the runtime.

Laws of this file:

* Messages are built from the handlers' own types, as a user's are.
* Endings share one message type: most of what is sent keeps a handler alive.
* A handler does what its messages say and nothing at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import trio

from trioloop import (
    CancelTimer,
    Chunk,
    Close,
    Continue,
    EventStreamHandler,
    Hibernate,
    Joined,
    KeepLatest,
    Left,
    LoopHandler,
    Overflow,
    Postpone,
    Reply,
    Send,
    SendAfter,
    ServerSentEvent,
    StartResponse,
    Stop,
    Then,
    TimedOut,
    WebSocketHandler,
)
from trioloop.testing._machine import HandlerMachine, Reached
from trioloop.testing._messages import Eighths

Text: TypeAlias = Literal["a", "b", "c"]
Soon: TypeAlias = Annotated[float, Eighths(0.0, 1.0)]

ROOM = 3
"""Members of the group; whoever comes when it is full is refused by ``init``."""


@dataclass(frozen=True)
class Say:
    """Write something."""

    text: Text


@dataclass(frozen=True)
class Work:
    """Take time, in an ``async def`` callback, then write something."""

    seconds: Soon


@dataclass(frozen=True)
class Later:
    """Start a timer: "a" and "b" replace each other, "b" and "c" hibernate meanwhile."""

    seconds: Soon
    text: Text


@dataclass(frozen=True)
class Next:
    """Write something, then handle two more messages before the mailbox."""

    first: Text
    second: Text


@dataclass(frozen=True)
class Put:
    """Be put back until something is said."""

    text: Text


@dataclass(frozen=True)
class Rest:
    """Change how to wait."""

    how: Literal["hibernate", "continue"]
    idle_timeout: Soon | None


@dataclass(frozen=True)
class Do:
    """Do something that nobody sees."""

    what: Literal["start a child", "watch", "cancel the timer"]


@dataclass(frozen=True)
class Finish:
    """End."""

    how: Literal["stop", "time out", "reply", "bad return", "bad event", "child"]


Messages: TypeAlias = Say | Work | Later | Next | Put | Rest | Do | Finish


class ChildCrash(Exception):
    """What a child task dies of."""


async def crash_after(seconds: float) -> None:
    await trio.sleep(seconds)
    raise ChildCrash


class Common:
    """What all kinds of handler do alike; timeouts meet on the kit's grid."""

    idle_timeout = 2.5
    mailbox_size = 4
    send_timeout = 1.5
    terminate_timeout = 0.5

    def init(self, request: Any) -> Any:
        if len(self.hub.members("room")) >= ROOM:
            return Reply(503)
        self.talks = False
        self.join("room")
        self.register(self.ref)
        return None

    def say(self, text: str) -> Any:
        raise NotImplementedError  # each subclass has its own

    def info(self, message: Messages | Joined | Left) -> Any:
        match message:
            case Say(text):
                self.talks = not self.talks
                return self.say(text)
            case Work(seconds):
                return self.work(seconds)
            case Later(seconds, text):
                timer = SendAfter(seconds, Say(text), None if text == "c" else "k")
                return [timer] if text == "a" else [timer, Hibernate()]
            case Next(first, second):
                return [*self.say("next"), Then(Say(first)), Then(Say(second))]
            case Put(text):
                return self.say(text) if self.talks else Postpone()
            case Rest("hibernate", idle_timeout):
                return Hibernate(idle_timeout=idle_timeout)
            case Rest(_, idle_timeout):
                return Continue(idle_timeout=idle_timeout)
            case Do("start a child"):
                self.nursery.start_soon(trio.sleep, 0.25)
            case Do("watch"):
                self.watch("room")
            case Do(_):
                return CancelTimer("k")
            case Finish(how):
                return self.finish(how)
            case _:
                return self.say(type(message).__name__)
        return None

    def finish(self, how: str) -> Any:
        match how:
            case "stop":
                return [*self.say("bye"), Stop()]
            case "time out":
                return Stop(TimedOut())
            case "bad return":
                return [*self.say("bad"), "no command"]
            case "child":
                self.nursery.start_soon(crash_after, 0.125)
        return None

    async def work(self, seconds: float) -> Any:
        await trio.sleep(seconds)
        return self.say("worked")


class Stream(Common, EventStreamHandler[Messages | Joined | Left]):
    """An event stream."""

    keepalive = 1.0

    def say(self, text: str) -> Any:
        return [ServerSentEvent(text)]

    def notify(self, message: Any) -> Any:
        outcome = self.info(message)
        return [*self.say("noticed"), *outcome] if isinstance(outcome, list) else outcome

    def finish(self, how: str) -> Any:
        if how == "bad event":
            return [ServerSentEvent("good"), ServerSentEvent("bad \udfff")]
        return super().finish(how)

    async def terminate(self, reason: Any) -> None:
        await trio.sleep(0.125)


class SlowEnd(Stream):
    """Its ``terminate`` takes longer than it may."""

    async def terminate(self, reason: Any) -> None:
        await trio.sleep(3)


class Poll(Common, LoopHandler[Messages | Joined | Left]):
    """A long poll: the first thing that it says is the answer, or the start of one."""

    started = False

    def say(self, text: str) -> Any:
        start = [] if self.started else [StartResponse(200)]
        self.started = True
        return [*start, Chunk(text)]

    def finish(self, how: str) -> Any:
        if how == "reply":
            return Reply(200, "bye")  # a bad return when the response has started
        return super().finish(how)


class Socket(Common, WebSocketHandler[Messages | Joined | Left]):
    """A WebSocket; it answers each text, and works on bytes."""

    def say(self, text: str) -> Any:
        return [Send(text)]

    def receive(self, data: str | bytes) -> Any:
        return self.work(len(data) / 8) if isinstance(data, bytes) else Send(data)

    def finish(self, how: str) -> Any:
        return Close(4000, "bye") if how == "reply" else super().finish(how)


class PolicyMachine(HandlerMachine):
    """A machine with a policy for full mailboxes."""

    overflow: ClassVar[Any] = Overflow.STOP
    options: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.options = {"overflow": cls.overflow}


class StreamMachine(PolicyMachine):
    handler = Stream


class PollMachine(PolicyMachine):
    handler = Poll
    overflow = Overflow.DROP_NEWEST


class BlockMachine(PolicyMachine):
    handler = Stream
    overflow = Overflow.BLOCK


class OldestMachine(PolicyMachine):
    handler = Stream
    overflow = Overflow.DROP_OLDEST


def kind_of(message: Any) -> str | None:
    """What coalesces: of what writes something only the newest is kept; what is put back stays."""
    return None if type(message) is Put else "loud" if type(message) in (Say, Next) else "quiet"


class LatestMachine(PolicyMachine):
    handler = Stream
    overflow = KeepLatest(kind_of)


class SlowEndMachine(PolicyMachine):
    handler = SlowEnd


class StockMachine(PolicyMachine):
    """Under a server that does not tell of its shutdown: it only cancels."""

    handler = Stream
    worker = "stock"
    notice = False


class HeadMachine(PolicyMachine):
    handler = Poll
    method = "HEAD"


class SocketMachine(PolicyMachine):
    handler = Socket


MACHINES: tuple[type[HandlerMachine], ...] = (
    StreamMachine,
    PollMachine,
    BlockMachine,
    OldestMachine,
    LatestMachine,
    SlowEndMachine,
    StockMachine,
    HeadMachine,
    SocketMachine,
)


class Together(HandlerMachine):
    """The machines taken together, for what they have reached."""

    @classmethod
    def collect(cls) -> Counter[Reached]:
        cls.reached = sum((machine.reached for machine in MACHINES), Counter())
        return cls.reached
