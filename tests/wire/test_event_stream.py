"""Server-sent events: what is written, what is read, and that both agree with the standard.

Clauses are those of WHATWG HTML: 9.2.5 "Parsing an event stream", 9.2.6 "Interpreting an event
stream". ``reference`` below is a second decoder, slow and straight from the standards' text.
"""

import copy
import dataclasses
import enum
import json
import math
import pickle
import re
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trioloop._wire import EventStreamDecoder, EventTooLarge, ServerSentEvent, encode_event

BOM = b"\xef\xbb\xbf"
MAX_RETRY = 2**63 - 1


def read(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = EventStreamDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def wrong(value: object) -> Any:
    """Pass a value that the type checker would not let through."""
    return cast("Any", value)


# --- the value -----------------------------------------------------------------------------------


def test_the_first_argument_is_the_data_and_the_others_have_names() -> None:
    event = ServerSentEvent("a", event="b", id="c", retry=4, comment="e")
    values = (event.data, event.event, event.id, event.retry, event.comment)
    assert values == ("a", "b", "c", 4, "e")


def test_a_field_that_is_not_given_is_none() -> None:
    assert dataclasses.astuple(ServerSentEvent()) == (None,) * 5


def test_an_event_cannot_be_changed() -> None:
    event = ServerSentEvent("a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        wrong(event).data = "b"
    with pytest.raises(dataclasses.FrozenInstanceError):
        del wrong(event).data
    assert not hasattr(event, "__dict__")


def test_events_with_equal_fields_are_equal_and_have_one_hash() -> None:
    assert ServerSentEvent("a", id="1") == ServerSentEvent(id="1", data="a")
    assert len({ServerSentEvent("a"), ServerSentEvent("a"), ServerSentEvent("b")}) == 2


def test_an_event_survives_pickle_copy_and_replace() -> None:
    event = ServerSentEvent("a", "b", "c", 4, "e")
    assert pickle.loads(pickle.dumps(event)) == event
    assert copy.deepcopy(event) == event
    assert dataclasses.replace(event, id="x") == ServerSentEvent("a", "b", "x", 4, "e")


def test_making_an_event_checks_nothing() -> None:
    event = ServerSentEvent(wrong(1), event="\n", id="\0", retry=-1, comment="\ud800")
    assert event.id == "\0"


def test_an_event_made_by_a_subclass_is_written_like_any_other() -> None:
    class Tick(ServerSentEvent):
        pass

    assert type(Tick.json(1)) is Tick
    assert encode_event(Tick.json(1)) == b"data: 1\n\n"


def test_json_is_compact_and_keeps_characters_outside_ascii() -> None:
    assert ServerSentEvent.json({"a": [1, None], "b": "é"}).data == '{"a":[1,null],"b":"é"}'


def test_json_passes_the_other_fields_on() -> None:
    event = ServerSentEvent.json([], event="b", id="c", retry=4, comment="e")
    assert event == ServerSentEvent("[]", "b", "c", 4, "e")


def test_json_takes_another_dumps_which_may_give_bytes() -> None:
    event = ServerSentEvent.json("é", dumps=lambda value: json.dumps(value).encode())
    assert encode_event(event) == b'data: "\\u00e9"\n\n'


def test_json_from_an_indenting_dumps_arrives_whole() -> None:
    value = {"a": [1, 2]}
    event = ServerSentEvent.json(value, dumps=lambda value: json.dumps(value, indent=2))
    [received] = read(encode_event(event))
    assert json.loads(cast("str", received.data)) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_nan_and_infinities_and_says_what_to_do(value: float) -> None:
    with pytest.raises(ValueError, match=r"^\[(nan|-?inf)\] cannot .* JSON .*send None or text"):
        ServerSentEvent.json([value])


def test_json_refuses_a_value_that_holds_itself() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueError, match="Circular reference"):
        ServerSentEvent.json(value)


def test_json_refuses_what_has_no_json_form() -> None:
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        ServerSentEvent.json({1})


# --- writing: the bytes --------------------------------------------------------------------------


# What Cowboy 2.16 writes for stream_events (cow_sse:event/1), but for its empty map.
COWBOY = [
    (ServerSentEvent("a\r\nb\rc\n"), b"data: a\ndata: b\ndata: c\ndata: \n\n"),
    (ServerSentEvent(comment=""), b": \n\n"),
    (
        ServerSentEvent(event="foo", retry=5, id="7", data="", comment="c"),
        b": c\nid: 7\nevent: foo\ndata: \nretry: 5\n\n",
    ),
]

# What lasse 1.2.0 writes.
LASSE = [
    (ServerSentEvent("notify chunk"), b"data: notify chunk\n\n"),
    (
        ServerSentEvent("notify chunk", id="1", event=""),
        b"id: 1\nevent: \ndata: notify chunk\n\n",
    ),
    (
        ServerSentEvent("some data", comment="Comment 1\nComment 2"),
        b": Comment 1\n: Comment 2\ndata: some data\n\n",
    ),
]


@pytest.mark.parametrize("event, wire", COWBOY)
def test_an_event_is_written_as_cowboy_writes_it(event: ServerSentEvent, wire: bytes) -> None:
    assert encode_event(event) == wire


@pytest.mark.parametrize("event, wire", LASSE)
def test_an_event_is_written_as_lasse_writes_it(event: ServerSentEvent, wire: bytes) -> None:
    assert encode_event(event) == wire


@pytest.mark.parametrize(
    "event, wire",
    [
        (ServerSentEvent(""), b"data: \n\n"),
        (ServerSentEvent("\n"), b"data: \ndata: \n\n"),
        (ServerSentEvent("\r"), b"data: \ndata: \n\n"),
        (ServerSentEvent("\n\r"), b"data: \ndata: \ndata: \n\n"),
        (ServerSentEvent("a\r\r\nb"), b"data: a\ndata: \ndata: b\n\n"),
        (ServerSentEvent(" a"), b"data:  a\n\n"),
        (ServerSentEvent("data: a"), b"data: data: a\n\n"),
        (ServerSentEvent("é€😀"), "data: é€😀\n\n".encode()),
        (ServerSentEvent("\ufeffa\0"), b"data: \xef\xbb\xbfa\0\n\n"),
        (ServerSentEvent(b"a\r\nb"), b"data: a\ndata: b\n\n"),
        (ServerSentEvent("é".encode()), "data: é\n\n".encode()),
        (ServerSentEvent(b""), b"data: \n\n"),
        (ServerSentEvent(comment="a\rb\r\n"), b": a\n: b\n: \n\n"),
        (ServerSentEvent("a", id="1"), b"id: 1\ndata: a\n\n"),
        (ServerSentEvent("a", event="x"), b"event: x\ndata: a\n\n"),
        (ServerSentEvent("a", retry=5), b"data: a\nretry: 5\n\n"),
        (ServerSentEvent("a", comment="c"), b": c\ndata: a\n\n"),
        (ServerSentEvent(id=""), b"id: \n\n"),
        (ServerSentEvent(event="x"), b"event: x\n\n"),
        (ServerSentEvent(retry=0), b"retry: 0\n\n"),
        (ServerSentEvent(retry=MAX_RETRY), b"retry: 9223372036854775807\n\n"),
    ],
)
def test_an_event_has_exactly_these_bytes(event: ServerSentEvent, wire: bytes) -> None:
    assert encode_event(event) == wire


@pytest.mark.parametrize("character", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
@pytest.mark.parametrize("field", ["data", "comment", "id", "event"])
def test_only_cr_and_lf_end_a_line(field: str, character: str) -> None:
    """9.2.5: end-of-line = ( cr lf / cr / lf ); str.splitlines knows eight more."""
    text = f"a{character}b"
    prefix = "" if field == "comment" else field
    wire = encode_event(ServerSentEvent(**wrong({field: text})))
    assert wire == f"{prefix}: {text}\n\n".encode()


class Kind(str, enum.Enum):  # noqa: UP042 - a StrEnum formats as what it holds, this does not
    """As text in an f-string this is "Kind.TICK"; what it holds is "tick"."""

    TICK = "tick"


class Wait(enum.IntEnum):
    LONG = 5000


class Forged(str):
    """Holds "a" and claims to be more."""

    __slots__ = ()

    def __str__(self) -> str:
        return "a\nid: forged"

    def __format__(self, spec: str) -> str:
        return "a\nid: forged"

    def replace(self, *args: Any) -> str:
        return "a\nid: forged"


class ForgedNumber(int):
    def __int__(self) -> int:
        return -1

    def __str__(self) -> str:
        return "5\nid: forged"

    def __format__(self, spec: str) -> str:
        return "5\nid: forged"


@pytest.mark.parametrize(
    "event, wire",
    [
        (
            ServerSentEvent(Kind.TICK, event=Kind.TICK, retry=Wait.LONG),
            b"event: tick\ndata: tick\nretry: 5000\n\n",
        ),
        (ServerSentEvent(Kind.TICK), b"data: tick\n\n"),
        (ServerSentEvent(Forged("a"), id=Forged("b")), b"id: b\ndata: a\n\n"),
        (ServerSentEvent(comment=Forged("a")), b": a\n\n"),
        (ServerSentEvent(retry=ForgedNumber(5)), b"retry: 5\n\n"),
    ],
)
def test_a_subclass_is_written_as_what_it_holds(event: ServerSentEvent, wire: bytes) -> None:
    assert encode_event(event) == wire


# --- writing: what is refused, and in which words ------------------------------------------------


@pytest.mark.parametrize("field", ["id", "event"])
@pytest.mark.parametrize("character, called", [("\r", "CR"), ("\n", "LF"), ("\0", "NUL")])
def test_a_cr_lf_or_nul_in_id_or_event_is_refused(field: str, character: str, called: str) -> None:
    event = ServerSentEvent("a", **wrong({field: f"ab{character}c"}))
    with pytest.raises(ValueError, match=f"^{field} must not hold {called}, .* index 2 .*ab.*take"):
        encode_event(event)


@pytest.mark.parametrize(
    "event, field",
    [
        (ServerSentEvent("a\ud800"), "data"),
        (ServerSentEvent("id: \n\udfff"), "data"),
        (ServerSentEvent("a", event="\ud800"), "event"),
        (ServerSentEvent("a", id="\ud800"), "id"),
        (ServerSentEvent("a", comment="id\n\ud800"), "comment"),
    ],
)
def test_a_lone_surrogate_is_refused_by_the_name_of_its_field(
    event: ServerSentEvent, field: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{field} holds a lone surrogate, '\\ud.*replace it"):
        encode_event(event)


def test_a_lone_surrogate_from_json_can_be_sent_escaped_as_the_error_says() -> None:
    with pytest.raises(ValueError, match=r"dumps=json\.dumps escapes it"):
        encode_event(ServerSentEvent.json("\ud800"))
    event = ServerSentEvent.json("\ud800", dumps=json.dumps)
    assert encode_event(event) == b'data: "\\ud800"\n\n'


@pytest.mark.parametrize("data", [b"ab\xff", b"ab\xed\xa0\x80", b"ab\xc0\x80", b"ab\xe2\x82"])
def test_bytes_that_are_not_utf_8_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^data is not UTF-8 at index 2 .*decode the bytes"):
        encode_event(ServerSentEvent(data))


@pytest.mark.parametrize("retry", [-1, MAX_RETRY + 1])
def test_a_retry_out_of_range_is_refused(retry: int) -> None:
    with pytest.raises(ValueError, match=f"^retry must be from 0 to {MAX_RETRY} .*not {retry}: "):
        encode_event(ServerSentEvent(retry=retry))


def test_a_retry_too_long_to_be_shown_is_refused_in_the_same_words() -> None:
    with pytest.raises(ValueError, match=r"^retry must be from 0 to .*not <int>: "):
        encode_event(ServerSentEvent(retry=10**5000))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"data": 5}, r"^data must be .*not 5: .*ServerSentEvent\.json"),
        ({"data": bytearray(b"a")}, r"^data must be .*not bytearray\(b'a'\): .*bytes\(value\)"),
        ({"id": 5}, r"^id must be a str or None, not 5: give str\(value\)"),
        ({"event": b"a"}, "^event must be a str or None, not b'a': "),
        ({"comment": ["a"]}, r"^comment must be a str or None, not \['a'\]: "),
        ({"retry": "5"}, "^retry must be an int of milliseconds or None, not '5': "),
        ({"retry": 0.5}, r"^retry must be .*not 0\.5: .*round\(seconds \* 1000\)"),
        ({"retry": True}, "^retry must be an int of milliseconds or None, not True: "),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_by_its_name(
    fields: dict[str, object], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        encode_event(ServerSentEvent(**wrong(fields)))


def test_an_event_without_any_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nothing to send: .*ServerSentEvent\(comment=''\)"):
        encode_event(ServerSentEvent())


@pytest.mark.parametrize("value", ["text", None, {"data": "a"}])
def test_what_is_no_event_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"takes a ServerSentEvent, not .*ServerSentEvent\(data\)"):
        encode_event(wrong(value))


def test_an_error_shows_a_long_value_in_short() -> None:
    with pytest.raises(ValueError, match=r"^id must not") as caught:
        encode_event(ServerSentEvent(id="x" * 10**6 + "\n"))
    assert len(str(caught.value)) < 300


# --- reading: 9.2.5, lines and encoding ----------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_each_of_the_three_ends_of_line_ends_a_line(end: bytes) -> None:
    """9.2.5: end-of-line = ( cr lf / cr / lf )."""
    assert read(end.join([b"data: a", b"data: b", b"", b"data: c", b"", b""])) == [
        ServerSentEvent("a\nb"),
        ServerSentEvent("c"),
    ]


def test_the_three_ends_of_line_may_be_mixed() -> None:
    assert read(b"data: a\rdata: b\r\ndata: c\n\r") == [ServerSentEvent("a\nb\nc")]


def test_lf_cr_is_two_ends_of_line() -> None:
    assert read(b"data: a\n\rdata: b\r\n\n") == [ServerSentEvent("a"), ServerSentEvent("b")]


def test_a_cr_cut_from_its_lf_ends_one_line() -> None:
    assert read(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [ServerSentEvent("a\nb")]


def test_an_empty_piece_between_a_cr_and_its_lf_changes_nothing() -> None:
    assert read(b"data: a\r", b"", b"\ndata: b\n\n") == [ServerSentEvent("a\nb")]


def test_only_the_first_lf_after_a_cut_belongs_to_the_cr() -> None:
    assert read(b"data: a\r", b"\n", b"\n") == [ServerSentEvent("a")]
    assert read(b"data: a\r", b"\n\n") == [ServerSentEvent("a")]


def test_an_lf_that_is_cut_from_no_cr_is_an_end_of_line() -> None:
    assert read(b"\rdata: a", b"\n", b"\n") == [ServerSentEvent("a")]


def test_a_cr_at_the_end_of_a_piece_dispatches_at_once() -> None:
    decoder = EventStreamDecoder()
    assert decoder.feed(b"data: a\r\n\r") == [ServerSentEvent("a")]
    assert decoder.feed(b"\ndata: b\r\r") == [ServerSentEvent("b")]


def test_a_character_may_be_cut_into_its_bytes() -> None:
    wire = "data: é€😀\n\n".encode()
    assert read(*(bytes([byte]) for byte in wire)) == [ServerSentEvent("é€😀")]


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_one_leading_bom_is_skipped_however_it_is_cut(cut: int) -> None:
    """9.2.6, of UTF-8 decode: "strips one leading UTF-8 Byte Order Mark (BOM), if any"."""
    pieces = BOM[:cut], BOM[cut:] + b"data: a\n", b"\nda", b"ta: b\n\n"
    assert read(*pieces) == [ServerSentEvent("a"), ServerSentEvent("b")]


def test_a_second_bom_is_part_of_the_first_field_name() -> None:
    assert read(BOM + BOM + b"data: a\n\n") == []


def test_a_bom_after_the_beginning_is_a_character() -> None:
    assert read(b"\n" + BOM + b"data: a\ndata: " + BOM + b"b\n\n") == [ServerSentEvent("\ufeffb")]
    assert read(b"data: ", BOM + b"b\n\n") == [ServerSentEvent("\ufeffb")]


def test_a_part_of_a_bom_at_the_beginning_is_not_lost() -> None:
    assert read(BOM[:2], b"\ndata: a\n\n") == [ServerSentEvent("a")]
    assert read(BOM[:2], b"data: a\n\n") == []


@pytest.mark.parametrize(
    "data, text",
    [
        (b"a\xffb", "a\ufffdb"),
        (b"\xe2\x82", "\ufffd"),  # cut off by the end of the line: one for the whole
        (b"\xe2\x82\xe2\x82\xac", "\ufffd€"),
        (b"\xf0\x80\x80", "\ufffd" * 3),  # an overlong form: one for each byte
        (b"\xed\xa0\x80", "\ufffd" * 3),  # a surrogate
        (b"\xf4\x90", "\ufffd" * 2),  # beyond U+10FFFF
    ],
)
def test_bytes_that_are_not_utf_8_become_replacement_characters(data: bytes, text: str) -> None:
    """9.2.6: "Streams must be decoded using the UTF-8 decode algorithm"; Encoding, 8.1.1."""
    wire = b"event: " + data + b"\nid: " + data + b"\ndata: " + data + b"\n\n"
    assert read(wire) == [ServerSentEvent(text, text, text)]


# --- reading: 9.2.6, fields ----------------------------------------------------------------------


def test_a_line_that_starts_with_a_colon_is_ignored() -> None:
    """9.2.6: "If the line starts with a U+003A COLON character (:)": "Ignore the line"."""
    assert read(b": c\ndata: a\n:data: b\n:\n\n") == [ServerSentEvent("a")]


@pytest.mark.parametrize(
    "line, data",
    [
        (b"data:a", "a"),
        (b"data: a", "a"),
        (b"data:  a ", " a "),
        (b"data:\ta", "\ta"),
        (b"data:a:b", "a:b"),
        (b"data::", ":"),
        (b"data:", ""),
        (b"data: ", ""),
        (b"data", ""),
        (b"data: a\0b", "a\0b"),
    ],
)
def test_the_value_is_what_follows_the_first_colon_less_one_space(line: bytes, data: str) -> None:
    """9.2.6: "If value starts with a U+0020 SPACE character, remove it from value"."""
    assert read(line + b"\n\n") == [ServerSentEvent(data)]


@pytest.mark.parametrize("line", [b" data: a", b"Data: a", b"data : a", b"dat: a", b"dataa", b"x"])
def test_a_field_with_any_other_name_is_ignored(line: bytes) -> None:
    """9.2.6: "Field names must be compared literally, with no case folding performed"."""
    assert read(line + b"\ndata: b\n\n") == [ServerSentEvent("b")]


def test_data_lines_are_joined_with_lf() -> None:
    assert read(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [ServerSentEvent("YHOO\n+2\n10")]


def test_the_last_event_type_of_a_block_counts() -> None:
    assert read(b"event: a\nevent: b\ndata\n\n") == [ServerSentEvent("", "b")]


@pytest.mark.parametrize("line", [b"event", b"event:", b"event: "])
def test_an_empty_event_type_is_none(line: bytes) -> None:
    """9.2.6, dispatch the event, step 6: only "a value other than the empty string" counts."""
    assert read(b"event: a\n" + line + b"\ndata\n\n") == [ServerSentEvent("")]


def test_an_event_type_lasts_for_one_event() -> None:
    assert read(b"event: a\ndata\n\ndata\n\n") == [ServerSentEvent("", "a"), ServerSentEvent("")]


def test_an_id_lasts_until_the_next() -> None:
    """9.2.6, dispatch the event, step 1: "The buffer does not get reset"."""
    assert read(b"id: 1\ndata\n\ndata\n\nid: 2\ndata\n\n") == [
        ServerSentEvent("", id="1"),
        ServerSentEvent("", id="1"),
        ServerSentEvent("", id="2"),
    ]


@pytest.mark.parametrize("line", [b"id", b"id:", b"id: "])
def test_an_empty_id_forgets_the_last_one(line: bytes) -> None:
    decoder = EventStreamDecoder()
    decoder.feed(b"id: 1\ndata\n\n")
    assert decoder.feed(line + b"\ndata\n\n") == [ServerSentEvent("")]
    assert decoder.last_event_id == ""


@pytest.mark.parametrize("line", [b"id: \0", b"id: 2\0", b"id:\0002"])
def test_an_id_with_nul_is_ignored(line: bytes) -> None:
    """9.2.6: "If the field value does not contain U+0000 NULL, then set ...; otherwise ignore"."""
    assert read(b"id: 1\n" + line + b"\ndata\n\n") == [ServerSentEvent("", id="1")]


def test_an_id_may_hold_characters_outside_ascii() -> None:
    assert read("id: é€😀\ndata\n\n".encode()) == [ServerSentEvent("", id="é€😀")]


@pytest.mark.parametrize(
    "value, retry",
    [
        (b"0", 0),
        (b"3000", 3000),
        (b"007", 7),
        (b"9223372036854775806", MAX_RETRY - 1),
        (b"9223372036854775808", MAX_RETRY),
        (b"9" * 19, MAX_RETRY),
        (b"9" * 10_000, MAX_RETRY),
        (b"0" * 10_000 + b"5", 5),
    ],
)
def test_a_retry_of_ascii_digits_is_taken(value: bytes, retry: int) -> None:
    """9.2.6: "interpret the field value as an integer in base ten"; ours ends at 2**63 - 1."""
    decoder = EventStreamDecoder()
    decoder.feed(b"retry: " + value + b"\n")
    assert decoder.retry == retry


@pytest.mark.parametrize(
    "value",
    [b"", b" 5", b"5 ", b"+5", b"-5", b"5.0", b"5_0", b"0x5", b"5\0", "٣".encode(), "²".encode()],
)
def test_a_retry_of_anything_else_is_ignored(value: bytes) -> None:
    """9.2.6: "consists of only ASCII digits"; "otherwise, ignore the field"."""
    decoder = EventStreamDecoder()
    decoder.feed(b"retry: 1\nretry: " + value + b"\n\n")
    assert decoder.retry == 1


def test_a_retry_holds_from_its_line_on_and_no_event_carries_it() -> None:
    assert EventStreamDecoder().retry is None
    decoder = EventStreamDecoder()
    decoder.feed(b"retry: 5\n")
    assert decoder.retry == 5
    assert decoder.feed(b"data\n\n") == [ServerSentEvent("")]
    assert decoder.retry == 5


# --- reading: 9.2.6, dispatch --------------------------------------------------------------------


def test_an_event_without_data_is_not_dispatched_but_sets_the_id_and_drops_its_type() -> None:
    """9.2.6, dispatch the event, steps 1 and 2."""
    decoder = EventStreamDecoder()
    assert decoder.feed(b"event: a\nid: 1\n\n") == []
    assert decoder.last_event_id == "1"
    assert decoder.feed(b"data\n\n") == [ServerSentEvent("", id="1")]


def test_the_last_event_id_is_set_by_the_blank_line_and_not_before() -> None:
    decoder = EventStreamDecoder()
    assert decoder.last_event_id == ""
    decoder.feed(b"id: 1\n\nid: 2\ndata: a\n")
    assert decoder.last_event_id == "1"
    decoder.feed(b"\n")
    assert decoder.last_event_id == "2"


def test_an_event_without_its_blank_line_is_not_dispatched() -> None:
    """9.2.6: "Once the end of the file is reached, any pending data must be discarded"."""
    assert read(b"data: a\n\ndata: b\n") == [ServerSentEvent("a")]


def test_events_are_given_by_the_feed_that_completes_them() -> None:
    decoder = EventStreamDecoder()
    assert decoder.feed(b"data: a\n\nda") == [ServerSentEvent("a")]
    assert decoder.feed(b"ta: b\n") == []
    assert decoder.feed(b"\ndata: c\n\n") == [ServerSentEvent("b"), ServerSentEvent("c")]


@pytest.mark.parametrize(
    "wire, events",
    [
        (
            (
                b": test stream\n\ndata: first event\nid: 1\n\n"
                b"data:second event\nid\n\ndata:  third event\n\n"
            ),
            [
                ServerSentEvent("first event", id="1"),
                ServerSentEvent("second event"),
                ServerSentEvent(" third event"),
            ],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [ServerSentEvent(""), ServerSentEvent("\n")]),
        (b"data:test\n\ndata: test\n\n", [ServerSentEvent("test"), ServerSentEvent("test")]),
    ],
)
def test_the_examples_of_the_standard_read_as_it_says(
    wire: bytes, events: list[ServerSentEvent]
) -> None:
    """The three examples at the end of 9.2.6."""
    assert read(wire) == events


# --- reading: limits -----------------------------------------------------------------------------


@pytest.mark.parametrize("wire", [b"data: 456\n\n", b": 3456789\n\n", b"id: 56789\n\n"])
def test_a_line_of_the_maximal_size_is_read_and_one_byte_more_is_refused(wire: bytes) -> None:
    size = wire.index(b"\n")
    EventStreamDecoder(max_event_size=size).feed(wire)
    with pytest.raises(EventTooLarge):
        EventStreamDecoder(max_event_size=size - 1).feed(wire)


def test_a_bom_does_not_count() -> None:
    assert EventStreamDecoder(max_event_size=6).feed(BOM + b"data:a\n\n") == [ServerSentEvent("a")]


def test_the_data_of_one_event_counts_with_its_newlines() -> None:
    lines = b"data:a\n" * 8  # seven of them leave 14 bytes of data, and the eighth line has six
    EventStreamDecoder(max_event_size=20).feed(lines)
    with pytest.raises(EventTooLarge):
        EventStreamDecoder(max_event_size=19).feed(lines)


def test_data_lines_without_text_count_too() -> None:
    with pytest.raises(EventTooLarge):
        EventStreamDecoder(max_event_size=100).feed(b"data\n" * 101)


def test_what_is_not_kept_does_not_count() -> None:
    decoder = EventStreamDecoder(max_event_size=20)
    for _ in range(100):
        assert decoder.feed(b": keepalive\nid: 12345\nunknown: 5\n") == []
    for _ in range(100):
        assert decoder.feed(b"data: 123456789\n\n") == [ServerSentEvent("123456789", id="12345")]


def test_an_endless_line_is_refused_before_it_ends() -> None:
    decoder = EventStreamDecoder(max_event_size=1000)
    decoder.feed(b"data: " + b"x" * 994)
    with pytest.raises(EventTooLarge):
        decoder.feed(b"x")


def test_an_endless_line_after_other_data_is_refused_before_it_ends() -> None:
    decoder = EventStreamDecoder(max_event_size=1000)
    decoder.feed(b"data: " + b"x" * 499 + b"\ndata: " + b"x" * 494)
    with pytest.raises(EventTooLarge):
        decoder.feed(b"x")


def test_the_limit_is_a_mebibyte_unless_given() -> None:
    decoder = EventStreamDecoder()
    assert decoder.feed(b"x" * 2**20) == []
    with pytest.raises(EventTooLarge, match=r"larger than max_event_size, 1048576 bytes: give"):
        decoder.feed(b"x")


def test_the_error_carries_the_events_that_were_complete_before_it() -> None:
    decoder = EventStreamDecoder(max_event_size=10)
    with pytest.raises(EventTooLarge) as caught:
        decoder.feed(b"data: a\n\ndata: b\n\ndata: 56789\n\ndata: c\n\n")
    assert caught.value.events == (ServerSentEvent("a"), ServerSentEvent("b"))
    assert caught.value.limit == 10


def test_after_an_event_that_was_too_large_every_feed_is_refused() -> None:
    decoder = EventStreamDecoder(max_event_size=10)
    with pytest.raises(EventTooLarge):
        decoder.feed(b"data: 56789\n\n")
    with pytest.raises(EventTooLarge) as caught:
        decoder.feed(b"\n\ndata: a\n\n")
    assert caught.value.events == ()


def test_the_error_is_a_value_error_and_survives_pickle() -> None:
    error = EventTooLarge(10, (ServerSentEvent("a"),))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(error, ValueError)
    assert isinstance(again, EventTooLarge)
    assert (again.limit, again.events, str(again)) == (error.limit, error.events, str(error))


def test_a_limit_below_one_byte_is_refused() -> None:
    EventStreamDecoder(max_event_size=1)
    with pytest.raises(ValueError, match=r"^max_event_size must be at least 1 byte, not 0"):
        EventStreamDecoder(max_event_size=0)


@pytest.mark.parametrize(
    "piece", [b"x" * 512, b"data:" + b"x" * 506 + b"\n"], ids=["one line", "many lines"]
)
def test_small_pieces_of_a_large_event_take_time_in_proportion(piece: bytes) -> None:
    # Copying at each piece what came before it would move 64 GiB, which takes many seconds.
    decoder = EventStreamDecoder(max_event_size=2**24)
    decoder.feed(b"data: ")
    start = time.process_time()
    for _ in range(2**14):
        decoder.feed(piece)
    assert time.process_time() - start < 3


# --- properties ----------------------------------------------------------------------------------

# Text rich in what might end a line, a field or a stream's patience. Not st.characters(): it spends
# the first seconds of a fresh checkout on a table of Unicode's categories.
characters = st.sampled_from("\r\n\0\v\f\x85\u2028\ufeff: adi1é€😀") | st.builds(
    chr, st.integers(0, 0xD7FF) | st.integers(0xE000, 0x10FFFF)
)
texts = st.lists(characters, max_size=12).map("".join)
single_lines = texts.map(lambda text: re.sub("[\r\n\0]", "", text))
events = st.builds(
    ServerSentEvent,
    data=st.none() | texts | texts.map(str.encode),
    event=st.none() | single_lines,
    id=st.none() | single_lines,
    retry=st.none() | st.integers(0, MAX_RETRY),
    comment=st.none() | texts,
).filter(lambda event: event != ServerSentEvent())

# Streams that are nearly events: whole tokens, their pieces, and any byte.
tokens = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\n\n", b":", b" ", b": ", b"\0", b"0", b"7", b"x"),
        *(b"data", b"event", b"id", b"retry", b"data:", b"event: ", b"id: ", b"retry: 1"),
        *(BOM, b"\xef", b"\xbb", b"\xbf", "é".encode(), "😀".encode()),
        *(b"\xe2\x82", b"\xf0", b"\x9f", b"\xed\xa0", b"\xc0"),
    ]
)
streams = st.lists(tokens | st.binary(max_size=2), max_size=40).map(b"".join)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    stream = draw(streams)
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in pairwise([0, *places, len(stream)])]


