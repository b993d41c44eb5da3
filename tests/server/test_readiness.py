"""One epoll for all sockets of a worker; and what takes its place where there is none."""

import os
import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
from support.asgi import answer, body, echo, serving_app, settle, start
from support.sockets import MORE_THAN_BUFFERS, Arrivals, Client, request_bytes, stock_server
from support.websocket_peer import TEXT, frame, opened

from trioloop.server import _readiness
from trioloop.server._epoll_transport import EpollTransport
from trioloop.server._readiness import SLICE, Epoll, Readiness
from trioloop.server._transport import ClientGone, Interrupted
from trioloop.server._turns import Turns

pytestmark = pytest.mark.skipif(not _readiness.available, reason="there is no epoll here")
either_watcher = pytest.mark.parametrize("watcher", ["epoll", "trio"], indirect=True)


class Watcher:
    """One end of a pair of sockets, watched.

    Attributes:
        told: how often it was told.
        aborted: whether it was closed because it raised.
        peer: the other end.
    """

    def __init__(self, readiness, on_news=None):
        self._readiness = readiness
        self._on_news = on_news
        self._sock, self.peer = socket.socketpair()
        self.told = 0
        self.aborted = False
        readiness.register(self._sock.fileno(), self)

    def tell(self, events):
        self.told += 1
        if self._on_news is not None:
            self._on_news(self)

    def wake(self):
        self.told += 1

    def abort(self):
        self.aborted = True
        self.close()

    def close(self):
        if self._sock.fileno() >= 0:
            self._readiness.unregister(self._sock.fileno())
        self._sock.close()
        self.peer.close()


@asynccontextmanager
async def watching(errors=None):
    """A `Readiness` that runs."""
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery.start_soon)
        readiness = Readiness((errors or Arrivals()).put, turns, Epoll())
        nursery.start_soon(readiness.run)
        yield readiness
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def transport():
    """A transport over a pair of sockets, and the other end."""
    async with watching() as readiness:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        made = EpollTransport(ours, readiness)
        with theirs:
            yield made, theirs
        made.close()


# -- who is told ----------------------------------------------------------------------------------


async def test_what_a_watcher_raises_is_reported_and_closes_its_socket_only():
    errors: Arrivals = Arrivals()
    async with watching(errors) as readiness:
        bad, good = Watcher(readiness, lambda _: 1 / 0), Watcher(readiness)
        bad.peer.send(b"x")
        assert isinstance(await errors.next(), ZeroDivisionError)
        assert bad.aborted
        good.peer.send(b"x")
        await settle()
        assert good.told == 1
        good.close()


async def test_who_is_closed_by_another_is_not_told_what_was_known_before():
    async with watching() as readiness:
        both = []

        def close_the_other(watcher):
            both[1 - both.index(watcher)].close()

        both += [Watcher(readiness, close_the_other) for _ in range(2)]
        for watcher in both:
            watcher.peer.send(b"x")
        await settle()
        assert [watcher.told for watcher in both] in ([0, 1], [1, 0])
        for watcher in both:
            watcher.close()


async def test_others_have_their_turn_however_many_have_news():
    turn = 0
    turns = []

    async def count():
        nonlocal turn
        while True:
            await trio.lowlevel.checkpoint()
            turn += 1

    async with watching() as readiness, trio.open_nursery() as nursery:
        many = [Watcher(readiness, lambda _: turns.append(turn)) for _ in range(3 * SLICE)]
        nursery.start_soon(count)
        for watcher in many:
            watcher.peer.send(b"x")
        while len(turns) < len(many):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        for watcher in many:
            watcher.close()
    # The counting task may run first in one turn, and last in the next.
    assert max(turns.count(number) for number in set(turns)) <= 2 * SLICE


async def test_who_asks_for_another_turn_gets_it_whether_there_is_news_or_not():
    async with watching() as readiness:
        watcher = Watcher(readiness)
        await settle()
        readiness.call_again(watcher)
        await settle()
        assert watcher.told == 1
        watcher.close()


async def test_at_the_end_everybody_is_woken_and_the_epoll_closed():
    async with watching() as readiness:
        watcher = Watcher(readiness)
        number = readiness._news._number
    assert watcher.told == 1
    watcher.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


# -- the transport --------------------------------------------------------------------------------


