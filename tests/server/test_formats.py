"""Heads, bodies and frames without a socket, against h11, wsproto and what they must refuse."""

import os

import h11
import pytest
import wsproto.events
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.websocket_peer import frame
from wsproto.connection import Connection, ConnectionType

from trioloop.server._body import body_of
from trioloop.server._frames import Frames
from trioloop.server._head import BadRequest, check_beginning, parse_head

EXAMPLES = settings(max_examples=50_000 if "TRIOLOOP_LONG" in os.environ else 300, deadline=None)

REQUESTS = [
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /a?b=c HTTP/1.1\r\nHost: example.com:80\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nt: r\r\n\r\n",
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\naccept: */*\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nx",
]


def ours(data):
    """What this package makes of a request: method, target, headers, body; or `None`."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    try:
        head = parse_head(data[: end + 4], 100)
        body, buffer, pieces = body_of(head), bytearray(data[end + 4 :]), b""
        while not body.complete:
            piece = body.take(buffer)
            if not piece and not body.complete:
                return None
            pieces += piece
    except BadRequest:
        return None
    return head.method.encode(), head.target, head.headers, pieces


def theirs(data):
    """What h11 makes of it."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        request, pieces = connection.next_event(), b""
        if not isinstance(request, h11.Request):
            return None
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                return None
            pieces += event.data
    except h11.RemoteProtocolError:
        return None
    return request.method, request.target, list(request.headers), pieces


@st.composite
def mutated(draw, originals):
    """One of these, with some bytes changed, removed, doubled or put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "remove", "double", "insert"])):
            case "change" if data:
                data[place] = draw(st.sampled_from(b"\r\n\t :;,0aA/\x00\x7f\x80\xff-+"))
            case "remove":
                del data[place : place + draw(st.integers(1, 4))]
            case "double":
                data[place:place] = data[place : place + draw(st.integers(1, 20))]
            case _:
                data[place:place] = draw(st.binary(max_size=3))
    return bytes(data)


@EXAMPLES
@given(mutated(REQUESTS))
@example(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
def test_what_is_accepted_is_understood_as_h11_understands_it(data):
    """Ours may refuse more, never read anything else."""
    mine = ours(data)
    if mine is not None:
        assert mine == theirs(data)


@EXAMPLES
@given(mutated(REQUESTS), st.integers(1, 50))
def test_a_head_that_is_refused_at_its_beginning_is_refused_whole(data, size):
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return
    try:
        parse_head(data[: end + 4], 100)
    except BadRequest:
        return
    beginning = data[: min(size, end)]
    if beginning and not beginning.startswith(b"\r\n"):
        check_beginning(beginning)  # raises nothing: the whole is right


FRAMES = [
    frame(1, b"hello"),
    frame(2, bytes(200)),
    frame(1, b"he", fin=False) + frame(0, b"llo"),
    frame(9, b"ping") + frame(1, "€".encode()),
    frame(8, b"\x03\xe8bye"),
    frame(1, b"a", fin=False) + frame(9, b"") + frame(0, b"b", fin=False) + frame(0, b"c"),
]


def read_by_us(data, size):
    frames = Frames(10_000, None)
    messages = []
    buffer = bytearray()
    for start in range(0, len(data), size):
        buffer += data[start : start + size]
        before = -1
        while before != (len(buffer), len(messages)) and not frames.closed:
            before = (len(buffer), len(messages))
            frames.feed(buffer)
            while frames.inbox:
                message = frames.inbox.pop(0)
                messages.append(message["bytes"] if message["text"] is None else message["text"])
    return messages, frames


def read_by_wsproto(data):
    connection = Connection(ConnectionType.SERVER)
    messages, parts = [], []
    ended = None
    connection.receive_data(data)
    for event in connection.events():
        match event:
            case wsproto.events.Message():
                parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    messages.append(type(parts[0])().join(parts))
                    parts = []
            case wsproto.events.CloseConnection():
                ended = event.code
                break
    return messages, ended


@EXAMPLES
@given(
    st.lists(st.one_of(st.sampled_from(FRAMES), mutated(FRAMES)), max_size=4), st.integers(1, 40)
)
def test_frames_are_understood_as_wsproto_understands_them(pieces, size):
    data = b"".join(pieces)
    try:
        messages, ended = read_by_wsproto(data)
    except Exception:  # wsproto's own faults
        return
    mine, frames = read_by_us(data, size)
    assert mine[: len(messages)] == messages[: len(mine)]
    if ended is None:
        assert len(mine) == len(messages) or frames.violation
    if frames.violation:
        assert frames.disconnect_message()["code"] in (1002, 1007, 1009)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_however_a_chunked_body_is_cut_it_is_the_same(size):
    head = parse_head(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", 10)
    data = b"3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\na: b\r\nc: d\r\n\r\nnext"
    body, buffer, taken = body_of(head), bytearray(), b""
    for start in range(0, len(data), size):
        buffer += data[start : start + size]
        taken += body.take(buffer)
    assert body.complete
    assert taken == b"abc0123456789abcdef"
    assert bytes(buffer) == b"next"


def test_a_message_that_is_not_utf8_and_a_close_behind_it_are_one_or_the_other():
    text = frame(1, b"he", fin=False) + frame(0, b"\xed\xa0\x80")
    for size in range(1, 40):
        messages, frames = read_by_us(text + frame(8, b"\x03\xe8"), size)
        assert messages == []
        code = frames.disconnect_message()["code"]
        assert code == 1007 if frames.violation else code == 1000
