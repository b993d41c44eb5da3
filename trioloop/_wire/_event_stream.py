"""Server-sent events on the wire: the value, its encoder and an incremental decoder.

The law of this file:

* What is written cannot inject: however an event's values are chosen, its bytes are the lines of
  its own fields and one empty line, the last.
* What is read is read as the standard says, byte for byte, wherever the stream was cut into pieces.
* Reading costs time in proportion to the bytes, and memory up to a limit.

"The standard" is WHATWG HTML, https://html.spec.whatwg.org/multipage/server-sent-events.html:
section 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream". The order of the
fields and the empty comment line (``: ``) are those of Cowboy's ``cow_sse:event/1``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from json import JSONEncoder
from reprlib import Repr
from typing import Any, NoReturn, Self

# The standard sets no bound for `retry`. This one, 292 million years in milliseconds, keeps hostile
# digits from costing quadratic time, and what is read from overflowing a float.
_MAX_RETRY = 2**63 - 1
_MAX_RETRY_DIGITS = len(str(_MAX_RETRY))

_BOM = b"\xef\xbb\xbf"

_FORBIDDEN_IN_LINE = re.compile("[\r\n\0]")
_CHARACTER_NAMES = {"\r": "CR", "\n": "LF", "\0": "NUL"}


# --- the value -----------------------------------------------------------------------------------

# Made once: json.dumps with options makes an encoder for every call.
_compact_json = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _dumps(value: Any) -> str:
    """Write compact JSON, in which NaN and infinities have no place (RFC 8259, section 6)."""
    try:
        return _compact_json(value)
    except ValueError as error:
        raise ValueError(
            f"{_shown(value)} cannot be written as JSON ({error}): send None or text in place of"
            " NaN and infinities, take out references to itself, or give your own dumps"
        ) from error


# Frozen, with an __init__ of its own: the generated one looks each field up by name to get past its
# own lock and takes 1.7 times as long, and an event is made for every message and every client.
@dataclass(frozen=True, slots=True, init=False)
class ServerSentEvent:
    r"""One server-sent event; as a command, "write this event".

    Making one checks nothing and costs little; the values are checked by :func:`encode_event`.
    Each field that is not None is written, in the order comment, id, event, data, retry. An event
    without ``data`` is written too, but dispatches nothing in the client; not even its ``event``
    arrives.

    :class:`EventStreamDecoder` gives the same type; see there for what its fields mean then.

    Args:
        data: the text, or its UTF-8 bytes. CR, LF and CRLF each end a line and arrive as LF; every
            other character arrives as it is. ``""`` is an event whose text is empty.
        event: the type of the event, without CR, LF and NUL. Browsers take None and ``""`` as
            ``"message"``.
        id: what the client says in ``Last-Event-ID`` when it comes back, without CR, LF and NUL.
            ``""`` makes it forget the last one.
        retry: milliseconds that the client is to wait before it comes back, from 0 to 2**63 - 1.
        comment: text that clients ignore, of any number of lines; ``""`` is the shortest sign of
            life.

    Source: WHATWG HTML, section 9.2.5 "Parsing an event stream".
    """

    data: str | bytes | None = None
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    comment: str | None = None

    def __init__(
        self,
        data: str | bytes | None = None,
        event: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name on the wire
        retry: int | None = None,
        comment: str | None = None,
    ) -> None:
        _set_data(self, data)
        _set_event(self, event)
        _set_id(self, id)
        _set_retry(self, retry)
        _set_comment(self, comment)

    @classmethod
    def json(
        cls,
        value: Any,
        *,
        event: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name on the wire
        retry: int | None = None,
        comment: str | None = None,
        dumps: Callable[[Any], str | bytes] = _dumps,
    ) -> Self:
        """Make an event whose data is a value as JSON.

        Args:
            value: anything that ``dumps`` takes.
            event: as in the class.
            id: as in the class.
            retry: as in the class.
            comment: as in the class.
            dumps: turns the value into JSON, text or UTF-8 bytes. The default writes compact JSON
                with characters outside ASCII as they are.

        Raises:
            ValueError: from the default ``dumps``: the value holds NaN, an infinity or itself.
            TypeError: from the default ``dumps``: the value holds something that is not JSON.
        """
        return cls(dumps(value), event, id, retry, comment)


# The slots' own setters, which the lock of a frozen dataclass does not reach.
_set_data, _set_event, _set_id, _set_retry, _set_comment = (
    vars(ServerSentEvent)[name].__set__ for name in ("data", "event", "id", "retry", "comment")
)


# --- writing -------------------------------------------------------------------------------------


def encode_event(event: ServerSentEvent) -> bytes:
    r"""Give the bytes of one event, its closing empty line included.

    Lines have the form ``name: value`` and end with LF; a comment line is ``: text``. ``data`` and
    ``comment`` are split on CR, LF and CRLF and on nothing else, into one line for each part, so a
    newline at the end gives an empty last line and the receiver gets the same text, its newlines
    as LF.

    Args:
        event: the event. At least one field must be given: where nothing is to be sent, send no
            event; ``ServerSentEvent("")`` is an empty one, ``ServerSentEvent(comment="")`` only
            shows life. (Cowboy sends an empty line for an empty map. Here a value that is None by
            mistake is the likelier reason.)

    Returns:
        UTF-8, ready to be written: ``b"data: hello\n\n"``.

    Raises:
        ValueError: no field is given; ``id`` or ``event`` holds CR, LF or NUL; ``retry`` is out of
            range; text holds a lone surrogate or bytes are not UTF-8.
        TypeError: a field has the wrong type; bool is no ``retry``.

    Source: WHATWG HTML, section 9.2.5 "Parsing an event stream".
    """
    # The event of nearly every call is one line of data: nothing but this happens for it.
    global _last  # noqa: PLW0603 - a cache of one
    if type(event) is ServerSentEvent:
        data = event.data
        if (
            type(data) is str
            and event.event is None
            and event.id is None
            and event.retry is None
            and event.comment is None
        ):
            if data is _last[0]:
                return _last[1]
            if "\n" in data or "\r" in data:
                return _encode_fields(event)
            try:
                encoded = f"data: {data}\n\n".encode()
            except UnicodeEncodeError:
                pass  # a lone surrogate, for which _encode_fields has the words
            else:
                _last = (data, encoded)
                return encoded
    return _encode_fields(event)


_last: tuple[str, bytes] = ("", b"data: \n\n")
"""The last text of one line and its event: a message to many is the same string for all of them."""


def _encode_fields(event: ServerSentEvent) -> bytes:
    _check_is_event(event)
    lines = ""
    if event.comment is not None:
        lines += _many_lines("", _text("comment", event.comment))
    if event.id is not None:
        lines += _one_line("id", _text("id", event.id))
    if event.event is not None:
        lines += _one_line("event", _text("event", event.event))
    if event.data is not None:
        lines += _many_lines("data", _data_text(event.data))
    if event.retry is not None:
        lines += f"retry: {_milliseconds(event.retry)}\n"
    if not lines:
        raise ValueError(
            "an event without any field has nothing to send: give it data (ServerSentEvent('') is"
            " an empty one), or ServerSentEvent(comment='') to show life, or return None instead"
        )
    try:
        return f"{lines}\n".encode()
    except UnicodeEncodeError as error:
        raise _lone_surrogate(event, error) from error


def _many_lines(name: str, text: str) -> str:
    # Not str.splitlines: it splits on eight more characters, and drops an empty last line.
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", f"\n{name}: ")
    return f"{name}: {text}\n"


def _one_line(name: str, text: str) -> str:
    if found := _FORBIDDEN_IN_LINE.search(text):
        raise ValueError(
            f"{name} must not hold {_CHARACTER_NAMES[found[0]]}, which is at index {found.start()}"
            f" of {_shown(text)}: take it out or escape it; text of several lines belongs in data"
        )
    return f"{name}: {text}\n"


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(
            f"{name} must be a str or None, not {_shown(value)}: give str(value), or the text that"
            " the client is to see"
        )
    # A subclass may format itself as something else (an enum of str does): take what it holds.
    return str.__str__(value)


def _data_text(value: object) -> str:
    if isinstance(value, bytes):
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data is not UTF-8 at index {error.start} ({_shown(value)}): an event stream has"
                " no other encoding; decode the bytes to str first, or send them as base64"
            ) from error
    if not isinstance(value, str):
        raise TypeError(
            f"data must be a str, bytes or None, not {_shown(value)}: give str(value) or"
            " bytes(value), or use ServerSentEvent.json(value)"
        )
    return str.__str__(value)


def _milliseconds(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"retry must be an int of milliseconds or None, not {_shown(value)}: for seconds, give"
            " round(seconds * 1000)"
        )
    number = int.__int__(value)  # of a subclass too: what it holds, as with text
    if not 0 <= number <= _MAX_RETRY:
        raise ValueError(
            f"retry must be from 0 to {_MAX_RETRY} milliseconds, not {_shown(number)}: give 0 for"
            " no wait, or None to leave the wait to the client"
        )
    return number


def _check_is_event(value: object) -> None:
    if not isinstance(value, ServerSentEvent):
        raise TypeError(
            f"encode_event takes a ServerSentEvent, not {_shown(value)}: make one of it with"
            " ServerSentEvent(data)"
        )


def _lone_surrogate(event: ServerSentEvent, error: UnicodeEncodeError) -> ValueError:
    line = error.object[: error.start].rpartition("\n")[2]
    name = line.partition(":")[0] or "comment"
    return ValueError(
        f"{name} holds a lone surrogate, {error.object[error.start]!a}, which UTF-8 cannot express"
        f" ({_shown(getattr(event, name))}): replace it before sending; in JSON, dumps=json.dumps"
        " escapes it"
    )


def _shown(value: object) -> str:
    """Show a value in an error's text: in short, and never failing itself."""
    try:
        return _short_repr.repr(value)
    except ValueError:  # an int of more digits than Python converts to text
        return f"<{type(value).__name__}>"


