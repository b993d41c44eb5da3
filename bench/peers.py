"""One server process with one of the peers, run by `servers`: ``python peers.py NAME FD``.

Each peer has the same services:

``/events``   an event stream that gets whatever is published
``/publish?rounds=n&burst=m``   publishes ``m`` events, waits until every stream has got them from its
    application, and that ``n`` times; answers with the CPU seconds that this process took
``/tick?rate=r&seconds=s``   publishes the time, ``r`` times a second
``/first``    an event stream with one event at once, which goes on until the client leaves
``/poll``     a long poll whose answer is ready when it waits for it
``/ws``       a WebSocket that echoes, for a load client that answers no pings
``/chat``     the same as an application has it: with pings

Laws of this file:

* Every application has a queue for each stream, as a real one has; only ``relay`` has none, for that
  is what it is about.
* Each framework is used as its own documentation says.
* What says asyncio is for uvicorn's peers, which know no other event loop.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from asyncio import Event, Queue, sleep  # for uvicorn's peers, see the laws
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

DATA = "x" * 100
EVENT = f"data: {DATA}\n\n".encode()
PAUSE = 0.001
"""Seconds between two rounds: every event loop writes what it has kept back, and none of them joins
what was published in two rounds."""
HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


class Publisher:
    """Publishes, and knows when every stream's application has got it.

    Args:
        put: gives a message to each stream, and returns to how many.
        event: makes an event of the event loop in use.
        sleep: its sleep.
    """

    def __init__(self, put: Callable[[Any], int], event: Any, sleep: Any) -> None:
        self._put, self._event, self._sleep = put, event, sleep
        self._got = self._wanted = 0
        self._reached: Any = None
        self.first = 0  # streams of /first that are open

    def got(self) -> None:
        """A stream has got one."""
        self._got += 1
        if self._got == self._wanted and self._reached is not None:
            self._reached.set()

    async def answer(self, scope: Any, send: Any) -> None:
        """Be the ASGI application of ``/publish`` and ``/tick``."""
        query = {
            name: float(values[0])
            for name, values in parse_qs(scope["query_string"].decode()).items()
        }
        if scope["path"] == "/publish":
            body = await self.publish(int(query["rounds"]), int(query["burst"]))
        else:
            body = await self.tick(query["rate"], query["seconds"])
        data = json.dumps(body).encode()
        headers = [(b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def publish(self, rounds: int, burst: int) -> dict[str, float]:
        """Publish in rounds, as fast as they are got."""
        self._got = events = 0
        begin = time.process_time()
        for _ in range(rounds):
            for _ in range(burst):
                events += self._put(DATA)
            self._wanted = events
            if self._got < events:
                self._reached = self._event()
                await self._reached.wait()
            await self._sleep(PAUSE)
        seconds = time.process_time() - begin
        return {"events": events, "seconds": seconds, "first": self.first}

    async def tick(self, rate: float, seconds: float) -> dict[str, float]:
        """Publish the time at a steady rate."""
        self._wanted = -1
        begin = time.perf_counter()
        cpu = time.process_time()
        number = 0
        while number < rate * seconds:
            self._put(f"{time.monotonic():.6f}".ljust(100))
            number += 1
            await self._sleep(max(0.0, begin + number / rate - time.perf_counter()))
        return {"cpu": (time.process_time() - cpu) / seconds}


async def lifespan(receive: Any, send: Any) -> None:
    """A lifespan in which nothing happens."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def echo(receive: Any, send: Any) -> None:
    """A WebSocket that echoes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"]})


async def first(publisher: Publisher, receive: Any, send: Any) -> None:
    """An event stream with one event, until the client leaves."""
    publisher.first += 1
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    publisher.first -= 1


# -- raw ASGI -------------------------------------------------------------------------------------


def raw(queue: Any, event: Any, sleep: Any, get: Any) -> Any:
    """A raw ASGI application, with the queues of its event loop."""
    streams: dict[int, Any] = {}

    def put(message: str) -> int:
        for stream in streams.values():
            stream(message)
        return len(streams)

    publisher = Publisher(put, event, sleep)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "websocket":
            await echo(receive, send)
        elif scope["path"] == "/events":
            write, read = queue()
            streams[id(read)] = write
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            try:
                while True:
                    body = f"data: {await get(read)}\n\n".encode()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    publisher.got()
            finally:
                del streams[id(read)]
        elif scope["path"] == "/first":
            await first(publisher, receive, send)
        elif scope["path"] == "/poll":
            write, read = queue()
            write(DATA)
            body = (await get(read)).encode()
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await publisher.answer(scope, send)

    return app


def raw_asyncio() -> Any:
    """For uvicorn."""

    def queue() -> Any:
        made: Queue[str] = Queue()
        return made.put_nowait, made

    return raw(queue, Event, sleep, lambda read: read.get())


def raw_trio() -> Any:
    """For Hypercorn's worker and ours."""
    import trio

    def queue() -> Any:
        write, read = trio.open_memory_channel[str](1000)
        return write.send_nowait, read

    return raw(queue, trio.Event, trio.sleep, lambda read: read.receive())


