"""`Conversation`: one handler as WebSocket, as event stream with POST, and as long poll with POST."""

from __future__ import annotations

import base64
import json

import pytest
import trio
from support.fake import serve, settle

from trioloop import (
    App,
    Close,
    Continue,
    Conversation,
    Disconnected,
    EventStreamDecoder,
    Failed,
    Limits,
    OutboxFull,
    Reply,
    Send,
    ShutDown,
    Stopped,
)

EVENTS = {"accept": "text/event-stream"}


class Talk(Conversation):
    """Echoes in capitals, and tells what it is sent; the last one made is remembered."""

    session_expiry = 10.0
    last: Talk

    def __init__(self):
        self.received = []
        self.reasons = []
        Talk.last = self

    def init(self, request):
        return Send("welcome")

    def receive(self, data):
        self.received.append(data)
        return {"bye": Close(4000, "bye"), "crash": 7}.get(data) or Send(data.upper())

    def info(self, message):
        return message

    def terminate(self, reason):
        self.reasons.append(reason)


def talking(kind=Talk, **options):
    app = App()
    app.route("/talk", kind, **options)
    app.route("/other", kind)
    return serve(app)


async def ask(client, method="GET", path="/talk", **request):
    """A whole exchange: its status, and its JSON if that is what it has."""
    exchange = client.open(method, path, **request)
    await exchange.wait_returned()
    is_json = exchange.headers.get("content-type") == "application/json"
    return exchange.status, json.loads(exchange.body) if is_json else exchange.body


async def begin(client, **request):
    """Open a session for long polls; its id."""
    status, answer = await ask(client, "POST", **request)
    assert status == 201
    return answer["session"]


def events_of(exchange):
    return EventStreamDecoder().feed(exchange.body)


def text(*messages):
    return [{"text": message} for message in messages]


# -- three transports ------------------------------------------------------------------------------


async def test_as_a_websocket(autojump_clock):
    async with talking() as client:
        websocket = client.websocket("/talk")
        websocket.send("hello")
        await settle()
        assert websocket.received == ["welcome", "HELLO"]
        assert Talk.last.transport == "WebSocket"
        websocket.send("bye")
        await websocket.wait_returned()
        assert websocket.close == (4000, "bye")


async def test_as_an_event_stream_and_post(autojump_clock):
    async with talking() as client:
        stream = client.open("GET", "/talk", headers=EVENTS)
        await settle()
        hello, welcome = events_of(stream)
        assert (hello.event, welcome.data) == ("session", "welcome")
        session = hello.data
        assert await ask(client, "POST", f"/talk?session={session}", body=b"hello") == (204, b"")
        await settle()
        assert [event.data for event in events_of(stream)][2:] == ["HELLO"]
        assert Talk.last.transport == "event stream"
        await ask(client, "POST", f"/talk?session={session}", body=b"bye")
        await stream.wait_returned()
        last = events_of(stream)[-1]
        assert (last.event, json.loads(last.data)) == ("close", {"code": 4000, "reason": "bye"})
        assert Talk.last.reasons == [Stopped()]