_short_repr = Repr()
_short_repr.maxstring = _short_repr.maxother = 60


# --- reading -------------------------------------------------------------------------------------


class EventTooLarge(ValueError):
    """The stream that is being read holds an event larger than the reader allows.

    Not for events that are written: those have no limit here.

    Attributes:
        limit: the ``max_event_size`` that was exceeded, in bytes.
        events: the events that were complete before it in the same call of ``feed``.
    """

    def __init__(self, limit: int, events: tuple[ServerSentEvent, ...] = ()) -> None:
        super().__init__(limit)
        self.limit = limit
        self.events = events

    def __str__(self) -> str:
        return (
            f"an event in the stream is larger than max_event_size, {self.limit} bytes: give"
            " EventStreamDecoder a larger max_event_size, or drop the connection"
        )


class EventStreamDecoder:
    r"""Reads one event stream, in pieces cut anywhere, as a browser does.

    Make one for each response. What :meth:`feed` gives is what a browser dispatches:

    * ``data`` is the text, always a str, its lines joined with LF; it may be empty;
    * ``event`` is the type, None where the stream names none or an empty one (a browser then says
      ``"message"``);
    * ``id`` is the *last event ID* at that moment, which may come from an earlier event, and None
      when it is empty;
    * ``retry`` and ``comment`` are None: a reconnection time belongs to the stream (:attr:`retry`),
      comments are ignored.

    A blank line without data before it dispatches nothing, yet makes an ``id`` before it the last
    event ID. CR, LF and CRLF end a line, and a CR at the end of a piece does so at once. A byte
    order mark at the very beginning is skipped, bytes that are not UTF-8 become U+FFFD, an ``id``
    with NUL and a ``retry`` with anything but ASCII digits are ignored. When the stream ends, an
    event without its blank line is lost: there is nothing to call.

    In one thing it departs from the standard: a ``retry`` above 2**63 - 1 is read as 2**63 - 1.

    Args:
        max_event_size: bytes that the data of one event, its newlines included, and the line that
            is being read may take together.

    Attributes:
        last_event_id: the *last event ID string*, set by each blank line: what a client that comes
            back sends in ``Last-Event-ID``; ``""`` when there is none.
        retry: the reconnection time in milliseconds that the stream last gave, or None. It holds
            from its line on; no blank line is needed.

    Raises:
        ValueError: ``max_event_size`` is less than 1.

    Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream", whose three buffers are the
    data, event type and last event ID buffers here; Encoding, "UTF-8 decode".
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_head",
        "_id",
        "_limit",
        "_line",
        "_too_large",
        "_type",
        "last_event_id",
        "retry",
    )

    def __init__(self, *, max_event_size: int = 2**20) -> None:
        if max_event_size < 1:
            raise ValueError(f"max_event_size must be at least 1 byte, not {max_event_size}")
        self.last_event_id: str = ""
        self.retry: int | None = None
        self._limit = max_event_size
        self._too_large = False
        self._head: bytes | None = b""  # less than three bytes, until it is known if they are a BOM
        self._after_cr = False  # an LF that comes now belongs to a line that has ended already
        self._line = bytearray()  # the unfinished line; a bytearray, so that appending is linear
        self._data = bytearray()  # the data buffer, still in UTF-8
        self._type = ""  # the event type buffer
        self._id = ""  # the last event ID buffer

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next piece of the stream and give the events that it completes.

        Args:
            data: any number of bytes, cut anywhere, also inside a character or a line's end.

        Returns:
            The events, oldest first.

        Raises:
            EventTooLarge: an event exceeds ``max_event_size``. Events that were complete before it
                are in the error's ``events``; from then on every call raises it.
        """
        if self._too_large:
            raise EventTooLarge(self._limit)
        lines = self._split(data)
        unfinished = lines.pop()
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        events: list[ServerSentEvent] = []
        for line in lines:
            if len(self._data) + len(line) > self._limit:
                self._give_up(events)
            if line:
                self._take_field(line)
            elif (event := self._take_event()) is not None:
                events.append(event)
        self._line += unfinished
        if len(self._data) + len(self._line) > self._limit:
            self._give_up(events)
        return events

    def _split(self, data: bytes) -> list[bytes]:
        """Cut a piece at the ends of lines; what is after the last one is an unfinished line."""
        if self._head is not None:
            data = self._without_bom(self._head + data)
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data.split(b"\n")

    def _without_bom(self, head: bytes) -> bytes:
        if len(head) < len(_BOM):  # nothing can happen in a stream so short
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _take_field(self, line: bytes) -> None:
        # Lines are cut and names compared as bytes, and values decoded last. That equals the
        # standard's decoding first: invalid UTF-8 swallows no ASCII and never turns into it. A
        # comment is a field without a name here; unknown names are ignored.
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value
            self._data += b"\n"
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():  # of bytes: ASCII digits, and at least one
            self.retry = _to_milliseconds(value)

    def _take_event(self) -> ServerSentEvent | None:
        """Do what the standard calls "dispatch the event"."""
        self.last_event_id = self._id
        if not self._data:  # no data line: even an empty one puts an LF into the buffer
            self._type = ""
            return None
        text = self._data[:-1].decode("utf-8", "replace")
        event = ServerSentEvent(text, self._type or None, self._id or None)
        self._data.clear()
        self._type = ""
        return event

    def _give_up(self, events: list[ServerSentEvent]) -> NoReturn:
        self._too_large = True
        self._line.clear()
        self._data.clear()
        raise EventTooLarge(self._limit, tuple(events))


def _to_milliseconds(digits: bytes) -> int:
    digits = digits.lstrip(b"0") or b"0"
    # Python refuses to convert thousands of digits, and hundreds would already take their time.
    return min(int(digits), _MAX_RETRY) if len(digits) <= _MAX_RETRY_DIGITS else _MAX_RETRY
