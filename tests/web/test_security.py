"""Origins, caps, rates and proxies: who is let in, how many, how fast, and whose word counts."""

from __future__ import annotations

import pytest
import trio
from support.fake import Poll, Stream, serve, settle
from support.fake_websocket import Socket

from trioloop import App, Close, Hub, Limits, Overflowed, Rate, Stop, WebSocketHandler
from trioloop._web._proxies import find_client, parse_networks


async def status_of(kind, options, scope, limits=None, **headers):
    """Open one handler from a page of this origin; 200 for a WebSocket that was accepted."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with serve(limits=limits) as client:
        endpoint = client.hub.endpoint(kind, **options)
        if kind is Socket:
            exchange = client.websocket(app=endpoint, headers=headers, **scope)
            await settle()
            return 200 if exchange.accepted else exchange.status
        exchange = client.open(app=endpoint, headers=headers)
        exchange.scope.update(scope)
        await settle()
        return exchange.status or 200


# -- origins ---------------------------------------------------------------------------------------

SAME = [
    ("http://example.org", "example.org", "ws"),
    ("http://EXAMPLE.org", "example.ORG", "ws"),
    ("http://example.org", "example.org:80", "ws"),
    ("http://example.org:80", "example.org", "ws"),
    ("https://example.org", "example.org", "wss"),
    ("https://example.org", "example.org:443", "wss"),
    ("https://example.org:8443", "example.org:8443", "wss"),
    ("http://localhost:8000", "localhost:8000", "ws"),
    ("http://[::1]:8000", "[::1]:8000", "ws"),
    ("https://example.org", "example.org", "ws"),  # a proxy has taken the TLS off
]
FOREIGN = [
    ("http://evil.example", "example.org", "ws"),
    ("http://example.org.evil.example", "example.org", "ws"),
    ("http://example.org:8000", "example.org", "ws"),
    ("http://example.org", "example.org:8000", "ws"),
    ("http://example.org", "example.org", "wss"),
    ("null", "example.org", "ws"),
    ("http://example.org/path", "example.org", "ws"),
    ("http://user@example.org", "example.org", "ws"),
    ("example.org", "example.org", "ws"),
    ("http://", "example.org", "ws"),
    ("http://example.org:port", "example.org", "ws"),
    ("", "example.org", "ws"),
]


@pytest.mark.parametrize("origin, host, scheme", SAME)
async def test_a_page_of_the_same_origin_opens_a_websocket(autojump_clock, origin, host, scheme):
    assert await status_of(Socket, {}, {"scheme": scheme}, origin=origin, host=host) == 200


@pytest.mark.parametrize("origin, host, scheme", FOREIGN)
async def test_a_foreign_page_gets_403(autojump_clock, origin, host, scheme):
    assert await status_of(Socket, {}, {"scheme": scheme}, origin=origin, host=host) == 403


async def test_who_sends_no_origin_is_no_browser_and_is_let_in(autojump_clock):
    assert await status_of(Socket, {}, {}) == 200


async def test_two_origins_are_none(autojump_clock):
    async with serve() as client:
        websocket = client.run_websocket(Socket(), headers={"origin": "http://test"})
        websocket.scope["headers"].append((b"origin", b"http://evil.example"))
        await websocket.wait_returned()
        assert websocket.status == 403


ALLOWED = {"origins": ("https://app.example", "http://other.example:8000")}


@pytest.mark.parametrize(
    "origin, status",
    [
        ("https://app.example", 200),
        ("https://APP.example:443", 200),
        ("http://other.example:8000", 200),
        ("http://test", 200),  # the same origin is always allowed
        ("http://app.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
@pytest.mark.parametrize("kind", [Socket, Poll, Stream])
async def test_the_routes_origins_are_allowed_besides_the_same_one(
    autojump_clock, kind, origin, status
):
    assert await status_of(kind, ALLOWED, {}, origin=origin) == status


@pytest.mark.parametrize("kind", [Socket, Poll, Stream])
async def test_a_star_allows_all_and_must_be_written(autojump_clock, kind):
    origin = "https://evil.example"
    assert await status_of(kind, {"origins": ("*",)}, {}, origin=origin) == 200
    assert await status_of(kind, {}, {}, origin=origin) == 403


async def test_null_can_be_allowed(autojump_clock):
    assert await status_of(Socket, {"origins": ("null",)}, {}, origin="null") == 200


async def test_no_handler_starts_for_a_foreign_page(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket, headers={"origin": "http://evil.example"})
        await websocket.wait_returned()
        assert (websocket.status, socket.reasons) == (403, [])
        assert client.hub.statistics().refused == 1
        assert client.hub.statistics().handlers == 0


async def test_a_trusted_proxy_says_which_host_the_page_asked_for(autojump_clock):
    forwarded = {
        "origin": "https://example.org",
        "host": "backend:8000",
        "x_forwarded_host": "example.org",
        "x_forwarded_proto": "https",
    }
    proxied = Limits(trusted_proxies=("127.0.0.1",))
    assert await status_of(Socket, {}, {}, proxied, **forwarded) == 200
    assert await status_of(Socket, {}, {}, Limits(), **forwarded) == 403
    forwarded["origin"] = "http://example.org"
    assert await status_of(Socket, {}, {}, proxied, **forwarded) == 403


@pytest.mark.parametrize(
    "value, error",
    [
        ("*", TypeError),
        ("https://example.org", TypeError),
        ((1,), TypeError),
        (("example.org",), ValueError),
        (("https://example.org/path",), ValueError),
        (("https://",), ValueError),
    ],
)
def test_impossible_origins_are_refused_when_the_route_is_made(value, error):
    with pytest.raises(error, match="origins"):
        App().route("/", Socket, origins=value)


# -- caps ------------------------------------------------------------------------------------------


async def open_many(client, endpoint, count, kind=Socket, address="127.0.0.1", **headers):
    """Open so many; the statuses, 200 for those that wait."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    opened = []
    for _ in range(count):
        if kind is Socket:
            one = client.websocket(app=endpoint, headers=names, client=(address, 1))
        else:
            one = client.open(app=endpoint, headers=names)
            one.scope["client"] = (address, 1)
        opened.append(one)
        await settle()
    return opened, [200 if one.status is None else one.status for one in opened]


