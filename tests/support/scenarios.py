"""Scenarios as data, and the application that can be led into every corner by messages.

Laws of this file:

* A scenario is a tuple of frozen steps; nothing in it knows who plays it. `play` turns it into
  calls of a simulation's verbs, the same for every tier.
* A step that makes no sense where it stands (a piece of a body that is complete, a client that has
  left reads on) is passed over by `play`, which keeps count by itself: every tier passes over the
  same steps.
* Times are eighths of a second, so that sums of floats are exact and ties can happen. Only the
  server's own clock ticks in between (`OFF_GRID`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import parse_qs

import trio
from hypothesis import strategies as st

from trioloop import (
    App,
    Chunk,
    Continue,
    EventStreamHandler,
    Hibernate,
    Hub,
    LoopHandler,
    Postpone,
    Reply,
    SendAfter,
    ServerSentEvent,
    StartResponse,
    Stop,
    Then,
    TimedOut,
)

EIGHTH: Final = 0.125
OFF_GRID: Final = EIGHTH / 2
"""Added to the grace of a shutdown; see "ties with the server's clock" in `support.normal`."""

# -- what happens ---------------------------------------------------------------------------------

Kind: TypeAlias = Literal["poll", "events", "plain", "nowhere"]
Body: TypeAlias = int | Literal["in pieces"]
How: TypeAlias = Literal["clean", "abrupt", "half", "vanish"]


class Do(NamedTuple):
    """A message: what the handler shall do."""

    verb: str
    arg: Any = 0


@dataclass(frozen=True, slots=True)
class Open:
    """A client asks.

    Args:
        kind: of endpoint.
        method: of the request.
        init: what ``init`` does; for a plain application, all that it does, words with commas.
        body: so many bytes, or to be sent later.
    """

    kind: Kind = "poll"
    method: str = "GET"
    init: Do | str | None = None
    body: Body = 0


@dataclass(frozen=True, slots=True)
class Tell:
    """Messages reach a handler at once."""

    who: int
    messages: tuple[Do, ...]


@dataclass(frozen=True, slots=True)
class Advance:
    """Time passes."""

    eighths: int


@dataclass(frozen=True, slots=True)
class Lag:
    """Time passes while nothing runs."""

    eighths: int


@dataclass(frozen=True, slots=True)
class Stall:
    """A client stops reading; the server's socket takes ``window`` bytes more."""

    who: int
    window: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """A client that has stopped reads so many bytes."""

    who: int
    size: int


@dataclass(frozen=True, slots=True)
class Resume:
    """A client reads on."""

    who: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A client sends so many bytes of its request's body."""

    who: int
    size: int
    last: bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """A client leaves."""

    who: int
    how: How = "clean"


@dataclass(frozen=True, slots=True)
class ShutDown:
    """The server goes down; nothing can come after it."""

    grace: int = 8


Step: TypeAlias = Open | Tell | Advance | Lag | Stall | Read | Resume | Piece | Leave | ShutDown
Scenario: TypeAlias = tuple[Step, ...]


# -- the application ------------------------------------------------------------------------------


@dataclass(slots=True)
class Record:
    """What the application noted: for each request, what it met and when."""

    notes: dict[str, list[tuple[float, str, Any]]] = field(default_factory=dict)
    handlers: dict[str, LoopHandler[Do]] = field(default_factory=dict)

    def note(self, number: str, what: str, detail: Any = None) -> None:
        """Write down what one request's handler, or plain application, has met."""
        self.notes.setdefault(number, []).append((trio.current_time(), what, detail))


class Steady(Random):
    """No jitter: always the least that is possible."""

    def randint(self, a: int, b: int) -> int:
        return a


