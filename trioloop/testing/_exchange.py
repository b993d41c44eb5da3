"""One request as a test sees it: what the client does, and what it has seen.

Laws of this file:

* Nothing here waits. The faces settle the application after every verb.
* What the client has seen is what it has read, byte for byte, with its virtual time.
* A client decodes an event stream as a browser does, with the library's own decoder.
"""

from __future__ import annotations

import json as json_module
import math
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias
from urllib.parse import quote, unquote

from starlette.types import Message, Scope

from .._core._reasons import TerminateReason
from .._web._event_stream_handler import EventStreamHandler
from .._wire import EventStreamDecoder, ServerSentEvent
from ._client_wire import Hangup, Sight

if TYPE_CHECKING:
    from ._observer import Observed
    from ._world import World

Disconnect: TypeAlias = Literal["clean", "abrupt", "half", "vanish"]
"""How a client leaves: ``"clean"`` closes its socket, ``"abrupt"`` resets it, ``"half"`` closes its
sending side and goes on reading, ``"vanish"`` says nothing at all and reads no more."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that the client has seen.

    Args:
        time: virtual seconds.
        what: ``"head"`` (``(status, headers)``), ``"body"`` (bytes), or ``"eof"`` (``"end"`` when the
            response is complete, ``"cut"`` when the client can tell that it is not); of a WebSocket
            also ``"message"`` (`str` or bytes) and ``"close"`` (``(code, reason)``).
        value: as above.
    """

    time: float
    what: str
    value: Any


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for.

    Args:
        method: in capitals.
        target: the path, with a query if there is one.
        headers: names and values.
        body: all of it; `None` when the test sends it piece by piece.
        subprotocols: that a WebSocket's client offers; `None` for a request that is none.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = b""
    subprotocols: tuple[str, ...] | None = None

    @property
    def is_websocket(self) -> bool:
        """Whether it is a WebSocket's handshake."""
        return self.subprotocols is not None

    @property
    def head(self) -> bytes:
        """The request line and the headers, as they go over the wire."""
        return _head(self.method, self.target, self.headers, self._size, self.subprotocols)

    @property
    def _size(self) -> int | None:
        return None if self.body is None else len(self.body)

    def scope(self, app: Any) -> Scope:
        """The ASGI scope that Hypercorn makes of it."""
        path, _, query = _written(self.target).partition("?")
        own: Scope = {"type": "http", "scheme": "http", "method": self.method, "extensions": {}}
        if self.subprotocols is not None:
            own = {
                "type": "websocket",
                "scheme": "ws",
                "subprotocols": list(self.subprotocols),
                "extensions": {"websocket.http.response": {}},
            }
        return {
            **own,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": "1.1",
            "path": unquote(path),
            "raw_path": quote(path, safe="/%:@!$&'()*+,;=~-._").encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": _raw_headers(self.headers, self._size, self.subprotocols),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }


@lru_cache  # for tests ask the same again and again
def _head(
    method: str,
    target: str,
    headers: tuple[tuple[str, str], ...],
    size: int | None,
    subprotocols: tuple[str, ...] | None,
) -> bytes:
    fields = (b"%b: %b\r\n" % pair for pair in _raw_headers(headers, size, subprotocols))
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (
        method.encode(),
        _written(target).encode(),
        b"".join(fields),
    )


def _written(target: str) -> str:
    """A target as browsers write it: what is no visible ASCII is quoted (RFC 3986, 2.1)."""
    return quote(target, safe=string.punctuation)


def _raw_headers(
    headers: tuple[tuple[str, str], ...], size: int | None, subprotocols: tuple[str, ...] | None
) -> list[tuple[bytes, bytes]]:
    raw = [(n.lower().encode("ascii"), v.encode("utf-8")) for n, v in headers]
    names = {name for name, _ in raw}
    if b"host" not in names:
        raw.insert(0, (b"host", b"test"))
    if subprotocols is not None:
        raw += HANDSHAKE
        if subprotocols:
            raw.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode()))
    elif size is None:
        raw.append((b"transfer-encoding", b"chunked"))
    elif size and b"content-length" not in names:
        raw.append((b"content-length", b"%d" % size))
    return raw


HANDSHAKE: Final = (
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
)
"""What a client's handshake says (RFC 6455, section 4.1)."""