async def test_as_a_long_poll_and_post(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        assert Talk.last.transport == "long poll"
        poll = f"/talk?session={session}"
        status, answer = await ask(client, "GET", poll)
        assert (status, answer) == (200, {"messages": text("welcome"), "next": 1, "closed": None})
        waiting = client.open("GET", f"{poll}&after=1")
        await trio.sleep(5)
        assert waiting.status is None
        assert await ask(client, "POST", poll, body=b"hello") == (204, b"")
        await waiting.wait_returned()
        assert json.loads(waiting.body)["messages"] == text("HELLO")
        await ask(client, "POST", poll, body=b"bye")
        _, answer = await ask(client, "GET", f"{poll}&after=2")
        assert answer["closed"] == {"code": 4000, "reason": "bye"}
        assert Talk.last.reasons == [Stopped()]


async def test_bytes_go_both_ways(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        path = f"/talk?session={session}"
        octets = {"content-type": "application/octet-stream"}
        await ask(client, "POST", path, body=b"\xff", headers=octets)
        assert Talk.last.received == [b"\xff"]
        _, answer = await ask(client, "GET", f"{path}&after=1")
        encoded = base64.b64encode(b"\xff").decode()
        assert answer["messages"] == [{"base64": encoded}]
        stream = client.open("GET", f"{path}&after=1", headers=EVENTS)
        await settle()
        assert [(event.event, event.data) for event in events_of(stream)][1:] == [
            ("binary", encoded)
        ]


async def test_messages_from_others_reach_every_transport(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        assert Talk.last.ref.send_nowait(Send("news"))
        await settle()
        _, answer = await ask(client, "GET", f"/talk?session={session}")
        assert answer["messages"] == text("welcome", "news")


# -- nothing is lost -------------------------------------------------------------------------------


async def test_what_is_sent_between_two_polls_waits(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        path = f"/talk?session={session}"
        await ask(client, "GET", path)
        for number in range(3):
            Talk.last.ref.send_nowait(Send(str(number)))
        await trio.sleep(5)
        _, answer = await ask(client, "GET", f"{path}&after=1")
        assert (answer["messages"], answer["next"]) == (text("0", "1", "2"), 4)


async def test_a_poll_whose_answer_was_lost_can_be_made_again(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        path = f"/talk?session={session}"
        first = await ask(client, "GET", f"{path}&after=0")
        assert await ask(client, "GET", f"{path}&after=0") == first
        assert (await ask(client, "GET", f"{path}&after=9"))[0] == 410


async def test_an_event_stream_goes_on_where_it_was(autojump_clock):
    async with talking() as client:
        stream = client.open("GET", "/talk", headers=EVENTS)
        await settle()
        last = events_of(stream)[-1].id
        stream.disconnect()
        await trio.sleep(5)
        Talk.last.ref.send_nowait(Send("missed"))
        again = client.open("GET", "/talk", headers={**EVENTS, "last-event-id": last})
        await settle()
        assert [event.data for event in events_of(again)][1:] == ["missed"]


async def test_a_client_may_change_from_polls_to_a_stream(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        stream = client.open("GET", f"/talk?session={session}", headers=EVENTS)
        await settle()
        assert [event.data for event in events_of(stream)][1:] == ["welcome"]


async def test_a_later_poll_takes_the_place_of_an_earlier_one(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        path = f"/talk?session={session}&after=1"
        earlier = client.open("GET", path)
        await settle()
        later = client.open("GET", path)
        await earlier.wait_returned()
        assert json.loads(earlier.body)["messages"] == []
        Talk.last.ref.send_nowait(Send("news"))
        await later.wait_returned()
        assert json.loads(later.body)["messages"] == text("news")


async def test_a_poll_without_news_is_answered_after_poll_timeout(autojump_clock):
    async with talking(poll_timeout=3.0) as client:
        session = await begin(client)
        before = trio.current_time()
        _, answer = await ask(client, "GET", f"/talk?session={session}&after=1")
        assert answer == {"messages": [], "next": 1, "closed": None}
        assert trio.current_time() - before == 3.0


# -- the session -----------------------------------------------------------------------------------


async def test_a_session_without_requests_expires(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        path = f"/talk?session={session}&after=1"
        await trio.sleep(9)
        assert Talk.last.reasons == []
        waiting = client.open("GET", path)
        await trio.sleep(20)
        assert Talk.last.reasons == []
        waiting.disconnect()
        await trio.sleep(11)
        assert Talk.last.reasons == [Disconnected()]
        assert (await ask(client, "GET", path))[0] == 410
        assert (await ask(client, "POST", path, body=b"x"))[0] == 410
        assert client.hub.sessions == {}


async def test_what_waits_can_be_fetched_after_the_end(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        Talk.last.ref.send_nowait([Send("last"), Close(4001, "over")])
        await trio.sleep(5)
        _, answer = await ask(client, "GET", f"/talk?session={session}")
        assert answer["messages"] == text("welcome", "last")
        assert answer["closed"] == {"code": 4001, "reason": "over"}
        assert (await ask(client, "POST", f"/talk?session={session}", body=b"x"))[0] == 410
        await trio.sleep(11)
        assert (await ask(client, "GET", f"/talk?session={session}"))[0] == 410


async def test_an_unknown_session_and_one_of_another_route_are_gone(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        assert (await ask(client, "GET", "/talk?session=guess"))[0] == 410
        assert (await ask(client, "GET", f"/other?session={session}"))[0] == 410
        assert (await ask(client, "GET", f"/talk?session={session}&after=x"))[0] == 410
        assert (await ask(client, "GET", f"/talk?session={session}"))[0] == 200


async def test_ids_are_long_and_never_the_same(autojump_clock):
    async with talking() as client:
        sessions = {await begin(client) for _ in range(20)}
        assert len(sessions) == 20
        assert all(len(session) >= 32 for session in sessions)


async def test_delete_ends_the_conversation(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        assert (await ask(client, "DELETE", f"/talk?session={session}"))[0] == 204
        await settle()
        assert Talk.last.reasons == [Disconnected()]


async def test_a_refusal_is_the_answer_on_every_transport(autojump_clock):
    class Closed(Talk):
        async def init(self, request):
            await trio.sleep(1)
            return Reply(401, "who?")

    async with talking(Closed) as client:
        assert await ask(client, "POST") == (401, b"who?")
        assert await ask(client, "GET", headers=EVENTS) == (401, b"who?")
        websocket = client.websocket("/talk")
        await websocket.wait_returned()
        assert websocket.status == 401


async def test_a_crash_is_500_before_the_start_and_1011_after_it(autojump_clock):
    class Broken(Talk):
        def init(self, request):
            raise ValueError("planned")

    async with talking(Broken) as client:
        assert (await ask(client, "POST"))[0] == 500
    async with talking() as client:
        session = await begin(client)
        await ask(client, "POST", f"/talk?session={session}", body=b"crash")
        _, answer = await ask(client, "GET", f"/talk?session={session}")
        assert answer["closed"]["code"] == 1011


async def test_a_shutdown_ends_the_conversation(autojump_clock):
    async with talking() as client:
        await begin(client)
        talk = Talk.last
        client.hub.shut_down()
        await settle()
        assert talk.reasons == [ShutDown()]


async def test_the_outbox_is_bounded(autojump_clock):
    async with talking(max_outbox=1000) as client:
        session = await begin(client)
        for _ in range(9):
            Talk.last.ref.send_nowait(Send("x"))
        await settle()
        [reason] = Talk.last.reasons
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, OutboxFull)
        _, answer = await ask(client, "GET", f"/talk?session={session}")
        assert len(answer["messages"]) == 9
        assert answer["closed"]["code"] == 1011


async def test_a_session_takes_a_place_until_it_ends_and_its_requests_take_none(autojump_clock):
    async with talking(max_handlers=1) as client:
        session = await begin(client)
        path = f"/talk?session={session}"
        waiting = client.open("GET", f"{path}&after=1")
        await settle()
        assert waiting.status is None
        assert (await ask(client, "POST", path, body=b"hello"))[0] == 204
        await waiting.wait_returned()
        assert json.loads(waiting.body)["messages"] == text("HELLO")
        assert (await ask(client, "POST"))[0] == 503
        assert (await ask(client, "GET", headers=EVENTS))[0] == 503
        websocket = client.websocket("/talk")
        await websocket.wait_returned()
        assert websocket.status == 503
        await ask(client, "DELETE", path)
        await settle()
        await begin(client)


async def test_a_hub_that_is_full_turns_the_requests_of_a_session_away_too(autojump_clock):
    app = App(limits=Limits(handlers=2))
    app.route("/talk", Talk)
    async with serve(app) as client:
        path = f"/talk?session={await begin(client)}"
        client.open("GET", f"{path}&after=1")
        await settle()
        assert (await ask(client, "POST", path, body=b"x"))[0] == 503


async def test_a_stream_that_is_read_never_fills_the_outbox(autojump_clock):
    async with talking(max_outbox=1000) as client:
        stream = client.open("GET", "/talk", headers=EVENTS)
        await settle()
        for number in range(100):
            Talk.last.ref.send_nowait(Send(str(number)))
            await settle()
        assert Talk.last.reasons == []
        assert len(events_of(stream)) == 102


async def test_posts_are_received_one_after_the_other(autojump_clock):
    class Slow(Talk):
        async def receive(self, data):
            await trio.sleep(1)
            self.received.append(data)

    async with talking(Slow) as client:
        session = await begin(client)
        posts = [
            client.open("POST", f"/talk?session={session}", body=str(number).encode())
            for number in range(6)
        ]
        await trio.sleep(0.5)
        assert sum(post.returned for post in posts) == 2
        await trio.sleep(8)
        assert all(post.status == 204 for post in posts)
        assert sorted(Slow.last.received) == ["0", "1", "2", "3", "4", "5"]


async def test_reading_can_be_paused(autojump_clock):
    async with talking() as client:
        session = await begin(client)
        Talk.last.ref.send_nowait(Continue(receive=False))
        await settle()
        await ask(client, "POST", f"/talk?session={session}", body=b"x")
        assert Talk.last.received == []
        Talk.last.ref.send_nowait(Continue(receive=True))
        await settle()
        assert Talk.last.received == ["x"]


@pytest.mark.parametrize(
    "method, path, headers, body, status",
    [
        ("GET", "/talk", {}, b"", 400),
        ("PUT", "/talk", {}, b"", 405),
        ("PUT", "/talk?session={}", {}, b"", 405),
        ("POST", "/talk?session={}", {}, b"\xff", 400),
        ("POST", "/talk?session={}", {}, b"x" * 2000, 413),
        ("GET", "/talk", {**EVENTS, "origin": "https://evil.example"}, b"", 403),
        ("POST", "/talk", {"origin": "https://evil.example"}, b"", 403),
    ],
)
async def test_what_is_wrong_has_an_answer(autojump_clock, method, path, headers, body, status):
    async with talking(max_message_size=1000) as client:
        session = await begin(client)
        request = {"headers": headers, "body": body}
        assert (await ask(client, method, path.format(session), **request))[0] == status