class _Obedient(LoopHandler[Do]):
    """Does what messages say. Its limits are small enough to be met."""

    idle_timeout = 4.0
    receive_timeout = 2.0
    send_timeout = 3.0
    terminate_timeout = 1.0
    mailbox_size = 3
    max_body = 40

    def __init__(self, record: Record) -> None:
        self.record = record
        self.number = ""
        self.lingers = 0.0
        self.open = False
        self.postponed: set[Do] = set()

    def init(self, request: Any) -> Any:
        self.number = request.query_params["n"]
        self.record.handlers[self.number] = self
        self.note("init")
        if "init" not in request.query_params:
            return None
        verb, _, arg = request.query_params["init"].partition(":")
        return self.perform(Do(verb, int(arg or 0)))

    def info(self, message: Do) -> Any:
        self.note("info", message)
        return self.perform(message)

    def idle(self) -> Any:
        self.note("idle")
        return super().idle()

    async def terminate(self, reason: Any) -> None:
        self.note("terminate", reason)
        if self.lingers:
            await trio.sleep(self.lingers)
            self.note("terminated")

    def note(self, what: str, detail: Any = None) -> None:
        self.record.note(self.number, what, detail)

    def emit(self, size: int) -> Any:
        """Send something to the client."""
        raise NotImplementedError  # each subclass has its own

    def perform(self, do: Do) -> Any:
        return getattr(self, "do_" + do.verb)(do.arg)

    # One method for each verb of a message.

    def do_say(self, size: int) -> Any:
        return self.emit(size)

    def do_many(self, count: int) -> Any:
        if isinstance(self, Poll) and not self.open:
            return self.emit(count)
        return [self.emit(size) for size in range(1, count + 1)]

    def do_start(self, status: int) -> Any:
        self.open = True
        return StartResponse(status or 200, {"x-kind": type(self).__name__})

    def do_reply(self, status: int) -> Any:
        return Reply(status or 200, b"" if status in (204, 304) else b"reply")

    async def do_work(self, eighths: int) -> Any:
        await trio.sleep(eighths * EIGHTH)
        self.note("worked")
        return self.emit(eighths)

    async def do_hold(self, eighths: int) -> Any:
        with trio.CancelScope(shield=True):
            await trio.sleep(eighths * EIGHTH)
        self.note("held")
        return self.emit(eighths)

    def do_boom(self, _: int) -> Any:
        raise RuntimeError("boom")

    async def do_bang(self, eighths: int) -> Any:
        await trio.sleep(eighths * EIGHTH)
        raise RuntimeError("bang")

    def do_child(self, eighths: int) -> Any:
        self.nursery.start_soon(self.do_bang, eighths)

    def do_quit(self, _: int) -> Any:
        return Stop()

    def do_give_up(self, _: int) -> Any:
        return Stop(TimedOut())

    def do_nonsense(self, _: int) -> Any:
        return "no command"

    def do_nul(self, _: int) -> Any:
        return ServerSentEvent("x", id="\0")

    def do_timer(self, eighths: int) -> Any:
        return SendAfter(eighths * EIGHTH, Do("say", eighths))

    def do_patience(self, eighths: int) -> Any:
        return Continue(idle_timeout=eighths * EIGHTH)

    def do_hibernate(self, _: int) -> Any:
        return Hibernate()

    def do_then(self, size: int) -> Any:
        return Then(Do("say", size))

    def do_postpone(self, arg: int) -> Any:
        message = Do("postpone", arg)
        if message in self.postponed:
            return None
        self.postponed.add(message)
        return Postpone()

    async def do_body(self, _: int) -> Any:
        body = await self.request.body()
        self.note("body", body)
        return self.emit(len(body))

    async def do_sip(self, eighths: int) -> Any:
        async with aclosing(self.request.stream()) as pieces:
            async for piece in pieces:
                self.note("piece", piece)
                await trio.sleep(eighths * EIGHTH)
        return self.emit(1)

    def do_linger(self, eighths: int) -> Any:
        self.lingers = eighths * EIGHTH


class Poll(_Obedient):
    """Long polling, and a streamed response after ``start``."""

    def emit(self, size: int) -> Any:
        data = (b"%d " % size) * size
        return Chunk(data) if self.open else Reply(200, data)


class Events(_Obedient, EventStreamHandler[Do]):
    """An event stream."""

    keepalive = 2.5
    retry = 500
    idle_timeout = 6.0

    def emit(self, size: int) -> Any:
        return ServerSentEvent("x" * size, id=str(size))

    def do_nothing(self, _: int) -> Any:
        return None


class Plain:
    """An ASGI application that does, well or badly, what its query says."""

    def __init__(self, record: Record, hub: Hub) -> None:
        self._record = record
        self._hub = hub

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        query = parse_qs(scope["query_string"].decode())
        number = query["n"][0]
        shown = ("method", "path", "raw_path", "query_string", "headers", "http_version", "scheme")
        self._record.note(number, "scope", {key: scope[key] for key in shown})
        for word in query.get("init", [""])[0].split(","):
            verb, _, arg = word.partition(":")
            try:
                if verb == "delegate":
                    self._delegate(number, send)
                found = await self._do(verb, int(arg or 0), receive, send)
            except Exception as error:
                self._record.note(number, "raised", error)
                raise
            except trio.Cancelled:
                self._record.note(number, "cancelled")
                raise
            self._record.note(number, word, found)

    def _delegate(self, number: str, send: Any) -> None:
        """Leave the response to a task that outlives the call."""

        async def write() -> None:
            try:
                await self._do("start", 0, None, send)
                await self._do("last", 3, None, send)
            except Exception as error:
                self._record.note(number, "raised elsewhere", error)

        assert self._hub._nursery is not None
        self._hub._nursery.start_soon(write)

    async def _do(self, verb: str, arg: int, receive: Any, send: Any) -> Any:
        match verb:
            case "receive":
                return await receive()
            case "drain":
                events = [await receive()]
                while events[-1]["type"] != "http.disconnect":
                    events.append(await receive())
                return events
            case "sleep":
                await trio.sleep(arg * EIGHTH)
            case "hold":
                with trio.CancelScope(shield=True):
                    await trio.sleep(arg * EIGHTH)
            case "raise":
                raise RuntimeError("raise")
            case "start":
                headers = [(b"content-length", b"%d" % arg)] if arg and arg < 200 else []
                status = max(arg, 200)
                await send({"type": "http.response.start", "status": status, "headers": headers})
            case "body" | "last":
                more = verb == "body"
                await send({"type": "http.response.body", "body": b"b" * arg, "more_body": more})
        return None