class ClientSide(Protocol):
    """A connection, as its client and the test have it.

    Attributes:
        window: bytes that the "socket" takes before a write waits for the reader.
        wanted: bytes that a reader who has stopped still asks for; they come through any window.
        arrived: called when there is something for the client to read.
    """

    window: float
    wanted: int
    arrived: Callable[[], object]

    @property
    def closed(self) -> bool:
        """The server has closed its side; what it has written can still be read."""
        raise NotImplementedError

    @property
    def gone(self) -> bool:
        """Nobody reads any more."""
        raise NotImplementedError

    @property
    def has_unread(self) -> bool:
        """Whether something was written that nobody has read."""
        raise NotImplementedError

    @property
    def write_waits(self) -> bool:
        """Whether the application waits for the reader."""
        raise NotImplementedError

    def begin(self, head: bytes, body: bytes | None) -> None:
        """Send a request; a body that is `None` follows in pieces."""
        raise NotImplementedError

    def feed(self, events: Iterable[Message | Hangup]) -> None:
        """Let a WebSocket's frames, or the client's leaving, arrive at the server."""
        raise NotImplementedError

    def feed_body(self, data: bytes, *, more: bool) -> None:
        """Let a piece of the request's body arrive."""
        raise NotImplementedError

    def lose_reader(self, how: Hangup = "reset") -> None:
        """Nobody will read what is written; a stuck write ends."""
        raise NotImplementedError

    def make_room(self) -> None:
        """The client has read, or the window is another one."""
        raise NotImplementedError

    def read(self, most: float) -> Iterable[Sight]:
        """Read so many bytes at most; gives what the client sees."""
        raise NotImplementedError


