"""WebSockets: handshake, messages, closing, pings. Clauses are of RFC 6455."""

import os
import zlib

import pytest
import trio
from support.asgi import (
    echo,
    logged,
    serving_app,
    settle,
    start,
)
from support.sockets import Arrivals
from support.websocket_peer import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    close_frame,
    frame,
    handshake_bytes,
    opened,
)

from trioloop.server import _websocket
from trioloop.server._connection import MAX_PENDING, Connection
from trioloop.server._transport import ClientGone


def recorder(received, *, accept=None):
    """Accepts, and puts down all that it receives."""

    async def websocket(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", **(accept or {})})
        while True:
            message = await receive()
            received.put(message)
            if message["type"] == "websocket.disconnect":
                return

    return websocket


# -- the handshake --------------------------------------------------------------------------------


async def test_a_handshake_is_answered_as_the_standard_says():
    """Clause 4.2.2, with the key of clause 1.3."""
    async with serving_app() as (_, client):
        await client.send(handshake_bytes())
        head = (await RawWebSocket(client).read_head()).lower()
        assert head.startswith(b"http/1.1 101 ")
        assert b"upgrade: websocket\r\n" in head
        assert b"connection: upgrade\r\n" in head
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head


async def test_the_scope_of_a_websocket_says_what_the_handshake_said():
    scopes: Arrivals = Arrivals()

    async def websocket(scope, receive, send):
        scopes.put(scope)
        await receive()

    async with serving_app(None, websocket) as (_, client):
        offers = [("sec-websocket-protocol", "a, b"), ("sec-websocket-protocol", "c")]
        await client.send(handshake_bytes("/chat?x=1", offers))
        scope = await scopes.next()
    assert scope["type"] == "websocket"
    assert scope["scheme"] == "ws"
    assert scope["path"] == "/chat"
    assert scope["query_string"] == b"x=1"
    assert scope["subprotocols"] == ["a", "b", "c"]
    assert "method" not in scope
    assert scope["extensions"].keys() == {
        "trioloop.listen",
        "trioloop.shutdown",
        "trioloop.websocket",
        "websocket.http.response",
    }


REFUSED = {
    "no key": (handshake_bytes(key=""), 400),
    "a key that is too short": (handshake_bytes(key="c2hvcnQ="), 400),
    "two keys": (handshake_bytes(headers=[("sec-websocket-key", "x")]), 400),
    "an old version": (handshake_bytes().replace(b": 13", b": 8"), 426),
    "a body": (handshake_bytes(headers=[("content-length", "3")]) + b"abc", 400),
    "a subprotocol that is none": (
        handshake_bytes(headers=[("sec-websocket-protocol", "a b")]),
        400,
    ),
}


@pytest.mark.parametrize("handshake, status", REFUSED.values(), ids=REFUSED)
async def test_a_handshake_that_is_none_is_refused(handshake, status):
    """Clause 4.2.1."""
    async with serving_app() as (server, client):
        await client.send(handshake)
        assert (await client.answer()).status == status
        assert await client.end() == b""
        assert await server.is_alive()


async def test_a_version_that_is_not_served_is_told_which_is():
    """Clause 4.4."""
    async with serving_app() as (_, client):
        await client.send(handshake_bytes().replace(b": 13", b": 8"))
        assert (await client.answer()).headers["sec-websocket-version"] == "13"


async def test_a_subprotocol_and_headers_are_chosen():
    accept = {"subprotocol": "b", "headers": [(b"x-chosen", b"1")]}
    async with serving_app(None, recorder(Arrivals(), accept=accept)) as (_, client):
        await client.send(handshake_bytes(headers=[("sec-websocket-protocol", "a, b")]))
        head = await RawWebSocket(client).read_head()
        assert b"sec-websocket-protocol: b" in head
        assert b"x-chosen: 1" in head


WRONG_ACCEPTS = {
    "a subprotocol that was not offered": {"subprotocol": "c"},
    "a header of the handshake": {"headers": [(b"Sec-WebSocket-Accept", b"x")]},
    "a header that splits": {"headers": [(b"x", b"y\r\nz: w")]},
}


@pytest.mark.parametrize("accept", WRONG_ACCEPTS.values(), ids=WRONG_ACCEPTS)
async def test_what_an_application_may_not_accept_with_becomes_500(accept):
    async with serving_app(None, recorder(Arrivals(), accept=accept)) as (server, client):
        await client.send(handshake_bytes())
        assert (await client.answer()).status == 500
        await logged(server, "ValueError")


async def test_closing_before_accepting_is_403():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.close"})

    async with serving_app(None, websocket) as (_, client):
        await client.send(handshake_bytes())
        assert (await client.answer()).status == 403
        assert await client.end() == b""


async def test_a_handshake_may_be_refused_with_a_response():
    async def websocket(scope, receive, send):
        await receive()
        kind = "websocket.http.response"
        await send({"type": f"{kind}.start", "status": 401, "headers": [(b"x", b"y")]})
        await send({"type": f"{kind}.body", "body": b"who ", "more_body": True})
        await send({"type": f"{kind}.body", "body": b"are you?"})

    async with serving_app(None, websocket) as (_, client):
        await client.send(handshake_bytes())
        reply = await client.answer()
        assert (reply.status, reply.headers["x"], reply.body) == (401, "y", b"who are you?")
        assert await client.end() == b""


async def test_an_application_that_returns_before_it_accepts_gives_500():
    async def websocket(scope, receive, send):
        await receive()

    async with serving_app(None, websocket) as (_, client):
        await client.send(handshake_bytes())
        assert (await client.answer()).status == 500


async def test_a_client_that_leaves_before_it_is_accepted_is_seen():
    gone: Arrivals = Arrivals()

    async def websocket(scope, receive, send):
        await receive()
        gone.put(await receive())
        with pytest.raises(ClientGone):
            await send({"type": "websocket.accept"})
        gone.put("raised")

    async with serving_app(None, websocket) as (_, client):
        await client.send(handshake_bytes())
        await settle()
        client.close()
        assert (await gone.next())["code"] == 1006
        await gone.next()


async def test_frames_may_come_before_the_handshake_is_answered():
    go_on = trio.Event()

    async def websocket(scope, receive, send):
        await go_on.wait()
        await echo(scope, receive, send)

    async with serving_app(None, websocket) as (_, client):
        await client.send(handshake_bytes() + frame(TEXT, b"early"))
        await client.send(frame(TEXT, b"later"))
        await settle()
        go_on.set()
        frames = RawWebSocket(client)
        await frames.read_head()
        assert await frames.next() == (TEXT, b"early")
        assert await frames.next() == (TEXT, b"later")


# -- messages -------------------------------------------------------------------------------------

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 200_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
async def test_a_message_of_any_size_is_echoed(opcode, size):
    async with serving_app() as (_, client), trio.open_nursery() as nursery:
        frames = await opened(client)
        nursery.start_soon(client.send, frame(opcode, b"x" * size))
        assert await frames.next() == (opcode, b"x" * size)


async def test_fragments_are_put_together_and_pings_between_them_answered():
    """Clause 5.4."""
    async with serving_app() as (_, client):
        frames = await opened(client)
        euro = "€".encode()
        await client.send(frame(TEXT, b"a" + euro[:1], fin=False) + frame(0, b"", fin=False))
        await client.send(frame(PING, b"there?") + frame(0, euro[1:]))
        assert await frames.next() == (PONG, b"there?")
        assert await frames.next() == (TEXT, b"a" + euro)


async def test_frames_may_come_byte_by_byte():
    async with serving_app() as (_, client):
        frames = await opened(client)
        for data in (b"short", b"y" * 300):
            for byte in frame(TEXT, data):
                await client.send(bytes([byte]))
                await trio.lowlevel.checkpoint()
            assert await frames.next() == (TEXT, data)


async def test_many_messages_in_one_packet_come_in_their_order():
    async with serving_app() as (_, client):
        frames = await opened(client)
        await client.send(b"".join(frame(TEXT, b"%d" % number) for number in range(1000)))
        for number in range(1000):
            assert await frames.next() == (TEXT, b"%d" % number)


# -- what the client does wrong -------------------------------------------------------------------

BAD_FRAMES = {
    "not masked": (frame(TEXT, b"x", mask=None), 1002),
    "a reserved bit": (frame(TEXT, b"x", rsv=4), 1002),
    "an unknown opcode": (frame(3, b"x"), 1002),
    "an unknown control opcode": (frame(11, b"x"), 1002),
    "a fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "a ping that is too long": (frame(PING, b"x" * 126), 1002),
    "a continuation of nothing": (frame(0, b"x"), 1002),
    "a message within a message": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "a close of one byte": (frame(CLOSE, b"x"), 1002),
    "a close code that is none": (close_frame(1005), 1002),
    "text that is not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "fragments that are not UTF-8": (frame(TEXT, b"\xf0", fin=False) + frame(0, b"x"), 1007),
    "a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "too much": (frame(BINARY, bytes(1001)), 1009),
    "too much in fragments": (
        frame(BINARY, bytes(600), fin=False) + frame(0, bytes(600)),
        1009,
    ),
}


@pytest.mark.parametrize("frames_, code", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_a_violation_is_answered_with_its_code_and_told_to_the_application(frames_, code):
    received: Arrivals = Arrivals()
    async with serving_app(None, recorder(received), websocket_max_message_size=1000) as (
        server,
        client,
    ):
        frames = await opened(client)
        await client.send(frames_)
        opcode, payload = await frames.next()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, code)
        assert await frames.next() is None
        message = await received.next()
        assert (message["type"], message["code"]) == ("websocket.disconnect", code)
        assert message["violation"]
        assert await server.is_alive()


# -- closing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent, code, reason",
    [
        (close_frame(1000), 1000, ""),
        (close_frame(4000, b"because"), 4000, "because"),
        (close_frame(1001, "géant".encode()), 1001, "géant"),
        (close_frame(), 1005, ""),
    ],
)
async def test_the_code_and_the_reason_of_the_client_reach_the_application(sent, code, reason):
    received: Arrivals = Arrivals()
    async with serving_app(None, recorder(received)) as (_, client):
        frames = await opened(client)
        await client.send(frame(TEXT, b"last") + sent)
        assert (await received.next())["text"] == "last"
        message = await received.next()
        assert message == {"type": "websocket.disconnect", "code": code, "reason": reason}
        opcode, payload = await frames.next()
        assert opcode == CLOSE  # the echo, clause 5.5.1
        assert payload[:2] == (b"" if code == 1005 else code.to_bytes(2, "big"))
        assert await frames.next() is None