# -- frameworks -----------------------------------------------------------------------------------


def starlette_asyncio() -> Any:  # noqa: C901 - an application
    """Starlette with sse-starlette, as their pages say."""
    from sse_starlette.sse import EventSourceResponse
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route, WebSocketRoute

    streams: set[Queue[str]] = set()

    def put(message: str) -> int:
        for stream in streams:
            stream.put_nowait(message)
        return len(streams)

    publisher = Publisher(put, Event, sleep)

    async def events(_: Any) -> Any:
        queue: Queue[str] = Queue()
        streams.add(queue)

        async def generate() -> Any:
            try:
                while True:
                    data = await queue.get()
                    publisher.got()
                    yield {"data": data}
            finally:
                streams.discard(queue)

        return EventSourceResponse(generate())

    async def first(_: Any) -> Any:
        async def generate() -> Any:
            publisher.first += 1
            try:
                yield {"data": DATA}
                await Event().wait()
            finally:
                publisher.first -= 1

        return EventSourceResponse(generate())

    async def poll(_: Any) -> Any:
        queue: Queue[str] = Queue()
        queue.put_nowait(DATA)
        return PlainTextResponse(await queue.get())

    async def websocket(websocket: Any) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    async def publish(scope: Any, _: Any, send: Any) -> None:
        await publisher.answer({**scope, "path": scope["path"]}, send)

    return Starlette(
        routes=[
            Route("/events", events),
            Route("/first", first),
            Route("/poll", poll),
            WebSocketRoute("/ws", websocket),
            WebSocketRoute("/chat", websocket),
            Mount("/", publish),
        ]
    )