def normalised(event: ServerSentEvent, last_event_id: str) -> ServerSentEvent:
    """Give what a client makes of an event with data."""
    data = event.data.decode() if isinstance(event.data, bytes) else event.data
    text = re.sub("\r\n|\r", "\n", cast("str", data))
    return ServerSentEvent(text, event.event or None, last_event_id or None)


def utf_8_decode(stream: bytes) -> Iterable[str]:
    """Follow Encoding, 6 "UTF-8 decode" and 8.1.1 "UTF-8 decoder", one byte at a time."""
    unread = list(reversed(stream.removeprefix(BOM)))
    code_point = needed = 0
    lower, upper = 0x80, 0xBF
    while unread:
        byte = unread.pop()
        if needed:
            if not lower <= byte <= upper:
                needed, lower, upper = 0, 0x80, 0xBF
                unread.append(byte)
                yield "\ufffd"
                continue
            lower, upper = 0x80, 0xBF
            code_point, needed = code_point << 6 | byte & 0x3F, needed - 1
            if not needed:
                yield chr(code_point)
        elif byte <= 0x7F:
            yield chr(byte)
        elif 0xC2 <= byte <= 0xDF:
            needed, code_point = 1, byte & 0x1F
        elif 0xE0 <= byte <= 0xEF:
            needed, code_point = 2, byte & 0xF
            lower = 0xA0 if byte == 0xE0 else lower
            upper = 0x9F if byte == 0xED else upper
        elif 0xF0 <= byte <= 0xF4:
            needed, code_point = 3, byte & 0x7
            lower = 0x90 if byte == 0xF0 else lower
            upper = 0x8F if byte == 0xF4 else upper
        else:
            yield "\ufffd"
    if needed:
        yield "\ufffd"


