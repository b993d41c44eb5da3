"""What is measured: the same two services, written for trioloop and as bare ASGI.

Laws of this file:

* Both do what a service has to do: wait for messages and for the client's disconnect at once, and
  encode an event for each connection.
* The bare ones take no short cut that breaks under load, and none of the library's either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

import trio
from starlette.requests import Request

from trioloop import (
    App,
    Commands,
    EventStreamHandler,
    Hibernate,
    Hub,
    LoopHandler,
    Reply,
    ServerSentEvent,
)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DATA: Final = f"{'':x>100}"
"""What is published."""
EVENT_SIZE: Final = len(f"data: {DATA}\n\n")
"""Its bytes on the stream, before the framing of HTTP."""

EVENT_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Service(Protocol):
    """A served application, and how to reach all of its streams at once."""

    @property
    def app(self) -> Any:
        """The ASGI application."""

    def publish(self, data: str) -> int:
        """Give the data to every open stream; returns how many there are."""


class TrioloopService:
    """``/events`` and ``/poll`` with trioloop."""

    def __init__(self) -> None:
        self.app: Any = App()
        self._hub: Hub = self.app.hub
        self.app.route("/events", Events)
        self.app.route("/hibernating", HibernatingEvents)
        self.app.route("/poll", Poll)

    def publish(self, data: str) -> int:
        """Broadcast it."""
        return self._hub.broadcast("all", data)


class EndpointService(TrioloopService):
    """``/events`` without Starlette around it: the difference is what its middleware costs."""

    def __init__(self) -> None:
        super().__init__()
        lifespan, events = self.app, self._hub.endpoint(Events)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await (lifespan if scope["type"] == "lifespan" else events)(scope, receive, send)

        self.app = app


class Events(EventStreamHandler[str]):
    """Every message is an event."""

    def init(self, request: Request) -> Commands:
        """Join everybody."""
        self.join("all")
        return None

    def info(self, message: str) -> Commands:
        """Write an event."""
        return ServerSentEvent(message)


class HibernatingEvents(Events):
    """The same, asleep between events."""

    def init(self, request: Request) -> Commands:
        """Join everybody and sleep."""
        self.join("all")
        return Hibernate()

    def info(self, message: str) -> Commands:
        """Write an event and sleep."""
        return [ServerSentEvent(message), Hibernate()]


class Poll(LoopHandler[str]):
    """Answers with the message that it sent to itself."""

    def init(self, request: Request) -> Commands:
        """Send it."""
        self.ref.send_nowait(DATA)
        return None

    def info(self, message: str) -> Commands:
        """Answer with it."""
        return Reply(200, message)


class RawService:
    """``/events`` and ``/poll`` with nothing but ASGI and Trio."""

    def __init__(self) -> None:
        self._streams: set[trio.MemorySendChannel[str]] = set()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI application."""
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send)
        elif scope["path"] == "/poll":
            await self._poll(receive, send)
        else:
            await self._stream(receive, send)

    def publish(self, data: str) -> int:
        """Put it into every channel."""
        for stream in self._streams:
            stream.send_nowait(data)
        return len(self._streams)

    async def _stream(self, receive: Receive, send: Send) -> None:
        mailbox, messages = trio.open_memory_channel[str](1000)
        self._streams.add(mailbox)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
                await send(
                    {
                        "type": "http.response.start",
                        "status": 200,
                        "headers": EVENT_STREAM_HEADERS,
                    }
                )
                await send({"type": "http.response.body", "body": b"", "more_body": True})
                async for data in messages:
                    body = f"data: {data}\n\n".encode()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            self._streams.discard(mailbox)

    async def _poll(self, receive: Receive, send: Send) -> None:
        mailbox, messages = trio.open_memory_channel[str](1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
            mailbox.send_nowait(DATA)
            body = (await messages.receive()).encode()
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/plain; charset=utf-8"),
                        (b"content-length", b"%d" % len(body)),
                    ],
                }
            )
            await send({"type": "http.response.body", "body": body})
            nursery.cancel_scope.cancel()


async def cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Listen for the client's disconnect."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def run_lifespan(receive: Receive, send: Send) -> None:
    """A lifespan in which nothing happens."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


SERVICES: Final[dict[str, Callable[[], Service]]] = {
    "raw": RawService,
    "trioloop": TrioloopService,
    "endpoint": EndpointService,
}