async def test_a_reader_that_was_cancelled_can_read_again():
    async with transport() as (ours, theirs):
        with trio.move_on_after(0) as scope:
            await ours.receive()
        assert scope.cancelled_caught
        theirs.send(b"x")
        assert await ours.receive() == b"x"


async def test_a_reader_is_woken_by_an_interrupt_and_reads_again():
    async with transport() as (ours, theirs), trio.open_nursery() as nursery:

        async def read():
            with pytest.raises(Interrupted):
                await ours.receive()
            assert await ours.receive() == b"x"

        nursery.start_soon(read)
        await settle()
        ours.interrupt()
        await settle()
        theirs.send(b"x")


async def test_what_was_sent_before_a_good_bye_is_read_before_it():
    async with transport() as (ours, theirs):
        await settle()
        theirs.send(b"x" * 10)
        theirs.shutdown(socket.SHUT_WR)
        await settle()
        assert ours.has_ended()
        assert await ours.receive() == b"x" * 10
        assert await ours.receive() == b""


async def test_who_waits_is_woken_when_the_transport_is_closed():
    async with transport() as (ours, _), trio.open_nursery() as nursery:

        async def read():
            assert await ours.receive() == b""

        async def write():
            with pytest.raises(ClientGone):
                await ours.send_rest(bytes(MORE_THAN_BUFFERS), 60)

        nursery.start_soon(read)
        nursery.start_soon(write)
        await settle()
        ours.close()


async def test_nobody_waits_for_what_is_not_watched_any_more():
    async with trio.open_nursery() as nursery, transport() as (ours, _):

        async def read_and_write():
            with trio.CancelScope(shield=True):
                assert await ours.receive() == b""
                with pytest.raises(ClientGone):
                    await ours.send_rest(bytes(MORE_THAN_BUFFERS), 60)

        nursery.start_soon(read_and_write)
        await settle()


async def test_a_transport_that_was_released_is_not_watched():
    async with transport() as (ours, theirs):
        stream = ours.release()
        theirs.send(b"x")
        assert await stream.receive_some() == b"x"
        await stream.aclose()


# -- with a server --------------------------------------------------------------------------------


@either_watcher
async def test_a_connection_is_used_again():
    async with serving_app() as (_, client):
        for data in (b"one", b"", b"x" * 300_000):
            await client.request("POST", body=data)
            assert (await client.answer()).body == data


@either_watcher
async def test_a_unix_socket_is_served(tmp_path):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await answer(send, bytes(MORE_THAN_BUFFERS))

    path = tmp_path / "socket"
    async with (
        stock_server(app, bind=["127.0.0.1:0", f"unix:{path}"]),
        await trio.open_unix_socket(path) as stream,
    ):
        client = Client(stream)
        for _ in range(2):
            await client.request()
            assert len((await client.answer()).body) == MORE_THAN_BUFFERS


@either_watcher
async def test_a_client_that_leaves_behind_pipelined_requests_is_noticed():
    gone = trio.Event()

    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with serving_app(app) as (_, client):
        await client.send(request_bytes() * 4_000)
        client.close()
        await gone.wait()


@either_watcher
async def test_a_client_that_takes_nothing_is_given_up_after_send_timeout():
    errors: Arrivals = Arrivals()

    async def app(scope, receive, send):
        await send(start())
        try:
            await send(body(bytes(MORE_THAN_BUFFERS), more=True))
        except OSError as error:
            errors.put(error)

    async with serving_app(app, receive_buffer=4096, send_timeout=0.1) as (server, client):
        await client.request()
        error = await errors.next()
        assert "took nothing for 0.1 s" in str(error)
        assert dict(error.why) == {"send_timeout": 0.1}
        assert await server.is_alive()


@either_watcher
async def test_a_slow_request_is_refused():
    async with serving_app(None, request_timeout=0.05) as (_, client):
        await client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.answer()).status == 408


@either_watcher
async def test_a_websocket_echoes():
    async with serving_app(None, echo) as (_, client):
        frames = await opened(client)
        for text in (b"one", b"x" * 60_000):
            await client.send(frame(TEXT, text))
            assert await frames.next() == (TEXT, text)


@either_watcher
async def test_only_who_can_push_offers_it(watcher):
    extensions: Arrivals = Arrivals()

    async def app(scope, receive, send):
        extensions.put(scope["extensions"])
        await answer(send)

    async with serving_app(app) as (_, client):
        await client.request()
        assert ("trioloop.listen" in await extensions.next()) == (watcher == "epoll")
