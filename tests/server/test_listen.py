"""The scope extension ``trioloop.listen``: what comes is given to a function, without a task."""

import copy
from collections import Counter

import pytest
import trio
import trio.lowlevel
from support.asgi import (
    answer,
    body,
    logged,
    serving_app,
    settle,
    start,
)
from support.sockets import MORE_THAN_BUFFERS, Arrivals, request_bytes
from support.websocket_peer import CLOSE, PING, PONG, TEXT, frame, handshake_bytes, opened

from trioloop.server import _websocket
from trioloop.server._listening import FAIR
from trioloop.server._readiness import available

pytestmark = pytest.mark.skipif(not available, reason="sockets are waited for by Trio here")

NO_BODY = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}
CONNECT = {"type": "websocket.connect"}


def listen(scope, take):
    """Have this function told what comes."""
    return scope["extensions"]["trioloop.listen"]["listen"](take)


def is_end(message):
    return message["type"] in ("http.disconnect", "websocket.disconnect")


class Hearer:
    """An application that listens, until the client has gone.

    Args:
        more: what it returns for a message; by default that it wants more.
        then: what it does, called with the scope and `send`, before it waits for the end.

    Attributes:
        given: what it was given, and the word ``"listening"`` when `listen` has returned.
        resume: what `listen` has returned.
    """

    def __init__(self, more=None, then=None):
        self.given: Arrivals = Arrivals()
        self._more = more or (lambda message: True)
        self._then = then
        self._gone = trio.Event()

    async def __call__(self, scope, receive, send):
        self.resume = listen(scope, self._take)
        self.given.put("listening")
        if self._then is not None:
            await self._then(scope, send)
        await self._gone.wait()

    def _take(self, message):
        self.given.put(message)
        if is_end(message):
            self._gone.set()
        return self._more(message)

    async def next(self, count=1):
        """The next so many things that it was given."""
        return [await self.given.next() for _ in range(count)]


async def accept(scope, send):
    await send({"type": "websocket.accept"})


def websocket_hearer(more=None):
    return Hearer(more, accept)


# -- requests -------------------------------------------------------------------------------------


async def test_that_a_request_has_no_body_is_given_before_listen_returns():
    hearer = Hearer()
    async with serving_app(hearer) as (_, client):
        await client.request()
        assert await hearer.next(2) == [NO_BODY, "listening"]


async def test_a_body_that_came_with_its_head_is_given_before_listen_returns():
    hearer = Hearer()
    async with serving_app(hearer) as (_, client):
        await client.request("POST", body=b"abc")
        assert await hearer.next(2) == [{**NO_BODY, "body": b"abc"}, "listening"]


async def test_a_body_is_given_as_it_comes():
    hearer = Hearer()
    async with serving_app(hearer) as (_, client):
        await client.send(request_bytes("POST", headers=[("transfer-encoding", "chunked")]))
        assert await hearer.next() == ["listening"]
        for piece in (b"one", b"two"):
            await client.send(b"3\r\n" + piece + b"\r\n")
            assert await hearer.next() == [{**NO_BODY, "body": piece, "more_body": True}]
        await client.send(b"0\r\n\r\n")
        assert await hearer.next() == [NO_BODY]


@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
async def test_a_client_that_leaves_is_told_at_once_and_nothing_follows(way):
    hearer = Hearer()
    async with serving_app(hearer) as (server, client):
        await client.request()
        await hearer.next(2)
        left = getattr(client, way)()
        if left is not None:
            await left
        assert await hearer.next() == [GONE]
        assert await server.is_alive()
        await settle()
    assert hearer.given.all == [NO_BODY, "listening", GONE]


async def test_a_client_that_leaves_behind_a_lot_of_requests_is_told_at_once():
    hearer = Hearer()
    async with serving_app(hearer) as (_, client):
        await client.request()
        await hearer.next(2)
        await client.send(request_bytes() * 4_000)
        client.close()
        assert await hearer.next() == [GONE]


async def test_a_write_that_failed_is_told():
    errors: Arrivals = Arrivals()

    async def then(scope, send):
        await send(start())
        with pytest.raises(OSError, match="took nothing"):
            await send(body(bytes(MORE_THAN_BUFFERS), more=True))
        errors.put(hearer.given.all[-1])

    hearer = Hearer(then=then)
    async with serving_app(hearer, receive_buffer=4096, send_timeout=0.1) as (_, client):
        await client.request()
        assert await errors.next() == {**GONE, "send_timeout": 0.1}, "before send has raised"


async def test_a_body_that_took_too_long_is_refused_and_told():
    hearer = Hearer()
    async with serving_app(hearer, read_timeout=0.05) as (_, client):
        await client.send(request_bytes("POST", headers=[("content-length", "3")]) + b"a")
        assert (await client.answer()).status == 408
        assert (await hearer.next(3))[-1] == GONE


