"""Messages made of a handler's own type: ``LoopHandler[Said | Left]`` says what to generate.

Laws of this file:

* A type says what its values are, or the error names the handler, the place and the ways out;
  nothing is guessed.
* Values are small: short texts, small numbers, collections of at most three. What fails is read
  by people.
* Hypothesis is an extra: it is imported when a strategy is made, not with this file.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import types
import typing
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
)
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    NoReturn,
    TypeAlias,
    TypeVar,
    Union,
)

import typing_extensions

from .._core._handler import Handler
from .._core._ref import Call, Down, HandlerRef
from .._core._registry import Joined, Left
from .._web._commands import Reply, StartResponse
from .._wire import ServerSentEvent

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    Strategy: TypeAlias = SearchStrategy[Any]

MAX_ITEMS: Final = 3
"""Items of a collection, unless its type says otherwise."""
MAX_TEXT: Final = 8
"""Characters of a text and bytes of ``bytes``, unless their type says otherwise."""
SPAN: Final = 100
"""Numbers lie between this and its negative, unless their type says otherwise."""
MAX_DEPTH: Final = 1
"""How often a type may occur inside of itself."""

HUBS_OWN: Final = (Down, Joined, Left)
"""Messages that the hub sends; a test causes them by what it does."""


@dataclass(frozen=True, slots=True)
class Eighths:
    """Marks a ``float`` whose values are whole eighths: their sums are exact.

    Args:
        low: the least value.
        high: the greatest.
    """

    low: float = 0.0
    high: float = 3.0


Seconds: TypeAlias = Annotated[float, Eighths()]
"""A duration in a message: up to three seconds, in eighths, so that two deadlines can really tie.

