"""A journal done again: as steps, as a test to paste, as a run to compare with."""

from __future__ import annotations

import datetime as dt
import enum
import math
import subprocess
import sys
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from textwrap import dedent
from typing import NamedTuple

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from trioloop import (
    App,
    Crashed,
    EventStreamHandler,
    Failed,
    LoopHandler,
    Overflow,
    Postpone,
    Reply,
    SendAfter,
    ServerSentEvent,
    Stop,
    Stopped,
)
from trioloop.testing import FakeClients
from trioloop.testing._exchange import Request
from trioloop.testing._journal import Entry
from trioloop.testing._laws import LawBroken, Violation
from trioloop.testing._replay import (
    Named,
    Shown,
    Step,
    Verb,
    reasons_of,
    replay,
    script_of,
    to_test,
    trace_from_json,
    trace_to_json,
)
from trioloop.testing._simulation import Simulation
from trioloop.testing._world import event_stream_headers


class Colour(enum.Enum):
    RED = "red"


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclass(frozen=True)
class Said:
    text: str
    colour: Colour = Colour.RED
    tags: list[str] = field(default_factory=list)
    length: int = field(init=False, default=0)


class Point(NamedTuple):
    x: int
    y: float


class Outside:
    @dataclass(frozen=True)
    class Inside:
        number: int


class News(EventStreamHandler[str]):
    mailbox_size = 3
    idle_timeout = 5.0
    send_timeout = 4.0

    def init(self, request):
        self.join("all")

    def info(self, message):
        if message == "later":
            return SendAfter(1.5, "now")
        if message == "pass it on":
            self.hub.broadcast("all", "news", exclude=self.ref)
        if message == "boom":
            raise ValueError(message)
        return message if isinstance(message, ServerSentEvent) else ServerSentEvent(str(message))


class Slow(LoopHandler[str]):
    def init(self, request):
        self.join("all")

    async def info(self, message):
        await trio.sleep(1)
        if message == "stop":
            return Reply(200, body=message)
        return Postpone() if message == "again" else None

    def notify(self, message):
        return Stop() if message == "stop" else None


def make_app():
    """Event streams, long polls that are slow, and a route that sends to all of them."""

    async def tell(request):
        app.hub.broadcast("all", "from outside")
        return PlainTextResponse("told")

    app = App([Route("/tell", tell, methods=["POST"])])
    app.route("/news", News)
    app.route("/slow", Slow)
    return app


def asks(target, method="GET"):
    """The beginning of a journal: a client asks, a handler begins to wait."""
    return [
        Entry(0.0, "client 1", "asks", Request(method, target)),
        Entry(0.0, "handler 1", "init"),
        Entry(0.0, "handler 1", "init returned", None),
    ]


def sends(message, verb="send"):
    return Entry(0.0, "test", "sends", ("handler 1", verb, message))


def steps_of(journal):
    """Steps without their times, short."""
    return [(s.target, s.verb, *s.args, *s.options) for s in script_of(journal)]


# -- steps -----------------------------------------------------------------------------------------


def test_a_script_has_the_calls_of_the_test_in_their_order():
    with Simulation(make_app()) as sim:
        news = sim.get("/news")
        sim.ref(news).send("one")
        sim.advance(1.5)
        sim.ref(news).burst("two", "three")
        news.stall(10)
        news.read(3)
        news.resume()
        sim.lag(0.5)
        news.disconnect("abrupt")
        sim.shut_down(1)
    assert script_of(sim.journal) == [
        Step(0.0, "simulation", "get", ("/news",), (), "client 1"),
        Step(0.0, "handler 1", "send", ("one",)),
        Step(0.0, "simulation", "advance", (1.5,)),
        Step(1.5, "handler 1", "burst", ("two", "three")),
        Step(1.5, "client 1", "stall", (10,)),
        Step(1.5, "client 1", "read", (3,)),
        Step(1.5, "client 1", "resume"),
        Step(1.5, "simulation", "lag", (0.5,)),
        Step(2.0, "client 1", "disconnect", ("abrupt",)),
        Step(2.0, "simulation", "shut_down", (1,)),
    ]