@pytest.mark.parametrize("kind", [Socket, Poll, Stream])
async def test_a_hub_takes_so_many_handlers_and_answers_503_to_more(autojump_clock, kind):
    async with serve(limits=Limits(handlers=2)) as client:
        opened, statuses = await open_many(client, client.hub.endpoint(kind), 4, kind)
        assert statuses == [200, 200, 503, 503]
        assert opened[2].headers["retry-after"] in ("1", "2", "3")
        assert client.hub.statistics().refused == 2
        opened[0].disconnect()
        await settle()
        assert (await open_many(client, client.hub.endpoint(kind), 2, kind))[1] == [200, 503]


@pytest.mark.parametrize("kind", [Socket, Poll, Stream])
async def test_a_route_takes_so_many_handlers_and_others_are_not_counted(autojump_clock, kind):
    async with serve() as client:
        endpoint = client.hub.endpoint(kind, max_handlers=2)
        opened, statuses = await open_many(client, endpoint, 3, kind)
        assert statuses == [200, 200, 503]
        assert (await open_many(client, client.hub.endpoint(kind), 2, kind))[1] == [200, 200]
        opened[0].disconnect()
        await settle()
        assert (await open_many(client, endpoint, 2, kind))[1] == [200, 503]


async def test_a_class_may_have_its_cap(autojump_clock):
    class Few(WebSocketHandler):
        max_handlers = 1

    async with serve() as client:
        assert (await open_many(client, client.hub.endpoint(Few), 2))[1] == [200, 503]