Use it in place of ``float``; outside of the kit it means nothing else."""


def messages_for(handler: Any, *, extra: Mapping[Any, Strategy] | None = None) -> Strategy:
    """A Hypothesis strategy for the messages that a handler takes.

    It knows dataclasses, unions, ``Literal``, enums, named tuples, typed dictionaries, built-in
    types and collections of all these, and ``Annotated``: the constraints of annotated-types, a
    strategy of your own, or `Seconds`. Any other type is looked up with ``from_type``.

    `Down`, `Joined` and `Left` in a union are left out: the hub sends those. A field that says too
    little and has a default keeps its default.

    Args:
        handler: a handler class, such as ``Chat``, or a parametrised one, such as ``Room[str]``.
        extra: strategies for types that say too little, or whose values shall be others.

    Raises:
        TypeError: no handler class, or a type that says too little to make values of it.
        ModuleNotFoundError: Hypothesis is not installed.
    """
    origin = _class_of(handler)
    if not issubclass(origin, Handler):
        raise TypeError(f"messages_for takes a handler class, not {handler!r}")
    message_type, scope = _message_type(handler, origin)
    return _Builder(origin, extra or {}).build_message(message_type, scope)


# -- which type it is ----------------------------------------------------------------------------


def _message_type(handler: Any, scope: Any) -> tuple[Any, type]:
    """What stands in the brackets, and the class that wrote it there.

    Args:
        handler: a handler class, or a parametrised one.
        scope: the class whose base it is.
    """
    origin: Any = _class_of(handler)
    given = dict(zip(getattr(origin, "__parameters__", ()), typing.get_args(handler), strict=False))
    if origin is Handler:
        return next(iter(given.items()), (Any, Any))[1], scope
    base = next(b for b in _bases(origin) if issubclass(_class_of(b), Handler))
    found, where = _message_type(base, origin)
    put_in = _substitute(found, given)
    return put_in, where if put_in is found else scope


def _bases(cls: type) -> tuple[Any, ...]:
    """The bases of a class as they were written, with brackets."""
    written: tuple[Any, ...] = vars(cls).get("__orig_bases__", cls.__bases__)
    return written


def _substitute(hint: Any, given: Mapping[Any, Any]) -> Any:
    """A type with its type variables replaced by what they were given."""
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    free = getattr(hint, "__parameters__", ()) if typing.get_origin(hint) else ()
    if not any(parameter in given for parameter in free):
        return hint
    return hint[tuple(given.get(parameter, parameter) for parameter in free)]


def _resolve(cls: type) -> dict[str, Any]:
    """The annotations of a class and its bases, evaluated.

    Names that are local to a function are found as long as that function runs, as it does when a
    test defines its own messages.

    Raises:
        NameError: a name in them cannot be found.
    """
    names: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        # A library may show its classes under another module's name; their methods know better.
        names |= getattr(vars(base).get("__init__"), "__globals__", {})
        names |= _enclosing_names(base)
    return typing_extensions.get_type_hints(cls, localns=names or None, include_extras=True)


def _probe(hint: Any, scope: type) -> type:
    """A class that is annotated with a type at the place of another class."""
    return type(
        scope.__name__,
        (),
        {
            "__annotations__": {"message": hint},
            "__module__": scope.__module__,
            "__qualname__": scope.__qualname__,
        },
    )


def _enclosing_names(cls: type) -> dict[str, Any]:
    outside, local, name = cls.__qualname__.rpartition(".<locals>.")
    if not local:
        return {}
    names: dict[str, Any] = {}
    frame = inspect.currentframe()
    while frame is not None:
        function = frame.f_code.co_qualname
        if frame.f_globals.get("__name__") == cls.__module__ and (
            outside == function or outside.startswith(f"{function}.<locals>.")
        ):
            names = {**frame.f_locals, **names}  # the names of inner functions win
        frame = frame.f_back
    return names if name in names else {name: cls, **names}


# -- what its values are -------------------------------------------------------------------------


class _EndlessError(Exception):
    """A type contains itself, and this is deep enough."""


class _Builder:
    """Makes strategies for the message type of one handler.

    Args:
        handler: for errors.
        extra: strategies by type; they win.
    """

    def __init__(self, handler: Any, extra: Mapping[Any, Strategy]) -> None:
        try:
            import hypothesis
            from hypothesis import strategies
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "messages_for needs Hypothesis: pip install 'trioloop[testing]'"
            ) from error
        self._reject = hypothesis.reject
        self._st = strategies
        self._handler = handler
        self._text = strategies.characters(codec="utf-8")
        self._kinds = {**self._own(), **extra}
        self._inside: list[type] = []
        self._where = ""

    def _own(self) -> dict[Any, Strategy]:
        """Values of the library that have rules of their own."""
        st = self._st
        status = st.sampled_from([200, 404, 503])
        text = st.text(self._text, max_size=MAX_TEXT)
        return {
            Reply: st.builds(Reply, status, text),
            StartResponse: st.builds(StartResponse, status),
            ServerSentEvent: st.builds(ServerSentEvent, text),
        }

    def build_message(self, message_type: Any, scope: type) -> Strategy:
        """The strategy for a whole message.

        Args:
            message_type: as it was written.
            scope: the class that wrote it.
        """
        if isinstance(message_type, TypeVar):
            message = _default_of(message_type)
        else:
            message = self._hints(_probe(message_type, scope))["message"]
        if message is Any or isinstance(message, TypeVar):
            name = self._handler.__name__
            raise TypeError(
                f"{name} does not say what its messages are; annotate the class, as in"
                f" `class {name}(LoopHandler[str])`, or pass messages=<a strategy>"
            )
        if _is_union(message):
            left = [m for m in typing.get_args(message) if m not in HUBS_OWN or m in self._kinds]
            message = Union[tuple(left)] if left else message  # noqa: UP007 - of a tuple
        try:
            return self.build(message)
        except _EndlessError as endless:
            raise self._error(
                f"{endless} contains itself without an end, so it has no values",
                "let it end in `| None` or in a collection",
            ) from None

    def build(self, kind: Any) -> Strategy:
        """The strategy for one type."""
        origin = typing.get_origin(kind)
        for key in (kind, origin):
            if key is not None and isinstance(key, typing.Hashable) and key in self._kinds:
                return self._kinds[key]
        for applies, make in _RULES:
            if applies(kind, origin):
                return make(self, kind)
        return self._look_up(kind)

    # -- errors ----------------------------------------------------------------------------------

    def _error(self, what: str, way_out: str) -> TypeError:
        name = self._handler.__name__
        return TypeError(
            f"the messages of {name}: {what}; {way_out}, or pass messages=<a strategy>"
        )

    def _refuse(self, kind: Any, why: str, way_out: str) -> NoReturn:
        place = f"{self._where} is" if self._where else "they are"
        raise self._error(f"{place} {_shown(kind)}, {why}", way_out)

    def refuse_vague(self, kind: Any) -> NoReturn:
        self._refuse(kind, "which says too little to make values of it", "annotate it more exactly")

    def _refuse_empty(self, kind: Any) -> NoReturn:
        self._refuse(kind, "which has no values", "let it have some")

    def refuse_ref(self, kind: Any) -> NoReturn:
        base = HandlerRef if issubclass(_class_of(kind), HandlerRef) else Call
        self._refuse(
            kind,
            "and only a running hub makes those",
            f"give extra={{{base.__name__}: <a strategy>}}",
        )

    def _hints(self, cls: type) -> dict[str, Any]:
        try:
            return _resolve(cls)
        except NameError as error:
            raise self._error(
                f"the name {error.name!r} in the annotations of {cls.__name__} cannot be found",
                "define or import it at the top of the module, not under TYPE_CHECKING",
            ) from error

    # -- rules -----------------------------------------------------------------------------------

    def build_none(self, _kind: Any) -> Strategy:
        return self._st.none()

    def build_literal(self, kind: Any) -> Strategy:
        return self._st.sampled_from(typing.get_args(kind))

    def build_union(self, kind: Any) -> Strategy:
        options: list[Strategy] = []
        endless: _EndlessError | None = None
        for option in sorted(typing.get_args(kind), key=lambda o: o is not type(None)):
            try:
                options.append(self.build(option))
            except _EndlessError as error:
                endless = error
        if endless is not None and not options:
            raise endless
        return self._st.one_of(options)

    def build_enum(self, kind: Any) -> Strategy:
        members = list(kind)
        if not members:
            self._refuse_empty(kind)
        return self._st.sampled_from(members)

    def build_inner(self, kind: Any) -> Strategy:
        return self.build(typing.get_args(kind)[0])

    def build_new_type(self, kind: Any) -> Strategy:
        return self.build(kind.__supertype__)

    def build_alias(self, kind: Any) -> Strategy:
        target = typing.get_origin(kind) or kind
        given = dict(zip(target.__type_params__, typing.get_args(kind), strict=False))
        return self.build(_substitute(target.__value__, given))

    def build_builtin(self, kind: Any) -> Strategy:
        return self._constrained(kind, {})

    def build_annotated(self, kind: Any) -> Strategy:
        base, *metadata = typing.get_args(kind)
        strategies: list[Strategy] = [m for m in metadata if isinstance(m, self._st.SearchStrategy)]
        if strategies:
            return strategies[-1]
        facts = _facts(metadata)
        strategy = self._constrained(base, facts)
        for predicate in facts.get("predicates", ()):
            strategy = strategy.filter(predicate)
        return strategy

    def _constrained(self, kind: Any, facts: Mapping[str, Any]) -> Strategy:
        origin = typing.get_origin(kind) or kind
        if kind is int or kind is float:
            return self._number(kind, facts)
        if kind is str or kind is bytes:
            sizes = self._sizes(facts, MAX_TEXT)
            return self._st.text(self._text, **sizes) if kind is str else self._st.binary(**sizes)
        if origin in _COLLECTIONS or origin is tuple:
            return self._collection(kind, self._sizes(facts, MAX_ITEMS))
        if set(facts) - {"predicates"}:
            return self._look_up(Annotated[kind, *facts["metadata"]])
        return self.build(kind)

    def _number(self, kind: type, facts: Mapping[str, Any]) -> Strategy:
        if "eighths" in facts:
            grid: Eighths = facts["eighths"]
            return self._multiples(kind, 0.125, grid.low, grid.high)
        low, high = facts.get("ge", facts.get("gt")), facts.get("le", facts.get("lt"))
        low_given, high_given = low is not None, high is not None
        if low is None:
            low = -SPAN if high is None or high > -SPAN else high - SPAN
        if high is None:
            high = max(SPAN, low + SPAN) if low_given and low >= SPAN else SPAN
        above = low_given and "ge" not in facts
        below = high_given and "le" not in facts
        step = facts.get("multiple_of", 1 if kind is int else None)
        if step is not None:
            strategy = self._multiples(kind, step, low, high)
            strategy = strategy.filter(lambda n: n != low) if above else strategy
            return strategy.filter(lambda n: n != high) if below else strategy
        return self._st.floats(
            low, high, exclude_min=above, exclude_max=below, allow_nan=False, allow_infinity=False
        )

    def _multiples(self, kind: type, step: float, low: float, high: float) -> Strategy:
        first, last = math.ceil(low / step), math.floor(high / step)
        if first > last:
            self._refuse_empty(Annotated[kind, f"{low:g} to {high:g} in steps of {step:g}"])
        factors = self._st.integers(first, last)
        return factors if kind is int and step == 1 else factors.map(lambda n: kind(n * step))

    def _sizes(self, facts: Mapping[str, Any], usual: int) -> dict[str, int]:
        least = facts.get("min_length", 0)
        return {"min_size": least, "max_size": facts.get("max_length", max(usual, least))}

    def _collection(self, kind: Any, sizes: Mapping[str, int]) -> Strategy:
        items = typing.get_args(kind)
        origin = typing.get_origin(kind) or kind
        if not items and kind != tuple[()]:
            self.refuse_vague(kind)
        if origin is tuple and not (len(items) == 2 and items[1] is ...):
            return self._st.tuples(*map(self.build, items))
        try:
            parts = [self.build(item) for item in items if item is not ...]
        except _EndlessError:
            if sizes["min_size"]:
                raise
            parts = [self._st.nothing() for item in items if item is not ...]
            sizes = {"min_size": 0, "max_size": 0}
        maker, convert = _COLLECTIONS.get(origin, ("lists", tuple))
        strategy: Strategy = getattr(self._st, maker)(*parts, **sizes)
        return strategy if convert is None else strategy.map(convert)

    def build_record(self, kind: Any) -> Strategy:
        """A dataclass or a named tuple."""
        cls = _class_of(kind)
        given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(kind), strict=False))
        fields: dict[str, Strategy] = {}
        with self._entered(cls):
            hints = self._hints(cls)
            for name, parameter in inspect.signature(cls).parameters.items():
                hint = hints.get(name, object)
                hint = getattr(hint, "type", hint) if _is_init_var(hint) else hint
                optional = parameter.default is not parameter.empty
                with (
                    self._at(f"{cls.__name__}.{name}"),
                    suppress(*((TypeError, _EndlessError) if optional else ())),
                ):
                    fields[name] = self.build(_substitute(hint, given))
        if not hasattr(cls, "__post_init__"):
            return self._st.builds(cls, **fields)
        return self._st.builds(self._checked(cls), **fields)

    def _checked(self, cls: type) -> Callable[..., Any]:
        """Values that the class itself refuses with a `ValueError` are none of its type."""

        def make(**values: Any) -> Any:
            try:
                return cls(**values)
            except ValueError:
                self._reject()

        make.__name__ = make.__qualname__ = cls.__name__
        return make

    def build_typed_dict(self, kind: Any) -> Strategy:
        cls = _class_of(kind)
        given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(kind), strict=False))
        required: dict[str, Strategy] = {}
        optional: dict[str, Strategy] = {}
        with self._entered(cls):
            for name, hint in self._hints(cls).items():
                is_optional = _is_optional_key(cls, name, hint)
                with (
                    self._at(f"{cls.__name__}[{name!r}]"),
                    suppress(*((_EndlessError,) if is_optional else ())),
                ):
                    fields = optional if is_optional else required
                    fields[name] = self.build(_substitute(hint, given))
        return self._st.fixed_dictionaries(required, optional=optional)

    def _look_up(self, kind: Any) -> Strategy:
        """Whatever Hypothesis knows itself."""
        strategy = self._st.from_type(kind)
        try:
            strategy.validate()
        except Exception as error:
            try:
                self.refuse_vague(kind)
            except TypeError as refusal:
                raise refusal from error
        return strategy

    @contextmanager
    def _entered(self, cls: type) -> Generator[None, None, None]:
        if self._inside.count(cls) > MAX_DEPTH:
            raise _EndlessError(cls.__name__)
        self._inside.append(cls)
        try:
            yield
        finally:
            self._inside.pop()

    @contextmanager
    def _at(self, where: str) -> Generator[None, None, None]:
        before, self._where = self._where, where
        yield
        self._where = before


def _facts(metadata: Iterable[Any]) -> dict[str, Any]:
    """What the constraints of an ``Annotated`` say, by the names that annotated-types gave them.

    They are known by their attributes, so other libraries' constraints of that form count too.
    """
    facts: dict[str, Any] = {}
    predicates: list[Callable[[Any], bool]] = []
    known: list[Any] = []
    for item in metadata:
        if isinstance(item, Eighths):
            facts["eighths"] = item
        elif type(item).__name__ == "Predicate":
            predicates.append(item.func)
        found = {n: v for n in _CONSTRAINTS if (v := getattr(item, n, None)) is not None}
        facts |= found
        known += [item] if found else []
    if facts:
        facts["metadata"] = known
    if predicates:
        facts["predicates"] = predicates
    return facts


def _default_of(variable: TypeVar) -> Any:
    """The default of a type variable that was given nothing (PEP 696), or the variable itself."""
    default = getattr(variable, "__default__", None)
    unusable = (None, typing_extensions.NoDefault)
    is_text = isinstance(default, (str, typing.ForwardRef))
    return variable if default in unusable or is_text else default


def _class_of(kind: Any) -> type:
    found = typing.get_origin(kind) or kind
    return found if isinstance(found, type) else object


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (Union, types.UnionType)


def _is_record(cls: Any) -> bool:
    is_named_tuple = tuple in cls.__mro__ and hasattr(cls, "_fields")
    return is_named_tuple or dataclasses.is_dataclass(cls)


def _is_optional_key(cls: Any, name: str, hint: Any) -> bool:
    if typing.get_origin(hint) in _NOT_REQUIRED:
        return True
    return name in cls.__optional_keys__ and typing.get_origin(hint) not in _REQUIRED


def _is_init_var(hint: Any) -> bool:
    return type(hint) is dataclasses.InitVar


def _shown(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else repr(kind)


_CONSTRAINTS: Final = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")
_REQUIRED: Final[set[Any]] = {typing.Required, typing_extensions.Required}
_NOT_REQUIRED: Final[set[Any]] = {typing.NotRequired, typing_extensions.NotRequired}
_WRAPPERS: Final[set[Any]] = {
    *_REQUIRED,
    *_NOT_REQUIRED,
    typing_extensions.ReadOnly,
    Final,
    ClassVar,
}
_COLLECTIONS: Final[Mapping[Any, tuple[str, Callable[[Any], Any] | None]]] = {
    **dict.fromkeys((list, Sequence, MutableSequence, Collection, Iterable), ("lists", None)),
    **dict.fromkeys((set, MutableSet), ("sets", None)),
    **dict.fromkeys((frozenset, AbstractSet), ("frozensets", None)),
    **dict.fromkeys((dict, Mapping, MutableMapping), ("dictionaries", None)),
    deque: ("lists", deque),
}
_BUILTINS: Final[set[Any]] = {int, float, str, bytes, tuple, *_COLLECTIONS}

_Rule: TypeAlias = tuple[Callable[[Any, Any], bool], Callable[[_Builder, Any], "Strategy"]]

# By what a type is, and by what it is without its brackets. The first that applies counts.
_RULES: Final[Sequence[_Rule]] = (
    (lambda kind, _: kind is None or kind is type(None), _Builder.build_none),
    (lambda _, origin: origin is Literal, _Builder.build_literal),
    (lambda kind, _: _is_union(kind), _Builder.build_union),
    (lambda _, origin: origin is Annotated, _Builder.build_annotated),
    (lambda _, origin: origin in _WRAPPERS, _Builder.build_inner),
    (lambda kind, _: isinstance(kind, typing.NewType), _Builder.build_new_type),
    (lambda kind, origin: hasattr(origin or kind, "__value__"), _Builder.build_alias),
    (lambda kind, _: kind in (Any, object) or isinstance(kind, TypeVar), _Builder.refuse_vague),
    (lambda kind, _: issubclass(_class_of(kind), (HandlerRef, Call)), _Builder.refuse_ref),
    (lambda kind, _: issubclass(_class_of(kind), enum.Enum), _Builder.build_enum),
    (lambda kind, _: typing_extensions.is_typeddict(_class_of(kind)), _Builder.build_typed_dict),
    (lambda kind, _: _is_record(_class_of(kind)), _Builder.build_record),
    (lambda kind, origin: (origin or kind) in _BUILTINS, _Builder.build_builtin),
)