def test_messages_of_timers_handlers_and_routes_are_not_the_tests():
    with Simulation(make_app()) as sim:
        first, _second = sim.get("/news"), sim.get("/news")
        sim.ref(first).send("later")
        sim.advance(2)
        sim.ref(first).send("pass it on")
        sim.post("/tell")
    assert [step for step in steps_of(sim.journal) if step[0].startswith("handler")] == [
        ("handler 1", "send", "later"),
        ("handler 1", "send", "pass it on"),
    ]


def test_a_message_of_a_task_of_the_tests_own_is_sent_later():
    async def script(clients):
        async with clients(make_app()) as client, trio.open_nursery() as nursery:
            news = await client.get("/news")

            @nursery.start_soon
            async def send_later():
                await trio.sleep(1)
                client.ref(news).send_nowait("from a task")

            await client.advance(2)
        return client.journal

    clients = FakeClients()
    journal = trio.run(script, clients, clock=clients)
    assert steps_of(journal)[1:] == [
        ("simulation", "later", 1.0, Verb("handler 1", "send_without_settling"), "from a task"),
        ("simulation", "advance", 2),
    ]
    assert replay(journal, make_app()).reasons == reasons_of(journal)


def test_what_is_sent_later_is_sent_once():
    with Simulation(make_app()) as sim:
        news = sim.get("/news")
        sim.later(1.5, sim.ref(news).send_without_settling, "at last")
        sim.later(0.5, sim.ref(news).burst, "a", "b")
        sim.advance(2)
    assert steps_of(sim.journal)[1:] == [
        ("simulation", "later", 1.5, Verb("handler 1", "send_without_settling"), "at last"),
        ("simulation", "later", 0.5, Verb("handler 1", "burst"), "a", "b"),
        ("simulation", "advance", 2),
    ]
    assert replay(sim.journal, make_app()).difference(sim.journal) is None
    source = to_test(sim.journal)
    assert "sim.later(0.5, sim.ref(client_1).burst, 'a', 'b')" in source
    run_source(source, app=make_app())


def test_a_function_that_only_the_test_has_cannot_be_called_again():
    def tell():
        """Nothing."""

    with Simulation(make_app()) as sim:
        sim.later(1.5, tell)
        sim.advance(2)
    with pytest.raises(ValueError, match=r"at t=0 the test wanted <function .*tell.* only that"):
        replay(sim.journal, make_app())
    assert "sim.later(1.5, unknown_1)" in to_test(sim.journal)


def test_what_is_sent_through_the_hub_is_sent_before_anybody_runs():
    with Simulation(make_app()) as sim:
        sim.get("/news")
        sim.get("/news")
        sim.hub.broadcast("all", "one")
        sim.settle()
        sim.hub.broadcast("all", "two")
        sim.lag(1)
    assert steps_of(sim.journal)[2:] == [
        ("handler 1", "send_without_settling", "one"),
        ("handler 2", "send_without_settling", "one"),
        ("simulation", "settle"),
        ("handler 1", "send_without_settling", "two"),
        ("handler 2", "send_without_settling", "two"),
        ("simulation", "lag", 1),
    ]
    assert replay(sim.journal, make_app()).difference(sim.journal) is None


def test_what_an_async_function_of_the_test_sends_is_the_tests():
    async def send(ref):
        await ref.send("one")
        await trio.lowlevel.checkpoint()
        await ref.send("two")

    with Simulation(make_app()) as sim:
        sim.run(send, sim.ref(sim.get("/news")).ref)
    sent = [step[1:] for step in steps_of(sim.journal) if step[0] == "handler 1"]
    assert sent == [("send_without_settling", "one"), ("send_without_settling", "two")]
    assert replay(sim.journal, make_app()).reasons == reasons_of(sim.journal)


def test_what_a_full_mailbox_makes_the_sender_wait_for_is_no_error_of_the_replay():
    app = make_app()
    app.route("/full", Slow, mailbox_size=1, overflow=Overflow.BLOCK)
    with Simulation(app) as sim:
        slow = sim.get("/full")
        sim.ref(slow).send("one")
        sim.ref(slow).send("two")
        with pytest.raises(trio.WouldBlock):
            sim.ref(slow).notify("three")
    again = replay(sim.journal, app)
    assert (again.error, again.difference(sim.journal)) == (None, None)