def lines_of(text: str) -> Iterable[str]:
    """Follow 9.2.5, a character at a time; what follows the last end of line is no line."""
    line, previous = "", ""
    for character in text:
        if character in "\r\n":
            if not (character == "\n" and previous == "\r"):
                yield line
            line = ""
        else:
            line += character
        previous = character


def field_of(line: str) -> tuple[str, str]:
    """Follow 9.2.6 for a line that is neither empty nor a comment."""
    if ":" not in line:
        return line, ""
    colon = line.index(":")
    field, value = line[:colon], line[colon + 1 :]
    if value != "" and value[0] == " ":
        value = value[1:]
    return field, value


def reference(stream: bytes) -> tuple[list[ServerSentEvent], str, int | None]:
    """Follow 9.2.6, in its own words: events, last event ID string, reconnection time."""
    dispatched: list[ServerSentEvent] = []
    last_event_id, reconnection_time = "", None
    data_buffer = event_type_buffer = last_event_id_buffer = ""
    for line in lines_of("".join(utf_8_decode(stream))):
        if line == "":
            last_event_id = last_event_id_buffer
            if data_buffer != "":
                if data_buffer[-1] == "\n":
                    data_buffer = data_buffer[:-1]
                dispatched.append(
                    ServerSentEvent(data_buffer, event_type_buffer or None, last_event_id or None)
                )
            data_buffer = event_type_buffer = ""
        elif line[0] != ":":
            field, value = field_of(line)
            if field == "event":
                event_type_buffer = value
            elif field == "data":
                data_buffer += value
                data_buffer += "\n"
            elif field == "id" and "\0" not in value:
                last_event_id_buffer = value
            elif field == "retry" and re.fullmatch("[0-9]+", value):
                reconnection_time = min(int(value), MAX_RETRY)
    return dispatched, last_event_id, reconnection_time


