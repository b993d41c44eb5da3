"""HTTP/2 beside HTTP/1.1: the same requests, the same application, the same answers.

Random requests go to one application by three ways: HTTP/1.1 and HTTP/2 on our worker, and HTTP/2 on
the stock one, as far as it survives them. What the application is told, and what the client gets,
must be equal after the normalisation in `told` and `got`, which is all there is:

* The protocol's own differences: ``http_version``, the client's port, and the extensions that a
  protocol has; ``host`` comes first in HTTP/2 (it is ``:authority``), and a body's length or framing
  is no header there. Several ``cookie`` fields are one (RFC 9113, 8.2.3). A body counts as a whole, for its pieces are the network's.
* Of an answer, the server's own headers: ``date``, ``server``, ``connection``, and the framing
  (``transfer-encoding``, and ``content-length`` where the application gave none).
* An answer that is cut: the stream is reset in HTTP/2, the connection closed in HTTP/1.1. What had
  been written before that may not have been sent. Where a length is known, or there is no body, an
  answer is complete in HTTP/1.1 with its last byte, whatever the application does after that.
* The stock worker's: ``spec_version``, and our own extensions.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import sockets
from support.asgi import Application, body, read_body, start
from support.http2 import Exchange, http2_connected
from support.sockets import Arrivals, Cut, StockServer, connected, stock_server

LONG = bool(os.environ.get("TRIOLOOP_LONG"))
EXAMPLES = 3_000 if LONG else 100

OWN_HEADERS = {b"date", b"server", b"connection", b"transfer-encoding"}


# -- what is asked, and what the application does about it ---------------------------------------


@dataclass(frozen=True)
class Plan:
    """A request, and its response.

    Args:
        method: of the request.
        target: of the request, path and query.
        headers: of the request.
        pieces: of its body, their sizes; ``None`` when it has none.
        reads: whether the application reads the body before it answers.
        status: of the response.
        answer_headers: of the response.
        answer: pieces of its body, their sizes.
        ending: ``complete`` or what the application does instead.
    """

    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    pieces: tuple[int, ...] | None = None
    reads: bool = True
    status: int = 200
    answer_headers: tuple[tuple[bytes, bytes], ...] = ()
    answer: tuple[int, ...] = (0,)
    ending: str = "complete"


def data(sizes):
    """Pieces of so many bytes, no two of which are easily taken for each other."""
    return [bytes((size + place) % 251 for place in range(size)) for size in sizes]


@dataclass
class Account:
    """What became of it, on both sides."""

    scope: dict[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    after: str = ""
    raised: str = ""
    answer: tuple[Any, ...] = ()


def application(plans, accounts):
    """Answers each request as its plan says, which the header ``x-plan`` names."""

    async def http(scope, receive, send):
        number = int(dict(scope["headers"])[b"x-plan"])
        plan, account = plans[number], accounts[number]
        account.scope = scope
        if plan.reads:
            account.body = await read_body(receive)
        if plan.ending == "crash":
            raise ValueError("as planned")
        if plan.ending == "return":
            return
        try:
            await send(start(plan.status, plan.answer_headers))
            *pieces, last = data(plan.answer)
            for piece in pieces:
                await send(body(piece, more=True))
            await send(body(last, more=plan.ending == "crash later"))
        except (ValueError, TypeError, RuntimeError) as error:
            account.raised = type(error).__name__
            raise
        if plan.ending == "crash later":
            raise ValueError("as planned")
        account.after = (await receive())["type"]

    return Application(http)


# -- normalisation -------------------------------------------------------------------------------


def told(account, *, stock=False):
    """What the application was told, without what the protocols differ in."""
    scope = dict(account.scope)
    if not scope:
        return None
    headers, cookies = [], []
    for name, value in scope.pop("headers"):
        if name == b"cookie":
            cookies.append(value)
        elif name not in (b"content-length", b"transfer-encoding"):
            headers.append((name, value))
    headers = sorted(headers, key=lambda pair: pair[0] != b"host")
    host, port = scope.pop("client")
    assert port
    assert scope.pop("server")[1]
    assert scope.pop("http_version") in ("1.1", "2")
    extensions, asgi = scope.pop("extensions"), scope.pop("asgi")
    if not stock:
        assert "trioloop.shutdown" in extensions
        assert asgi == {"version": "3.0", "spec_version": "2.4"}
    cookie = b"; ".join(cookies)
    return scope, headers, cookie, host, account.body, account.after, bool(account.raised)


def got(account, plan):
    """What the client got, without what is the server's own."""
    status, headers, answered, ended = account.answer
    given_length = any(name.lower() == b"content-length" for name, _ in plan.answer_headers)
    kept = [
        (name.lower(), value)
        for name, value in headers
        if name.lower() not in OWN_HEADERS and (given_length or name.lower() != b"content-length")
    ]
    if status == 500 and plan.status != 500:  # the server's own answer
        kept = []
    crashed = account.raised or plan.ending == "crash later"
    if crashed and (given_length or plan.method == "HEAD" or status in (204, 304)):
        ended = "whenever"
    return status, kept, answered if ended == "complete" else None, ended