def test_a_message_to_a_busy_handler_is_the_tests():
    with Simulation(make_app()) as sim:
        slow = sim.get("/slow")
        sim.ref(slow).send("one")
        sim.advance(0.5)
        sim.ref(slow).send("two")
        sim.advance(2)
    assert [step for step in steps_of(sim.journal) if step[0] == "handler 1"] == [
        ("handler 1", "send", "one"),
        ("handler 1", "send", "two"),
    ]


def test_a_notification_is_sent_as_one():
    with Simulation(make_app()) as sim:
        slow = sim.get("/slow")
        sim.ref(slow).notify("hello")
        sim.ref(slow).notify("stop")
    assert steps_of(sim.journal)[1:] == [
        ("handler 1", "notify", "hello"),
        ("handler 1", "notify", "stop"),
    ]


def test_messages_before_a_lag_are_sent_while_nothing_runs():
    with Simulation(make_app()) as sim:
        ref = sim.ref(sim.get("/news"))
        ref.send_without_settling("a")
        ref.send_without_settling("b")
        sim.lag(1.0)
    assert steps_of(sim.journal)[1:] == [
        ("handler 1", "send_without_settling", "a"),
        ("handler 1", "send_without_settling", "b"),
        ("simulation", "lag", 1.0),
    ]


def test_a_message_that_nobody_says_they_have_sent_is_not_the_tests():
    journal = [*asks("/"), Entry(0.0, "handler 1", "accepts", "from elsewhere")]
    assert [step[1] for step in steps_of(journal)] == ["get"]


def test_what_comes_of_the_end_of_the_run_is_no_step():
    journal = [
        *asks("/"),
        Entry(0.0, "test", "ends the run"),
        sends("late"),
        Entry(0.0, "test", "advances", 1.0),
    ]
    assert [step.verb for step in script_of(journal)] == ["get"]


@pytest.mark.parametrize(
    "detail, step",
    [
        (Request("GET", "/a?b=c"), ("get", "/a?b=c")),
        (Request("HEAD", "/a"), ("head", "/a")),
        (Request("POST", "/a"), ("post", "/a")),
        (Request("PUT", "/a"), ("request", "PUT", "/a")),
        (Request("GET", "/a", body=b"x"), ("request", "GET", "/a", ("body", b"x"))),
        (Request("POST", "/a", body=None), ("post", "/a", ("body", None))),
        (
            Request("GET", "/a", (("x-token", "1"),)),
            ("get", "/a", ("headers", {"x-token": "1"})),
        ),
        (
            Request("GET", "/a", tuple(event_stream_headers(None, None).items())),
            ("sse", "/a"),
        ),
        (
            Request("POST", "/a", tuple(event_stream_headers(None, "7").items())),
            ("sse", "/a", ("last_event_id", "7"), ("method", "POST")),
        ),
    ],
)
def test_a_request_is_made_by_the_shortest_verb(detail, step):
    assert steps_of([Entry(0.0, "client 1", "asks", detail)]) == [("simulation", *step)]


def test_a_body_in_pieces_is_sent_in_pieces():
    with Simulation(make_app()) as sim:
        tell = sim.post("/tell", body=None)
        tell.send("one")
        tell.send(b"two", more=False)
    assert steps_of(sim.journal) == [
        ("simulation", "post", "/tell", ("body", None)),
        ("client 1", "send", b"one"),
        ("client 1", "send", b"two", ("more", False)),
    ]
    assert replay(sim.journal, make_app()).difference(sim.journal) is None


def test_who_comes_back_asks_as_then():
    with Simulation(make_app()) as sim:
        news = sim.sse("/news")
        sim.ref(news).send(ServerSentEvent("one", id="7", retry=1500))
        news.disconnect()
        news.reconnect()
    assert steps_of(sim.journal)[-2:] == [
        ("simulation", "advance", 1.5),
        ("simulation", "sse", "/news", ("last_event_id", "7")),
    ]
    assert replay(sim.journal, make_app()).difference(sim.journal) is None