def handlers(*, relay: str = "", hibernate: bool = False) -> Any:  # noqa: C901 - an application
    """Trioloop's own handlers.

    Args:
        relay: not by messages, but with this function of the server.
        hibernate: whether they do when they wait.
    """
    import trio

    import trioloop

    app = trioloop.App()
    writers: dict[int, Any] = {}
    last: list[Any] = [None, b""]

    def put(message: str) -> int:
        if not relay:
            return app.hub.broadcast("all", message)
        if last[0] is not message:
            last[:] = [message, f"data: {message}\n\n".encode()]
        body = last[1]
        for write in writers.values():
            write(body)
            publisher.got()
        return len(writers)

    publisher = Publisher(put, trio.Event, trio.sleep)

    class Events(trioloop.EventStreamHandler[str]):
        def init(self, request: Any) -> Any:
            if relay:
                scope = request.scope["extensions"]["trioloop.write"]
                writers[id(self)] = scope[relay]
            else:
                self.join("all")
            return trioloop.Hibernate() if hibernate else None

        def info(self, message: str) -> Any:
            publisher.got()
            return trioloop.ServerSentEvent(message)

        def terminate(self, reason: Any) -> None:
            writers.pop(id(self), None)

    class First(trioloop.EventStreamHandler[str]):
        def init(self, request: Any) -> Any:
            publisher.first += 1
            return trioloop.ServerSentEvent(DATA)

        def terminate(self, reason: Any) -> None:
            publisher.first -= 1

    class Poll(trioloop.LoopHandler[str]):
        def init(self, request: Any) -> None:
            self.ref.send_nowait(DATA)

        def info(self, message: str) -> Any:
            return trioloop.Reply(200, message)

    class Active(trioloop.EventStreamHandler[str]):
        def init(self, request: Any) -> Any:
            return trioloop.SendAfter(0.1, "tick")

        def info(self, message: str) -> Any:
            return [trioloop.ServerSentEvent(DATA), trioloop.SendAfter(0.1, "tick")]

    app.route("/events", Events)
    app.route("/first", First)
    app.route("/active", Active)
    app.route("/poll", Poll)

    class Echo(trioloop.WebSocketHandler[str]):
        def init(self, request: Any) -> Any:
            return trioloop.Hibernate() if hibernate else None

        def receive(self, data: Any) -> Any:
            return trioloop.Send(data)

    app.route("/ws", Echo, receive_timeout=math.inf)  # a load client answers no pings
    app.route("/chat", Echo)

    async def with_publisher(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] in ("/publish", "/tick"):
            await publisher.answer(scope, send)
        else:
            await app(scope, receive, send)

    return with_publisher


# -- servers --------------------------------------------------------------------------------------


def serve_uvicorn(app: Any, fd: int) -> None:
    """With uvloop and httptools, its fastest."""
    import uvicorn

    uvicorn.run(
        app,
        fd=fd,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=3600,
        backlog=8192,
    )


def serve_trio(app: Any, fd: int, *, worker: str) -> None:
    """With Hypercorn's Trio worker, stock or ours."""
    import trio
    from hypercorn.config import Config

    import trioloop

    config = Config()
    config.bind = [f"fd://{fd}"]
    config.loglevel = "WARNING"
    config.backlog = 8192
    config.keep_alive_timeout = 3600
    config.keep_alive_max_requests = 10**9
    config.worker = worker  # type: ignore[attr-defined] # our own setting
    if worker == "trioloop":
        gc.collect()
        gc.freeze()
        gc.set_threshold(5_000, 20, 100)
    trio.run(trioloop.serve, app, config)


def handlers_one_by_one() -> Any:
    """Handlers that write what each message gives before they look for the next."""
    from trioloop._core import _loop

    _loop.MAX_BATCH = 1  # type: ignore[misc] # what nobody else may change
    return handlers()


PEERS: dict[str, Callable[[int], None]] = {
    "handler": lambda fd: serve_trio(handlers(), fd, worker="trioloop"),
    "one by one": lambda fd: serve_trio(handlers_one_by_one(), fd, worker="trioloop"),
    "hibernating": lambda fd: serve_trio(handlers(hibernate=True), fd, worker="trioloop"),
    "soak": lambda fd: serve_trio(handlers(), fd, worker="trioloop"),
    "relay": lambda fd: serve_trio(handlers(relay="write_soon"), fd, worker="trioloop"),
    "relay at once": lambda fd: serve_trio(handlers(relay="write_nowait"), fd, worker="trioloop"),
    "raw": lambda fd: serve_trio(raw_trio(), fd, worker="trioloop"),
    "stock raw": lambda fd: serve_trio(raw_trio(), fd, worker="stock"),
    "stock handler": lambda fd: serve_trio(handlers(), fd, worker="stock"),
    "uvicorn raw": lambda fd: serve_uvicorn(raw_asyncio(), fd),
    "uvicorn starlette": lambda fd: serve_uvicorn(starlette_asyncio(), fd),
}


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[3])})
    PEERS[sys.argv[1]](int(sys.argv[2]))
