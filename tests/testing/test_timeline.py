"""A journal for people: lanes of text, and sequence diagrams."""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import dedent

import pytest
import trio

from trioloop import App, EventStreamHandler, LoopHandler, Reply, ServerSentEvent, TimedOut
from trioloop.testing._exchange import Request
from trioloop.testing._journal import Entry
from trioloop.testing._laws import Violation
from trioloop.testing._simulation import Simulation
from trioloop.testing._timeline import (
    _rows,
    clients_of,
    sequence_diagram,
    shorten,
    show,
    timeline,
)

HEAD = (200, [(b"content-type", b"text/plain")])

POLL = [
    Entry(0.0, "client 1", "asks", "GET /poll"),
    Entry(0.0, "handler 1", "init"),
    Entry(0.0, "handler 1", "init returned", None),
    Entry(0.0, "test", "advances", 1.5),
    Entry(1.5, "handler 1", "accepts", "hello"),
    Entry(1.5, "handler 1", "info", "hello"),
    Entry(1.5, "handler 1", "info returned", Reply(200, body="hello")),
    Entry(1.5, "client 1", "sees head", HEAD),
    Entry(1.5, "client 1", "sees body", b"hello"),
    Entry(1.5, "client 1", "sees eof", "end"),
    Entry(1.5, "handler 1", "terminate", TimedOut()),
    Entry(1.5, "handler 1", "terminate returned", None),
]


def drawn(journal, **options):
    return "\n" + timeline(journal, **options) + "\n"


def text(picture):
    return "\n" + dedent(picture).strip("\n") + "\n"


def test_a_timeline_has_a_lane_for_everybody_and_a_quiet_row_where_time_passes():
    assert drawn(POLL) == text(
        """
   t (s) | test           | handler 1                           | client 1
---------+----------------+-------------------------------------+---------------
       0 |                |                                     | asks GET /poll
         |                | init                                |
         | advances 1.5 s |                                     |
         |                |                                     |
     1.5 |                | accepts 'hello'                     |
         |                | info 'hello' -> Reply(body='hello') |
         |                |                                     | sees 200
         |                |                                     | sees 'hello'
         |                |                                     | sees the end
         |                | terminate TimedOut()                |
"""
    )


def test_the_broken_law_stands_beneath_the_line_that_broke_it():
    violation = Violation(2, "info('hello'), but the next message is 'hi'", 2, 1.5, "handler 1")
    assert drawn(POLL[3:7], violation=violation, width=70) == text(
        """
   t (s) | test           | handler 1
---------+----------------+------------------------------------
       0 | advances 1.5 s |
         |                |
     1.5 |                | accepts 'hello'
>        |                | info 'hello' -> Reply(body='hello')
******** law 2 is broken (messages are handled in the order in which
         they were accepted): at t=1.5, handler 1: info('hello'), but
         the next message is 'hi'
"""
    )


def test_a_law_that_is_broken_at_rest_stands_at_the_end():
    violation = Violation(7, "idle was due at 1 and was not called", 2, 2.0, "handler 1")
    assert drawn(POLL[:2], violation=violation, width=80) == text(
        """
   t (s) | handler 1 | client 1
---------+-----------+---------------
       0 |           | asks GET /poll
         | init      |
******** law 7 is broken (the idle time runs from the end of a callback to the
         next message): at t=2, handler 1: idle was due at 1 and was not called
"""
    )


