"""Messages are made of the type that a handler was given."""

from __future__ import annotations

import collections
import enum
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar

import annotated_types as at
import pytest
import typing_extensions
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typing_extensions import TypeAliasType, TypedDict

from trioloop import (
    Call,
    Down,
    EventStreamHandler,
    HandlerRef,
    Joined,
    Left,
    LoopHandler,
    Reply,
    SendAfter,
    ServerSentEvent,
    StartResponse,
)
from trioloop.testing._messages import Eighths, Seconds, messages_for


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Said:
    who: str
    text: str


@dataclass(frozen=True)
class Painted:
    colour: Colour
    layers: int = 1


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict):
    size: int
    colour: NotRequired[Colour]


@dataclass(frozen=True)
class Tree:
    value: int
    parent: Tree | None
    children: list[Tree]


@dataclass(frozen=True)
class Endless:
    next: Endless


@dataclass(frozen=True)
class NonEmptyEndless:
    children: Annotated[list[NonEmptyEndless], at.MinLen(1)]


make_named_tuple: Any = collections.namedtuple  # noqa: PYI024 - without annotations
T = TypeVar("T")
U = TypeVar("U")
Defaulted = typing_extensions.TypeVar("Defaulted", default=Said)
Bare: Any = make_named_tuple("Bare", ["first"])  # without annotations
UserId = NewType("UserId", int)
Plain = TypeAliasType("Plain", Said)
Several = TypeAliasType("Several", list[T], type_params=(T,))


@dataclass(frozen=True)
class Box(Generic[T]):
    content: T


def values_of(message_type, *, count=60, **options):
    """Values of the strategy that is made for this message type."""
    return values(messages_for(LoopHandler[message_type], **options), count=count)


def values(strategy, *, count=60):
    found = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(strategy)
    def collect(value):
        found.append(value)

    collect()
    return found


def refusal(message_type, **options):
    """The error that a message type causes."""

    class Chat(LoopHandler[message_type]):
        pass

    with pytest.raises(TypeError) as caught:
        messages_for(Chat, **options)
    return str(caught.value)


# -- where the type is written --------------------------------------------------------------------


class Chat(LoopHandler[Said]):
    pass


class LoudChat(Chat):
    pass


class Room(LoopHandler[T]):
    pass


class Pair(Room[U], Generic[T, U]):
    pass


class Nested(LoopHandler[list[T]], Generic[T]):
    pass


class PaintedNested(Nested[Painted]):
    pass


class Mixin:
    pass


class Stream(Mixin, EventStreamHandler[Painted]):
    pass


class SwappedPair(Pair[int, Colour]):
    pass


class Lobby(LoopHandler[Defaulted]):
    pass


class Written(LoopHandler["Said | WrittenLater"]):
    pass


@dataclass(frozen=True)
class WrittenLater:
    after: int


@pytest.mark.parametrize(
    "handler, types",
    [
        (Chat, {Said}),
        (LoudChat, {Said}),
        (LoopHandler[Said], {Said}),
        (Room[Said], {Said}),
        (Stream, {Painted}),
        (SwappedPair, {Colour}),
        (Pair[int, Said], {Said}),
        (Written, {Said, WrittenLater}),
        (Lobby, {Said}),
        (Room["WrittenLater"], {WrittenLater}),
    ],
)
def test_the_type_is_found_wherever_it_was_written(handler, types):
    assert {type(value) for value in values(messages_for(handler))} == types


@pytest.mark.parametrize("handler", [PaintedNested, Nested[Painted]])
def test_a_type_variable_inside_of_another_type_is_filled_in(handler):
    found = values(messages_for(handler))
    assert all(type(value) is list for value in found)
    assert {type(item) for value in found for item in value} == {Painted}


def test_messages_that_are_local_to_a_test_are_found_by_name():
    @dataclass(frozen=True)
    class Local:
        inner: Inner

    @dataclass(frozen=True)
    class Inner:
        number: int

    class Handler(LoopHandler["Local"]):
        pass

    assert type(values(messages_for(Handler))[0].inner) is Inner


def test_messages_that_are_local_to_an_outer_function_are_found_too():
    @dataclass(frozen=True)
    class Outer:
        number: int

    def inside():
        @dataclass(frozen=True)
        class Inner:
            outer: Outer

        class Handler(LoopHandler[Inner]):
            pass

        return messages_for(Handler)

    assert type(values(inside())[0].outer) is Outer


def make_handler_of_hidden_messages():
    @dataclass(frozen=True)
    class Hidden:
        inner: Inner

    @dataclass(frozen=True)
    class Inner:
        number: int

    class Handler(LoopHandler[Hidden]):
        pass

    return Handler


def test_a_name_that_cannot_be_found_is_named():
    with pytest.raises(
        TypeError, match="'Inner' in the annotations of Hidden cannot be found"
    ) as e:
        messages_for(make_handler_of_hidden_messages())
    assert "the messages of Handler" in str(e.value)
    assert "not under TYPE_CHECKING" in str(e.value)