@given(st.lists(events, max_size=5))
def test_what_is_written_is_read_as_the_same_events(written: list[ServerSentEvent]) -> None:
    decoder = EventStreamDecoder()
    received = decoder.feed(b"".join(map(encode_event, written)))
    expected: list[ServerSentEvent] = []
    last_event_id, retry = "", None
    for event in written:
        last_event_id = last_event_id if event.id is None else event.id
        retry = retry if event.retry is None else event.retry
        if event.data is not None:
            expected.append(normalised(event, last_event_id))
    assert received == expected
    assert (decoder.last_event_id, decoder.retry) == (last_event_id, retry)


@given(events)
def test_what_is_written_is_the_lines_of_its_own_fields_and_one_blank_line(
    event: ServerSentEvent,
) -> None:
    *lines, blank, after = re.split(b"\r\n|\r|\n", encode_event(event))
    assert (blank, after) == (b"", b"")
    names = [line.partition(b": ")[0] for line in lines]

    def number_of_lines(text: str | bytes | None) -> int:
        shown = text.decode() if isinstance(text, bytes) else text
        return 0 if shown is None else len(re.split("\r\n|\r|\n", shown))

    assert names == (
        [b""] * number_of_lines(event.comment)
        + [b"id"] * (event.id is not None)
        + [b"event"] * (event.event is not None)
        + [b"data"] * number_of_lines(event.data)
        + [b"retry"] * (event.retry is not None)
    )


