"""`check_handler`: the state machine in one line."""

from __future__ import annotations

import functools
import re

import pytest
import trio
from hypothesis import Phase, settings
from hypothesis import strategies as st

from trioloop import App, Crashed, EventStreamHandler, LoopHandler, Reply, ServerSentEvent
from trioloop.testing import LawBroken, check_handler


class News(EventStreamHandler[str]):
    def info(self, message):
        return ServerSentEvent(message)


class Room(News):
    """Needs a path parameter, and something of its application."""

    def init(self, request):
        self.name = request.path_params["name"]
        request.app.state.rooms.append(self.name)


class Saver(LoopHandler[str]):
    async def info(self, message):
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return Reply(200, body=message)


def make_app():
    app = App()
    app.state.rooms = []
    app.route("/rooms/{name}", Room)
    return app


def test_a_good_handler_keeps_the_laws_and_the_endings_are_counted():
    machine = check_handler(News, examples=10, steps=10)
    assert machine.__name__ == "NewsMachine"
    assert sum(machine.reached.values()) >= 10


def test_a_handler_is_served_where_its_application_serves_it():
    apps = []

    def make():
        apps.append(make_app())
        return apps[-1]

    check_handler(Room, app=make, path="/rooms/kitchen?light=on", examples=10, steps=5)
    assert len(apps) >= 10
    assert {name for app in apps for name in app.state.rooms} == {"kitchen"}


def test_crashes_that_the_kit_has_made_are_not_logged(caplog):
    machine = check_handler(News, examples=30)
    assert Crashed in {one.reason for one in machine.reached}
    assert [record for record in caplog.records if "crashed in" in record.message] == []


def test_an_init_that_always_raises_is_told_since_nothing_was_checked():
    with pytest.raises(
        AssertionError, match=r"each init has raised KeyError\('name'\), so"
    ) as told:
        check_handler(Room, examples=5, steps=5)
    assert isinstance(told.value.__cause__, KeyError)
    assert "app=, path= and method=" in str(told.value)


def test_an_init_that_raises_now_and_then_is_a_crash_like_others():
    class Moody(News):
        def init(self, request):
            if self.hub.members("moods"):
                raise ValueError
            self.join("moods")

    check_handler(Moody, examples=10, steps=10)


def test_a_path_without_the_handler_is_told(without_shrinking):
    with pytest.raises(LookupError, match="has no handler; the answer was 404"):
        check_handler(Room, app=make_app, examples=20, steps=5)


@pytest.fixture
def without_shrinking(monkeypatch):
    once = {"phases": [Phase.generate], "derandomize": True, "database": None}
    monkeypatch.setattr("trioloop.testing._check.settings", functools.partial(settings, **once))


def test_an_invariant_that_does_not_hold_is_found(without_shrinking):
    def nobody_hears_bad_words(machine):
        for client in machine.clients:
            client.refute_event("bad")

    with pytest.raises(AssertionError, match="an event matches 'bad'"):
        check_handler(
            News,
            messages=st.sampled_from(["good", "bad"]),
            invariants=[nobody_hears_bad_words],
            steps=5,
        )


def test_every_invariant_is_checked_and_a_function_may_be_given_twice():
    seen = []
    checks = [lambda machine: seen.append(1), lambda machine: seen.append(len(machine.clients) > 0)]
    for _ in range(2):
        check_handler(News, invariants=checks, examples=3, steps=5)
    assert seen.count(True) == len(seen)
    assert len(seen) > 12


def test_the_method_is_the_clients():
    class Form(LoopHandler[str]):
        methods = ("POST",)

        def init(self, request):
            assert request.method == "POST"

    machine = check_handler(Form, method="POST", examples=5)
    assert machine.reached


def test_the_options_are_the_routes():
    class Impatient(News):
        def init(self, request):
            assert self.idle_timeout == 0.5

    check_handler(Impatient, options={"idle_timeout": 0.5}, examples=5)


def test_the_report_has_a_test_to_paste_that_fails_in_the_same_way():
    with pytest.raises(LawBroken, match="law 8") as found:
        check_handler(Saver, steps=5)
    report = "\n".join(found.value.__notes__)
    source = re.search(r"\nfrom trioloop.*?machine.teardown\(\)", report, re.DOTALL)[0]
    names = {"Saver": Saver}
    exec(source, names)
    with pytest.raises(LawBroken, match="law 8"):
        names["test_found_by_savermachine"]()


def silence(machine):
    """An invariant that does not hold when somebody has said something."""
    assert not any(client.events for client in machine.clients)


def make_news():
    return News()


def test_the_class_that_is_printed_has_what_was_given():
    with pytest.raises(AssertionError) as found:
        check_handler(
            make_news,
            messages=st.just("hi"),
            options={"idle_timeout": 1.0},
            path="/news",
            invariants=[silence],
        )
    report = "\n".join(found.value.__notes__)
    source = re.search(r"\nfrom hypothesis.*?machine.teardown\(\)", report, re.DOTALL)[0]
    assert source.partition("\ndef ")[0].splitlines() == [
        "",
        "from hypothesis.stateful import invariant",
        f"from {__name__} import make_news, silence",
        "from trioloop.testing import HandlerMachine",
        "",
        "",
        "class make_newsMachine(HandlerMachine):",
        "    handler = staticmethod(make_news)",
        "    path = '/news'",
        "    options = {'idle_timeout': 1.0}",
        "    invariant_1 = invariant()(silence)",
        "",
    ]
    names = {}
    exec(source, names)
    with pytest.raises(AssertionError, match="any"):  # the invariant is part of it
        names["test_found_by_make_newsmachine"]()


def make_news_app():
    app = App()
    app.route("/news", News)
    return app


def test_lambdas_get_names_in_what_is_printed():
    with pytest.raises(AssertionError) as found:
        check_handler(
            lambda: News(),  # noqa: PLW0108 - that is what is tested
            app=lambda: make_news_app(),  # noqa: PLW0108 - the same
            path="/news",
            messages=st.just("hi"),
            invariants=[silence],
        )
    report = "\n".join(found.value.__notes__)
    source = re.search(r"\nfrom hypothesis.*?machine.teardown\(\)", report, re.DOTALL)[0]
    assert "# make_app is the lambda: give it this name\n" in source
    names = {"make_app": make_news_app, "make_handler": News}
    exec(source, names)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    with pytest.raises(AssertionError, match="any"):
        test()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"app": App()}, "app= takes a function that makes a new application, not <"),
        ({"app": make_app, "options": {"idle_timeout": 1}}, "with app=, its route has them"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments, sentence):
    with pytest.raises(TypeError, match=sentence):
        check_handler(News, **arguments)


def test_a_type_that_says_too_little_is_refused():
    class Vague(EventStreamHandler):
        """Says nothing of its messages."""

    with pytest.raises(TypeError, match="Vague does not say what its messages are"):
        check_handler(Vague)