async def test_a_client_that_leaves_without_a_word_is_1006():
    received: Arrivals = Arrivals()
    async with serving_app(None, recorder(received)) as (_, client):
        await opened(client)
        client.close()
        assert (await received.next())["code"] == 1006


async def test_the_code_and_the_reason_of_the_application_reach_the_client():
    seen: Arrivals = Arrivals()

    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4001, "reason": "go"})
        seen.put(await receive())
        with pytest.raises((ClientGone, RuntimeError)):
            await send({"type": "websocket.send", "text": "too late"})

    async with serving_app(None, websocket) as (_, client):
        frames = await opened(client)
        assert await frames.next() == (CLOSE, (4001).to_bytes(2, "big") + b"go")
        await client.send(close_frame(4001))
        assert (await seen.next())["type"] == "websocket.disconnect"
        assert await frames.next() is None


async def test_an_application_that_returns_closes_with_1000():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})

    async with serving_app(None, websocket) as (_, client):
        frames = await opened(client)
        assert await frames.next() == (CLOSE, (1000).to_bytes(2, "big"))


async def test_an_application_that_crashes_closes_with_1011():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        raise ValueError("it broke")

    async with serving_app(None, websocket) as (server, client):
        frames = await opened(client)
        assert await frames.next() == (CLOSE, (1011).to_bytes(2, "big"))
        await logged(server, "it broke")