# -- the three ways ------------------------------------------------------------------------------


async def by_http1(server, number, plan, account):
    """One request of HTTP/1.1 on a connection of its own."""
    lines = [f"{plan.method} {plan.target} HTTP/1.1", "host: test", f"x-plan: {number}"]
    lines += [f"{name}: {value}" for name, value in plan.headers]
    if plan.pieces is not None:
        lines.append("transfer-encoding: chunked")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    async with connected(server.port) as client:
        await client.send(head)
        try:
            for piece in data(plan.pieces or ()):
                if piece:
                    await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            if plan.pieces is not None:
                await client.send(b"0\r\n\r\n")
        except trio.BrokenResourceError:
            pass  # it was answered early
        try:
            found = await client.head(plan.method)
        except Cut:
            account.answer = (0, [], b"", "cut")
            return
        headers = [(bytes(name), bytes(value)) for name, value in found.headers]
        try:
            account.answer = (found.status_code, headers, await client.rest(), "complete")
        except Cut:
            account.answer = (found.status_code, headers, b"", "cut")


async def by_http2(server: StockServer, plans, accounts):
    """All of them side by side on one connection of HTTP/2."""
    exchanges = [
        Exchange(
            plan.method,
            plan.target,
            (("x-plan", str(number)), *plan.headers),
            data(plan.pieces or ()),
        )
        for number, plan in enumerate(plans)
    ]
    async with http2_connected(server.port) as client:
        await client.run(exchanges)
    for exchange, account in zip(exchanges, accounts, strict=True):
        ended = "complete" if exchange.ended == "complete" else "cut"
        account.answer = (exchange.status, exchange.answer_headers, exchange.body, ended)


async def all_ways(plans, monkeypatch):
    """The accounts of HTTP/1.1, of HTTP/2, and of the stock worker's HTTP/2 if it survives them."""
    ways = []
    for worker, protocol in (("trioloop", 1), ("trioloop", 2), ("stock", 2)):
        if worker == "stock" and not all(map(is_served_by_stock, plans)):
            break
        monkeypatch.setattr(sockets, "WORKER", worker)
        accounts = [Account() for _ in plans]
        async with stock_server(application(plans, accounts), root_path="/root") as server:
            if protocol == 1:
                for number, plan in enumerate(plans):
                    await by_http1(server, number, plan, accounts[number])
            else:
                await by_http2(server, plans, accounts)
        ways.append(accounts)
    return ways


# -- generated requests --------------------------------------------------------------------------

METHODS = ["GET", "get", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY", "M-SEARCH"]
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
PATHS = st.one_of(
    st.sampled_from(["", "a//b", "%C3%A9", "%ff%00", "a/../b", "%2f", "+", "a;b=c", "%zz", "*"]),
    st.text(VISIBLE, max_size=12).map(lambda text: text.replace("?", "")),
)
QUERIES = st.one_of(
    st.just(""),
    st.sampled_from(["?", "?a=b&a=c", "??", "?%C3%A9", "?a=%zz#b"]),
    st.text(VISIBLE, max_size=8).map("?{}".format),
)
NAMES = st.text(st.sampled_from("abcxyz019-_.!~"), min_size=1, max_size=8).map("x-{}".format)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_characters="\x7f"), max_size=12
).map(lambda text: "".join(c for c in text if c == "\t" or c >= " ").strip(" \t\x85\xa0"))
HEADERS = st.lists(
    st.one_of(
        st.tuples(NAMES, VALUES),
        st.sampled_from(
            [("accept", "*/*"), ("user-agent", "x y"), ("cookie", "a=b; c=d"), ("te", "trailers")]
        ),
    ),
    max_size=4,
)
PIECES = st.lists(st.one_of(st.integers(0, 20), st.sampled_from([20_000, 70_000])), max_size=4)
ANSWER_HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"x-a", b"X-B", b"content-type", b"set-cookie", b"etag", b"link"]),
        st.sampled_from([b"", b"a", b"a=b; path=/", b"\xe9", b'"x, y"']),
    ),
    max_size=4,
)
BROKEN_HEADERS = [
    (b"x", b"y\r\nz: w"),
    (b"x", b"y\nz"),
    (b"x", b"\0"),
    (b"x y", b"z"),
    (b"", b"z"),
    (b"content-length", b"many"),
]


