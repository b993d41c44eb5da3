"""Requests and responses of HTTP/1: framing, keep-alive, limits. Clauses are of RFC 9112."""

from contextvars import ContextVar

import pytest
import trio
from support.asgi import (
    answer,
    body,
    logged,
    read_body,
    serving_app,
    settle,
    start,
)
from support.sockets import Arrivals, Cut, request_bytes

from trioloop.server._transport import ClientGone, SocketTransport

CHUNKED = [("transfer-encoding", "chunked")]


# -- what is served -------------------------------------------------------------------------------


async def test_a_connection_is_used_again():
    async with serving_app() as (_, client):
        for data in (b"one", b"", b"x" * 300_000):
            await client.request("POST", body=data)
            assert (await client.answer()).body == data


async def test_pipelined_requests_are_answered_in_their_order():
    async def app(scope, receive, send):
        await answer(send, scope["path"].encode())

    async with serving_app(app) as (_, client):
        await client.send(b"".join(request_bytes(path=f"/{number}") for number in range(100)))
        for number in range(100):
            assert (await client.answer()).body == f"/{number}".encode()


async def test_nothing_is_served_behind_a_request_whose_client_has_left():
    paths = []
    ended = trio.Event()

    async def app(scope, receive, send):
        paths.append(scope["path"])
        await send(start())
        await send(body(b"first", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with serving_app(app) as (_, client):
        await client.send(request_bytes(path="/one") + request_bytes(path="/two"))
        await client.head()
        await client.until("first")
        client.close()
        await ended.wait()
        await settle()
    assert paths == ["/one"]


@pytest.mark.parametrize("pipelined", [False, True])
async def test_a_request_leaves_nothing_in_the_context_of_the_next(pipelined):
    left: ContextVar[bytes] = ContextVar("left", default=b"nothing")

    async def app(scope, receive, send):
        found = left.get()
        left.set(b"something")
        await read_body(receive)
        await answer(send, found + b", " + left.get())

    async with serving_app(app) as (_, client):
        for _ in range(1 if pipelined else 3):
            await client.send(request_bytes() * (3 if pipelined else 1))
            for _ in range(3 if pipelined else 1):
                assert (await client.answer()).body == b"nothing, something"


async def test_a_request_may_come_byte_by_byte():
    async with serving_app() as (_, client):
        for byte in request_bytes("POST", body=b"slow"):
            await client.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        assert (await client.answer()).body == b"slow"


async def test_a_chunked_body_is_put_together_and_its_extensions_and_trailers_thrown_away():
    """Clauses 7.1.1, 7.1.2."""
    async with serving_app() as (_, client):
        head = request_bytes("POST", headers=CHUNKED)
        await client.send(
            head + b"3;a=b\r\nabc\r\n00A\r\n0123456789\r\n0\r\nhost: evil\r\nx: y\r\n\r\n"
        )
        assert (await client.answer()).body == b"abc0123456789"
        assert await client.is_served()


async def test_a_chunked_body_may_come_byte_by_byte():
    async with serving_app() as (_, client):
        await client.send(request_bytes("POST", headers=CHUNKED))
        for byte in b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nt: r\r\n\r\n":
            await client.send(bytes([byte]))
            await settle()
        assert (await client.answer()).body == b"abcde"


async def test_a_response_without_a_length_is_chunked():
    async def app(scope, receive, send):
        await send(start())
        await send(body(b"one", more=True))
        await send(body(b"", more=True))
        await send(body(b"two"))

    async with serving_app(app) as (_, client):
        await client.request()
        reply = await client.answer()
        assert reply.headers["transfer-encoding"] == "chunked"
        assert reply.body == b"onetwo"
        assert await client.is_served()


async def test_a_response_in_one_piece_has_a_length():
    async with serving_app() as (_, client):
        await client.request("POST", body=b"12345")
        assert (await client.answer()).headers["content-length"] == "5"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_that_has_no_body_gets_none(status):
    """Clause 6.3."""

    async def app(scope, receive, send):
        await send(start(status))
        await send(body(b"not to be sent"))

    async with serving_app(app) as (_, client):
        await client.send(request_bytes() + request_bytes(path="/alive"))
        reply = await client.answer()
        assert (reply.status, reply.body) == (status, b"")
        assert "transfer-encoding" not in reply.headers
        assert (await client.answer()).body == b"alive"


async def test_a_response_to_head_has_the_headers_and_no_body():
    async def app(scope, receive, send):
        await answer(send, b"12345", headers=[(b"content-length", b"5")])

    async with serving_app(app) as (_, client):
        await client.send(request_bytes("HEAD") + request_bytes(path="/alive"))
        reply = await client.answer("HEAD")
        assert reply.headers["content-length"] == "5"
        assert (await client.answer()).body == b"alive"


async def test_http_1_0_is_answered_without_chunks_and_closed():
    async def app(scope, receive, send):
        assert scope["http_version"] == "1.0"
        await send(start())
        await send(body(b"one", more=True))
        await send(body(b"two"))

    async with serving_app(app) as (_, client):
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        everything = await client.end()
        head, _, rest = everything.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert rest == b"onetwo"


async def test_http_1_0_may_ask_for_the_connection_to_be_kept():
    async with serving_app() as (_, client):
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            assert (await client.answer()).headers["connection"] == "keep-alive"


async def test_an_empty_line_before_a_request_is_ignored():
    """Clause 2.2."""
    async with serving_app() as (_, client):
        await client.send(b"\r\n" + request_bytes(path="/alive") + b"\r\n" + request_bytes())
        assert (await client.answer()).body == b"alive"
        assert (await client.answer()).status == 200


async def test_a_client_that_expects_it_is_told_to_continue_when_the_body_is_wanted():
    """RFC 9110, 10.1.1."""
    asked, go_on = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        asked.set()
        await go_on.wait()
        await answer(send, await read_body(receive))

    async with serving_app(app) as (_, client):
        headers = [("expect", "100-continue"), ("content-length", "3")]
        await client.send(request_bytes("POST", headers=headers))
        await asked.wait()
        with trio.move_on_after(0.05) as patience:
            await client.receive()
        assert patience.cancelled_caught, "it is not wanted yet"
        go_on.set()
        assert await client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.answer()).body == b"abc"


async def test_that_a_body_is_wanted_is_told_although_the_receive_was_cancelled(monkeypatch):
    """It stands behind an answer that the client has not taken yet."""
    cancelled, taken = trio.Event(), trio.Event()
    send_rest = SocketTransport.send_rest

    async def send_when_taken(self, data, timeout):
        await taken.wait()
        await send_rest(self, data, timeout)

    async def app(scope, receive, send):
        if scope["method"] == "POST":
            with trio.move_on_after(0):
                await receive()
            cancelled.set()
        await answer(send, await read_body(receive))

    monkeypatch.setattr(SocketTransport, "send_nowait", lambda self, data: 0)
    monkeypatch.setattr(SocketTransport, "send_rest", send_when_taken)
    async with serving_app(app) as (_, client):
        headers = [("expect", "100-continue"), ("content-length", "3")]
        await client.send(request_bytes() + request_bytes("POST", headers=headers))
        await cancelled.wait()
        taken.set()
        answers = b""
        while not answers.endswith(b"\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"):
            answers += await client.receive()
        await client.send(b"abc")
        assert (await client.answer()).body == b"abc"


async def test_a_client_whose_body_is_not_wanted_is_not_told_to_continue():
    async def app(scope, receive, send):
        await answer(send, b"no", 403)

    async with serving_app(app) as (_, client):
        headers = [("expect", "100-continue"), ("content-length", "3")]
        await client.send(request_bytes("POST", headers=headers))
        reply = await client.answer()
        assert reply.status == 403
        assert reply.headers["connection"] == "close"  # nobody knows whether the body comes
        assert await client.end() == b""


async def test_the_scope_says_what_the_request_said():
    scopes: Arrivals = Arrivals()

    async def app(scope, receive, send):
        scopes.put(scope)
        await answer(send)

    async with serving_app(app, root_path="/mounted") as (server, client):
        await client.request(
            "PUT", "/a%20b%2Fc?x=%20", headers=[("X-Up", " \tv1 "), ("x-up", "v2")]
        )
        await client.answer()
        scope = await scopes.next()
    assert scope["method"] == "PUT"
    assert scope["path"] == "/a b/c"
    assert scope["raw_path"] == b"/a%20b%2Fc"
    assert scope["query_string"] == b"x=%20"
    assert scope["headers"] == [(b"host", b"test"), (b"x-up", b"v1"), (b"x-up", b"v2")]
    assert scope["http_version"] == "1.1"
    assert scope["scheme"] == "http"
    assert scope["root_path"] == "/mounted"
    assert scope["server"] == ("127.0.0.1", server.port)
    assert scope["client"][0] == "127.0.0.1"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}