async def test_a_client_that_does_not_answer_the_close_is_not_waited_for_for_long():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})

    async with serving_app(None, websocket, close_timeout=0.1) as (_, client):
        frames = await opened(client)
        await frames.next()
        assert await frames.next() is None


async def test_a_shutdown_closes_with_1012():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await trio.sleep_forever()

    async with serving_app(None, websocket, graceful_timeout=0.05) as (server, client):
        frames = await opened(client)
        server.shut_down()
        assert await frames.next() == (CLOSE, (1012).to_bytes(2, "big"))
        await server.ended.wait()


async def test_sending_after_the_client_has_closed_raises_oserror():
    raised: Arrivals = Arrivals()

    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        with pytest.raises(ClientGone) as gone:
            await send({"type": "websocket.send", "text": "too late"})
        raised.put(gone.value.why)

    async with serving_app(None, websocket) as (_, client):
        await opened(client, early=close_frame(1000))
        assert await raised.next() == {"code": 1000, "reason": ""}


async def test_an_application_that_lets_that_error_through_is_not_to_blame():
    closed = trio.Event()

    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["text"] == "last"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await closed.wait()
            await settle()
            await send({"type": "websocket.send", "text": "too late"})

    async with serving_app(None, websocket) as (server, client):
        frames = await opened(client, early=frame(TEXT, b"last"))
        await client.send(close_frame(1000))
        closed.set()
        while await frames.next():
            pass
        assert not any("Traceback" in line for line in server.errors.all)


