"""WebSockets on the three tiers: the same steps on the fake and on Hypercorn, and what came of them.

Laws of this file:

* The application notes what it met, and when; the client what it saw, and when. Both are compared.
* A client keeps the protocol: it sends nothing before the handshake is over, answers a close, and
  answers pings, of which nobody else hears.
* The tiers are those of `tiers`; here only what speaks on them is another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import trio
from hypothesis import strategies as st

from trioloop import App, Close, Continue, Reply, Send, Stop, WebSocketHandler
from trioloop.testing import Seen, Simulation

from .normal import plain
from .websocket_peer import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    _split,
    close_frame,
    frame,
    handshake_bytes,
)

EIGHTH: Final = 1 / 8
OFF_GRID: Final = 1 / 64
"""Ties with the server's own clock are drawn by lot: see `normal.RULES`."""


class Step(NamedTuple):
    """One step: who does what."""

    verb: str
    who: int = 0
    arg: Any = None


# -- the application ------------------------------------------------------------------------------


class Chat(WebSocketHandler[tuple[str, Any]]):
    """Does what it is told, by messages and by its client."""

    idle_timeout = 6.0
    send_timeout = 3.0
    mailbox_size = 3
    max_message_size = 300
    number: str

    def init(self, request: Any) -> Any:
        self.number = request.query_params["n"]
        self.hub.chats[self.number] = self
        return self.do(request.query_params.get("init", "nothing"))

    def note(self, what: str, detail: Any = None) -> None:
        self.hub.notes.append((self.number, trio.current_time(), what, detail))

    def receive(self, data: str | bytes) -> Any:
        self.note("receive", data)
        return self.do(data) if isinstance(data, str) else Send(data)

    def info(self, message: tuple[str, Any]) -> Any:
        self.note("info", message)
        return self.do(*message)

    def do(self, verb: str, arg: Any = 0) -> Any:
        match verb:
            case "say":
                return Send("x" * arg)
            case "several":
                return [Send("a"), Send(b"b"), Send("c" * 200)]
            case "work":
                return self.work()
            case "wait":
                return self.wait()
            case "crash":
                raise ArithmeticError("planted")
            case "bad":
                return "no command"
            case "quit":
                return Stop()
            case "close":
                return [Send("bye"), Close(4000, "enough")]
            case "refuse":
                return Reply(401, "who?")
            case "pause" | "resume":
                return Continue(receive=verb == "resume")
            case _:
                return None

    async def wait(self) -> None:
        await trio.sleep(1)

    async def work(self) -> Any:
        await trio.sleep(1)
        return Send("worked")

    def terminate(self, reason: Any) -> None:
        self.note("terminate", reason)