def test_a_planted_crash_is_planted_again():
    error = ValueError("planted")
    with Simulation(make_app()) as sim:
        news = sim.get("/news")
        sim.crash_next(news, error)
        sim.ref(news).send("a")
    assert steps_of(sim.journal)[1] == ("simulation", "crash_next", Named("handler 1"), error)
    again = replay(sim.journal, make_app())
    assert again.reasons == {"client 1": Crashed(error, "info")}
    assert again.difference(sim.journal) is None
    assert "sim.crash_next(client_1, ValueError('planted'))" in to_test(sim.journal)


# -- runs ------------------------------------------------------------------------------------------


def run_everything(**options):
    with Simulation(make_app(), **options) as sim:
        news, slow = sim.sse("/news"), sim.get("/slow")
        sim.ref(news).burst("a", "later")
        sim.ref(slow).burst("again", "b", "c")
        news.stall(4)
        sim.ref(news).send("d")
        sim.advance(1.5)
        news.resume()
        third = sim.get("/news")
        sim.ref(news).send("pass it on")
        sim.ref(third).send("boom")
        sim.advance_to_next_deadline()
        sim.ref(slow).stop()
        fourth = sim.get("/news")
        sim.ref(fourth).burst("1", "2", "3", "4", "5")
        sim.shut_down(1)
    return sim


@pytest.mark.parametrize("schedule", ["spawn order", "reverse", 1, 2, 3])
def test_a_replay_has_the_same_journal(schedule):
    sim = run_everything(schedule=schedule)
    again = replay(sim.journal, make_app(), schedule=schedule)
    assert again.difference(sim.journal) is None
    assert again.error is None
    assert set(again.reasons) == {"client 1", "client 2", "client 3", "client 4"}


def test_a_trace_in_json_is_replayed_too():
    sim = run_everything(seed=3)
    trace = trace_to_json(sim.journal)
    again = replay(trace, make_app(), seed=3)
    assert again.difference(trace_from_json(trace)) is None


def test_a_difference_is_told_at_its_place():
    with Simulation(make_app()) as sim:
        sim.ref(sim.get("/news")).send("a")
    again = replay(sim.journal, make_app())
    other = [*sim.journal][:3]
    other[2] = Entry(0.0, "handler 1", "init returned", "something else")
    assert again.difference(other) == (
        "entry 2: was t=0.0 handler 1 init returned 'something else',"
        " is t=0.0 handler 1 init returned"
    )
    last = len(again.journal)
    assert str(again.difference([*sim.journal][:-1])).startswith(
        f"entry {last - 1}: was nothing more"
    )
    assert str(again.difference([*sim.journal, other[0]])).endswith(", is nothing more")


def test_addresses_are_no_difference():
    with Simulation(make_app()) as sim:
        sim.ref(sim.get("/news")).send(object())
    again = replay(sim.journal, make_app())
    moved = [
        Entry(e.time, e.who, e.what, Shown(repr(e.detail).replace(" at 0x", " at 0xf")))
        for e in sim.journal
    ]
    assert again.difference(moved) is None


def test_an_error_of_the_run_is_its_outcome():
    again = replay([*asks("/tell"), sends("a")], make_app())
    assert isinstance(again.error, LookupError)
    assert again.journal[0].what == "asks"


def test_a_handler_without_a_client_is_named():
    again = replay([sends("a")], make_app())
    assert str(again.error) == "handler 1 of the trace has no client that asked for it"


def test_the_laws_can_be_checked_in_a_replay():
    with Simulation(make_app()) as sim:
        sim.ref(sim.get("/news")).send("a")
    assert replay(sim.journal, make_app(), laws=True).error is None


# -- a test to paste -------------------------------------------------------------------------------


