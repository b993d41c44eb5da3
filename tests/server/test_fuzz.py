"""Mutated requests, handshakes and frames, with well-behaved streams beside them that must not notice.

2,000 inputs by default, 200,000 with ``TRIOLOOP_LONG`` (``nox -s fuzz``). ``TRIOLOOP_SEED`` repeats
a run.
"""

import os
import random
from contextlib import suppress

import h2.config
import h2.connection
import trio
from support import sockets
from support.asgi import (
    Application,
    answer,
    body,
    echo,
    read_body,
    start,
)
from support.sockets import request_bytes, stock_server
from support.websocket_peer import frame, handshake_bytes

LONG = "TRIOLOOP_LONG" in os.environ
INPUTS = 200_000 if LONG else 2_000
STREAMS = 50
CLIENTS = 20
PATIENCE = 20.0
"""Seconds without an event after which a well-behaved stream has noticed something."""


async def app(scope, receive, send):
    if scope["path"] == "/stream":
        await send(start())
        number = 0
        while True:
            await send(body(b"%d\n" % number, more=True))
            number += 1
            await trio.sleep(0.05)
    try:
        data = await read_body(receive)
    except AssertionError:  # a disconnect
        return
    await answer(send, data)


def http2_bytes():
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
    connection.send_headers(1, headers)
    connection.send_data(1, b"hello", end_stream=True)
    connection.ping(b"12345678")
    connection.reset_stream(1)
    return connection.data_to_send()


ORIGINALS = [
    request_bytes(headers=[("accept", "*/*"), ("connection", "keep-alive")]),
    request_bytes("POST", "/a%20b?c=d", body=b"hello"),
    request_bytes("POST", headers=[("transfer-encoding", "chunked")]) + b"5\r\nhello\r\n0\r\n\r\n",
    request_bytes("POST", headers=[("expect", "100-continue"), ("content-length", "3")]) + b"abc",
    request_bytes() * 3,
    handshake_bytes(headers=[("sec-websocket-protocol", "a, b")]) + frame(1, b"hello"),
    handshake_bytes(headers=[("sec-websocket-extensions", "permessage-deflate")])
    + frame(1, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4),
    handshake_bytes() + frame(1, b"a", fin=False) + frame(9, b"p") + frame(0, b"b") + frame(8),
    http2_bytes(),
]


def mutate(chance):
    data = bytearray(chance.choice(ORIGINALS))
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and place < len(data):
            data[place] = chance.randrange(256)
        elif kind == 1:
            del data[place : place + chance.randrange(1, 9)]
        elif kind == 2:
            data[place:place] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 3:
            data[place:place] = data[place : place + chance.randrange(1, 60)]
        elif kind == 4:
            data += chance.choice(ORIGINALS)
        else:
            del data[place:]
    return bytes(data) or b"\n"


async def throw(server, data, *, half_close):
    """Send it, in two packets, and read what comes until it ends or says nothing more."""
    try:
        async with server.client() as client:
            await client.send(data[: len(data) // 2])
            await trio.lowlevel.checkpoint()
            await client.send(data[len(data) // 2 :])
            if half_close:
                await client.half_close()
            with trio.move_on_after(0.05):
                while await client.receive():
                    pass
            if not half_close:
                client.reset()
    except (OSError, trio.BrokenResourceError):
        pass  # the server has hung up


async def test_50_streams_do_not_notice_what_others_send(monkeypatch):
    monkeypatch.setattr(sockets, "DEADLINE", 3600.0 if LONG else sockets.DEADLINE)
    seed = os.environ.get("TRIOLOOP_SEED") or str(random.SystemRandom().randrange(10**9))
    chance = random.Random(seed)
    left = INPUTS

    async def stream(server, done):
        async with server.client() as client:
            await client.request(path="/stream")
            await client.head()
            expected = 0
            while not done.is_set():
                with trio.fail_after(PATIENCE):
                    await client.until(f"{expected}\n")
                expected += 1
            assert expected > 1

    async def attack(server):
        nonlocal left
        while left > 0:
            left -= 1
            await throw(server, mutate(chance), half_close=chance.random() < 0.5)

    settings = {"request_timeout": 1.0, "keep_alive_timeout": 1.0, "websocket_deflate": True}
    application = Application(app, tolerant)
    async with stock_server(application, **settings) as server, trio.open_nursery() as streams:
        done = trio.Event()
        for _ in range(STREAMS):
            streams.start_soon(stream, server, done)
        async with trio.open_nursery() as attackers:
            for _ in range(CLIENTS):
                attackers.start_soon(attack, server)
        assert await server.is_alive()
        done.set()
    tracebacks = [line for line in server.errors.all if "Traceback" in line]
    assert not tracebacks, f"TRIOLOOP_SEED={seed}: {tracebacks[0]}"


async def tolerant(scope, receive, send):
    with suppress(OSError):  # a client that has gone
        await echo(scope, receive, send)