# -- pings ----------------------------------------------------------------------------------------


async def test_a_client_that_answers_no_ping_is_given_up():
    received: Arrivals = Arrivals()
    settings = {"websocket_ping_interval": 0.05}
    async with serving_app(None, recorder(received), **settings) as (_, client):
        frames = await opened(client)
        for _ in range(3):
            assert (await frames.next())[0] == PING
        assert (await received.next())["code"] == 1006


async def test_a_client_that_answers_pings_is_kept():
    received: Arrivals = Arrivals()
    settings = {"websocket_ping_interval": 0.03}
    async with serving_app(None, recorder(received), **settings) as (_, client):
        frames = await opened(client)
        for _ in range(8):
            opcode, payload = await frames.next()
            assert opcode == PING
            await client.send(frame(PONG, payload))
        await client.send(frame(TEXT, b"still there"))
        assert (await received.next())["text"] == "still there"


async def test_pings_are_answered_while_the_application_is_busy(monkeypatch):
    monkeypatch.setattr(_websocket, "PUMP_SECONDS", 0.02)
    busy, go_on = trio.Event(), trio.Event()

    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        busy.set()
        await go_on.wait()

    async with serving_app(None, websocket) as (_, client):
        frames = await opened(client, early=frame(TEXT, b"work"))
        await busy.wait()
        await client.send(frame(PING, b"there?"))
        assert await frames.next() == (PONG, b"there?")
        go_on.set()


async def test_an_application_that_knows_the_extension_sends_pings_and_hears_pongs():
    received: Arrivals = Arrivals()

    async def websocket(scope, receive, send):
        assert "trioloop.websocket" in scope["extensions"]
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.ping", "bytes": b"abc"})
        received.put(await receive())

    async with serving_app(None, websocket) as (_, client):
        frames = await opened(client)
        assert await frames.next() == (PING, b"abc")
        await client.send(frame(PONG, b"abc"))
        assert await received.next() == {"type": "websocket.pong", "bytes": b"abc"}


async def test_an_application_that_does_not_know_the_extension_hears_no_pong():
    received: Arrivals = Arrivals()
    async with serving_app(None, recorder(received)) as (_, client):
        await opened(client, early=frame(PONG, b"unasked") + frame(TEXT, b"after"))
        assert (await received.next())["text"] == "after"


async def test_the_size_of_messages_can_be_chosen_for_one_connection():
    received: Arrivals = Arrivals()
    accept = {"max_message_size": 10}
    async with serving_app(None, recorder(received, accept=accept)) as (_, client):
        await opened(client, early=frame(TEXT, b"1234567890") + frame(TEXT, b"12345678901"))
        assert (await received.next())["text"] == "1234567890"
        assert (await received.next())["code"] == 1009


# -- compression ----------------------------------------------------------------------------------

OFFER = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")]


def deflated(data, *, opcode=TEXT):
    packer = zlib.compressobj(wbits=-12)
    packed = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
    return frame(opcode, packed[:-4], rsv=4)


def inflated(data):
    return zlib.decompressobj(wbits=-12).decompress(data + b"\x00\x00\xff\xff")


async def test_nothing_is_compressed_unless_it_is_asked_for():
    async with serving_app() as (_, client):
        await client.send(handshake_bytes(headers=OFFER))
        assert b"deflate" not in await RawWebSocket(client).read_head()