class Application:
    """The application under test, with the hub where a simulation looks for it."""

    def __init__(self) -> None:
        self._app = App()
        self._app.route("/ws", Chat)
        self.hub: Any = self._app.hub
        self.hub.notes, self.hub.chats = [], {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


# -- a client on the wire -------------------------------------------------------------------------


class WireWebSocket:
    """The kit's verbs of a WebSocket, on a connection to a real server.

    Args:
        exchange: a client of `tiers`, which knows how to transmit and to receive.
        target: what it asks for.
    """

    def __init__(self, exchange: Any, target: str) -> None:
        self._exchange = exchange
        self._buffer = b""
        self._status: int | None = None
        self._length = 0
        self._held: list[bytes] = []
        self._left = False
        exchange._request = handshake_bytes(target)
        exchange._parse = self._parse

    @property
    def transcript(self) -> list[Seen]:
        return self._exchange.transcript

    def send(self, data: str | bytes) -> None:
        payload = data.encode() if isinstance(data, str) else data
        self._transmit(frame(TEXT if isinstance(data, str) else BINARY, payload))

    def close(self, code: int | None) -> None:
        self._left = True
        self._transmit(close_frame(code))

    def disconnect(self, how: str) -> None:
        self._left = True
        self._exchange.disconnect(how)

    def stall(self, window: int) -> None:
        self._exchange.stall(window)

    def resume(self) -> None:
        self._exchange.resume()

    def _transmit(self, data: bytes) -> None:
        if self._status is None:
            self._held.append(data)
        else:
            self._exchange.transmit(data)
        self._exchange._simulation.settle()

    def _parse(self, data: bytes) -> None:
        if not data:
            self._exchange._end("cut")
            return
        self._buffer += data
        if self._status is None and b"\r\n\r\n" in self._buffer:
            self._parse_head()
        if self._status == 101:
            self._parse_frames()
        elif self._status is not None:
            body, self._buffer = self._buffer, b""
            self._length -= len(body)
            if body:
                self._exchange._see("body", body)
            if self._length <= 0:
                self._exchange._end("end")

    def _parse_head(self) -> None:
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        parts = [line.partition(b":") for line in lines]
        pairs = [(name.strip(), value.strip()) for name, _, value in parts]
        self._status = int(first.split()[1])
        self._length = int(dict(pairs).get(b"content-length", 0))
        self._exchange._see("head", (self._status, pairs))
        for held in self._held if self._status == 101 else ():
            self._exchange.transmit(held)

    def _parse_frames(self) -> None:
        while (found := _split(self._buffer)) is not None:
            one, self._buffer = found
            if one.opcode == CLOSE:
                self._exchange._see("close", (one.code, one.payload[2:].decode()))
                self._exchange._end("end")
                if not self._left:
                    self._exchange.transmit(close_frame(one.code))
            elif one.opcode == PING:
                if not self._left:
                    self._exchange.transmit(frame(PONG, one.payload))
            else:
                text = one.payload.decode() if one.opcode == TEXT else one.payload
                self._exchange._see("message", text)


def open_websocket(simulation: Any, target: str) -> Any:
    """A client opens a WebSocket, on whichever tier."""
    if not hasattr(simulation, "connect"):
        return simulation.websocket(target)
    exchange = simulation.connect("GET", target, b"")
    websocket = WireWebSocket(exchange, target)
    simulation.exchanges.append(exchange)
    exchange.connect()
    simulation.settle()
    return websocket


# -- playing --------------------------------------------------------------------------------------


def play(
    steps: Iterable[Step],
    simulation: Simulation,
    app: Application,
    *,
    early: bool = True,
) -> list[Any]:
    """Carry out the steps, and let all that is bounded by time come to its end; see `tell`."""
    clients: list[Any] = []
    left: set[int] = set()
    for step in steps:
        if step.verb == "open":
            clients.append(open_websocket(simulation, f"/ws?n={len(clients)}&init={step.arg}"))
        elif step.verb == "advance":
            simulation.advance(step.arg * EIGHTH)
        elif clients:
            who = step.who % len(clients)
            is_early = step.verb == "close" and not clients[who].transcript
            if early or not is_early:
                _act(step, who, clients, left, simulation, app)
    simulation.advance(12)
    simulation.shut_down(1 + OFF_GRID)
    return clients


def _act(
    step: Step, who: int, clients: list[Any], left: set[int], simulation: Any, app: Application
) -> None:
    if step.verb == "tell":
        chat = app.hub.chats.get(str(who))
        if chat is not None:
            chat.note("sent", chat.ref.send_nowait(step.arg))
        simulation.settle()
    elif who not in left:
        arguments = () if step.arg is None else (step.arg,)
        getattr(clients[who], step.verb)(*arguments)
        if step.verb in ("close", "disconnect"):
            left.add(who)


_OWN: Final = frozenset(
    (b"date", b"server", b"connection", b"upgrade", b"sec-websocket-accept", b"content-length")
)


def tell(tier: type[Any], steps: Iterable[Step], *, early: bool = True) -> list[Any]:
    """Play the steps on a tier; what the clients saw and the application noted, normalised.

    Args:
        tier: of `tiers`.
        steps: of the scenario.
        early: whether clients may close before their handshake is over.
    """
    app: Any = Application()
    with tier(app) as simulation:
        clients = play(steps, simulation, app, early=early)
        seen = [[_shown(one) for one in client.transcript] for client in clients]
        notes = [(n, time, what, plain(detail)) for n, time, what, detail in app.hub.notes]
    by_client = [[note[1:] for note in notes if note[0] == str(n)] for n in range(len(clients))]
    return [*zip(seen, by_client, strict=True)]


def _shown(one: Seen) -> tuple[float, str, Any]:
    if one.what != "head":
        return one.time, one.what, one.value
    status, pairs = one.value
    return one.time, "head", (status, tuple(pair for pair in pairs if pair[0] not in _OWN))


# -- generating -----------------------------------------------------------------------------------

_WHO = st.integers(0, 2)
_INITS = st.sampled_from(
    ("nothing", "nothing", "several", "work", "refuse", "crash", "quit", "close")
)
_WORDS = st.sampled_from(
    ("hello", "several", "work", "crash", "bad", "quit", "close", "pause", b"\xff\x00", "x" * 301)
)
_ORDERS = st.sampled_from(
    [
        *(("say", size) for size in (3, 200, 5000)),
        *((verb, 0) for verb in ("several", "work", "crash", "quit", "close", "pause", "resume")),
    ]
)


def steps(*, stalls: bool) -> st.SearchStrategy[list[Step]]:
    """Scenarios.

    Args:
        stalls: whether clients stop reading.
    """
    moves = [
        st.builds(lambda init: Step("open", 0, init), _INITS),
        st.builds(lambda who, word: Step("send", who, word), _WHO, _WORDS),
        st.builds(lambda who, word: Step("send", who, word), _WHO, _WORDS),
        st.builds(lambda who, order: Step("tell", who, order), _WHO, _ORDERS),
        st.builds(lambda eighths: Step("advance", 0, eighths), st.sampled_from((1, 4, 8, 16, 24))),
        st.builds(lambda who, code: Step("close", who, code), _WHO, st.sampled_from((1000, 4001))),
        st.builds(
            lambda who, how: Step("disconnect", who, how),
            _WHO,
            st.sampled_from(("clean", "abrupt", "half")),
        ),
    ]
    if stalls:
        moves += [
            st.builds(lambda who, size: Step("stall", who, size), _WHO, st.sampled_from((0, 64))),
            st.builds(lambda who: Step("resume", who), _WHO),
        ]
    first = st.builds(lambda init: Step("open", 0, init), _INITS)
    return st.tuples(first, st.lists(st.one_of(moves), max_size=10)).map(lambda s: [s[0], *s[1]])