async def test_an_upgrade_to_h2c_is_ignored_and_its_body_kept():
    async with serving_app() as (_, client):
        headers = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]
        headers.append(("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"))
        await client.request("POST", body=b"hello", headers=headers)
        assert (await client.answer()).body == b"hello"


# -- what is refused ------------------------------------------------------------------------------

HOST = b"host: x\r\n"
REFUSED = {
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", 400),
    "a Host that is none": (b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
    "absolute form": (b"GET http://x/ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
    "an asterisk without OPTIONS": (b"GET * HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2.1": (b"GET / HTTP/2.1\r\nhost: x\r\n\r\n", 505),
    "a target that is not ASCII": (b"GET /\xe9 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a tab": (b"GET\t/ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a bare LF in the request line": (b"GET / HTTP/1.1\nhost: x\n\n", 400),
    "a bare LF after a field": (b"GET / HTTP/1.1\r\nhost: x\nx: y\r\n\r\n", 400),
    "a bare CR in a field": (b"GET / HTTP/1.1\r\nhost: x\r\nx: a\rb\r\n\r\n", 400),
    "a NUL in a field": (b"GET / HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n", 400),
    "obs-fold": (b"GET / HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nhost : x\r\n\r\n", 400),
    "a field without a colon": (b"GET / HTTP/1.1\r\nhost: x\r\nnothing\r\n\r\n", 400),
    "a field without a name": (b"GET / HTTP/1.1\r\nhost: x\r\n: v\r\n\r\n", 400),
    "both lengths": (
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        400,
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        400,
    ),
    "a list of lengths": (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3, 3\r\n\r\nabc", 400),
    "a signed length": (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +3\r\n\r\nabc", 400),
    "a negative length": (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -3\r\n\r\nabc", 400),
    "a coding on top": (
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        501,
    ),
    "chunked twice": (
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        501,
    ),
    "chunked in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "an unknown expectation": (b"GET / HTTP/1.1\r\nhost: x\r\nexpect: fame\r\n\r\n", 417),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00", 400),
}


@pytest.mark.parametrize("request_, status", REFUSED.values(), ids=REFUSED)
async def test_what_two_servers_could_read_differently_is_refused(request_, status):
    called: list[str] = []

    async def app(scope, receive, send):
        called.append(scope["path"])
        await answer(send)

    async with serving_app(app) as (server, client):
        await client.send(request_ + request_bytes(path="/smuggled"))
        assert (await client.answer()).status == status
        assert await client.end() == b""
        assert await server.is_alive()
    assert called == []


BAD_CHUNKS = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "a size that is none": b"3x\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "a bare LF behind the size": b"3\nabc\r\n0\r\n\r\n",
    "a bare CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "data that is longer": b"3\r\nabcd\r\n0\r\n\r\n",
    "a bare LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "a size of 17 digits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a trailer that is none": b"3\r\nabc\r\n0\r\nno field\r\n\r\n",
    "endless extensions": b"1;" + b"x" * 5000 + b"\r\na\r\n0\r\n\r\n",
    "endless trailers": b"0\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
}


@pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_a_malformed_chunk_gets_400_and_a_closed_connection(chunks):
    gone: list[bool] = []

    async def app(scope, receive, send):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                gone.append(True)
                with pytest.raises(ClientGone):
                    await send(start())
                return
            assert message["more_body"]

    async with serving_app(app) as (server, client):
        await client.send(request_bytes("POST", headers=CHUNKED) + chunks)
        assert (await client.answer()).status == 400
        assert await client.end() == b""
        assert await server.is_alive()
    assert gone == [True]


# -- limits ---------------------------------------------------------------------------------------


async def test_a_head_that_is_too_large_gets_431():
    async with serving_app(h11_max_incomplete_size=1000) as (_, client):
        await client.send(request_bytes(headers=[("x", "y" * 1000)]))
        assert (await client.answer()).status == 431
        assert await client.end() == b""


async def test_a_head_that_never_ends_gets_431_before_its_end():
    async with serving_app(h11_max_incomplete_size=1000) as (_, client):
        await client.send(b"GET / HTTP/1.1\r\nx: " + b"y" * 1000)
        assert (await client.answer()).status == 431


async def test_too_many_headers_get_431():
    async with serving_app(max_headers=10) as (_, client):
        await client.send(request_bytes(headers=[("x", "y")] * 10))
        assert (await client.answer()).status == 431


@pytest.mark.parametrize(
    "headers", [[("content-length", "11")], CHUNKED], ids=["length", "chunked"]
)
async def test_a_body_that_is_too_large_gets_413(headers):
    async with serving_app(max_body_size=10) as (_, client):
        await client.send(request_bytes("POST", headers=headers) + b"b\r\n12345678901\r\n")
        assert (await client.answer()).status == 413
        assert await client.end() == b""


async def test_a_head_that_takes_too_long_gets_408():
    async with serving_app(request_timeout=0.1) as (_, client):
        await client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.answer()).status == 408
        assert await client.end() == b""


async def test_a_head_that_trickles_in_gets_408():
    """A slow-loris: each byte comes in time, the whole never does."""
    async with serving_app(request_timeout=0.3) as (_, client), trio.open_nursery() as nursery:

        async def trickle():
            while True:
                await client.send(b"x")
                await trio.sleep(0.02)

        await client.send(b"GET / HTTP/1.1\r\nx: ")
        nursery.start_soon(trickle)
        assert (await client.answer()).status == 408
        nursery.cancel_scope.cancel()


async def test_a_body_that_takes_too_long_gets_408_and_the_application_hears_of_it():
    heard = trio.Event()

    async def app(scope, receive, send):
        assert (await receive())["body"] == b"1"
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    async with serving_app(app, read_timeout=0.1) as (_, client):
        await client.send(request_bytes("POST", headers=[("content-length", "2")]) + b"1")
        assert (await client.answer()).status == 408
        await heard.wait()


async def test_a_connection_without_a_request_is_closed_in_silence():
    async with serving_app(keep_alive_timeout=0.05) as (_, client):
        assert await client.end() == b""


async def test_a_connection_has_so_many_requests_and_says_which_is_the_last():
    async with serving_app(keep_alive_max_requests=2) as (_, client):
        await client.send(request_bytes() * 3)
        assert "connection" not in (await client.answer()).headers
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.end() == b""


async def test_more_connections_than_allowed_get_503():
    async with serving_app(max_connections=1) as (server, client):
        await client.request(path="/alive")
        await client.answer()
        async with server.client() as other:
            reply = await other.answer()
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
            assert await other.end() == b""
        assert await client.is_served()


async def test_a_body_that_nobody_reads_is_not_read_ahead():
    """The client is slowed down by its own socket, not by the memory of the server."""
    release = trio.Event()

    async def app(scope, receive, send):
        await receive()
        await release.wait()
        await answer(send)

    async with serving_app(app) as (_, client):
        await client.send(request_bytes("POST", headers=[("content-length", str(2**30))]))
        assert await client.flood(bytes(2**16)) < 2**25
        release.set()


async def test_only_the_hosts_of_server_names_are_served():
    async with serving_app(server_names=["test"]) as (_, client):
        await client.send(request_bytes(path="/alive"))
        assert (await client.answer()).status == 200
        await client.send(b"GET / HTTP/1.1\r\nhost: other\r\n\r\n")
        assert (await client.answer()).status == 404


# -- applications that do wrong -------------------------------------------------------------------


async def test_an_application_that_crashes_before_its_response_gets_500_and_a_log():
    async def app(scope, receive, send):
        await send(start())  # nothing is written yet
        raise ValueError("it broke")

    async with serving_app(app) as (server, client):
        await client.request()
        assert (await client.answer()).status == 500
        await logged(server, "ValueError: it broke")


async def test_an_application_that_says_nothing_gets_500():
    async def app(scope, receive, send):
        pass

    async with serving_app(app) as (_, client):
        await client.request()
        assert (await client.answer()).status == 500


async def test_a_response_that_is_not_completed_is_cut():
    async def app(scope, receive, send):
        await send(start())
        await send(body(b"some", more=True))

    async with serving_app(app) as (_, client):
        await client.request()
        with pytest.raises(Cut):
            await client.answer()
        assert client.received == b"some"


async def test_a_response_of_http_1_0_that_is_not_completed_is_reset():
    """Its end is that of the connection, so a mere close would look complete."""

    async def app(scope, receive, send):
        await send(start())
        await send(body(b"some", more=True))

    async with serving_app(app) as (_, client):
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while await client._stream.receive_some():
                pass


WRONG = {
    "a header that splits the response": [start(headers=[(b"x", b"a\r\nset-cookie: b")]), body()],
    "a name that is none": [start(headers=[(b"x y", b"a")]), body()],
    "no bytes": [start(headers=[("x", "y")]), body()],
    "a status that is none": [start(99), body()],
    "a body without a start": [body()],
    "two starts": [start(), start()],
    "two lengths": [start(headers=[(b"content-length", b"1")] * 2), body(b"1")],
    "more than the length": [start(headers=[(b"content-length", b"1")]), body(b"12")],
    "less than the length": [start(headers=[(b"content-length", b"3")]), body(b"12")],
    "what no server knows": [{"type": "http.response.poem"}],
}


@pytest.mark.parametrize("messages", WRONG.values(), ids=WRONG)
async def test_what_an_application_may_not_send_becomes_500(messages):
    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    async with serving_app(app) as (server, client):
        await client.request()
        assert (await client.answer()).status == 500
        await logged(server, "Traceback")


async def test_an_exit_of_the_application_is_no_error_of_its_request():
    async def app(scope, receive, send):
        raise SystemExit(3)

    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        async with serving_app(app) as (server, client):
            await client.request()
            await server.ended.wait()
