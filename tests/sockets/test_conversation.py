"""`Conversation` on real sockets, under both workers: one handler, three transports.

What the guide says is done here by raw requests. That sessions expire is a matter of minutes, and is
tried on a virtual clock (``tests/web/test_conversation.py``).
"""

from __future__ import annotations

import base64
import json
from contextlib import asynccontextmanager

from support.sockets import Arrivals, Watch, serving
from support.websocket_peer import CLOSE, TEXT, RawWebSocket, close_frame, frame
from trio.testing import wait_all_tasks_blocked

from trioloop import (
    Close,
    Conversation,
    Disconnected,
    EventStreamDecoder,
    Send,
    ShutDown,
    Stopped,
)

EVENTS = [("accept", "text/event-stream")]
OCTETS = [("content-type", "application/octet-stream")]


class Talker:
    """A server of a `Conversation`, and clients of it.

    Attributes:
        watch: tells of its handlers.
        transports: as each handler has found it.
    """

    def __init__(self):
        self.watch = Watch()
        self.transports = Arrivals()
        talker = self

        class Talk(Conversation):
            terminate = talker.watch.ended

            def init(self, request):
                talker.watch.started(self)
                talker.transports.put(self.transport)
                return Send("welcome")

            def receive(self, data):
                return Close(4000, "bye") if data == "bye" else Send(data.upper())

            def info(self, message):
                return message

        self.handler = Talk
        self.server = None

    async def ask(self, method="GET", path="/", *, body=None, headers=()):
        """A whole exchange on a connection of its own."""
        async with self.server.client() as client:
            await client.request(method, path, body=body, headers=headers)
            return await client.answer(method)

    async def asks(self, *request, **parts):
        """The JSON of an answer."""
        answer = await self.ask(*request, **parts)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        return json.loads(answer.body)

    async def begin(self):
        """The path of a new session for long polls."""
        answer = await self.ask("POST", body=b"")
        assert answer.status == 201
        said = json.loads(answer.body)
        assert said["next"] == 0
        return f"/?session={said['session']}"

    async def post(self, path, body, *, headers=()):
        """Send one message."""
        answer = await self.ask("POST", path, body=body, headers=headers)
        assert (answer.status, answer.body) == (204, b"")

    @asynccontextmanager
    async def stream(self, path="/", headers=()):
        """An event stream."""
        async with self.server.client() as client:
            await client.request(path=path, headers=[*EVENTS, *headers])
            head = await client.head()
            assert head.status_code == 200
            assert (b"content-type", b"text/event-stream") in head.headers
            yield Events(client)


class Events:
    """The events of a stream, one by one."""

    def __init__(self, client):
        self.client = client
        self._decoder = EventStreamDecoder()
        self._found = []

    async def next(self):
        """The next; `None` at a clean end."""
        while not self._found:
            piece = await self.client.piece()
            if piece is None:
                return None
            self._found += self._decoder.feed(piece)
        return self._found.pop(0)


@asynccontextmanager
async def talking(**options):
    """A running `Talker`."""
    talker = Talker()
    async with serving(talker.handler, **options) as (server, _):
        talker.server = server
        yield talker


def texts(*messages):
    return [{"text": message} for message in messages]


async def test_a_conversation_is_had_over_a_websocket():
    async with talking() as talker, talker.server.client() as client:
        websocket = RawWebSocket(client)
        assert await websocket.open() == 101
        assert await websocket.next() == (TEXT, b"welcome")
        await websocket.send(frame(TEXT, b"hello"))
        assert await websocket.next() == (TEXT, b"HELLO")
        assert await talker.transports.next() == "WebSocket"
        await websocket.send(frame(TEXT, b"bye"))
        ending = await websocket.next()
        assert ending is not None
        assert (ending.opcode, ending.code, ending.payload[2:]) == (CLOSE, 4000, b"bye")
        await websocket.send(close_frame(4000))
        assert await talker.watch.reason() == Stopped()


async def test_a_conversation_is_had_by_long_polls_and_posts():
    """POST opens, GET waits for what comes after a number, POST sends, and the end is told."""
    async with talking() as talker:
        path = await talker.begin()
        assert await talker.transports.next() == "long poll"
        answer = await talker.asks(path=f"{path}&after=0")
        assert answer == {"messages": texts("welcome"), "next": 1, "closed": None}
        async with talker.server.client() as waiting:
            await waiting.request(path=f"{path}&after=1")
            await talker.post(path, b"hello")
            answer = json.loads((await waiting.answer()).body)
        assert answer == {"messages": texts("HELLO"), "next": 2, "closed": None}
        await talker.post(path, b"\xff", headers=OCTETS)
        encoded = base64.b64encode(b"\xff").decode()
        answer = await talker.asks(path=f"{path}&after=2")
        assert answer["messages"] == [{"base64": encoded}]
        await talker.post(path, b"bye")
        answer = await talker.asks(path=f"{path}&after=3")
        assert answer == {"messages": [], "next": 3, "closed": {"code": 4000, "reason": "bye"}}
        assert await talker.watch.reason() == Stopped()