async def test_a_malformed_body_is_refused_and_told():
    hearer = Hearer()
    async with serving_app(hearer) as (_, client):
        await client.send(request_bytes("POST", headers=[("transfer-encoding", "chunked")]))
        await hearer.next()
        await client.send(b"no size\r\n")
        assert (await client.answer()).status == 400
        assert await hearer.next() == [GONE]


async def test_the_end_of_a_response_is_told_inside_of_send_and_the_connection_is_used_again():
    given = []

    async def app(scope, receive, send):
        listen(scope, lambda message: given.append(message) or True)
        await answer(send, b"x")
        given.append("sent")

    async with serving_app(app) as (_, client):
        for _ in range(2):
            await client.request()
            assert (await client.answer()).body == b"x"
    assert given == [NO_BODY, GONE, "sent"] * 2


async def test_who_writes_a_whole_response_at_once_is_told_nothing_behind_it():
    given = []

    async def app(scope, receive, send):
        listen(scope, lambda message: given.append(message) or True)
        assert scope["extensions"]["trioloop.write"]["respond"](200, [], b"x")
        given.append("written")
        assert await receive() == GONE

    async with serving_app(app) as (_, client):
        for _ in range(2):
            await client.request()
            assert (await client.answer()).body == b"x"
    assert given == [NO_BODY, "written"] * 2


async def test_who_has_returned_is_told_nothing():
    given = []

    async def app(scope, receive, send):
        given.append(lambda: listen(scope, given.append))
        listen(scope, lambda message: given.append(message) or True)

    async with serving_app(app) as (_, client):
        await client.request()
        assert (await client.answer()).status == 500
        late, *told = given
        with pytest.raises(RuntimeError, match="over"):
            late()
    assert told == [NO_BODY]


async def test_a_client_that_waits_for_100_gets_it_when_somebody_listens():
    hearer = Hearer()
    async with serving_app(hearer) as (_, client):
        headers = [("content-length", "1"), ("expect", "100-continue")]
        await client.send(request_bytes("POST", headers=headers))
        assert await client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"x")
        assert (await hearer.next(2))[-1] == {**NO_BODY, "body": b"x"}


# -- no more --------------------------------------------------------------------------------------


async def test_who_wants_no_more_is_given_nothing_until_resume_and_the_client_is_slowed_down():
    hearer = Hearer(more=lambda message: False)
    head = request_bytes("POST", headers=[("content-length", str(MORE_THAN_BUFFERS))])
    async with serving_app(hearer) as (_, client), trio.open_nursery() as nursery:
        await client.send(head)
        nursery.start_soon(client.send, bytes(MORE_THAN_BUFFERS))
        for _ in range(2):
            await settle()
            assert len(nursery.child_tasks) == 1, "the client waits"
        assert len(hearer.given.all) == 2, "listening, and one piece"
        hearer.resume()
        assert len(hearer.given.all) == 3
        nursery.cancel_scope.cancel()


async def test_who_wants_to_know_no_more_is_still_told_that_the_client_has_gone():
    hearer = Hearer(more=lambda message: False)
    async with serving_app(hearer) as (_, client):
        await client.send(request_bytes("POST", headers=[("content-length", "1")]) + b"a")
        assert (await hearer.next(2))[0]["body"] == b"a"
        await client.send(b"pipelined")
        client.close()
        assert await hearer.next() == [GONE]


async def test_that_the_client_has_gone_is_told_behind_what_it_has_sent_of_a_body():
    hearer = Hearer(more=lambda message: False)
    async with serving_app(hearer) as (_, client):
        await client.send(request_bytes("POST", headers=[("content-length", "9")]) + b"a")
        assert (await hearer.next(2))[0]["body"] == b"a"
        await client.send(b"b")
        client.close()
        await settle()
        hearer.resume()
        assert (await hearer.next())[0]["body"] == b"b"
        hearer.resume()
        assert await hearer.next() == [GONE]


async def test_the_time_of_a_body_does_not_run_while_nobody_wants_more_of_it():
    hearer = Hearer(more=lambda message: False)
    async with serving_app(hearer, read_timeout=0.05) as (_, client):
        await client.send(request_bytes("POST", headers=[("content-length", "2")]) + b"a")
        await hearer.next(2)
        await trio.sleep(0.15)
        await client.send(b"b")
        await settle()
        hearer.resume()
        assert await hearer.next() == [{**NO_BODY, "body": b"b"}]


async def test_a_resume_inside_of_the_function_counts():
    hearer = websocket_hearer(
        more=lambda message: message["type"] != "websocket.receive" or hearer.resume()
    )
    async with serving_app(None, hearer) as (_, client):
        await opened(client)
        await client.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
        assert [message["text"] for message in (await hearer.next(4))[2:]] == ["1", "2"]


