"""The behaviours of the Autobahn list, against a handler that echoes, on real sockets.

The suite itself is a program of its own; these are its cases as tables, written anew, by its section
numbers: 1 framing, 2 pings and pongs, 3 reserved bits, 4 opcodes, 5 fragmentation, 6 UTF-8, 7 closing,
9 limits, 10 fragments of any size, 12 and 13 compression.

Laws of this file:

* A case is what the client sends, in which pieces, and the frames that it gets for it.
* A case that is no violation ends with a clean close: nothing else may come before it.
* Where the list allows several answers, the strictest one is asked for, unless a comment says why.
"""

import random
import zlib
from contextlib import asynccontextmanager

import pytest
import trio
from support.sockets import stock_server
from support.websocket_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    close_frame,
    frame,
    handshake_bytes,
    opened,
)

import trioloop


class Echo(trioloop.WebSocketHandler[str]):
    """Sends back what it receives."""

    def receive(self, data):
        return trioloop.Send(data)


@asynccontextmanager
async def echoing(**options):
    """A client of a server with `Echo` at ``/``."""
    app = trioloop.App()
    app.route("/", Echo, **options)
    async with stock_server(app) as server, server.client() as client:
        yield client


def failed(code):
    """The server's close frame."""
    return CLOSE, code.to_bytes(2, "big")


def in_pieces(data, size):
    """Cut bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]


async def send(client, pieces):
    """Send pieces, each a packet of its own as far as that can be had."""
    try:
        for piece in pieces:
            await client.send(piece)
            if len(pieces) < 1000:
                await trio.lowlevel.checkpoint()
    except trio.BrokenResourceError:
        pass  # it was answered before the last of them


async def is_closed_cleanly(client, frames):
    """Whether the connection is still open, and closes as it should, without another frame."""
    await client.send(close_frame(1000))
    assert await frames.next() == failed(1000)
    return await frames.next() is None


async def check(client, frames, pieces, expected):
    """Send pieces, and compare what comes; the code only, of a close frame."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, client, pieces)
        for one in expected:
            found = await frames.next()
            assert found is not None
            opcode, payload = found
            assert (opcode, payload[:2] if opcode == CLOSE else payload) == one
    if expected and expected[-1][0] == CLOSE:
        assert await frames.next() is None
    else:
        assert await is_closed_cleanly(client, frames)


async def play(pieces, expected, **options):
    """One case, on a connection of its own."""
    async with echoing(**options) as client:
        await check(client, await opened(client), pieces, expected)


# -- 1: framing ----------------------------------------------------------------------------------

SIZES = [0, 125, 126, 127, 128, 65535, 65536]


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("size", SIZES)
async def test_1_a_frame_of_any_form_of_length_is_echoed(opcode, size):
    data = b"*" * size if opcode == TEXT else b"\xfe" * size
    await play([frame(opcode, data)], [(opcode, data)])


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize(
    "size, chop", [*[(size, 1) for size in SIZES if size < 1000], (65536, 997), (65535, 61)]
)
async def test_1_a_frame_may_come_in_pieces(opcode, size, chop):
    data = b"*" * size
    await play(in_pieces(frame(opcode, data), chop), [(opcode, data)])


async def test_1_a_length_with_its_first_bit_set_fails_the_connection():
    """RFC 6455, 5.2; the code is that of a frame that is too large, as well as of no frame."""
    async with echoing() as client:
        frames = await opened(client)
        await client.send(b"\x82\xff" + b"\x80" + bytes(7) + bytes(4))
        opcode, payload = await frames.next()
        assert opcode == CLOSE
        assert int.from_bytes(payload[:2], "big") in (1002, 1009)
        assert await frames.next() is None


# -- 2: pings and pongs --------------------------------------------------------------------------