async def test_messages_are_compressed_both_ways_in_small_windows():
    """RFC 7692."""
    async with serving_app(websocket_deflate=True) as (_, client):
        await client.send(handshake_bytes(headers=OFFER))
        frames = RawWebSocket(client)
        head = await frames.read_head()
        assert b"server_max_window_bits=12" in head
        assert b"client_max_window_bits=12" in head
        await client.send(deflated(b"x" * 10_000))
        _, payload = await frames.next()
        assert len(payload) < 100
        assert inflated(payload) == b"x" * 10_000


async def test_compression_can_be_chosen_for_one_connection():
    accept = {"deflate": True}
    async with serving_app(None, recorder(Arrivals(), accept=accept)) as (_, client):
        await client.send(handshake_bytes(headers=OFFER))
        assert b"deflate" in await RawWebSocket(client).read_head()


async def test_a_bomb_is_not_inflated():
    received: Arrivals = Arrivals()
    settings = {"websocket_deflate": True, "websocket_max_message_size": 10_000}
    async with serving_app(None, recorder(received), **settings) as (_, client):
        await client.send(handshake_bytes(headers=OFFER))
        frames = RawWebSocket(client)
        await frames.read_head()
        await client.send(deflated(bytes(50_000_000)))
        opcode, payload = await frames.next()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 1009)
        assert (await received.next())["code"] == 1009


async def test_what_is_not_deflate_is_1002():
    async with serving_app(websocket_deflate=True) as (_, client):
        await client.send(handshake_bytes(headers=OFFER))
        frames = RawWebSocket(client)
        await frames.read_head()
        await client.send(frame(TEXT, b"\xff\xff\xff", rsv=4))
        assert (await frames.next())[1][:2] == (1002).to_bytes(2, "big")


# -- flow control ---------------------------------------------------------------------------------


async def test_messages_that_nobody_receives_are_not_read_ahead():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await trio.sleep_forever()

    async with serving_app(None, websocket) as (_, client):
        await opened(client)
        assert await client.flood(frame(BINARY, bytes(2**16))) < 2**25


async def test_a_websocket_is_logged_at_its_end():
    settings = {"access_log_format": "%(U)s %(s)s %({x-ended}o)s"}
    async with serving_app(None, **settings) as (server, client):
        await opened(client, "/chat", early=close_frame(4000))
        assert await server.accesses.next() == "/chat 101 4000"


async def test_a_websocket_that_asks_for_a_plain_answer_is_a_request():
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send(start(426))
        await send({"type": "http.response.body"})

    async with serving_app(app) as (_, client):
        await client.send(handshake_bytes().replace(b"GET", b"PUT"))
        assert (await client.answer()).status == 426


# -- without waiting ------------------------------------------------------------------------------


def soon(scope, message):
    return scope["extensions"]["trioloop.websocket"]["send_soon"](message)


def data_message(text=None, data=None):
    return {"type": "websocket.send", "text": text, "bytes": data}


async def test_messages_that_are_sent_soon_keep_their_order():
    async def websocket(scope, receive, send):
        await receive()
        assert not soon(scope, data_message("before it is open"))
        await send({"type": "websocket.accept"})
        assert soon(scope, data_message("1"))
        await send(data_message("2"))
        assert soon(scope, {"type": "websocket.ping", "bytes": b"3"})
        assert soon(scope, data_message(data=b"4"))
        await send({"type": "websocket.close"})
        assert not soon(scope, data_message("after it was closed"))

    async with serving_app(None, websocket) as (_, client):
        frames = await opened(client)
        for expected in ((TEXT, b"1"), (TEXT, b"2"), (PING, b"3"), (BINARY, b"4")):
            assert await frames.next() == expected
        assert (await frames.next())[0] == CLOSE


async def test_what_is_sent_soon_to_a_slow_client_is_refused_and_nothing_is_lost():
    counts: Arrivals = Arrivals()

    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        assert not soon(scope, data_message(data=bytes(64 * 1024 + 1))), "too large"
        count = 0
        while soon(scope, data_message(data=b"%010d" % count * 3000)):
            count += 1
            await trio.lowlevel.checkpoint()
        counts.put(count)
        await send(data_message(data=b"%010d" % count * 3000))
        await trio.sleep_forever()

    async with serving_app(None, websocket, receive_buffer=4096) as (_, client):
        frames = await opened(client)
        count = await counts.next()
        for number in range(count + 1):
            assert await frames.next() == (BINARY, b"%010d" % number * 3000)


