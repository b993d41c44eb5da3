"""What a user may write without an error, under mypy strict and Pyright strict.

Checked by ``nox -s types``; never executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_type

from trioloop import (
    Accept,
    App,
    Close,
    Continue,
    EventStreamHandler,
    HandlerRef,
    LoopHandler,
    Reply,
    Send,
    ServerSentEvent,
    Stop,
    TerminateReason,
    WebSocketHandler,
)

app = App()


class Bare(LoopHandler):
    """Without a message type, messages are Any."""

    def info(self, message: Any) -> Reply:
        return Reply(200, body=str(message))


@app.route("/poll")
class Poll(LoopHandler[str]):
    """A ``def`` override of each callback."""

    idle_timeout = 30.0
    mailbox_size = 10
    methods = ("GET",)

    def init(self, request: Any) -> None:
        self.join("polls", meta={"path": request.url.path})

    def info(self, message: str) -> Reply | Continue:
        return Reply(200, body=message) if message else Continue(idle_timeout=1.0)

    def idle(self) -> Stop:
        return Stop()

    def terminate(self, reason: TerminateReason) -> None:
        del reason


class Slow(LoopHandler[bytes]):
    """An ``async def`` override of each callback."""

    async def init(self, request: Any) -> None:
        del request

    async def info(self, message: bytes) -> list[Continue | Reply]:
        return [Continue(), Reply(200, body=message)]

    async def idle(self) -> Stop:
        return Stop()

    async def terminate(self, reason: TerminateReason) -> None:
        del reason


@dataclass(frozen=True)
class Tick:
    """A message of the application's own."""

    number: int


@app.route("/ticks")
class Ticks(EventStreamHandler[Tick]):
    """Events, one and several."""

    retry = 500

    def init(self, request: Any) -> ServerSentEvent:
        del request
        return ServerSentEvent("hello", id=self.last_event_id)

    def info(self, message: Tick) -> tuple[ServerSentEvent, ...]:
        return (ServerSentEvent.json({"number": message.number}, id=str(message.number)),)


def refs_know_the_type_of_message(ref: HandlerRef[str]) -> None:
    """A ref takes its handler's messages, and says whether they were accepted."""
    assert_type(ref.send_nowait("hello"), bool)
    # An ignore that is not needed is an error.
    ref.send_nowait(b"hello")  # type: ignore[arg-type] # the test  # pyright: ignore[reportArgumentType]


def a_route_takes_overrides(overrides: Mapping[str, Any]) -> None:
    """The call form of ``app.route``."""
    app.route("/again", **overrides)(Poll)


@app.route("/chat", max_message_size=1000)
class Chat(WebSocketHandler[Tick]):
    """A WebSocket: ``def`` and ``async def`` side by side."""

    receive_timeout = 30.0

    def init(self, request: Any) -> Accept | Reply:
        offered = request.scope["subprotocols"]
        return Accept("chat") if "chat" in offered else Reply(400)

    async def receive(self, data: str | bytes) -> list[Send | Close]:
        return [Send(data), Close(4000, "enough")]

    def info(self, message: Tick) -> Send:
        return Send.json({"number": message.number})