def test_what_is_no_handler_class_is_refused():
    for wrong in (Said, Chat(), "Chat", LoopHandler[int]()):
        with pytest.raises(TypeError, match="takes a handler class"):
            messages_for(wrong)


# -- what is made ----------------------------------------------------------------------------------


def test_a_union_gives_each_of_its_members():
    assert {type(value) for value in values_of(Said | Painted | None | int)} == {
        Said,
        Painted,
        type(None),
        int,
    }


def test_literals_and_enums_give_their_values():
    found = values_of(Literal["on", "off"] | Colour)
    assert set(found) == {"on", "off", Colour.RED, Colour.BLUE}


def test_named_tuples_and_typed_dictionaries_are_filled():
    found = values_of(Point | Options)
    points = [value for value in found if isinstance(value, Point)]
    options = [value for value in found if isinstance(value, dict)]
    assert all(type(p.x) is int and type(p.y) is float for p in points)
    assert all(type(o["size"]) is int for o in options)
    assert {len(o) for o in options} == {1, 2}


def test_plain_values_are_small():
    assert all(-100 <= value <= 100 for value in values_of(int))
    assert all(-100 <= value <= 100 for value in values_of(float))
    assert all(len(value) <= 8 for value in values_of(str | bytes))
    assert all(value.encode() is not None for value in values_of(str))
    assert set(values_of(bool)) == {True, False}


@pytest.mark.parametrize(
    "kind, made",
    [
        (list[int], list),
        (Sequence[int], list),
        (set[int], set),
        (AbstractSet[int], frozenset),
        (frozenset[int], frozenset),
        (deque[int], deque),
        (dict[str, int], dict),
        (Mapping[str, int], dict),
        (tuple[int, ...], tuple),
    ],
)
def test_collections_have_at_most_three_items(kind, made):
    found = values_of(kind)
    assert {type(value) for value in found} == {made}
    assert {len(value) for value in found} == {0, 1, 2, 3}


def test_a_tuple_has_the_items_that_it_says():
    assert all(list(map(type, value)) == [int, str] for value in values_of(tuple[int, str]))
    assert set(values_of(tuple[()])) == {()}


@pytest.mark.parametrize(
    "kind, holds",
    [
        (Annotated[int, at.Gt(3)], lambda n: 3 < n <= 103),
        (Annotated[int, at.Ge(500)], lambda n: 500 <= n <= 600),
        (Annotated[int, at.Lt(-500)], lambda n: -600 <= n < -500),
        (Annotated[int, at.Interval(ge=1, le=3)], lambda n: n in {1, 2, 3}),
        (Annotated[int, at.Interval(gt=1, lt=3)], lambda n: n == 2),
        (Annotated[int, at.MultipleOf(7)], lambda n: n % 7 == 0),
        (Annotated[float, at.Gt(0), at.Le(1)], lambda x: 0 < x <= 1),
        (Annotated[float, at.Ge(0), at.Lt(1)], lambda x: 0 <= x < 1),
        (Annotated[float, at.MultipleOf(0.5)], lambda x: x % 0.5 == 0),
        (Annotated[str, at.Len(2, 4)], lambda s: 2 <= len(s) <= 4),
        (Annotated[bytes, at.MinLen(12)], lambda s: len(s) == 12),
        (Annotated[list[int], at.MaxLen(1)], lambda items: len(items) <= 1),
        (Annotated[dict[str, int], at.MinLen(1)], lambda items: 1 <= len(items) <= 3),
        (Annotated[int, at.Predicate(bool)], bool),
        (Annotated[float, st.sampled_from([0.1, 0.2])], lambda x: x in {0.1, 0.2}),
        (Annotated[int, "a comment"], lambda n: -100 <= n <= 100),
        (Annotated[Said, "a comment"], lambda said: type(said) is Said),
        (Annotated[Fraction, at.Gt(5)], lambda n: n > 5),
        (Annotated[UserId, at.Gt(5)], lambda n: n > 5),
    ],
)
def test_constraints_hold(kind, holds):
    found = values_of(kind, count=30)
    assert found
    assert all(map(holds, found))


def test_seconds_are_eighths_up_to_three():
    found = values_of(Seconds, count=300)
    assert {value * 8 for value in found} == set(range(25))
    assert {type(value) for value in found} == {float}


def test_eighths_have_the_bounds_that_they_are_given():
    assert set(values_of(Annotated[float, Eighths(1, 1.25)])) == {1.0, 1.125, 1.25}


def test_a_new_type_and_an_alias_are_what_they_stand_for():
    assert {type(value) for value in values_of(UserId)} == {int}
    assert {type(value) for value in values_of(Plain)} == {Said}
    assert {type(item) for value in values_of(Several[Said]) for item in value} == {Said}


def test_a_generic_dataclass_is_filled_with_what_it_was_given():
    assert {type(value.content) for value in values_of(Box[Said])} == {Said}


def test_other_types_are_looked_up_by_hypothesis():
    class Tick:
        pass

    assert {type(value) for value in values_of(uuid.UUID | Tick)} == {uuid.UUID, Tick}