def test_the_test_that_is_written_does_the_same_and_expects_the_same_endings():
    with Simulation(make_app()) as sim:
        news = sim.get("/news")
        sim.ref(news).burst(Said("hi", tags=["x"]), Point(1, math.inf), Colour.RED)
        sim.advance(0.125)
        news.disconnect("clean")
        slow = sim.get("/slow")
        sim.ref(slow).stop()
    source = to_test(sim.journal, app="make_app()", name="test_news", seed=7)
    assert source == dedent(
        f"""\
        import math
        from {__name__} import Colour, Point, Said
        from trioloop import Disconnected, ShutDown
        from trioloop.testing import Simulation


        def test_news():
            with Simulation(make_app(), seed=7) as sim:
                client_1 = sim.get('/news')
                sim.ref(client_1).burst(Said(text='hi', tags=['x']), Point(x=1, y=math.inf), Colour.RED)
                sim.advance(0.125)
                client_1.disconnect('clean')
                client_2 = sim.get('/slow')
                sim.ref(client_2).stop()
            assert client_1.reason == Disconnected()
            assert client_2.reason == ShutDown()
        """
    )


@pytest.mark.parametrize("schedule", ["spawn order", 4, {2: (1, 0)}])
def test_the_test_that_is_written_passes(schedule):
    sim = run_everything(schedule=schedule)
    run_source(to_test(sim.journal, schedule=schedule), app=make_app())


def run_source(source, name="test_replay", **names):
    exec(source, names)
    names[name]()


def test_errors_are_compared_as_text():
    with Simulation(make_app()) as sim:
        sim.ref(sim.get("/news")).send("boom")
    source = to_test(sim.journal)
    line = (
        """assert repr(client_1.reason) == "Crashed(error=ValueError('boom'), callback='info')\""""
    )
    assert line in source
    run_source(source, app=make_app())


def test_another_ending_makes_the_written_test_fail():
    with Simulation(make_app()) as sim:
        sim.get("/news").disconnect()
    source = to_test(sim.journal).replace("Disconnected()", "Disconnected(1000)")
    with pytest.raises(AssertionError):
        run_source(source, app=make_app())


def test_with_a_broken_law_the_written_test_names_it_and_checks_the_laws():
    violation = Violation(3, "a message\nwas lost", 3, 0.0, "handler 1")
    source = to_test([*asks("/news"), sends("a")], violation=violation)
    assert source.splitlines()[3:] == [
        "def test_replay():",
        "    # Breaks law 3: a message was lost",
        "    with Simulation(app, laws=True) as sim:",
        "        client_1 = sim.get('/news')",
        "        sim.ref(client_1).send('a')",
    ]


def test_a_law_that_breaks_again_is_the_outcome_of_the_replay(monkeypatch):
    with Simulation(make_app()) as sim:
        sim.ref(sim.get("/news")).burst("boom", "never handled")
    monkeypatch.setattr("trioloop._core._machine.Machine.bury_all", lambda self: None)
    assert isinstance(replay(sim.journal, make_app(), laws=True).error, LawBroken)
    violation = Violation(3, "nobody heard of it", 5, 0.0, "handler 1")
    with pytest.raises(LawBroken, match="law 3"):
        run_source(to_test(sim.journal, violation=violation), app=make_app())


def test_an_empty_journal_is_an_empty_test():
    assert to_test([]).splitlines()[-1] == "        pass"
    run_source(to_test([]), app=make_app())


def written(value):
    """What the source says for a message, and what that is when it runs."""
    source = to_test([Entry(0.0, "test", "sends", ("handler 1", "send", value))])
    *imports, call = [line.strip() for line in source.splitlines() if line.strip()]
    names = {}
    exec("\n".join(line for line in imports if line.startswith(("import", "from"))), names)
    expression = call.removeprefix("handler_1.send(").removesuffix(")")
    return expression, names


