"""Every way to end × every phase × every transport: a short directed script for each cell.

``python tests/support/endings.py`` plays all of them and prints the matrix (``nox -s matrix``).

Laws of this file:

* A script is an async function of a `Face`, and the same one serves the synchronous `Simulation`
  and the asynchronous `FakeClient`.
* The phase is where the handler is, as the kit sees it from outside, when what ends it happens;
  every script makes sure of that before it goes on.
* A cell without a script says why there can be none.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import trio

from trioloop import (
    App,
    Chunk,
    Close,
    Completed,
    Continue,
    Crashed,
    Disconnected,
    EventStreamHandler,
    Failed,
    LoopHandler,
    MessageTooLarge,
    Overflowed,
    Rate,
    Reply,
    Send,
    SendTimedOut,
    ServerSentEvent,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
    TimedOut,
    WebSocketHandler,
)
from trioloop.testing import FakeClients, Simulation
from trioloop.testing._world import Worker

INIT, WAITING, CALLBACK, SENDING, TERMINATING = PHASES = (
    "before the start",
    "waiting",
    "in a callback",
    "sending",
    "terminating",
)

# -- the handlers ---------------------------------------------------------------------------------

Act: TypeAlias = Callable[[Any], Any]
"""What a callback does: a function of the handler. Messages are acts."""


class _Obedient:
    """Does what it is told."""

    methods = None
    idle_timeout = 4.0
    receive_timeout = 2.0
    send_timeout = 8.0
    terminate_timeout = 6.0
    mailbox_size = 2
    max_body = 20
    begin: Any = None
    say: Any = None

    def __init__(self, init: Act | None) -> None:
        self.first = init
        self.quiet: Act | None = None  # of `idle`
        self.last: Act | None = None  # of `terminate`
        self.heard: list[Any] = []

    def init(self, request: Any) -> Any:
        return type(self).begin if self.first is None else self.first(self)

    def info(self, act: Act) -> Any:
        return act(self)

    def idle(self) -> Any:
        return Stop(TimedOut()) if self.quiet is None else self.quiet(self)

    def terminate(self, reason: Any) -> Any:
        self.heard.append(reason)
        return None if self.last is None else self.last(self)


class Poll(_Obedient, LoopHandler[Any]):
    """A long poll, which has not answered yet while it waits."""

    say = Chunk("x" * 100)


class Stream(_Obedient, EventStreamHandler[Any]):
    """An event stream."""

    begin = ServerSentEvent("begin")
    say = ServerSentEvent("x" * 100)


class Chat(_Obedient, WebSocketHandler[Any]):
    """A WebSocket."""

    receive_timeout = math.inf
    max_message_size = 20
    max_rate = Rate(messages=4, burst=1)
    say = Send("x" * 100)

    def receive(self, data: Any) -> None:
        """Nothing is made of it."""


TRANSPORTS: Final = {"long poll": Poll, "event stream": Stream, "WebSocket": Chat}
HTTP: Final = ("long poll", "event stream")


def nothing(handler: Any) -> None:
    """No command."""


def returns(*commands: Any) -> Act:
    return lambda handler: list(commands)


def crash(handler: Any) -> None:
    raise ArithmeticError("planted")


def send_the_unsendable(handler: Any) -> ServerSentEvent:
    return ServerSentEvent("x", event="two\nlines")


async def read_body(handler: Any) -> None:
    await handler.request.body()


def slowly(act: Act) -> Act:
    """The same in an ``async def`` callback, a second later."""

    async def callback(handler: Any) -> Any:
        await trio.sleep(1)
        outcome = act(handler)
        return await outcome if inspect.isawaitable(outcome) else outcome

    return callback


def commands_of(outcome: Any) -> list[Any]:
    """What a ``def`` callback returned, as a list."""
    if outcome is None:
        return []
    return outcome if isinstance(outcome, list) else [outcome]


def start_child(handler: Any) -> None:
    async def crash_later() -> None:
        await trio.sleep(1)
        crash(handler)

    handler.nursery.start_soon(crash_later)


class Application(App):
    """Serves one handler, which is made beforehand."""

    handler: Any

    def __init__(self) -> None:
        super().__init__()
        self.route("/", lambda: self.handler)


# -- both faces as one ----------------------------------------------------------------------------


async def awaited(result: Any) -> Any:
    """What a verb gives: at once in a simulation, later in an async test."""
    return await result if inspect.isawaitable(result) else result


class Face:
    """One client of one handler.

    Args:
        client: a `Simulation` or a `FakeClient` of ``app``.
        app: an `Application`.
        kind: the handler's class.
        method: of the request.
        worker: that serves it.
    """

    def __init__(
        self, client: Any, app: Application, kind: type[Any], method: str, worker: Worker
    ) -> None:
        self.worker = worker
        self.client = client
        self.kind = kind
        self.method = method
        self.started = False  # the client has seen the head before the end began
        self._app = app

    async def open(self, init: Act | None = None) -> None:
        """The client asks; a body of a POST is sent later."""
        self.handler = self._app.handler = self.kind(init)
        if self.kind is Chat:
            self.exchange = await awaited(self.client.websocket("/"))
            return
        body = None if self.method == "POST" else b""
        self.exchange = await awaited(self.client.request(self.method, "/", body=body))

    async def tell(self, *acts: Act) -> None:
        """Messages reach the handler at once."""
        ref = self.client.ref(self.exchange)
        for act in acts:
            getattr(ref, "ref", ref).send_nowait(act)
        await awaited(self.client.settle())

    async def stop(self) -> None:
        """An operator stops the handler."""
        self.client.ref(self.exchange).stop()
        await awaited(self.client.settle())

    async def advance(self, seconds: float) -> None:
        await awaited(self.client.advance(seconds))

    async def shut_down(self) -> None:
        await awaited(self.client.shut_down(3))

    async def stall(self) -> None:
        """The client stops reading, and the server has as much for it as it keeps."""
        await self.do("stall")
        if self.worker == "trioloop":  # it takes one write, of any size
            await self.tell(returns(self.kind.say))

    async def do(self, verb: str, *args: Any) -> None:
        """The client does something."""
        await awaited(getattr(self.exchange, verb)(*args))

    async def reach(self, phase: str, act: Act = nothing) -> None:
        """Bring the handler into a phase, in which the callback that runs will do this."""
        if phase == INIT:
            await self.open(slowly(act))
        else:
            await self.open()
        if phase == CALLBACK:
            await self.tell(slowly(act))
        elif phase == SENDING:
            if self.kind is Poll:
                await self.tell(returns(StartResponse(), Chunk("begin")))
            await self.stall()
            await self.tell(lambda handler: [handler.say, *commands_of(act(handler))])
        elif phase == TERMINATING:
            self.handler.last = slowly(act)
            await self.tell(returns(Stop()))
        self.must_be(phase)

    def must_be(self, phase: str) -> None:
        assert self.exchange.phase == phase, f"{self.exchange.phase}, not {phase}"
        assert self.exchange.reason is None
        self.started = self.exchange.status is not None

    async def go_on(self, phase: str, act: Act = nothing) -> None:
        """Let the callback return, the write go through, or a message come that does this."""
        if phase == WAITING:
            await self.tell(act)
        elif phase == SENDING:
            await self.do("resume")
        else:
            await self.advance(1)


# -- scripts --------------------------------------------------------------------------------------

Script: TypeAlias = Callable[[Face], Awaitable[None]]


def callback(phase: str, act: Act) -> Script:
    """A callback ends it, by what it returns or raises."""

    async def script(face: Face) -> None:
        await face.reach(phase, act)
        await face.go_on(phase, act)

    return script


def event(phase: str, happen: Script, *, then: bool = True) -> Script:
    """Something from outside ends it; ``then`` what was under way goes on."""

    async def script(face: Face) -> None:
        await face.reach(phase)
        await happen(face)
        if then and phase != WAITING:
            await face.go_on(phase)

    return script


def callbacks(act: Act) -> dict[Any, Script | str]:
    """A callback ends it, in any phase; at the end it is ``terminate``, which ends nothing."""
    return {phase: callback(phase, act) for phase in PHASES}


def events(happen: Script, *, then: bool = True) -> dict[Any, Script | str]:
    """Something from outside ends it, in any phase; at the end it changes nothing."""
    return {phase: event(phase, happen, then=then or phase == TERMINATING) for phase in PHASES}


async def overfill(face: Face) -> None:
    await face.tell(nothing, nothing, nothing)


async def send_too_much(face: Face) -> None:
    await face.do("send", "x" * 21)


def leave(how: str) -> Script:
    return lambda face: face.do("disconnect", how)


def finish_for_a_stalled_reader(act: Act) -> Script:
    """``init`` ends it, and the response waits."""

    async def script(face: Face) -> None:
        await face.open(slowly(act))
        await face.do("stall")
        await face.advance(1)
        if face.worker == "stock":
            face.must_be(SENDING)
        await face.do("resume")

    return script


async def stay_idle(face: Face) -> None:
    await face.reach(WAITING)
    await face.advance(4)


async def stay_idle_slowly(face: Face) -> None:
    await face.open()
    face.handler.quiet = slowly(returns(Stop(TimedOut())))
    await face.advance(4)
    face.must_be(CALLBACK)
    await face.advance(1)


async def stay_idle_while_sending(face: Face) -> None:
    await face.reach(SENDING)
    await face.advance(5)
    face.must_be(SENDING)
    await face.do("resume")


async def stay_idle_while_terminating(face: Face) -> None:
    await face.reach(TERMINATING, slowly(slowly(slowly(slowly(nothing)))))  # 5 s
    await face.advance(4)
    face.must_be(TERMINATING)
    await face.advance(1)


def stay_silent(phase: str) -> Script:
    """The client is silent while a callback reads the body."""

    async def script(face: Face) -> None:
        await face.reach(phase, read_body)
        await face.advance(1)
        face.must_be(phase)
        await face.advance(2)

    return script


def child_crashes(phase: str) -> Script:
    """A child task ends it."""

    def start_child_and_work(handler: Any) -> Any:
        start_child(handler)
        return slowly(slowly(nothing))(handler)

    async def script(face: Face) -> None:
        if phase == SENDING:
            await face.reach(SENDING, start_child)
        else:
            await face.open(start_child_and_work if phase == INIT else None)
        if phase in (WAITING, CALLBACK):
            await face.tell(start_child if phase == WAITING else start_child_and_work)
        face.must_be(phase)
        await face.advance(1)
        if phase != WAITING:
            face.must_be(phase)
            await face.go_on(phase)

    return script


async def read_nothing(face: Face) -> None:
    await face.reach(SENDING)
    await face.advance(9)


async def vanish(face: Face) -> None:
    await face.open()
    if face.kind is Poll:
        await face.tell(returns(StartResponse(), Chunk("begin")))
    await face.do("disconnect", "vanish")
    await face.tell(returns(*[face.kind.say] * 1000))
    face.must_be(SENDING)
    await face.advance(9)


async def send_a_large_message(face: Face) -> None:
    await face.do("send", "\u20ac" * 7)


async def send_too_fast(face: Face) -> None:
    await face.do("burst", *"12345")


async def close(face: Face) -> None:
    await face.do("close", 4000)


async def say_nothing(face: Face) -> None:
    await face.open()
    await face.tell(returns(Continue(receive_timeout=2)))
    if face.worker == "trioloop":  # it sends pings, which a client that reads would answer
        await face.do("stall")
    await face.advance(2)
    if face.worker == "trioloop":
        await face.do("resume")


async def say_nothing_while_busy(face: Face) -> None:
    await face.open()
    await face.tell(returns(Continue(receive_timeout=2)), slowly(slowly(slowly(nothing))))
    await face.advance(2)
    face.must_be(CALLBACK)
    await face.advance(1)


async def say_nothing_to_a_write(face: Face) -> None:
    await face.open()
    await face.tell(returns(Continue(receive_timeout=2)))
    await face.stall()
    await face.tell(returns(face.kind.say))
    await face.advance(2)
    face.must_be(SENDING)
    await face.do("resume")


async def come_while_draining(face: Face) -> None:
    face.client.hub.shut_down()
    await face.open()


# -- the table ------------------------------------------------------------------------------------


class Column(NamedTuple):
    """What the client sees of it.

    Args:
        status: of a response that has not started; `None` when there is none.
        open: how an open response ends: ``"clean"``, ``"cut"`` or, when nobody is told, ``""``.
    """

    status: int | None
    open: str


@dataclass(frozen=True)
class Row:
    """One cause of an ending.

    Args:
        reason: what ``terminate`` hears; a type and the type of its error, where there is one.
        sees: what the client sees.
        scripts: for each phase, or each phase and transport, a script or why there can be none.
        method: of the request; a POST's body is sent by the script.
        notice: whether the server tells of its shutdown.
        opens: an event stream starts even then: ``init`` has returned before it is noticed; so
            does a WebSocket.
        only: the transports where it can happen.
    """

    reason: Any
    sees: Column
    scripts: Mapping[Any, Script | str]
    method: str = "GET"
    notice: bool = True
    opens: bool = False
    only: tuple[str, ...] = tuple(TRANSPORTS)

    def cell(self, phase: str, transport: str) -> Script | str:
        """A script, or why there can be none."""
        if transport not in self.only:
            return "a WebSocket has no body and no HEAD" if self.only == HTTP else ONLY_WEBSOCKET
        own = self.scripts.get((phase, transport))
        return self.scripts[phase] if own is None else own

    @property
    def reason_type(self) -> type:
        return self.reason[0] if isinstance(self.reason, tuple) else type(self.reason)


ONLY_WEBSOCKET = "only a WebSocket's client sends while it waits"
ONLY_INIT = "only init completes"
OVER = "the response is over, and terminate writes nothing"
NOT_YET = "the idle time begins when init has returned"
NO_READER = "the time runs only while a callback reads the body, and none does"
NO_CALLBACK = "no callback runs while a write waits"
NO_WRITE = "nothing is being written"
NO_CHILD = "child tasks are finished when terminate starts"
MADE = "other data is encoded when the command is made: a crash"
EARLY = "a client that keeps the protocol waits for the handshake"
SLOWED = "a client is read no faster than its handler, and so slower than that"
UNHEARD = "the worker answers a close frame first, which waits behind the write"
OPEN = "the response has started"
LIVES = "it started before the hub went down"

QUIET = Column(204, "clean")
REFUSED = Column(503, "cut")
DOWN = Column(503, "clean")
GONE = Column(None, "")

ROWS: Final[Mapping[str, Row]] = {
    "init replies": Row(
        Completed(),
        Column(200, "clean"),
        {
            INIT: callback(INIT, returns(Reply(200, "text"))),
            **dict.fromkeys((WAITING, CALLBACK), ONLY_INIT),
            SENDING: finish_for_a_stalled_reader(returns(Reply(200, "text"))),
            TERMINATING: callback(TERMINATING, returns(Reply(200, "text"))),
        },
    ),
    "HEAD": Row(
        Completed(),
        Column(200, "clean"),
        {
            INIT: callback(INIT, nothing),
            **dict.fromkeys((WAITING, CALLBACK), ONLY_INIT),
            SENDING: finish_for_a_stalled_reader(nothing),
            TERMINATING: OVER,
        },
        method="HEAD",
        only=HTTP,
    ),
    "Stop": Row(Stopped(), QUIET, callbacks(returns(Stop()))),
    "a callback replies": Row(
        Stopped(),
        Column(200, "clean"),
        {
            INIT: "that completes",
            WAITING: callback(WAITING, returns(Reply(200, "text"))),
            CALLBACK: callback(CALLBACK, returns(Reply(200, "text"))),
            SENDING: OPEN,
            TERMINATING: callback(TERMINATING, returns(Reply(200, "text"))),
            (WAITING, "event stream"): OPEN,
            (CALLBACK, "event stream"): OPEN,
            (WAITING, "WebSocket"): OPEN,
            (CALLBACK, "WebSocket"): OPEN,
        },
    ),
    "Close": Row(
        Stopped(),
        Column(None, "clean"),
        {**callbacks(returns(Close(1000))), INIT: "that completes"},
        only=("WebSocket",),
    ),
    "the client says nothing": Row(
        TimedOut("client"),
        Column(None, "clean"),
        {
            INIT: NOT_YET,
            WAITING: say_nothing,
            CALLBACK: say_nothing_while_busy,
            SENDING: say_nothing_to_a_write,
            TERMINATING: "the end has come already",
        },
        only=("WebSocket",),
    ),
    "the client's message is too large": Row(
        (Failed, MessageTooLarge),
        Column(None, "clean"),
        {
            **events(send_a_large_message, then=False),
            INIT: EARLY,
            SENDING: event(SENDING, send_a_large_message),
        },
        only=("WebSocket",),
    ),
    "the client is too fast": Row(
        Overflowed("rate", 4),
        Column(None, "clean"),
        {**events(send_too_fast), INIT: EARLY, **dict.fromkeys((CALLBACK, SENDING), SLOWED)},
        only=("WebSocket",),
    ),
    "the client closes the WebSocket": Row(
        Disconnected(),
        Column(None, "clean"),
        {**events(close, then=False), INIT: EARLY, SENDING: UNHEARD},
        only=("WebSocket",),
    ),
    "no message comes": Row(
        TimedOut(),
        QUIET,
        {
            INIT: NOT_YET,
            WAITING: stay_idle,
            CALLBACK: stay_idle_slowly,
            SENDING: stay_idle_while_sending,
            TERMINATING: stay_idle_while_terminating,
        },
    ),
    "Stop(TimedOut())": Row(TimedOut(), QUIET, callbacks(returns(Stop(TimedOut())))),
    "the client is silent": Row(
        TimedOut("client"),
        Column(408, "clean"),
        {
            INIT: stay_silent(INIT),
            WAITING: NO_READER,
            CALLBACK: stay_silent(CALLBACK),
            SENDING: NO_READER,
            TERMINATING: "the request is over, and a read ends at once",
        },
        method="POST",
        only=HTTP,
    ),
    "Stop(TimedOut('client'))": Row(
        TimedOut("client"), Column(408, "clean"), callbacks(returns(Stop(TimedOut("client"))))
    ),
    "a callback raises": Row(
        (Crashed, ArithmeticError),
        Column(500, "cut"),
        {**callbacks(crash), SENDING: NO_CALLBACK},
    ),
    "a child task raises": Row(
        (Crashed, ArithmeticError),
        Column(500, "cut"),
        {
            INIT: child_crashes(INIT),
            WAITING: child_crashes(WAITING),
            CALLBACK: child_crashes(CALLBACK),
            SENDING: child_crashes(SENDING),
            TERMINATING: NO_CHILD,
        },
        opens=True,
    ),
    "the mailbox is full": Row(Overflowed("mailbox", 2), REFUSED, events(overfill)),
    "the body is too large": Row(
        Overflowed("body", 20),
        Column(413, "cut"),
        events(send_too_much),
        method="POST",
        only=HTTP,
    ),
    "the client closes": Row(Disconnected(), GONE, events(leave("clean"), then=False)),
    "the client resets": Row(Disconnected(), GONE, events(leave("abrupt"), then=False)),
    "the client closes half": Row(
        Disconnected(),
        Column(None, "cut"),
        {**events(leave("half"), then=False), SENDING: event(SENDING, leave("half"))},
    ),
    "an event cannot be encoded": Row(
        (Failed, ValueError),
        Column(None, "cut"),
        {
            **callbacks(send_the_unsendable),
            **{
                (phase, transport): MADE
                for phase in (INIT, WAITING, CALLBACK, SENDING)
                for transport in ("long poll", "WebSocket")
            },
        },
        opens=True,
    ),
    "the client reads nothing": Row(
        (Failed, SendTimedOut),
        Column(None, "cut"),
        {**dict.fromkeys(PHASES, NO_WRITE), SENDING: read_nothing},
    ),
    "the client vanishes": Row(
        (Failed, SendTimedOut),
        GONE,
        {**dict.fromkeys(PHASES, NO_WRITE), SENDING: vanish},
    ),
    "an operator stops it": Row(ShutDown(), DOWN, events(Face.stop)),
    "the server goes down": Row(ShutDown(), DOWN, events(Face.shut_down, then=False)),
    "the server cancels": Row(ShutDown(), DOWN, events(Face.shut_down, then=False), notice=False),
    "it comes while the hub drains": Row(
        ShutDown(),
        DOWN,
        {**dict.fromkeys(PHASES, LIVES), INIT: come_while_draining},
    ),
}


class Cell(NamedTuple):
    """One cause in one phase of one transport."""

    cause: str
    phase: str
    transport: str

    @property
    def row(self) -> Row:
        return ROWS[self.cause]

    @property
    def content(self) -> Script | str:
        """A script, or why there can be none."""
        return self.row.cell(self.phase, self.transport)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Who can serve it."""
        return ("trioloop", "stock") if self.row.notice else ("stock",)

    @property
    def expected(self) -> Any:
        """What ends the handler: what comes while it terminates changes nothing."""
        return Stopped() if self.phase == TERMINATING else self.row.reason