@given(cut_streams())
@example([b"data\r", b"", b"\n", b"\n"])
@example([b"\xef", b"\xbb", b"\xbfdata\n\n"])
def test_a_stream_cut_anywhere_gives_at_each_cut_what_the_standard_gives_so_far(
    pieces: list[bytes],
) -> None:
    decoder = EventStreamDecoder()
    received: list[ServerSentEvent] = []
    so_far = b""
    for piece in pieces:
        received += decoder.feed(piece)
        so_far += piece
        assert (received, decoder.last_event_id, decoder.retry) == reference(so_far)


@given(streams)
def test_a_stream_in_single_bytes_gives_what_it_gives_whole(stream: bytes) -> None:
    assert read(*(bytes([byte]) for byte in stream)) == read(stream)


@given(cut_streams(), st.integers(1, 12))
def test_whether_a_stream_is_too_large_does_not_depend_on_its_cuts(
    pieces: list[bytes], limit: int
) -> None:
    def outcome(pieces: Iterable[bytes]) -> tuple[list[ServerSentEvent], bool]:
        decoder = EventStreamDecoder(max_event_size=limit)
        received: list[ServerSentEvent] = []
        try:
            for piece in pieces:
                received += decoder.feed(piece)
        except EventTooLarge as error:
            return [*received, *error.events], True
        return received, False

    assert outcome(pieces) == outcome([b"".join(pieces)])


@given(st.binary(max_size=12))
def test_invalid_utf_8_is_replaced_as_the_encoding_standard_says(data: bytes) -> None:
    line = re.sub(b"[\r\n\0]", b"", data)
    [event] = read(b"data: " + line + b"\n\n")
    assert event.data == "".join(utf_8_decode(b"\n" + line))[1:]