@pytest.mark.parametrize(
    "value, expression",
    [
        ("a'b\n", '"a\'b\\n"'),
        (b"\xff", "b'\\xff'"),
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        (-math.inf, "-math.inf"),
        ((1,), "(1,)"),
        ((), "()"),
        ((1, 2), "(1, 2)"),
        ([1, "a"], "[1, 'a']"),
        ({"a": [1]}, "{'a': [1]}"),
        ({1}, "{1}"),
        (set(), "set()"),
        (frozenset(), "frozenset()"),
        (frozenset({1}), "frozenset({1})"),
        (Said("a", tags=["b"]), "Said(text='a', tags=['b'])"),
        (Point(1, 2.0), "Point(x=1, y=2.0)"),
        (Outside.Inside(3), "Outside.Inside(number=3)"),
        (Colour.RED, "Colour.RED"),
        (Flags.A | Flags.B, "Flags(3)"),
        (Reply(404), "Reply(status=404)"),
        (uuid.UUID(int=0), "UUID('00000000-0000-0000-0000-000000000000')"),
        (dt.date(2020, 1, 2), "datetime.date(2020, 1, 2)"),
        (OrderedDict(a=1), "OrderedDict([('a', 1)])"),
    ],
)
def test_a_message_is_written_as_an_expression_that_makes_it(value, expression):
    found, names = written(value)
    assert found == expression or (isinstance(value, OrderedDict) and found == repr(value))
    assert eval(found, names) == value


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_lacks_come_back_too(value):
    (found,) = trace_from_json(trace_to_json([Entry(0.0, "test", "x", value)]))
    assert repr(found.detail) == repr(value)


def test_not_a_number_is_written_too():
    found, names = written(math.nan)
    assert math.isnan(eval(found, names))


def test_what_has_no_expression_is_named_in_a_remark():
    source = to_test([Entry(0.0, "test", "sends", ("handler 1", "send", Shown("<a thing>")))])
    assert "# unknown_1 is <a thing>" in source
    assert "handler_1.send(unknown_1)" in source


def test_a_local_class_is_named_in_a_remark():
    @dataclass
    class Local:
        number: int

    source = to_test([Entry(0.0, "test", "sends", ("handler 1", "send", Local(1)))])
    assert "# Local is local to a function: paste this beside it" in source
    assert "handler_1.send(Local(number=1))" in source


def test_reasons_are_told_by_client():
    journal = [
        Entry(0.0, "client 1", "asks", "GET /"),
        Entry(0.0, "handler 1", "init"),
        Entry(0.0, "handler 1", "terminate", Stopped()),
    ]
    assert reasons_of(journal) == {"client 1": Stopped()}


def test_a_failed_write_is_compared_as_text():
    journal = [Entry(0.0, "handler 1", "terminate", Failed(OSError("gone")))]
    assert """repr(handler_1.reason) == "Failed(error=OSError('gone'))\"""" in to_test(journal)


# -- json ------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from([Colour.RED, Flags.A | Flags.B, Said("a"), Point(1, 2.5), Outside.Inside(1)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.tuples(st.integers()), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=3)
        | st.sets(st.text(), max_size=3)
        | st.builds(Said, st.text(), tags=st.lists(st.text(), max_size=2))
    ),
    max_leaves=6,
)


@given(plain)
def test_plain_values_come_back_from_json_as_they_were(value):
    entry = Entry(0.5, "handler 1", "accepts", value)
    (found,) = trace_from_json(trace_to_json([entry]))
    assert found == entry
    assert type(found.detail) is type(value)


@given(plain)
def test_plain_values_are_written_as_expressions_that_make_them(value):
    found, names = written(value)
    assert eval(found, names) == value


@pytest.mark.parametrize("value", [object(), ValueError("a"), len, Said, Shown("<x>")])
def test_other_values_come_back_as_their_text(value):
    (found,) = trace_from_json(trace_to_json([Entry(0.0, "test", "x", value)]))
    assert found.detail == Shown(repr(value))
    assert repr(found.detail) == repr(value)


def test_a_local_class_comes_back_as_its_text():
    @dataclass
    class Local:
        number: int

    (found,) = trace_from_json(trace_to_json([Entry(0.0, "test", "x", Local(1))]))
    assert found.detail == Shown(repr(Local(1)))


def test_a_module_that_is_not_loaded_stays_unloaded():
    text = '[[0, "test", "x", {"type": "this:Zen", "fields": {}, "repr": "Zen()"}]]'
    assert trace_from_json(text)[0].detail == Shown("Zen()")
    assert "this" not in sys.modules