class Application:
    """The application under test, with the hub where a simulation looks for it.

    Attributes:
        record: what it noted.
        letters: for each request, its handler's dead letters.
    """

    def __init__(self) -> None:
        self.record = Record()
        self.letters: dict[str, list[tuple[Any, Any]]] = {}
        self._app = App()
        self._app.route("/poll", lambda: Poll(self.record), name="poll")
        self._app.route("/events", lambda: Events(self.record), name="events")
        self.hub = self._app.hub
        self._plain = Plain(self.record, self.hub)
        self.hub.dead_letter = self._bury

    def _bury(self, ref: Any, message: Any, cause: Any) -> None:
        for number, handler in self.record.handlers.items():
            if handler.ref is ref:
                self.letters.setdefault(number, []).append((message, cause))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/plain":
            await self._plain(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def tell(self, number: str, messages: tuple[Do, ...]) -> Awaitable[None] | None:
        """Send messages to a handler, if there is one yet."""
        handler = self.record.handlers.get(number)
        if handler is not None:
            for message in messages:
                self.record.note(number, "sent", handler.ref.send_nowait(message))
        return None


# -- playing --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Client:
    """What the player knows of a client."""

    exchange: Any
    sending: bool
    stalled: bool = False
    left: str | None = None


def play(scenario: Scenario, simulation: Any, app: Application) -> None:
    """Carry out a scenario's steps, and at the end let all that is bounded by time come to it."""
    app.hub.random = Steady()
    clients: list[_Client] = []
    for step in scenario:
        if isinstance(step, ShutDown):
            simulation.shut_down(step.grace * EIGHTH + OFF_GRID)
            return
        _carry_out(step, simulation, app, clients)
    simulation.advance(8)
    simulation.shut_down(1 + OFF_GRID)


def _carry_out(step: Any, simulation: Any, app: Application, clients: list[_Client]) -> None:
    match step:
        case Open():
            clients.append(_open(step, simulation, len(clients)))
        case Advance(eighths):
            simulation.advance(eighths * EIGHTH)
        case Lag(eighths):
            simulation.lag(eighths * EIGHTH)
        case Tell(who, messages):
            if clients:
                app.tell(str(who % len(clients)), messages)
                simulation.settle()
        case _:
            if clients:
                _act(step, clients[step.who % len(clients)])


def _open(step: Open, simulation: Any, number: int) -> _Client:
    target = f"/{step.kind}?n={number}"
    if isinstance(step.init, Do):
        target += f"&init={step.init.verb}:{step.init.arg}"
    elif step.init is not None:
        target += f"&init={step.init}"
    pieces = isinstance(step.body, str)  # "in pieces"
    body = None if isinstance(step.body, str) else b"q" * step.body
    exchange = simulation.request(step.method, target, body=body)
    return _Client(exchange, sending=pieces)


def _act(step: Any, client: _Client) -> None:
    if client.left is not None and not (client.left == "half" and _is_reading(step)):
        return
    match step:
        case Stall(_, window):
            client.exchange.stall(window)
            client.stalled = True
        case Read(_, size) if client.stalled:
            client.exchange.read(size)
        case Resume() if client.stalled:
            client.exchange.resume()
            client.stalled = False
        case Piece(_, size, last) if client.sending:
            client.exchange.send(b"p" * size, more=not last)
            client.sending = not last
        case Leave(_, how):
            client.exchange.disconnect(how)
            client.left = how


def _is_reading(step: Any) -> bool:
    return isinstance(step, (Stall, Read, Resume))


# -- generating -----------------------------------------------------------------------------------
# Nearly everything is drawn from lists of finished values: Hypothesis pays for each choice, and it
# shrinks towards the front of a list, where the plain values are.

_EIGHTHS: Final = (1, 4, 8, 16, 24, 32)
_NONE: Final = (0,)
_ARGS: Final[dict[str, tuple[int, ...]]] = {
    "say": (1, 3, 20, 200, 5000, 70_000),
    "start": (200, 204, 404),
    "work": _EIGHTHS,
    "hold": _EIGHTHS,
    "many": (2, 5),
    "reply": (200, 204, 304, 404),
    "boom": _NONE,
    "bang": _EIGHTHS,
    "child": _EIGHTHS,
    "quit": _NONE,
    "give_up": _NONE,
    "nonsense": _NONE,
    "nul": _NONE,
    "timer": _EIGHTHS,
    "patience": _EIGHTHS,
    "hibernate": _NONE,
    "then": (1, 20),
    "postpone": _NONE,
    "body": _NONE,
    "sip": _EIGHTHS,
    "linger": _EIGHTHS,
}
_USUAL: Final = ("say", "start", "work", "hold")
_WORDS: Final = (
    *("start", "body:1", "last:3", "receive", "drain", "sleep:4", "hold:8", "raise"),
    *("body:0", "last:0", "start:204", "start:304", "start:500", "sleep:16", "hold:20"),
    *("start:3,last:3", "start:3,body:3,sleep:4,last:0", "body:20", "body:5000", "body:70000"),
    *("start:3", "start:20"),
)


def _verbs(largest: int) -> list[Do]:
    """Every message, the usual ones several times."""
    each = {verb: [Do(verb, arg) for arg in args if arg <= largest] for verb, args in _ARGS.items()}
    usual = [do for verb in _USUAL for do in each[verb]]
    return [*usual, *usual, *(do for dos in each.values() for do in dos)]


def _moves(*, stalls: bool) -> list[Step]:
    """Every step but those that open a request or tell a handler something."""
    whos = (0, 1)
    hows = get_args(How)
    advances = [Advance(eighths) for eighths in (1, 4, 8, 12, 16, 24, 32)]
    lags = [Lag(eighths) for eighths in (1, 8, 24)]
    leaves = [Leave(who, how) for who in whos for how in hows]
    pieces = [
        Piece(who, size, last) for last in (False, True) for size in (1, 7, 20, 50) for who in whos
    ]
    found: list[Step] = [*advances, *advances, *lags, *leaves, *leaves, *pieces]
    if stalls:
        windows = [Stall(who, window) for window in (0, 10, 100, 1000, 10_000) for who in whos]
        reads = [Read(who, size) for size in (1, 50, 200, 400, 6000, 100_000) for who in whos]
        found += [*windows, *windows, *reads, *(Resume(who) for who in whos for _ in range(5))]
    return found


def _opens(*, stalls: bool) -> st.SearchStrategy[Open]:
    """Requests to handlers, most of them plain ones."""
    messages = _verbs(70_000 if stalls else 5000)
    return st.builds(
        Open,
        st.sampled_from((*("poll", "events") * 5, "nowhere")),
        st.sampled_from((*("GET", "POST") * 4, "HEAD", "PUT")),
        st.sampled_from((*(None,) * len(messages), *messages)),
        st.sampled_from((*(0, "in pieces") * 3, 20, 60)),
    )


def _plain_opens(*, stalls: bool) -> st.SearchStrategy[Open]:
    """Requests to applications that are no handlers."""
    words = [word for word in _WORDS if word != "body:70000" or stalls]
    return st.builds(
        Open,
        st.just("plain"),
        st.sampled_from(("GET", "POST", "HEAD")),
        st.lists(st.sampled_from(words), min_size=1, max_size=7).map(",".join),
        st.sampled_from((*(0, "in pieces") * 3, 20, 60)),
    )


def scenarios(*, stalls: bool = True) -> st.SearchStrategy[Scenario]:
    """Scenarios of all kinds.

    Args:
        stalls: whether clients stop reading and handlers write more than the kernel buffers.
    """
    messages = st.sampled_from(_verbs(70_000 if stalls else 5000))
    whos = st.sampled_from((0, 0, 1))
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "move": st.sampled_from(_moves(stalls=stalls)),
        "tell": st.builds(Tell, whos, st.lists(messages, min_size=1, max_size=4).map(tuple)),
        "open": _opens(stalls=stalls),
        "plain": _plain_opens(stalls=stalls),
    }
    first = st.sampled_from(("open",) * 5 + ("plain",))
    rest = st.lists(
        st.sampled_from(("move", "tell") * 4 + ("open", "plain")), min_size=4, max_size=10
    )
    last = st.sampled_from(((), (), (ShutDown(4),), (ShutDown(24),)))

    @st.composite
    def draw_steps(draw: st.DrawFn) -> Scenario:
        names = [draw(first), *draw(rest)]
        return (*(draw(strategies[name]) for name in names), *draw(last))

    return draw_steps()