def test_a_type_that_contains_itself_ends_soon():
    def depth(tree):
        inner = [*tree.children, *([tree.parent] if tree.parent else [])]
        return 1 + max(map(depth, inner), default=0)

    assert {depth(tree) for tree in values_of(Tree)} == {1, 2}


def test_keyword_only_and_init_only_fields_are_given():
    @dataclass(kw_only=True)
    class Message:
        size: InitVar[int]
        doubled: int = field(init=False)

        def __post_init__(self, size: int) -> None:
            self.doubled = 2 * size

    assert all(value.doubled % 2 == 0 for value in values_of(Message))


def test_values_that_a_message_refuses_itself_are_not_made():
    @dataclass(frozen=True)
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("odd")

    found = values_of(Even)
    assert found
    assert all(value.number % 2 == 0 for value in found)


def test_commands_can_be_messages():
    found = values_of(Reply | ServerSentEvent | StartResponse)
    assert {type(value) for value in found} == {Reply, ServerSentEvent, StartResponse}


def test_what_the_hub_sends_itself_is_left_out_of_a_union():
    assert {type(value) for value in values_of(Said | Joined | Left | Down)} == {Said}


def test_a_vague_field_with_a_default_keeps_it():
    @dataclass(frozen=True)
    class Message:
        text: str
        meta: dict = field(default_factory=dict)
        reply_to: HandlerRef | None = None

    assert all(value.meta == {} and value.reply_to is None for value in values_of(Message))


def test_extra_strategies_win():
    @dataclass(frozen=True)
    class Message:
        meta: dict
        ref: HandlerRef[int]

    a_ref: Any = "a ref"
    found = values_of(
        Message | Said,
        extra={dict: st.just({"a": 1}), HandlerRef: st.just(a_ref), Said: st.just("hello")},
    )
    assert {str(value) for value in found} == {
        "hello",
        str(Message({"a": 1}, a_ref)),
    }


# -- what is refused -------------------------------------------------------------------------------


class Silent(LoopHandler):
    pass


@pytest.mark.parametrize("handler", [Silent, LoopHandler, Room, LoopHandler[Any], Nested[Any]])
def test_a_handler_without_a_message_type_is_told_the_two_ways_out(handler):
    with pytest.raises(TypeError) as caught:
        messages_for(handler)
    assert "pass messages=<a strategy>" in str(caught.value)


def test_the_error_for_a_bare_handler_names_it_and_shows_the_annotation():
    with pytest.raises(TypeError) as caught:
        messages_for(Silent)
    assert str(caught.value) == (
        "Silent does not say what its messages are; annotate the class, as in"
        " `class Silent(LoopHandler[str])`, or pass messages=<a strategy>"
    )


@pytest.mark.parametrize(
    "kind, shown",
    [
        (object, "object"),
        (dict, "dict"),
        (list, "list"),
        (tuple, "tuple"),
        (list[Any], "Any"),
        (Said | dict, "dict"),
    ],
)
def test_a_type_that_says_too_little_is_named(kind, shown):
    assert refusal(kind) == (
        f"the messages of Chat: they are {shown}, which says too little to make values of it;"
        " annotate it more exactly, or pass messages=<a strategy>"
    )


def test_the_field_that_says_too_little_is_named():
    @dataclass
    class Message:
        meta: dict

    @dataclass
    class Untyped:
        text: Any

    assert "Message.meta is dict, which says too little" in refusal(Message)
    assert "Untyped.text is Any, which says too little" in refusal(Untyped)
    assert "Bare.first is object, which says too little" in refusal(Bare)
    assert "Bad['x'] is object, which says" in refusal(TypedDict("Bad", {"x": object}))


def test_what_hypothesis_cannot_make_says_too_little():
    class Odd:
        def __init__(self, needed):
            self.needed = needed

    assert "they are Odd, which says too little" in refusal(Odd)


@pytest.mark.parametrize("kind, name", [(HandlerRef[int], "HandlerRef"), (Call, "Call")])
def test_what_only_a_hub_can_make_has_to_be_given(kind, name):
    message = refusal(Said | kind)
    assert f"give extra={{{name}: <a strategy>}}" in message
    assert "only a running hub makes those" in message


def test_messages_that_only_the_hub_sends_are_refused():
    assert "Joined.ref is trioloop.HandlerRef" in refusal(Joined | Down)


@pytest.mark.parametrize("kind", [Endless, NonEmptyEndless, Endless | NonEmptyEndless])
def test_a_type_that_contains_itself_without_an_end_is_refused(kind):
    assert "contains itself without an end" in refusal(kind)


def test_a_type_without_values_is_refused():
    class Empty(enum.Enum):
        pass

    assert "they are Empty, which has no values" in refusal(Empty)
    assert "has no values" in refusal(Annotated[int, at.Interval(ge=1, le=0)])


def test_a_command_with_a_vague_field_is_refused():
    assert "SendAfter.message is object" in refusal(SendAfter)


def test_the_kit_is_imported_without_hypothesis():
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from trioloop import LoopHandler\n"
        "from trioloop.testing._messages import Seconds, messages_for\n"
        "try: messages_for(LoopHandler[int])\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == ("messages_for needs Hypothesis: pip install 'trioloop[testing]'")