# -- who else -------------------------------------------------------------------------------------


async def test_one_listens_and_nobody_receives_beside():
    errors: Arrivals = Arrivals()

    async def app(scope, receive, send):
        async with trio.open_nursery() as nursery:
            await receive()
            nursery.start_soon(receive)
            await settle()
            with pytest.raises(RuntimeError, match="already"):
                listen(scope, print)
            nursery.cancel_scope.cancel()
        listen(scope, lambda message: True)
        with pytest.raises(RuntimeError, match="already"):
            listen(scope, print)
        with pytest.raises(RuntimeError, match="cannot receive"):
            await receive()
        errors.put("none")
        await answer(send)

    async with serving_app(app) as (_, client):
        await client.request()
        assert await errors.next() == "none"
        await client.answer()


async def test_a_copied_scope_listens_to_the_same_connection():
    async def app(scope, receive, send):
        given = []
        listen(copy.deepcopy(scope), lambda message: given.append(message) or True)
        await answer(send, given[0]["body"])

    async with serving_app(app) as (_, client):
        await client.request("POST", body=b"abc")
        assert (await client.answer()).body == b"abc"


async def test_what_the_function_raises_ends_its_connection_only():
    given: Arrivals = Arrivals()

    def take(message):
        given.put(message)
        raise ValueError("a bug in the application")

    async def app(scope, receive, send):
        listen(scope, take)
        with pytest.raises(OSError, match="gone"):
            await send(start())

    async with serving_app(app) as (server, client):
        await client.request()
        assert await client.end() == b""
        await logged(server, "a bug in the application")
        assert await server.is_alive()
    assert given.all == [NO_BODY, GONE]


async def test_what_the_function_raises_later_harms_nobody_either():
    def more(message):
        if message["type"] == "websocket.receive":
            raise ValueError("a bug in the application")
        return True

    hearer = websocket_hearer(more)
    async with serving_app(None, hearer) as (server, client):
        await opened(client)
        await client.send(frame(TEXT, b"x"))
        await client.end()
        await logged(server, "a bug in the application")
        assert await server.is_alive()
    assert is_end(hearer.given.all[-1])


# -- cancellation ---------------------------------------------------------------------------------


async def test_a_shielded_application_is_told_of_its_cancellation():
    told: Arrivals = Arrivals()

    async def app(scope, receive, send):
        ended = trio.Event()

        def cancelled():
            told.put("cancelled")
            ended.set()

        def fails():
            raise ValueError("a bug in the application")

        cancel = scope["extensions"]["trioloop.listen"]["cancelled"]
        cancel(fails if scope["path"] == "/fails" else cancelled)
        with trio.CancelScope(shield=scope["path"] != "/fails"):
            told.put("waiting")
            await ended.wait()

    async with serving_app(app) as (server, client), server.client() as other:
        await client.request()
        await other.request(path="/fails")
        assert [await told.next(), await told.next()] == ["waiting"] * 2
        server.shut_down()
        assert await told.next() == "cancelled"
        await server.ended.wait()
        await logged(server, "a bug in the application")


async def test_who_has_returned_is_not_told_of_a_cancellation_and_the_drain_waits_for_nobody():
    told = []

    async def app(scope, receive, send):
        scope["extensions"]["trioloop.listen"]["cancelled"](lambda: told.append("cancelled"))
        await answer(send)

    async with serving_app(app, graceful_timeout=3600) as (server, client):
        await client.request()
        await client.answer()
        server.shut_down()
        await server.ended.wait()
    assert told == []


# -- WebSockets -----------------------------------------------------------------------------------


async def test_a_handshake_and_the_frames_behind_it_are_given_in_their_order():
    hearer = websocket_hearer()
    async with serving_app(None, hearer) as (_, client):
        await client.send(handshake_bytes() + frame(TEXT, b"early"))
        connect, listening, early = await hearer.next(3)
        assert (connect, listening, early["text"]) == (CONNECT, "listening", "early")
        await client.send(frame(TEXT, b"late"))
        assert (await hearer.next())[0]["text"] == "late"


async def test_a_ping_is_answered_behind_the_handshake():
    hearer = websocket_hearer()
    async with serving_app(None, hearer) as (_, client):
        frames = await opened(client, early=frame(PING, b"early"))
        assert await frames.next() == (PONG, b"early")
        await client.send(frame(PING, b"late"))
        assert await frames.next() == (PONG, b"late")


async def test_a_closing_frame_is_answered_and_told():
    hearer = websocket_hearer()
    async with serving_app(None, hearer) as (_, client):
        frames = await opened(client)
        await client.send(frame(CLOSE, b"\x0f\xa0bye"))
        assert await frames.next() == (CLOSE, b"\x0f\xa0bye")
        told = (await hearer.next(3))[-1]
        assert told == {"type": "websocket.disconnect", "code": 4000, "reason": "bye"}