@pytest.mark.parametrize("kind", [Socket, Poll, Stream])
async def test_a_client_has_so_many_handlers_and_gets_429_for_more(autojump_clock, kind):
    async with serve(limits=Limits(handlers_per_client=2)) as client:
        endpoint = client.hub.endpoint(kind)
        opened, statuses = await open_many(client, endpoint, 3, kind)
        assert statuses == [200, 200, 429]
        assert opened[2].headers["retry-after"] in ("1", "2", "3")
        assert (await open_many(client, endpoint, 1, kind, "127.0.0.2"))[1] == [200]
        opened[0].disconnect()
        await settle()
        assert (await open_many(client, endpoint, 2, kind))[1] == [200, 429]


async def test_a_client_has_all_of_its_ipv6_network(autojump_clock):
    async with serve(limits=Limits(handlers_per_client=1)) as client:
        endpoint = client.hub.endpoint(Socket)
        assert (await open_many(client, endpoint, 1, address="2001:db8::1"))[1] == [200]
        assert (await open_many(client, endpoint, 1, address="2001:db8::2:3"))[1] == [429]
        assert (await open_many(client, endpoint, 1, address="2001:db8:0:1::1"))[1] == [200]


async def test_no_handler_is_made_for_who_is_turned_away(autojump_clock):
    made = []

    def make():
        made.append(Socket())
        return made[-1]

    async with serve(limits=Limits(handlers=1)) as client:
        await open_many(client, client.hub.endpoint(make), 3)
        assert len(made) == 1


async def test_a_place_is_free_when_terminate_has_run_and_not_before(autojump_clock):
    class Slow(Socket):
        async def terminate(self, reason):
            await trio.sleep(2)

    async with serve() as client:
        endpoint = client.hub.endpoint(Slow, max_handlers=1)
        [first], _ = await open_many(client, endpoint, 1)
        first.disconnect()
        await trio.sleep(1)
        assert (await open_many(client, endpoint, 1))[1] == [503]
        await trio.sleep(1.5)
        assert (await open_many(client, endpoint, 1))[1] == [200]


async def test_nothing_is_counted_for_ever(autojump_clock):
    async with serve(limits=Limits(handlers_per_client=10)) as client:
        endpoint = client.hub.endpoint(Socket, max_handlers=10)
        for _ in range(5):
            opened, _ = await open_many(client, endpoint, 10)
            for one in opened:
                one.disconnect()
            await settle()
        gate = client.hub.gate
        assert (dict(gate._clients), dict(gate._routes), client.hub._places) == ({}, {}, {})


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True])
def test_impossible_caps_are_refused(value):
    with pytest.raises((TypeError, ValueError)):
        Limits(handlers=value)
    with pytest.raises((TypeError, ValueError)):
        Limits(handlers_per_client=value)
    with pytest.raises((TypeError, ValueError)):
        App().route("/", Socket, max_handlers=value)


def test_limits_are_given_to_the_app_or_to_its_hub():
    limits = Limits(handlers=7)
    assert App(limits=limits).hub.limits == App(hub=Hub(limits=limits)).hub.limits == limits
    with pytest.raises(TypeError, match="hub"):
        App(hub=Hub(), limits=limits)


# -- proxies ---------------------------------------------------------------------------------------

TRUSTED = parse_networks(("10.0.0.0/8", "2001:db8:ffff::/48", "127.0.0.1"))


def scope_of(peer, *forwarded):
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"client": None if peer is None else (peer, 1), "headers": headers}