PINGS = {
    "2.1 nothing": ([frame(PING)], [(PONG, b"")]),
    "2.2 text": ([frame(PING, b"Hello, world!")], [(PONG, b"Hello, world!")]),
    "2.3 no text": ([frame(PING, b"\x00\xff\xfe\xfd")], [(PONG, b"\x00\xff\xfe\xfd")]),
    "2.4 125 bytes": ([frame(PING, b"\xfe" * 125)], [(PONG, b"\xfe" * 125)]),
    "2.5 126 bytes": ([frame(PING, b"\xfe" * 126)], [failed(1002)]),
    "2.6 125 bytes, byte by byte": (
        in_pieces(frame(PING, b"\xfe" * 125), 1),
        [(PONG, b"\xfe" * 125)],
    ),
    "2.7 a pong that nobody asked for": ([frame(PONG)], []),
    "2.8 the same with a payload": ([frame(PONG, b"unsolicited")], []),
    "2.9 the same, and a ping": ([frame(PONG, b"x"), frame(PING, b"y")], [(PONG, b"y")]),
    "2.10 ten": (
        [frame(PING, b"%d" % number) for number in range(10)],
        [(PONG, b"%d" % number) for number in range(10)],
    ),
    "2.10 ten in one packet": (
        [b"".join(frame(PING, b"%d" % number) for number in range(10))],
        [(PONG, b"%d" % number) for number in range(10)],
    ),
    "2.11 ten, byte by byte": (
        in_pieces(b"".join(frame(PING, b"%d" % number) for number in range(10)), 1),
        [(PONG, b"%d" % number) for number in range(10)],
    ),
}


@pytest.mark.parametrize("pieces, expected", PINGS.values(), ids=PINGS)
async def test_2_a_ping_is_answered_with_its_payload_and_a_pong_with_nothing(pieces, expected):
    await play(pieces, expected)


# -- 3 and 4: what is reserved -------------------------------------------------------------------

RESERVED = {
    **{f"3 bits {bits} of text": frame(TEXT, b"x", rsv=bits) for bits in range(1, 8)},
    **{f"3 bits {bits} of nothing": frame(BINARY, rsv=bits) for bits in (1, 2, 4)},
    "3.6 bits of a ping": frame(PING, b"x", rsv=6),
    "3.7 bits of a close": frame(CLOSE, rsv=7),
    **{f"4.1 opcode {opcode}": frame(opcode) for opcode in range(3, 8)},
    **{f"4.1 opcode {opcode}, with data": frame(opcode, b"x" * 9) for opcode in range(3, 8)},
    **{f"4.2 opcode {opcode}": frame(opcode) for opcode in range(11, 16)},
    **{f"4.2 opcode {opcode}, with data": frame(opcode, b"x" * 9) for opcode in range(11, 16)},
}