async def test_a_message_that_is_cancelled_behind_others_ends_the_connection():
    """It was compressed: without it nobody could inflate what follows."""
    ended = trio.Event()

    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept", "deflate": True})
        while soon(scope, data_message(data=os.urandom(30_000))):
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0):
            await send(data_message("hole"))
        with pytest.raises(ClientGone):
            await send(data_message("hole"))
        ended.set()

    async with serving_app(None, websocket, receive_buffer=4096) as (_, client):
        await opened(client, headers=OFFER)
        await ended.wait()


async def test_an_answer_to_a_ping_behind_a_slow_message_outlives_the_receive_that_wrote_it(
    monkeypatch,
):
    counts: Arrivals = Arrivals()
    pinged, cancelled, receiving = trio.Event(), trio.Event(), trio.CancelScope()
    append = Connection.append

    def append_and_cancel(self, data):
        append(self, data)
        receiving.cancel()

    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        count = 1
        while soon(scope, data_message(data=bytes(30_000))):
            count += 1
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, data_message(data=bytes(30_000)))
            counts.put(count)
            await pinged.wait()
            monkeypatch.setattr(Connection, "append", append_and_cancel)
            with receiving:
                await receive()
            cancelled.set()
        await receive()

    async with serving_app(None, websocket, receive_buffer=4096) as (_, client):
        frames = await opened(client)
        count = await counts.next()
        await client.send(frame(PING, b"there?"))
        pinged.set()
        await cancelled.wait()
        for _ in range(count):
            assert (await frames.next())[0] == BINARY
        assert await frames.next() == (PONG, b"there?")


async def test_answers_to_pings_do_not_pile_up_however_often_a_receive_is_cancelled(monkeypatch):
    waiting: list[int] = []
    append = Connection.append
    slow, done = trio.Event(), trio.Event()

    def noted(self, data):
        append(self, data)
        waiting.append(self._pending_size)

    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while soon(scope, data_message(data=bytes(30_000))):
            await trio.lowlevel.checkpoint()
        monkeypatch.setattr(Connection, "append", noted)
        slow.set()
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await settle()
                nursery.cancel_scope.cancel()
        done.set()
        await trio.sleep_forever()

    async with (
        serving_app(None, websocket, receive_buffer=4096) as (_, client),
        trio.open_nursery() as nursery,
    ):
        await opened(client)
        await slow.wait()
        nursery.start_soon(client.send, frame(PING, bytes(125)) * 100_000)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert 0 < max(waiting) < 3 * MAX_PENDING


async def test_more_than_fits_into_one_turn_is_sent_soon_to_a_client_that_reads():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(5):
            assert soon(scope, data_message(data=bytes(30_000)))
        await receive()

    async with serving_app(None, websocket) as (_, client):
        frames = await opened(client)
        for _ in range(5):
            assert await frames.next() == (BINARY, bytes(30_000))


async def test_what_is_refused_does_not_spoil_the_compression_of_what_follows():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept", "deflate": True})
        assert soon(scope, data_message("one" * 1000))
        assert not soon(scope, data_message("x" * 100_000))
        assert soon(scope, data_message("one" * 1000))

    async with serving_app(None, websocket) as (_, client):
        frames = await opened(client, headers=OFFER)
        inflate = zlib.decompressobj(-15)
        for _ in range(2):
            _, payload = await frames.next()
            assert inflate.decompress(payload + b"\0\0\xff\xff") == b"one" * 1000


async def test_only_data_and_pings_are_sent_soon():
    async def websocket(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        with pytest.raises(RuntimeError, match="cannot be sent soon"):
            soon(scope, {"type": "websocket.close"})
        with pytest.raises(ValueError, match="125"):
            soon(scope, {"type": "websocket.ping", "bytes": bytes(126)})

    async with serving_app(None, websocket) as (_, client):
        frames = await opened(client)
        assert (await frames.next())[1][:2] == b"\x03\xe8"