def test_many_lanes_share_one_column():
    journal = [
        *(Entry(0.0, f"client {number}", "asks", "GET /") for number in range(9, 12)),
        *(Entry(0.5, f"handler {number}", "init") for number in (10, 2)),
        Entry(0.5, "test", "shuts down", 3.0),
    ]
    assert drawn(journal, width=60) == text(
        """
   t (s) | who        | what
---------+------------+-------------------------------------
       0 | client 9   | asks GET /
         | client 10  | asks GET /
         | client 11  | asks GET /
         |            |
     0.5 | handler 10 | init
         | handler 2  | init
         | test       | shuts down, grace 3 s
"""
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_line_is_wider_than_it_may_be(width):
    journal = [
        Entry(float(i), f"{who} {i % 2}", "accepts", "long " * 40)
        for i in range(4)
        for who in ("client", "handler")
    ]
    violation = Violation(3, "a long sentence " * 12, 3, 1.0, "handler 1")
    lines = timeline(journal, violation=violation, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize(
    "what, detail, words",
    [
        ("accepts own", "tick", "accepts own 'tick'"),
        ("refuses", "m", "refuses 'm'"),
        ("overflows", 3, "overflows, takes 3"),
        ("displaces", "m", "displaces 'm'"),
        ("dead letter", "m", "dead letter 'm'"),
        ("left behind", "an open mailbox", "left behind: an open mailbox"),
        ("idle", None, "idle"),
        ("info raised", ValueError("bad"), "info raised ValueError: bad"),
        ("info raised", KeyboardInterrupt(), "info raised KeyboardInterrupt"),
        ("info returned", None, "info -> None"),
        ("asks", Request("GET", "/poll"), "asks GET /poll"),
        ("disconnects", "vanish", "disconnects (vanish)"),
        ("stalls", "window 10", "stalls (window 10)"),
        ("reads", 16, "reads 16 bytes"),
        ("resumes", None, "resumes"),
        ("write waits", None, "write waits"),
        ("sees body", b"data: a\n\n", "sees 'data: a\\n\\n'"),
        ("sees body", b"\xff", "sees b'\\xff'"),
        ("sees eof", "cut", "sees the connection cut"),
        ("lags", 0.125, "lags 0.125 s"),
        ("something new", {"a": 1}, "something new {'a': 1}"),
    ],
)
def test_each_verb_has_its_words(what, detail, words):
    assert (
        timeline([Entry(0.0, "handler 1", what, detail)]).splitlines()[-1] == f"       0 | {words}"
    )


def test_what_the_test_sends_names_the_handler():
    entry = Entry(0.0, "test", "sends", ("handler 1", "burst", "a", b"b"))
    assert timeline([entry]).splitlines()[-1] == "       0 | sends handler 1 'a', 'b'"


def test_a_callback_that_takes_time_ends_in_a_row_of_its_own():
    journal = [
        Entry(0.0, "handler 1", "info", "a"),
        Entry(0.0, "handler 2", "accepts", "b"),
        Entry(1.0, "handler 1", "info returned", None),
        Entry(1.0, "handler 1", "idle"),
        Entry(1.0, "handler 1", "idle raised", ValueError("no")),
    ]
    rows = [line.split("|")[1].strip() for line in timeline(journal).splitlines()[2:]]
    assert rows == ["info 'a'", "", "", "info -> None", "idle raised ValueError: no"]


@dataclass
class Said:
    text: str
    to: str = "all"
    tags: list[str] = field(default_factory=list)
    secret: str = field(default="", repr=False)


@dataclass(repr=False)
class Quiet:
    text: str

    def __repr__(self):
        return "<quiet>"


@pytest.mark.parametrize(
    "value, shown",
    [
        (Said("hi"), "Said(text='hi')"),
        (Said("hi", "ann", ["x"], "s"), "Said(text='hi', to='ann', tags=['x'])"),
        (Quiet("hi"), "<quiet>"),
        (Said, repr(Said)),
        ([ServerSentEvent("a"), b"b"], "[ServerSentEvent(data='a'), 'b']"),
        (("a", 1), "('a', 1)"),
    ],
)
def test_a_value_is_shown_without_what_says_nothing(value, shown):
    assert show(value) == shown


def test_a_long_text_loses_its_middle():
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcd...ijk"
    assert shorten("abcdefghijk", 3) == "..."
    assert shorten("abcdefghijk", 1) == "."


def test_what_cannot_be_printed_is_escaped():
    assert shorten("a\nb\x00", 20) == "a\\x0ab\\x00"


def test_an_empty_journal_is_a_head_without_rows():
    assert timeline([]).splitlines() == ["   t (s) |", "---------+-"]


# -- diagrams --------------------------------------------------------------------------------------


def test_a_sequence_diagram_has_arrows_between_those_who_speak():
    violation = Violation(9, "nothing was written; # really", 9, 1.5, "handler 1")
    assert "\n" + sequence_diagram(POLL, violation) + "\n" == text(
        """
sequenceDiagram
    participant T as test
    participant H1 as handler 1
    participant C1 as client 1
    Note over T,C1: t = 0 s
    C1->>H1: asks GET /poll
    Note over H1: init
    Note over T: advances 1.5 s
    Note over T,C1: t = 1.5 s
    T->>H1: accepts 'hello'
    Note over H1: info 'hello' -#62; Reply(body='hello')
    H1-->>C1: sees 200
    H1-->>C1: sees 'hello'
    H1-->>C1: sees the end
    Note over T,C1: law 9 is broken: nothing was written#59; #35; really
    Note over H1: terminate TimedOut()
"""
    )


def test_a_law_that_is_broken_at_rest_ends_the_diagram():
    violation = Violation(3, "lost", 1, 0.0, "handler 1")
    assert sequence_diagram(POLL[:1], violation).splitlines() == [
        "sequenceDiagram",
        "    participant T as test",
        "    participant C1 as client 1",
        "    Note over T,C1: t = 0 s",
        "    Note over C1: asks GET /poll",
        "    Note over T,C1: law 3 is broken: lost",
    ]


def test_a_message_of_another_handler_comes_from_there():
    journal = [
        Entry(0.0, "client 1", "asks", "GET /"),
        Entry(0.0, "handler 1", "init"),
        Entry(0.0, "client 2", "asks", "GET /"),
        Entry(0.0, "handler 2", "init"),
        Entry(0.0, "handler 2", "init returned", None),
        Entry(0.0, "handler 2", "accepts", "a"),
        Entry(0.0, "handler 1", "init returned", None),
        Entry(0.0, "handler 2", "accepts", "b"),
        Entry(0.0, "handler 2", "refuses", "c"),
        Entry(0.0, "client 2", "disconnects", "clean"),
    ]
    assert [line.strip() for line in sequence_diagram(journal).splitlines()[-5:]] == [
        "H1->>H2: accepts 'a'",
        "Note over H1: init -#62; None",
        "T->>H2: accepts 'b'",
        "T-xH2: refuses 'c'",
        "C2-xH2: disconnects (clean)",
    ]


def test_what_the_test_sends_comes_from_the_test_whoever_is_busy():
    with Simulation(make_app()) as sim:
        news = sim.sse("/news")
        sim.ref(news).send("first")
        poll = sim.get("/work")
        sim.ref(poll).send("work")
        sim.ref(news).burst("a", "b")
    arrows = [line.strip() for line in sequence_diagram(sim.journal).splitlines()]
    assert [line for line in arrows if line.endswith(("'a'", "'b'", "'first'", "'work'"))] == [
        "T->>H1: accepts 'first'",
        "T->>H2: accepts 'work'",
        "Note over H2: info 'work'",
        "T->>H1: accepts 'a'",
        "T->>H1: accepts 'b'",
    ]


def test_what_the_test_wants_to_send_and_nobody_takes_has_a_row_of_its_own():
    journal = [
        Entry(0.0, "test", "sends", ("handler 1", "send", "taken")),
        Entry(0.0, "handler 1", "accepts", "taken"),
        Entry(0.0, "test", "sends", ("handler 1", "burst", "taken, too", "not taken")),
        Entry(0.0, "handler 1", "accepts", "taken, too"),
        Entry(0.0, "test", "sends", ("handler 1", "notify", "not taken")),
        Entry(0.0, "test", "later", (1.5, "handler 1", "send_without_settling", "a")),
        Entry(0.0, "test", "later", (2, "", make_app)),
        Entry(1.5, "test", "sends as planned", ("handler 1", "send_without_settling", "a")),
        Entry(1.5, "handler 1", "refuses", "a"),
    ]
    assert [(row.who, row.text, row.indices) for row in _rows(journal)] == [
        ("handler 1", "accepts 'taken'", (0, 1)),
        ("test", "sends handler 1 'taken, too', 'not taken'", (2,)),
        ("handler 1", "accepts 'taken, too'", (3,)),
        ("test", "notifies handler 1 'not taken'", (4,)),
        ("test", "in 1.5 s sends handler 1 'a'", (5,)),
        ("test", "in 2 s calls make_app", (6,)),
        ("handler 1", "refuses 'a'", (7, 8)),
    ]


def test_handlers_are_matched_with_their_clients():
    journal = [
        Entry(0.0, "client 1", "asks", "GET /plain"),
        Entry(0.0, "client 1", "sees head", HEAD),
        Entry(0.0, "client 2", "asks", "GET /slow"),
        Entry(0.0, "client 3", "asks", "GET /poll"),
        Entry(0.0, "handler 1", "init"),
        Entry(1.0, "handler 2", "init"),
        Entry(1.0, "handler 3", "init"),
    ]
    assert clients_of(journal) == {"handler 1": "client 3", "handler 2": "client 2"}


# -- the real thing --------------------------------------------------------------------------------


def make_app():
    app = App()

    @app.route("/news")
    class News(EventStreamHandler[str]):
        mailbox_size = 2

        def info(self, message):
            return ServerSentEvent(message)

    @app.route("/work")
    class Work(LoopHandler[str]):
        async def info(self, message):
            await trio.sleep(1)

    @app.route("/poll")
    class Poll(LoopHandler[str]):
        def info(self, message):
            return Reply(200, body=message)

    return app


def test_the_journal_of_a_simulation_is_told_whole():
    with Simulation(make_app()) as sim:
        news = sim.sse("/news")
        sim.advance(1)
        sim.ref(news).send("one")
        news.disconnect("abrupt")
    assert drawn(sim.journal) == text(
        """
   t (s) | test         | handler 1                                 | client 1
---------+--------------+-------------------------------------------+---------------------
       0 |              |                                           | asks GET /news
         |              | init                                      |
         |              |                                           | sees 200
         | advances 1 s |                                           |
         |              |                                           |
       1 |              | accepts 'one'                             |
         |              | info 'one' -> ServerSentEvent(data='one') |
         |              |                                           | sees 'data: one\\n\\n'
         |              |                                           | disconnects (abrupt)
         |              | terminate Disconnected()                  |
         | ends the run |                                           |
"""
    )