CELLS: Final = [
    Cell(cause, phase, transport) for cause in ROWS for phase in PHASES for transport in TRANSPORTS
]
PLAYED: Final = [cell for cell in CELLS if not isinstance(cell.content, str)]


# -- playing --------------------------------------------------------------------------------------


def run_now(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a script that never waits, since a simulation's verbs do not."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a verb of the simulation waits")


def play(cell: Cell, worker: Worker) -> Face:
    """Play a cell in a simulation that checks the laws."""
    app = Application()
    with Simulation(app, laws=True, notice=cell.row.notice, worker=worker) as simulation:
        face = Face(simulation, app, TRANSPORTS[cell.transport], cell.row.method, worker)
        run_now(run_cell(cell, face))
    return face


async def play_async(cell: Cell, fake_client: FakeClients, worker: Worker) -> Face:
    """Play a cell with the asynchronous client."""
    app = Application()
    async with fake_client(app, notice=cell.row.notice, worker=worker) as client:
        face = Face(client, app, TRANSPORTS[cell.transport], cell.row.method, worker)
        await run_cell(cell, face)
    return face


async def run_cell(cell: Cell, face: Face) -> None:
    """Play the script of a cell, and check how it ends."""
    script = cell.content
    assert not isinstance(script, str)
    await script(face)
    reason = face.exchange.reason
    expected = cell.expected
    told = cell.cause == "the client closes the WebSocket" and cell.phase != TERMINATING
    if told and face.worker == "trioloop":
        expected = Disconnected(4000)  # which the stock worker does not tell
    if isinstance(expected, tuple):
        kind, error = expected
        assert type(reason) is kind, reason
        assert type(reason.error) is error, reason
    else:
        assert reason == expected
    never_entered = script is come_while_draining
    assert face.handler.heard == ([] if never_entered else [reason])
    if face.exchange.reads_everything or face.exchange.has_left:
        check_what_is_seen(cell, face)


def check_what_is_seen(cell: Cell, face: Face) -> None:
    """Compare with the table of the design."""
    exchange = face.exchange
    how = "clean" if exchange.complete else "cut" if exchange.aborted else ""
    sees = cell.row.sees
    if face.kind is Chat and exchange.accepted:
        assert (how, exchange.close_code) == how_a_websocket_ends(cell)
        return
    if cell.phase == TERMINATING:
        assert exchange.status == (204 if face.kind is Poll else 200)
        assert how == "clean"
        return
    if sees.status == 503 and sees.open == "clean" and face.kind is Stream:
        sees = Column(200, "clean")  # an event stream says goodbye in its own way
    if face.started or (cell.row.opens and face.kind is Stream):
        assert (exchange.status, how) == (200, sees.open)
    else:
        assert exchange.status == sees.status
        assert sees.status is None or how == "clean"


CODES: Final = {
    Stopped: 1000,
    TimedOut: 1000,
    Crashed: 1011,
    Overflowed: 1013,
    MessageTooLarge: 1009,
    ShutDown: 1012,
}
"""The close code for each reason, or for its error."""


def how_a_websocket_ends(cell: Cell) -> tuple[str, int | None]:
    """What the client of an open WebSocket sees: how it ends, and with which code."""
    if cell.phase == TERMINATING:
        return "clean", 1000
    if cell.cause == "the client closes the WebSocket":
        return "clean", 4000  # the answer to its own
    if cell.row.reason_type is Disconnected:
        return cell.row.sees.open, None
    if cell.cause in ("the client reads nothing", "the client vanishes"):
        return "", None
    if cell.cause == "the client is too fast":
        return "clean", 1008
    reason = cell.row.reason
    return "clean", CODES[
        reason[1] if isinstance(reason, tuple) and reason[1] in CODES else cell.row.reason_type
    ]


# -- the matrix -----------------------------------------------------------------------------------


def matrix() -> Iterator[str]:
    """Lines: reason × phase × transport, then why some cells are empty."""
    widths = [max(map(len, ROWS)), 12, *(len(phase) for phase in PHASES)]
    notes: dict[str, int] = {}
    for transport in TRANSPORTS:
        yield f"{transport.upper()}"
        yield _line(["cause", "reason", *PHASES], widths)
        for cause, row in ROWS.items():
            marks = [_mark(Cell(cause, phase, transport), notes) for phase in PHASES]
            yield _line([cause, row.reason_type.__name__, *marks], widths)
        yield ""
    yield "✓ ends it, in both faces and by the laws   = happens, and changes nothing any more"
    yield from (f"–{number} {why}" for why, number in notes.items())


def _mark(cell: Cell, notes: dict[str, int]) -> str:
    if isinstance(cell.content, str):
        return f"–{notes.setdefault(cell.content, len(notes) + 1)}"
    for worker in cell.workers:
        play(cell, worker)
        clients = FakeClients()
        trio.run(play_async, cell, clients, worker, clock=clients)
    return "=" if cell.phase == TERMINATING else "✓"


def _line(fields: list[str], widths: list[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(fields, widths, strict=True)).rstrip()


if __name__ == "__main__":
    logging.disable()
    for line in matrix():
        print(line)