class Exchange:
    """A request, its response as far as the client has read it, and the handler behind it.

    Attributes:
        name: in journals and timelines.
        request: what was asked for.
        body: the bytes of the response's body that the client has read.
        messages: a WebSocket's messages that the client has read.
        answers_close: whether a WebSocket's client answers a close frame with its own.
    """

    def __init__(self, world: World, request: Request, name: str) -> None:
        self._world = world
        self.name = name
        self.request = request
        self._seen: list[tuple[float, str, Any]] = []  # what each `Seen` is made of
        self.body: bytes = b""
        self.messages: list[str | bytes] = []
        self.answers_close: bool = True
        self._closed_with: tuple[int | None, str] | None = None
        self._held: list[Message] = []  # frames that wait for the handshake's answer
        self._status: int | None = None
        self._headers: dict[bytes, bytes] = {}
        self._eof: str | None = None
        self._length: int | None = None  # of the body, when the head tells
        self._reading = True
        self._left = False
        self._body_is_complete = request.body is not None
        self._decoder: EventStreamDecoder | None = None  # of an event stream
        self._events: list[ServerSentEvent] = []
        self.dispatched: list[ServerSentEvent] = []  # all of them, also those taken out of `events`
        self.connection: ClientSide = world.connect(name, request, self._arrived)
        self.observed: Observed | None = None  # the handler, as soon as there is one

    def __repr__(self) -> str:
        return f"<{self.name}: {self.request.method} {self.request.target}>"

    # -- verbs; the faces settle after each ------------------------------------------------------

    def _stall(self, window: float = 0) -> None:
        self._note("stalls", f"window {window}")
        self._stop_reading()
        self.connection.window = window
        self.connection.make_room()

    def _stop_reading(self) -> None:
        self._reading = False
        self.connection.wanted = 0

    def _read(self, size: int) -> None:
        self._note("reads", size)
        self.connection.wanted += size
        self._arrived()
        self.connection.make_room()

    def _resume(self) -> None:
        self._note("resumes")
        self._reading = True
        self.connection.window = float("inf")
        self._arrived()
        self.connection.make_room()

    def _send(self, data: str | bytes, *, more: bool) -> None:
        if not self.request.is_websocket:
            self._send_body(data, more=more)
            return
        self._note("sends data", data)
        self._send_message(data)

    def _burst(self, *data: str | bytes) -> None:
        self._note("bursts", data)
        for one in data:
            self._send_message(one)

    def _send_message(self, data: str | bytes) -> None:
        kind = "text" if isinstance(data, str) else "bytes"
        self._send_frame({"type": "websocket.receive", "text": None, "bytes": None, kind: data})

    def _send_frame(self, frame: Message) -> None:
        if self._status is None:
            self._held.append(frame)
        elif not self.connection.gone:
            self.connection.feed([frame])

    def _close(self, code: int | None = 1000, reason: str = "") -> None:
        if not self.request.is_websocket:
            raise RuntimeError(f"{self!r} is no WebSocket; disconnect() leaves")
        if self._left:
            raise RuntimeError(f"{self!r} has left already")
        self._note("closes", (code, reason))
        self._left = True
        self._send_frame({"type": "close", "code": code, "reason": reason})

    def _send_body(self, data: str | bytes, *, more: bool) -> None:
        if self._body_is_complete:
            raise RuntimeError(
                f"the body of {self!r} is complete; a request with body=None leaves it to send()"
            )
        self._body_is_complete = not more
        body = data.encode() if isinstance(data, str) else data
        self._note("sends" if more else "sends last", body)
        self.connection.feed_body(body, more=more)

    def _disconnect(self, how: Disconnect = "clean") -> None:
        if how not in ("clean", "abrupt", "half", "vanish"):
            raise ValueError(
                f"a client leaves 'clean', 'abrupt', 'half' or by 'vanish', not {how!r}"
            )
        if self._left:
            raise RuntimeError(f"{self!r} has left already")
        self._note("disconnects", how)
        self._left = True
        if how == "vanish":
            self._stop_reading()
            self.connection.window = min(self.connection.window, 65536)  # what kernels buffer
            return
        # A kernel resets a connection that is closed with something unread.
        reset = how == "abrupt" or (how == "clean" and self.connection.has_unread)
        if how != "half":
            self.connection.lose_reader("reset" if reset else "end")
            self._stop_reading()
        self.connection.feed(["reset" if reset else "end"])

    # -- what the client sees --------------------------------------------------------------------

    def _note(self, what: str, detail: Any = None) -> None:
        self._world.journal.note(self.name, what, detail)

    def _see(self, what: str, value: Any) -> None:
        world = self._world
        self._seen.append((world.now(), what, value))
        world.journal.note(self.name, f"sees {what}", value)

    def _arrived(self) -> None:
        """Read what may be read."""
        connection = self.connection
        for what, value in connection.read(math.inf if self._reading else connection.wanted):
            self._take(what, value)
        if connection.closed and self._eof is None:
            all_read = not (connection.has_unread or connection.gone)
            if all_read and (self._reading or connection.wanted):
                self._end("cut")

    def _end(self, how: str) -> None:
        if self._eof is None:
            self._eof = how
            self._see("eof", how)

    def _take(self, what: str, value: Any) -> None:
        if what == "body":
            self._take_body(value)
        elif what == "head":
            self._take_head(value)
        elif what == "message":
            self._see("message", value)
            self.messages.append(value)
        elif what == "close":
            self._take_close(value)
        elif what == "ping":
            self.connection.feed([{"type": "pong", "bytes": value}])
        if what == "end" or len(self.body) == self._length:
            self._end("end")

    def _take_head(self, value: tuple[int, Iterable[tuple[bytes, bytes]]]) -> None:
        self._status, pairs = value
        self._headers = dict(pairs)
        self._see("head", value)
        self._length = self._find_length()
        if self._headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            self._decoder = EventStreamDecoder()
        if self._status == 101:
            self.connection.feed(self._held)

    def _take_close(self, value: tuple[int | None, str]) -> None:
        self._see("close", value)
        self._closed_with = value
        self._end("end")
        if self.answers_close and not self._left:
            self.connection.feed([{"type": "close", "code": value[0], "reason": ""}])

    def _find_length(self) -> int | None:
        """The body's length, if its head tells (RFC 9112, section 6.3)."""
        if self.request.method == "HEAD" or self._status in (204, 304):
            return 0
        length = self._headers.get(b"content-length")
        return None if length is None else int(length)

    def _take_body(self, data: bytes) -> None:
        self.body += data
        self._see("body", data)
        if self._decoder is not None:
            events = self._decoder.feed(data)
            self._events += events
            self.dispatched += events

    # -- looking ---------------------------------------------------------------------------------

    @property
    def transcript(self) -> list[Seen]:
        """All that the client has seen so far, in order, with times.

        The same application, seed and script give the same transcript.
        """
        return [Seen(*one) for one in self._seen]

    @property
    def status(self) -> int | None:
        """The response's status, `None` as long as its head was not read."""
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's headers, names in small letters."""
        return {n.decode("latin-1"): v.decode("latin-1") for n, v in self._headers.items()}

    @property
    def accepted(self) -> bool:
        """Whether the client has seen its WebSocket accepted."""
        return self._status == 101

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was chosen for a WebSocket."""
        return self.headers.get("sec-websocket-protocol")

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that the client has read."""
        return None if self._closed_with is None else self._closed_with[0]

    @property
    def close_reason(self) -> str:
        """Its reason."""
        return "" if self._closed_with is None else self._closed_with[1]

    @property
    def has_left(self) -> bool:
        """Whether the client has disconnected."""
        return self._left

    @property
    def transport(self) -> str:
        """``"long poll"``, ``"event stream"`` or ``"WebSocket"``."""
        if self.request.is_websocket:
            return "WebSocket"
        stream = self.observed is not None and isinstance(self.observed.handler, EventStreamHandler)
        return "event stream" if stream else "long poll"

    @property
    def phase(self) -> str:
        """Where the handler is, as far as can be seen from outside.

        ``"before the start"``, ``"waiting"``, ``"in a callback"``, ``"sending"`` or
        ``"terminating"``.
        """
        if self.connection.write_waits:
            return "sending"
        return "before the start" if self.observed is None else self.observed.phase

    @property
    def has_stopped(self) -> bool:
        """Whether the client is there, and reads only what it is told to."""
        return not (self._reading or self._left)

    @property
    def reads_everything(self) -> bool:
        """Whether all that was written has been seen, since the client reads and is there."""
        return self._reading and not self._left and self.request.method != "HEAD"

    @property
    def pending(self) -> bool:
        """Whether the client may still see more, since the response has not ended."""
        return self._eof is None and not self._left

    @property
    def complete(self) -> bool:
        """Whether the whole response was read, so that the client knows that nothing is missing."""
        return self._eof == "end"

    @property
    def aborted(self) -> bool:
        """Whether the client could tell that the response was cut."""
        return self._eof == "cut"

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json_module.loads(self.body)

    @property
    def events(self) -> list[ServerSentEvent]:
        """The events that a browser would have dispatched."""
        return self._events

    @property
    def last_event_id(self) -> str:
        """The last event id, which a reconnecting browser would send."""
        return "" if self._decoder is None else self._decoder.last_event_id

    @property
    def retry(self) -> int | None:
        """The reconnection time that was received, in milliseconds."""
        return None if self._decoder is None else self._decoder.retry

    @property
    def reason(self) -> TerminateReason | None:
        """Why the handler ended; `None` as long as it lives."""
        return None if self.observed is None else self.observed.reason

    @property
    def state(self) -> dict[str, Any]:
        """What the handler remembers, its own attributes."""
        if self.observed is None:
            raise LookupError(f"{self!r} has no handler")
        return self.observed.state

    def assert_event(self, match: EventMatch) -> ServerSentEvent:
        """Take the first event that matches out of `events`.

        Args:
            match: its data, or a function of an event.

        Raises:
            AssertionError: there is none; the message lists those that there are.
        """
        matches = _matcher(match)
        for index, event in enumerate(self._events):
            if matches(event):
                return self._events.pop(index)
        raise AssertionError(f"no event matches {match!r}; {self!r} has seen {self._events}")

    def refute_event(self, match: EventMatch) -> None:
        """Make sure that no event matches.

        Raises:
            AssertionError: one does.
        """
        matches = _matcher(match)
        for event in self._events:
            if matches(event):
                raise AssertionError(f"an event matches {match!r}: {event}")


EventMatch: TypeAlias = str | Callable[[ServerSentEvent], bool]
"""An event's data, or a function of an event."""


def _matcher(match: EventMatch) -> Callable[[ServerSentEvent], bool]:
    return (lambda event: event.data == match) if isinstance(match, str) else match


@dataclass(frozen=True, slots=True)
class Reconnection:
    """What a browser would ask for again."""

    request: Request
    wait: float = field(default=0.0)


def reconnection(exchange: Exchange) -> Reconnection:
    """The request that a browser's EventSource makes when its stream has ended."""
    headers = tuple(p for p in exchange.request.headers if p[0].lower() != "last-event-id")
    if exchange.last_event_id:
        headers = (*headers, ("Last-Event-ID", exchange.last_event_id))
    wait = (exchange.retry or 0) / 1000
    asked = exchange.request
    request = Request(asked.method, asked.target, headers, asked.body, asked.subprotocols)
    return Reconnection(request, wait)