@st.composite
def made_plans(draw):
    """A plan of any kind."""
    pieces = draw(PIECES)
    answered = draw(st.lists(st.integers(0, 30), min_size=1, max_size=4))
    if draw(st.integers(0, 5)) == 0:
        answered.insert(0, 200_000)
    headers = draw(ANSWER_HEADERS)
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 205, 304, 404, 500, 599, 100, 1000]))
    length = draw(st.integers(0, 7))
    if status == 304:
        pass  # h2 does not know that its length is that of another response (RFC 9110, 8.6)
    elif length == 0:
        headers.append((b"content-length", b"%d" % sum(answered)))
    elif length == 1:
        headers.append((b"content-length", b"%d" % draw(st.integers(0, 60))))
    if draw(st.integers(0, 9)) == 0:
        headers.append(draw(st.sampled_from(BROKEN_HEADERS)))
    return Plan(
        method=draw(st.sampled_from(METHODS)),
        target="/" + draw(PATHS) + draw(QUERIES),
        headers=tuple(draw(HEADERS)),
        pieces=tuple(pieces) if draw(st.booleans()) else None,
        reads=draw(st.integers(0, 4)) > 0,
        status=status,
        answer_headers=tuple(headers),
        answer=tuple(answered),
        ending=draw(st.sampled_from(["complete"] * 6 + ["crash", "crash later", "return"])),
    )


def is_served_by_stock(plan):
    """Whether the stock worker survives it, with the connection of the others."""
    return (
        not any(pair in BROKEN_HEADERS for pair in plan.answer_headers)
        and 200 <= plan.status < 1000
        and not (plan.status == 204 and dict(plan.answer_headers).get(b"content-length"))
        and plan.reads
        and length_is_right(plan)
        and plan.ending == "complete"
    )


def length_is_right(plan):
    """Whether the application keeps what its content-length promises."""
    for name, value in plan.answer_headers:
        if name == b"content-length":
            return value == b"%d" % sum(plan.answer)
    return True


def compare(plans, ways):
    """Compare what three ways have told and got."""
    for number, plan in enumerate(plans):
        first, second, *stock = (way[number] for way in ways)
        assert got(second, plan) == got(first, plan), plan
        assert told(second) == told(first), plan
        for one in stock:
            assert got(one, plan) == got(second, plan), plan
            assert told(one, stock=True) == told(second), plan


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not LONG,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(plans=st.lists(made_plans(), min_size=1, max_size=4))
def test_a_request_and_its_answer_are_the_same_by_http1_and_by_http2(plans, monkeypatch):
    compare(plans, trio.run(all_ways, plans, monkeypatch))


# -- limits --------------------------------------------------------------------------------------

TOO_LARGE = {
    "a promised body": ((("content-length", "1001"),), (1001,), 413),
    "a body": ((), (600, 401), 413),
    "too many fields": (tuple((f"x-{number}", "") for number in range(101)), (), 431),
}


@pytest.mark.parametrize("headers, sizes, status", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_a_request_that_is_too_large_is_refused_as_over_http1(headers, sizes, status):
    async with stock_server(Application(), max_body_size=1000) as server:
        refused = Exchange("POST", "/", headers, data(sizes))
        served = Exchange("POST", "/", (), data((500, 500)))
        async with http2_connected(server.port) as client:
            await client.run([refused, served])
        assert (refused.status, refused.ended) == (status, "complete")
        assert (served.status, len(served.body)) == (200, 1000)


async def test_a_body_that_is_too_large_cuts_the_answer_that_has_begun():
    async def http(scope, receive, send):
        await send(start())
        await send(body(b"first", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass
        with pytest.raises(OSError, match="gone"):
            await send(body(b"last"))

    async with stock_server(Application(http), max_body_size=70_000) as server:
        exchange = Exchange(
            "POST", "/", (), data((80_000,))
        )  # more than a window: some comes later
        async with http2_connected(server.port) as client:
            await client.run([exchange])
        assert (exchange.status, exchange.ended) == (200, "reset")


@pytest.mark.parametrize("window", [0, 2**31 - 2**16], ids=["its window", "its socket"])
async def test_a_client_that_takes_nothing_is_given_up_with_a_reason(window):
    """As over HTTP/1.1, whatever it is that it does not read: a stream or the connection."""
    told: Arrivals = Arrivals()

    async def http(scope, receive, send):
        await receive()
        await send(start())
        try:
            while True:
                await send(body(bytes(2**16), more=True))
        except OSError as error:
            told.put(dict(error.why))
        told.put(await receive())
        told.put(await receive())

    async with (
        stock_server(Application(http), send_timeout=0.1) as server,
        server.client(receive_buffer=4096 if window else None) as client,
    ):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        if window:
            connection.local_settings.initial_window_size = 2**31 - 1
        connection.initiate_connection()
        if window:
            connection.increment_flow_control_window(window)
        connection.send_headers(
            1,
            [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/")],
            end_stream=True,
        )
        await client.send(connection.data_to_send())
        assert await told.next() == {"send_timeout": 0.1}
        for _ in range(2):
            assert await told.next() == {"type": "http.disconnect", "send_timeout": 0.1}
        client.reset()


async def test_the_head_of_an_answer_waits_for_its_body():
    """So an application that crashes in between is answered with 500, as over HTTP/1.1."""

    async def http(scope, receive, send):
        await send(start())
        raise ValueError("as planned")

    async with stock_server(Application(http)) as server:
        exchange = Exchange("GET", "/")
        async with http2_connected(server.port) as client:
            await client.run([exchange])
        assert (exchange.status, exchange.ended) == (500, "complete")