WRONG = {
    1002: frame(TEXT, b"not masked", mask=None),
    1007: frame(TEXT, b"\xff"),
    1009: frame(TEXT, bytes(1001)),
}


@pytest.mark.parametrize("code", WRONG)
async def test_a_violation_is_answered_and_told(code):
    hearer = websocket_hearer()
    async with serving_app(None, hearer, websocket_max_message_size=1000) as (_, client):
        frames = await opened(client)
        await client.send(WRONG[code])
        opcode, payload = await frames.next()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, code)
        told = (await hearer.next(3))[-1]
        assert (told["code"], bool(told["violation"])) == (code, True)


async def test_a_client_that_leaves_before_it_was_accepted_is_told():
    hearer = Hearer()
    async with serving_app(None, hearer) as (_, client):
        await client.send(handshake_bytes())
        await hearer.next(2)
        client.reset()
        told = {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        assert await hearer.next() == [told]


async def test_a_client_that_does_not_answer_pings_is_given_up_and_told():
    hearer = websocket_hearer()
    async with serving_app(None, hearer, websocket_ping_interval=0.02) as (_, client):
        await opened(client)
        assert (await hearer.next(3))[-1]["code"] == 1006


async def test_behind_an_untaken_message_of_a_websocket_nothing_is_known():
    hearer = websocket_hearer(more=lambda message: message["type"] != "websocket.receive")
    async with serving_app(None, hearer) as (_, client):
        await opened(client)
        await client.send(frame(TEXT, b"1") + frame(TEXT, b"2") + frame(CLOSE))
        client.close()
        assert (await hearer.next(3))[-1]["text"] == "1"
        await settle()
        assert len(hearer.given.all) == 3
        hearer.resume()
        assert (await hearer.next())[0]["text"] == "2"
        hearer.resume()
        assert (await hearer.next())[0]["code"] == 1005


async def test_a_ping_is_answered_while_nobody_wants_more(monkeypatch):
    monkeypatch.setattr(_websocket, "PUMP_SECONDS", 0.02)
    hearer = websocket_hearer(more=lambda message: message["type"] != "websocket.receive")
    async with serving_app(None, hearer) as (_, client):
        frames = await opened(client)
        await client.send(frame(TEXT, b"1"))
        await hearer.next(3)
        await client.send(frame(PING, b"x"))
        assert await frames.next() == (PONG, b"x")


async def test_a_client_that_pings_and_does_not_read_is_slowed_down():
    hearer = websocket_hearer()
    async with serving_app(None, hearer, receive_buffer=4096) as (_, client):
        await opened(client)
        pings = frame(PING, bytes(125)) * (MORE_THAN_BUFFERS // 131)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, pings)
            for _ in range(2):
                await settle()
                assert len(nursery.child_tasks) == 1, "the client waits"
            nursery.cancel_scope.cancel()
        client.reset()
        assert is_end((await hearer.next(3))[-1])


# -- what it costs --------------------------------------------------------------------------------


class Steps(trio.abc.Instrument):
    """Counts the steps of tasks."""

    def __init__(self):
        self.of: Counter = Counter()

    def before_task_step(self, task):
        self.of[task] += 1


async def test_nothing_that_comes_switches_the_task_of_its_connection():
    tasks: Arrivals = Arrivals()

    async def then(scope, send):
        await accept(scope, send)
        tasks.put(trio.lowlevel.current_task())

    hearer = Hearer(then=then)
    async with serving_app(None, hearer) as (_, client):
        frames = await opened(client)
        task = await tasks.next()
        await settle()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for number in range(10):
            await client.send(frame(TEXT, b"x") + frame(PING, b"%d" % number))
            assert await frames.next() == (PONG, b"%d" % number)
        trio.lowlevel.remove_instrument(steps)
    assert steps.of[task] == 0
    assert len(hearer.given.all) >= 12


async def test_a_client_that_sends_a_lot_lets_others_have_their_turn():
    turn = 0
    turns = []

    def more(message):
        turns.append(turn)
        return True

    async def count():
        nonlocal turn
        while True:
            await trio.lowlevel.checkpoint()
            turn += 1

    hearer = websocket_hearer(more)
    async with serving_app(None, hearer) as (_, client), trio.open_nursery() as nursery:
        await opened(client)
        nursery.start_soon(count)
        await client.send(frame(TEXT, b"x") * 1000)
        await hearer.next(1002)
        nursery.cancel_scope.cancel()
    # Asked again and told news in one turn; and the counting task may run first in one turn, and
    # last in the next.
    assert max(Counter(turns).values()) <= 4 * FAIR