def test_nothing_but_plain_values_is_made_of_a_trace():
    text = '[[0, "test", "x", {"type": "subprocess:Popen", "fields": {"args": "ls"}, "repr": "p"}]]'
    assert subprocess.Popen.__name__ == "Popen"
    assert trace_from_json(text)[0].detail == Shown("p")


@pytest.mark.parametrize("text", ["1", "[1]", "[[1]]", '[[0, "a", "b", {"what": 1}]]', "{"])
def test_what_is_no_trace_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own errors too
        trace_from_json(text)


def test_a_message_that_is_known_only_as_text_cannot_be_sent_again():
    with Simulation(make_app()) as sim:
        sim.ref(sim.get("/news")).send(object())
    with pytest.raises(
        ValueError, match=r"at t=0 send of handler 1 was given <object object at 0x.*only as text"
    ):
        replay(trace_to_json(sim.journal), make_app())


# -- any run ---------------------------------------------------------------------------------------

eighths = st.integers(1, 24).map(lambda n: n / 8)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.sampled_from(["/news", "/slow", "/tell"])),
        st.tuples(st.just("send"), st.integers(0, 3), st.sampled_from(["a", "later", "again"])),
        st.tuples(st.just("send"), st.integers(0, 3), st.sampled_from(["boom", "pass it on"])),
        st.tuples(st.just("burst"), st.integers(0, 3), st.just("b"), st.just("c"), st.just("d")),
        st.tuples(st.just("notify"), st.integers(0, 3), st.sampled_from(["n", "stop"])),
        st.tuples(st.just("stop"), st.integers(0, 3)),
        st.tuples(st.just("later"), st.integers(0, 3), eighths, st.sampled_from(["e", "stop"])),
        st.tuples(st.just("broadcast"), st.just("f")),
        st.tuples(st.just("crash_next"), st.integers(0, 3)),
        st.tuples(st.just("reconnect"), st.integers(0, 3)),
        st.tuples(st.just("settle")),
        st.tuples(st.just("advance"), eighths),
        st.tuples(st.just("lag"), eighths),
        st.tuples(st.just("advance_to_next_deadline")),
        st.tuples(st.just("stall"), st.integers(0, 3), st.sampled_from([0, 8, 64])),
        st.tuples(st.just("read"), st.integers(0, 3), st.sampled_from([1, 16])),
        st.tuples(st.just("resume"), st.integers(0, 3)),
        st.tuples(
            st.just("disconnect"), st.integers(0, 3), st.sampled_from(["clean", "half", "vanish"])
        ),
    ),
    max_size=25,
)


OF_A_REF = ("send", "burst", "notify", "stop")


def run_actions(sim, actions):
    clients = [sim.get("/news")]
    for verb, *args in actions:
        if verb == "get":
            clients.append(sim.get(*args))
        elif verb == "broadcast":
            sim.hub.broadcast("all", *args)
        elif verb in ("advance", "lag", "advance_to_next_deadline", "settle"):
            getattr(sim, verb)(*args)
        else:
            act(sim, clients, verb, args)


def act(sim, clients, verb, args):
    client = clients[args[0] % len(clients)]
    if verb == "reconnect":
        clients += [] if client.pending else [client.reconnect()]
    elif client.observed is None or (client.has_left and verb in ("disconnect", "resume")):
        return
    elif verb == "later":
        sim.later(args[1], sim.ref(client).send_without_settling, args[2])
    elif verb == "crash_next":
        sim.crash_next(client, ValueError("planted"))
    else:
        target = sim.ref(client) if verb in OF_A_REF else client
        getattr(target, verb)(*args[1:])


@settings(deadline=None, max_examples=60)
@given(actions=actions, schedule=st.sampled_from(["spawn order", "reverse", 1, 2]))
@example([("broadcast", "f"), ("crash_next", 0), ("settle",)], "spawn order")
def test_any_run_is_replayed_to_the_same_journal(actions, schedule):
    with Simulation(make_app(), schedule=schedule) as sim:
        run_actions(sim, actions)
    again = replay(sim.journal, make_app(), schedule=schedule)
    assert again.difference(sim.journal) is None
    assert again.error is None