@pytest.mark.parametrize("chop", [1000, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("data", RESERVED.values(), ids=RESERVED)
async def test_3_4_what_is_reserved_fails_the_connection_after_what_came_before(data, chop):
    """And nothing after it is looked at."""
    async with echoing() as client:
        frames = await opened(client)
        await client.send(frame(TEXT, b"before"))
        assert await frames.next() == (TEXT, b"before")
        await check(client, frames, in_pieces(data + frame(PING), chop), [failed(1002)])


async def test_3_4_of_frames_in_one_packet_only_what_is_before_the_violation_may_be_echoed():
    """The list calls an echo strict and its absence not: the handler may be too late for it."""
    async with echoing() as client:
        frames = await opened(client)
        await client.send(frame(TEXT, b"before") + frame(TEXT, b"x", rsv=4) + frame(PING))
        found = await frames.next()
        if found == (TEXT, b"before"):
            found = await frames.next()
        assert found is not None
        assert (found[0], found[1][:2]) == failed(1002)
        assert await frames.next() is None


# -- 5: fragmentation ----------------------------------------------------------------------------


def part(data, opcode=CONTINUATION):
    """A fragment that is not the last."""
    return frame(opcode, data, fin=False)


FRAGMENTED = {
    "5.1 a ping": ([part(b"a", PING), frame(CONTINUATION, b"b")], [failed(1002)]),
    "5.2 a pong": ([part(b"a", PONG), frame(CONTINUATION, b"b")], [failed(1002)]),
    "5 a close": ([part(b"\x03\xe8", CLOSE), frame(CONTINUATION, b"b")], [failed(1002)]),
    "5.3 text": ([part(b"a", TEXT), frame(CONTINUATION, b"b")], [(TEXT, b"ab")]),
    "5 binary": ([part(b"\xff", BINARY), frame(CONTINUATION, b"\xfe")], [(BINARY, b"\xff\xfe")]),
    "5.6 text with a ping in it": (
        [part(b"a", TEXT), frame(PING, b"p"), frame(CONTINUATION, b"b")],
        [(PONG, b"p"), (TEXT, b"ab")],
    ),
    "5 text with a pong in it": (
        [part(b"a", TEXT), frame(PONG, b"p"), frame(CONTINUATION, b"b")],
        [(TEXT, b"ab")],
    ),
    "5.9 a continuation of nothing": ([frame(CONTINUATION, b"x")], [failed(1002)]),
    "5.12 a beginning of a continuation of nothing": ([part(b"x")], [failed(1002)]),
    "5.15 a continuation after the end": (
        [part(b"a", TEXT), frame(CONTINUATION, b"b"), None, part(b"c"), frame(TEXT, b"d")],
        [(TEXT, b"ab"), failed(1002)],
    ),
    "5.18 two beginnings": ([part(b"a", TEXT), part(b"b", TEXT)], [failed(1002)]),
    "5.18 a message in a message": ([part(b"a", TEXT), frame(TEXT, b"b")], [failed(1002)]),
    "5.18 another kind in a message": ([part(b"a", TEXT), frame(BINARY, b"b")], [failed(1002)]),
    "5.19 pings between five fragments": (
        [
            *(part(b"a", TEXT), part(b"b"), frame(PING, b"1"), part(b"c"), part(b"d")),
            *(frame(PING, b"2"), frame(CONTINUATION, b"e")),
        ],
        [(PONG, b"1"), (PONG, b"2"), (TEXT, b"abcde")],
    ),
    "5 empty fragments": (
        [part(b"", TEXT), part(b""), part(b"x"), frame(CONTINUATION)],
        [(TEXT, b"x")],
    ),
    "5 nothing, in fragments": ([part(b"", TEXT), frame(CONTINUATION)], [(TEXT, b"")]),
    "5 one message after the other": (
        [part(b"a", TEXT), frame(CONTINUATION, b"b"), part(b"c", BINARY), frame(CONTINUATION)],
        [(TEXT, b"ab"), (BINARY, b"c")],
    ),
}


@pytest.mark.parametrize("chop", [None, 10_000, 1], ids=["frame by frame", "whole", "byte by byte"])
@pytest.mark.parametrize("pieces, expected", FRAGMENTED.values(), ids=FRAGMENTED)
async def test_5_fragments(pieces, expected, chop):
    """``None`` among the pieces: the client waits for the first answer."""
    async with echoing() as client:
        frames = await opened(client)
        if None in pieces:
            first, pieces = pieces[: pieces.index(None)], pieces[pieces.index(None) + 1 :]
            await send(client, first)
            assert await frames.next() == expected[0]
            expected = expected[1:]
        if chop is not None:
            pieces = in_pieces(b"".join(pieces), chop)
        await check(client, frames, pieces, expected)


# -- 6: UTF-8 ------------------------------------------------------------------------------------

VALID = {
    "6.1 nothing": b"",
    "6.2": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "6.5": "κόσμε".encode(),
    "6.6 one code point of each length": "\x00\u0080\u0800\U00010000".encode(),
    "6.7 the first of each length": b"\x00\xc2\x80\xe0\xa0\x80\xf0\x90\x80\x80",
    "6.9 the last of each length": b"\x7f\xdf\xbf\xef\xbf\xbf\xf4\x8f\xbf\xbf",
    "6.11 around the surrogates": b"\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbd",
    "6.22 not characters, but code points": b"\xef\xbf\xbe\xef\xbf\xbf\xf0\x9f\xbf\xbe",
    "6.23 the replacement character": b"\xef\xbf\xbd",
}
BASE = "κόσμε".encode()
INVALID = {
    "6.3 a surrogate": BASE + b"\xed\xa0\x80edited",
    "6.6 truncated after 1 of 2": b"\xce",
    "6.6 truncated after 1 of 3": b"\xe0",
    "6.6 truncated after 2 of 3": b"\xe0\xa0",
    "6.6 truncated after 3 of 4": b"\xf0\x90\x80",
    "6.8 five bytes": b"\xf8\x88\x80\x80\x80",
    "6.8 six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "6.10 above the last": b"\xf4\x90\x80\x80",
    "6.12 a lonely continuation": b"\x80",
    "6.12 the last lonely continuation": b"\xbf",
    "6.13 a lonely start": b"\xc0 \xc1 \xe0 ",
    "6.14 an unfinished sequence in the middle": b"a\xe2\x82b",
    "6.16 bytes that never are": b"\xfe\xfe\xff\xff",
    "6.17 overlong /, 2": b"\xc0\xaf",
    "6.17 overlong /, 3": b"\xe0\x80\xaf",
    "6.17 overlong /, 4": b"\xf0\x80\x80\xaf",
    "6.18 overlong, the largest": b"\xe0\x9f\xbf",
    "6.19 overlong NUL": b"\xc0\x80",
    "6.20 a single surrogate": b"\xed\xbf\xbf",
    "6.21 a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
}


def fragments(data, size):
    """A text message in fragments of so many bytes."""
    *some, last = in_pieces(data, size) or [b""]
    frames = [part(piece, CONTINUATION if number else TEXT) for number, piece in enumerate(some)]
    return [*frames, frame(CONTINUATION if some else TEXT, last)]


@pytest.mark.parametrize("size", [1000, 1, 3], ids=["whole", "by bytes", "by three bytes"])
@pytest.mark.parametrize("data", VALID.values(), ids=VALID)
async def test_6_text_is_echoed_wherever_it_is_cut(data, size):
    await play(fragments(data, size), [(TEXT, data)])


@pytest.mark.parametrize("size", [1000, 1, 3], ids=["whole", "by bytes", "by three bytes"])
@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
async def test_6_what_is_not_utf8_is_1007(data, size):
    await play(fragments(data, size), [failed(1007)])


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
async def test_6_bytes_need_not_be_text(data):
    await play([frame(BINARY, data)], [(BINARY, data)])


async def test_6_4_a_fragment_that_cannot_become_utf8_fails_before_the_message_is_complete():
    """The list calls it fail-fast; ours looks at each fragment, not into a frame that is coming."""
    await play([part(BASE + b"\xf4", TEXT), part(b"\x90")], [failed(1007)])


# -- 7: closing ----------------------------------------------------------------------------------

CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
NO_CODES = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535]

CLOSES = {
    "7.3.1 no payload": (frame(CLOSE), (CLOSE, b"")),
    "7.3.2 one byte": (frame(CLOSE, b"a"), failed(1002)),
    "7.3.3 a code": (close_frame(1000), failed(1000)),
    "7.3.4 a code and a reason": (close_frame(1000, "größer".encode()), failed(1000)),
    "7.3.5 123 bytes of reason": (close_frame(1000, b"*" * 123), failed(1000)),
    "7.3.6 124 bytes of reason": (close_frame(1000, b"*" * 124), failed(1002)),
    "7.5.1 a reason that is not UTF-8": (close_frame(1000, BASE + b"\xed\xa0\x80"), failed(1007)),
    **{f"7.7 code {code}": (close_frame(code), failed(code)) for code in CODES},
    **{f"7.7 code {code}, a reason": (close_frame(code, b"x"), failed(code)) for code in CODES},
    **{f"7.9 code {code}": (close_frame(code), failed(1002)) for code in NO_CODES},
    **{f"7.9 code {code}, a reason": (close_frame(code, b"x"), failed(1002)) for code in NO_CODES},
}


@pytest.mark.parametrize("chop", [1000, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("data, answer", CLOSES.values(), ids=CLOSES)
async def test_7_a_close_is_answered_with_its_code_or_1002_or_1007(data, answer, chop):
    await play(in_pieces(data, chop), [answer])


AFTER = {
    "7.1.2 another close": frame(CLOSE),
    "7.1.3 a ping": frame(PING, b"x"),
    "7.1.4 text": frame(TEXT, b"x"),
    "7.1 a violation": frame(3, b"x"),
}


@pytest.mark.parametrize("data", AFTER.values(), ids=AFTER)
async def test_7_1_nothing_after_a_close_is_answered(data):
    await play([close_frame(1000) + data], [failed(1000)])


async def test_7_1_1_a_message_is_echoed_before_the_close():
    async with echoing() as client:
        frames = await opened(client)
        await client.send(frame(TEXT, b"Hello World!"))
        assert await frames.next() == (TEXT, b"Hello World!")
        assert await is_closed_cleanly(client, frames)


async def test_7_1_5_a_close_within_a_message_ends_it():
    await play([part(b"a", TEXT), close_frame(1000), frame(CONTINUATION, b"b")], [failed(1000)])


async def test_7_1_6_a_close_behind_a_large_message_is_answered():
    """Its echo may come before that, or not."""
    async with echoing() as client, trio.open_nursery() as nursery:
        frames = await opened(client)
        data = b"x" * 2**18
        nursery.start_soon(send, client, [frame(TEXT, data) + close_frame(1000) + frame(PING)])
        found = await frames.next()
        if found == (TEXT, data):
            found = await frames.next()
        assert found == failed(1000)
        assert await frames.next() is None


# -- 9: limits -----------------------------------------------------------------------------------

MiB = 2**20


def text(size):
    """Text of so many bytes, some of them beyond ASCII."""
    return ("0123456789abcdef" * (size // 16 - 1) + "å" * 8).encode()


LIMITS = [2**16, 2**18, MiB, 4 * MiB]


@pytest.mark.parametrize("size", LIMITS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
async def test_9_1_9_2_a_large_message_is_echoed(opcode, size):
    data = text(size)
    await play([frame(opcode, data)], [(opcode, data)], max_message_size=size)


@pytest.mark.parametrize("size", [64, 256, 1024, 4096, 16384, 65536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
async def test_9_3_9_4_a_large_message_in_fragments_is_echoed(opcode, size):
    data = text(MiB)
    *some, last = in_pieces(data, size)
    pieces = [part(piece, CONTINUATION if number else opcode) for number, piece in enumerate(some)]
    packed = in_pieces(b"".join([*pieces, frame(CONTINUATION, last)]), 65536)
    await play(packed, [(opcode, data)], max_message_size=MiB)


@pytest.mark.parametrize("chop", [64, 128, 256, 512, 1024, 2048])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
async def test_9_5_9_6_a_large_message_in_small_packets_is_echoed(opcode, chop):
    data = text(MiB // 4)
    await play(in_pieces(frame(opcode, data), chop), [(opcode, data)], max_message_size=MiB)


@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096, 16384, 65536])
async def test_9_7_9_8_many_messages_are_echoed_one_by_one(size):
    data = b"x" * size
    async with echoing() as client:
        frames = await opened(client)
        for _ in range(100):
            await client.send(frame(BINARY, data))
            assert await frames.next() == (BINARY, data)
        assert await is_closed_cleanly(client, frames)


@pytest.mark.parametrize("fragmented", [False, True], ids=["whole", "in fragments"])
async def test_9_what_is_larger_than_allowed_is_1009(fragmented):
    data = text(MiB)
    pieces = fragments(data, 4096) if fragmented else [frame(TEXT, data)]
    await play([b"".join(pieces)], [failed(1009)], max_message_size=MiB - 1)


@pytest.mark.parametrize("chop", [1000, 1], ids=["whole", "byte by byte"])
async def test_9_a_ping_is_no_part_of_a_message_that_may_not_be_larger(chop):
    """RFC 6455, 5.4: neither where it comes within one, nor where it is larger than any."""
    pieces = [
        *(frame(PING, b"p" * 125), part(b"x" * 9, TEXT), frame(PING, b"q" * 125)),
        *(frame(CONTINUATION, b"y"), frame(TEXT, b"z" * 10)),
    ]
    expected = [
        *((PONG, b"p" * 125), (PONG, b"q" * 125), (TEXT, b"x" * 9 + b"y"), (TEXT, b"z" * 10))
    ]
    await play(in_pieces(b"".join(pieces), chop), expected, max_message_size=10)


@pytest.mark.parametrize("size", [11, 100, 135, 136])
@pytest.mark.parametrize("fragment", [11, 7, 1])
async def test_9_a_message_of_a_byte_more_than_allowed_is_1009(size, fragment):
    pieces = fragments(b"x" * size, 200 if fragment == 11 else fragment)
    await play(pieces, [failed(1009)], max_message_size=10)


# -- 10: fragments of any size -------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 97, 1300])
async def test_10_1_a_message_may_be_in_fragments_of_any_size(size):
    data = text(65536)[: size * 1000]
    whole = b"".join(fragments(data, size))
    try:
        data.decode()
    except UnicodeDecodeError:
        pytest.fail("the text was cut within a character")
    await play(in_pieces(whole, 1300), [(TEXT, data)])


# -- 12 and 13: compression ----------------------------------------------------------------------

OFFERS = {
    "no limits": "permessage-deflate",
    "13.2 no takeover of ours": "permessage-deflate; server_no_context_takeover",
    "13.4 a small window of ours": "permessage-deflate; server_max_window_bits=9",
    "13.5 both": "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
    "a window of theirs": "permessage-deflate; client_max_window_bits",
    "no takeover of theirs": "permessage-deflate; client_no_context_takeover",
    "the second of two": (
        "permessage-deflate; server_max_window_bits=99, permessage-deflate; client_max_window_bits"
    ),
}


class Deflate:
    """The client's side of RFC 7692, after what was agreed."""

    def __init__(self, agreed):
        self._agreed = agreed
        bits = {"client_max_window_bits": 15, "server_max_window_bits": 15}
        for name in bits:
            if f"{name}=" in agreed:
                bits[name] = int(agreed.split(f"{name}=")[1].split(";")[0])
        self._out, self._in = (-max(9, size) for size in bits.values())
        self._reset()

    def _reset(self):
        self._packer = zlib.compressobj(wbits=self._out)
        self._unpacker = zlib.decompressobj(wbits=self._in)

    def pack(self, data):
        if "client_no_context_takeover" in self._agreed:
            self._packer = zlib.compressobj(wbits=self._out)
        packed = self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH)
        return packed[:-4]

    def unpack(self, data):
        if "server_no_context_takeover" in self._agreed:
            self._unpacker = zlib.decompressobj(wbits=self._in)
        return self._unpacker.decompress(data + b"\x00\x00\xff\xff")


async def agreed(client, offer):
    """Open a WebSocket with an offer; the frames, and what was agreed on."""
    await client.send(handshake_bytes(headers=[("sec-websocket-extensions", offer)]))
    frames = RawWebSocket(client)
    head = (await frames.read_head()).decode().lower()
    assert head.startswith("http/1.1 101 ")
    found = [line for line in head.split("\r\n") if line.startswith("sec-websocket-extensions:")]
    return frames, Deflate(found[0].partition(":")[2]) if found else None


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_12_13_compressed_messages_of_any_size_are_echoed(offer):
    chance = random.Random(12)
    async with echoing(compress=True) as client, trio.open_nursery() as nursery:
        frames, deflate = await agreed(client, offer)
        assert deflate is not None
        for size in (0, 1, 16, 64, 256, 1024, 4096, 16384, 65536, 131072):
            for data in (b"x" * size, bytes(chance.choices(b"abcdefgh", k=size))):
                nursery.start_soon(client.send, frame(TEXT, deflate.pack(data), rsv=4))
                opcode, payload = await frames.next()
                assert (opcode, deflate.unpack(payload)) == (TEXT, data)
        assert await is_closed_cleanly(client, frames)


@pytest.mark.parametrize("size", [1, 10, 500])
async def test_12_13_a_compressed_message_may_be_fragmented_with_pings_in_it(size):
    """RFC 7692, 6.1: RSV1 on the first fragment only."""
    data = bytes(random.Random(13).choices(b"abcdefgh", k=2000))
    async with echoing(compress=True) as client:
        frames, deflate = await agreed(client, OFFERS["no limits"])
        first, *some, last = in_pieces(deflate.pack(data), size)
        assert some or size > 100
        await client.send(frame(TEXT, first, fin=False, rsv=4) + frame(PING, b"there?"))
        await client.send(b"".join(part(piece) for piece in some) + frame(CONTINUATION, last))
        assert await frames.next() == (PONG, b"there?")
        opcode, payload = await frames.next()
        assert (opcode, deflate.unpack(payload)) == (TEXT, data)
        assert await is_closed_cleanly(client, frames)


async def test_12_13_a_message_that_is_not_compressed_may_come_among_others():
    """RFC 7692, 6: RSV1 says it of each message."""
    async with echoing(compress=True) as client:
        frames, deflate = await agreed(client, OFFERS["no limits"])
        for data, sent in (
            (b"plain", frame(TEXT, b"plain")),
            (b"x" * 99, None),
            (b"", frame(TEXT)),
        ):
            await client.send(sent or frame(TEXT, deflate.pack(data), rsv=4))
            opcode, payload = await frames.next()
            assert (opcode, deflate.unpack(payload)) == (TEXT, data)


DEFLATE_VIOLATIONS = {
    "RSV1 on a continuation": ([("first", 4), ("rest", 4)], 1002),
    "RSV1 on a ping": ([("ping", 4)], 1002),
    "RSV2": ([("whole", 6)], 1002),
    "what is not UTF-8 when it is inflated": ([("bad", 4)], 1007),
}


@pytest.mark.parametrize("kinds, code", DEFLATE_VIOLATIONS.values(), ids=DEFLATE_VIOLATIONS)
async def test_12_13_a_violation_of_compression_is_answered_with_its_code(kinds, code):
    async with echoing(compress=True) as client:
        frames, deflate = await agreed(client, OFFERS["no limits"])
        packed = deflate.pack(b"hello")
        made = {
            "first": (TEXT, packed[:2], False),
            "rest": (CONTINUATION, packed[2:], True),
            "ping": (PING, packed, True),
            "whole": (TEXT, packed, True),
            "bad": (TEXT, Deflate("").pack(b"\xff\xfe"), True),
        }
        pieces = []
        for kind, bits in kinds:
            opcode, data, fin = made[kind]
            pieces.append(frame(opcode, data, fin=fin, rsv=bits))
        await check(client, frames, pieces, [failed(code)])


@pytest.mark.parametrize("compress", [None, False])
async def test_12_13_a_compressed_message_without_an_agreement_is_1002(compress):
    options = {} if compress is None else {"compress": compress}
    async with echoing(**options) as client:
        frames, deflate = await agreed(client, OFFERS["no limits"])
        assert deflate is None
        packed = Deflate("").pack(b"hello")
        await check(client, frames, [frame(TEXT, packed, rsv=4)], [failed(1002)])


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; nonsense",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-bzip2",
    ],
)
async def test_12_13_an_offer_that_cannot_be_accepted_is_declined(offer):
    async with echoing(compress=True) as client:
        frames, deflate = await agreed(client, offer)
        assert deflate is None
        await check(client, frames, [frame(TEXT, b"x")], [(TEXT, b"x")])