async def test_a_conversation_is_had_by_an_event_stream_and_posts():
    async with talking() as talker, talker.stream() as events:
        session, welcome = await events.next(), await events.next()
        assert (session.event, welcome.data) == ("session", "welcome")
        assert await talker.transports.next() == "event stream"
        path = f"/?session={session.data}"
        await talker.post(path, b"hello")
        assert (await events.next()).data == "HELLO"
        await talker.post(path, b"\xff", headers=OCTETS)
        binary = await events.next()
        assert (binary.event, base64.b64decode(binary.data)) == ("binary", b"\xff")
        await talker.post(path, b"bye")
        close = await events.next()
        assert close.event == "close"
        assert json.loads(close.data) == {"code": 4000, "reason": "bye"}
        assert await events.next() is None
        assert await talker.watch.reason() == Stopped()


async def test_all_requests_of_a_session_may_share_a_connection():
    async with talking() as talker, talker.server.client() as client:
        path = await talker.begin()
        for number in range(5):
            await client.request("POST", path, body=b"%d" % number)
            assert (await client.answer()).status == 204
            await client.request(path=f"{path}&after={number + 1}")
            answer = json.loads((await client.answer()).body)
            assert (answer["messages"], answer["next"]) == (texts(str(number)), number + 2)


async def test_a_poll_whose_client_has_gone_takes_no_message_with_it():
    async with talking() as talker:
        path = await talker.begin()
        ref = await talker.watch.ref()
        async with talker.server.client() as client:
            await client.request(path=f"{path}&after=1")
            await wait_all_tasks_blocked(0.01)  # until the poll waits
            client.reset()
        assert ref.send_nowait(Send("news"))
        answer = await talker.asks(path=f"{path}&after=1")
        assert answer["messages"] == texts("news")


async def test_an_event_stream_that_was_cut_goes_on_where_it_was():
    async with talking() as talker:
        async with talker.stream() as events:
            await events.next()
            last = (await events.next()).id
            events.client.reset()
        ref = await talker.watch.ref()
        assert ref.send_nowait(Send("missed"))
        async with talker.stream(headers=[("last-event-id", last)]) as events:
            session, missed = await events.next(), await events.next()
            assert (session.event, missed.data) == ("session", "missed")
            assert talker.watch.starts == 1


async def test_delete_ends_the_session_and_it_is_gone():
    async with talking() as talker:
        path = await talker.begin()
        assert (await talker.ask("DELETE", path)).status == 204
        assert await talker.watch.reason() == Disconnected()
        assert (await talker.ask("POST", path, body=b"x")).status == 410
        assert (await talker.ask(path="/?session=guess")).status == 410


async def test_a_session_without_any_request_ends():
    async with talking(session_expiry=0.05) as talker:
        path = await talker.begin()
        assert await talker.watch.reason() == Disconnected()
        assert (await talker.ask("POST", path, body=b"x")).status == 410


async def test_a_shutdown_ends_the_session_and_its_requests_as_any_others():
    """A poll is 503 with a time to come again, a stream ends with ``retry:``, and cleanly."""
    async with talking() as talker:
        path = await talker.begin()
        async with talker.stream(path) as events, talker.server.client() as waiting:
            await events.next()
            await events.next()
            await waiting.request(path=f"{await talker.begin()}&after=1")
            talker.server.shut_down()
            assert await talker.watch.reason() == ShutDown()
            assert await talker.watch.reason() == ShutDown()
            answer = await waiting.answer()
            assert answer.status == 503
            assert "retry-after" in answer.headers
            assert await events.next() is None
            assert b"retry: " in events.client.received


async def test_a_page_of_another_origin_is_refused_on_every_transport():
    foreign = [("origin", "https://evil.example")]
    async with talking() as talker:
        assert (await talker.ask("POST", body=b"", headers=foreign)).status == 403
        assert (await talker.ask(headers=[*EVENTS, *foreign])).status == 403
        async with talker.server.client() as client:
            assert await RawWebSocket(client).open(headers=foreign) == 403
        assert talker.watch.starts == 0