CLIENTS = [
    ("203.0.113.5", (), "203.0.113.5"),
    ("203.0.113.5", ("198.51.100.7",), "203.0.113.5"),  # no proxy of ours: not believed
    ("10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
    ("10.0.0.1", ("1.2.3.4, 198.51.100.7",), "198.51.100.7"),  # what is left of it is the client's
    ("10.0.0.1", ("1.2.3.4", "198.51.100.7"), "198.51.100.7"),
    ("10.0.0.1", ("198.51.100.7, 10.0.0.2",), "198.51.100.7"),
    ("10.0.0.1", ("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
    ("10.0.0.1", ("198.51.100.7, rubbish",), "10.0.0.1"),
    ("10.0.0.1", ("unknown",), "10.0.0.1"),
    ("10.0.0.1", (), "10.0.0.1"),
    ("10.0.0.1", ("",), "10.0.0.1"),
    ("::ffff:10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
    ("2001:db8:ffff::1", ("2001:db8::9",), "2001:db8::/64"),
    ("10.0.0.1", ("[2001:db8::9]",), "2001:db8::/64"),
    (None, ("198.51.100.7",), None),
    ("testclient", (), None),
]


@pytest.mark.parametrize("peer, forwarded, client", CLIENTS)
def test_a_forwarded_address_counts_only_from_a_trusted_proxy(peer, forwarded, client):
    assert find_client(scope_of(peer, *forwarded), TRUSTED) == client


async def test_caps_count_the_forwarded_clients_behind_a_trusted_proxy(autojump_clock):
    limits = Limits(handlers_per_client=1, trusted_proxies=("127.0.0.0/8",))
    async with serve(limits=limits) as client:
        endpoint = client.hub.endpoint(Socket)
        for address, status in (
            ("198.51.100.7", 200),
            ("198.51.100.8", 200),
            ("198.51.100.7", 429),
        ):
            _, statuses = await open_many(client, endpoint, 1, x_forwarded_for=address)
            assert statuses == [status]


@pytest.mark.parametrize("value", ["10.0.0.0/8", ("nowhere",), (1,), ("10.0.0.1/8",)])
def test_impossible_proxies_are_refused(value):
    with pytest.raises((TypeError, ValueError)):
        Limits(trusted_proxies=value)


# -- rates -----------------------------------------------------------------------------------------


async def test_a_client_that_is_faster_than_the_rate_is_closed_with_1008(autojump_clock):
    socket = Socket(max_rate=Rate(messages=2, burst=2))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        for _ in range(6):
            websocket.send("x")
        await websocket.wait_returned()
        assert socket.received == ["x"] * 4
        assert socket.reasons == [Overflowed("rate", 2)]
        assert websocket.close == (1008, "")
        assert client.hub.statistics().ended == {"Overflowed(rate)": 1}


async def test_a_client_that_keeps_to_the_rate_is_never_closed(autojump_clock):
    socket = Socket(max_rate=Rate(messages=2, burst=1))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        for _ in range(100):
            websocket.send("x")
            await trio.sleep(0.5)
        assert len(socket.received) == 100


@pytest.mark.parametrize("data", ["x" * 60, b"x" * 60, "\u20ac" * 20])
async def test_bytes_are_counted_too(autojump_clock, data):
    socket = Socket(max_rate=Rate(bytes=50, burst=2))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send(data)
        await settle()
        assert socket.received == [data]
        websocket.send(data)
        await websocket.wait_returned()
        assert socket.reasons == [Overflowed("rate", 50)]


async def test_a_rate_is_an_option_of_the_route(autojump_clock):
    async with serve() as client:
        endpoint = client.hub.endpoint(Socket, max_rate=Rate(messages=1, burst=1))
        websocket = client.websocket(app=endpoint)
        websocket.send("x")
        websocket.send("x")
        await websocket.wait_returned()
        assert websocket.close == (1008, "")


def test_compress_is_a_choice():
    with pytest.raises(TypeError, match="compress must be True, False or None, not 'yes'"):
        App().route("/", Socket, compress="yes")


def test_something_else_than_a_rate_is_refused_when_the_route_is_made():
    with pytest.raises(TypeError, match="max_rate"):
        App().route("/", Socket, max_rate=10)


# -- statistics ------------------------------------------------------------------------------------


async def test_the_hub_counts_endings_by_their_reason(autojump_clock):
    async with serve() as client:
        for command in (Stop(), Stop(), Close(4000)):
            socket = Socket()
            websocket = client.run_websocket(socket)
            await settle()
            socket.ref.send_nowait(command)
            await websocket.wait_returned()
        poll = Poll(idle_timeout=1.0)
        await client.run(poll).wait_returned()
        assert client.hub.statistics().ended == {"Stopped": 3, "TimedOut(mailbox)": 1}


async def test_without_caps_nothing_is_remembered_for_a_handler(autojump_clock):
    async with serve() as client:
        client.run_websocket(Socket())
        await settle()
        assert client.hub._places == {}
