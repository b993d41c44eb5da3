"""A journal done again: as steps, as a test to paste, as a run to compare with.

Laws of this file:

* A step is a call of a verb of the simulation; what is printed and what is done are the same call.
* Only what the test did is done again, as the journal tells it; what came of it shall come of it
  again. Nothing is guessed.
* Reading a trace imports nothing and calls nothing but constructors of plain values: dataclasses,
  named tuples and enums that the program has loaded already.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import trio
from starlette.types import ASGIApp

from .._core._reasons import Crashed, Failed, TerminateReason
from ._exchange import Request
from ._journal import Entry
from ._laws import Violation
from ._simulation import Simulation
from ._timeline import clients_of
from ._world import event_stream_headers

END: Final = "ends the run"
"""What the test does last; all that follows comes of it."""


@dataclass(frozen=True, slots=True)
class Named:
    """Somebody in the journal, as an argument of a step.

    Args:
        name: such as ``"client 1"``.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of a handler's ref, as an argument of a step.

    Args:
        target: the handler's name.
        name: the verb.
    """

    target: str
    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the test.

    Args:
        time: virtual seconds.
        target: ``"simulation"``, or the name of a client or a handler in the journal; a handler
            stands for its ref.
        verb: a method of `Simulation`, of an exchange or of a ref.
        args: its arguments.
        options: its keyword arguments.
        result: the name of the client that it makes.
    """

    time: float
    target: str
    verb: str
    args: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    result: str = ""


# -- from a journal to steps -----------------------------------------------------------------------


def script_of(journal: Iterable[Entry]) -> list[Step]:
    """What the test did, as calls that do it again.

    Args:
        journal: of a whole run, from its start.
    """
    entries = _until_the_end(journal)
    steps: list[Step] = []
    passing: Step | None = None  # the time that the test lets pass
    for index, entry in enumerate(entries):
        if entry.what not in _STEPS:
            continue
        step = _STEPS[entry.what](entry)
        if passing is not None and entry.who == "test" and _is_during(entry, passing):
            steps.insert(steps.index(passing), _planned(step, passing))
            continue
        steps.append(step)
        passing = step if step.verb in ("advance", "lag") else None
        if step.verb in _WITHOUT_SETTLING and _runs_after(entries, index):
            steps.append(Step(entry.time, "simulation", "settle"))
    return steps


def _is_during(entry: Entry, passing: Step) -> bool:
    """Whether a task of the test did this while time was passing."""
    return entry.what == "sends" and entry.time < passing.time + passing.args[0]


def _planned(step: Step, passing: Step) -> Step:
    """The same, said before."""
    verb = Verb(step.target, step.verb)
    args = (step.time - passing.time, verb, *step.args)
    return Step(passing.time, "simulation", "later", args)


_WITHOUT_SETTLING: Final = ("send_without_settling", "crash_next")
"""Verbs after which nothing has run."""

_OF_THE_MAILBOX: Final = {
    *("accepts", "refuses", "replaces", "accepts own"),
    *("displaces", "overflows", "dead letter", "key raised"),
}


def _runs_after(entries: list[Entry], index: int) -> bool:
    """Whether something has run between a step of the test and its next one."""
    for entry in entries[index + 1 :]:
        if entry.what in _STEPS:
            return False
        if entry.what not in _OF_THE_MAILBOX:
            return True
    return False


def _until_the_end(journal: Iterable[Entry]) -> list[Entry]:
    entries = list(journal)
    ends = [index for index, entry in enumerate(entries) if entry.what == END]
    return entries[: ends[0]] if ends else entries


def _call(verb: str, *, target: str = "simulation") -> Callable[[Entry], Step]:
    return lambda entry: Step(entry.time, target, verb, (entry.detail,))


def _stall(entry: Entry) -> Step:
    window = float(str(entry.detail).removeprefix("window "))
    return Step(entry.time, entry.who, "stall", (int(window) if window < math.inf else window,))


def _send(entry: Entry) -> Step:
    handler, verb, *messages = entry.detail
    return Step(entry.time, handler, verb, tuple(messages))


def _later(entry: Entry) -> Step:
    seconds, handler, verb, *args = entry.detail
    function = Verb(handler, verb) if handler else verb
    return Step(entry.time, "simulation", "later", (seconds, function, *args))


def _piece(entry: Entry, *, more: bool) -> Step:
    options = () if more else (("more", False),)
    return Step(entry.time, entry.who, "send", (entry.detail,), options)


def _request(entry: Entry) -> Step:
    """A request, by the shortest verb that makes it."""
    request: Request = entry.detail
    headers = dict(request.headers)
    last_id = headers.get("Last-Event-ID")
    options: dict[str, Any] = {}
    verb = request.method.lower()
    args: tuple[str, ...] = (request.target,)
    if request.is_websocket:
        verb = "websocket"
        options |= {"subprotocols": request.subprotocols} if request.subprotocols else {}
        options |= {"headers": headers} if headers else {}
    elif headers == event_stream_headers(None, last_id) and request.body == b"":
        verb = "sse"
        options = {} if last_id is None else {"last_event_id": last_id}
        options |= {} if request.method == "GET" else {"method": request.method}
    else:
        options |= {"headers": headers} if headers else {}
        options |= {"body": request.body} if request.body != b"" else {}
        has_own_verb = verb == "post" or (verb in ("get", "head") and "body" not in options)
        if not has_own_verb:
            verb, args = "request", (request.method, *args)
    return Step(entry.time, "simulation", verb, args, tuple(options.items()), entry.who)


_STEPS: Final[Mapping[str, Callable[[Entry], Step]]] = {
    "asks": _request,
    "advances": _call("advance"),
    "lags": _call("lag"),
    "shuts down": _call("shut_down"),
    "stalls": _stall,
    "reads": lambda e: Step(e.time, e.who, "read", (e.detail,)),
    "resumes": lambda e: Step(e.time, e.who, "resume"),
    "disconnects": lambda e: Step(e.time, e.who, "disconnect", (e.detail,)),
    "is stopped": lambda e: Step(e.time, e.who, "stop"),
    "is to crash": lambda e: Step(e.time, "simulation", "crash_next", (Named(e.who), e.detail)),
    "sends": lambda e: _send(e) if e.who == "test" else _piece(e, more=True),
    "sends data": lambda e: Step(e.time, e.who, "send", (e.detail,)),
    "bursts": lambda e: Step(e.time, e.who, "burst", tuple(e.detail)),
    "closes": lambda e: Step(e.time, e.who, "close", tuple(e.detail)),
    "sends last": lambda e: _piece(e, more=False),
    "later": _later,
}

# -- a run -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replay:
    """How it went this time.

    Args:
        journal: of this run.
        error: what it raised; a `LawBroken` when laws were checked and one was broken.
    """

    journal: tuple[Entry, ...]
    error: Exception | None = None

    @property
    def reasons(self) -> dict[str, TerminateReason]:
        """Why the handlers ended, by the names of their clients."""
        return reasons_of(self.journal)

    def difference(self, trace: Iterable[Entry]) -> str | None:
        """Where this run leaves a trace, in words; `None` when it is the same to the end."""
        now, then = list(self.journal), list(trace)
        for index in range(max(len(now), len(then))):
            was = _line(then[index]) if index < len(then) else "nothing more"
            is_ = _line(now[index]) if index < len(now) else "nothing more"
            if was != is_:
                return f"entry {index}: was {was}, is {is_}"
        return None


_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")


def _line(entry: Entry) -> str:
    line = f"t={entry.time!r} {entry.who} {entry.what} {entry.detail!r}"
    return _ADDRESS.sub("", line).removesuffix(" None")


def replay(trace: Iterable[Entry] | str, app: ASGIApp, **options: Any) -> Replay:
    """Do again what a test did.

    Args:
        trace: the journal of a run, or what `trace_to_json` made of it.
        app: the application.
        options: of the `Simulation`; the same ``seed`` and ``schedule`` as then give the same run.

    Returns:
        The new journal, to compare.

    Raises:
        ValueError: a message in the trace is known only as text.
    """
    entries = trace_from_json(trace) if isinstance(trace, str) else list(trace)
    steps = script_of(entries)
    for step in steps:
        _check(step)
    simulation = Simulation(app, **options)
    error: Exception | None = None
    try:
        with simulation:
            player = _Player(simulation, clients_of(entries))
            for step in steps:
                player.play(step)
    except Exception as raised:
        error = raised
    return Replay(tuple(simulation.journal), error)


def _check(step: Step) -> None:
    when = f"at t={step.time:g}"
    if step.verb == "later" and not isinstance(step.args[1], Verb):
        raise ValueError(
            f"{when} the test wanted {step.args[1]!r} to be called later, and only that test has it;"
            " traces keep verbs that send, such as sim.ref(poll).send_without_settling"
        )
    for value in step.args:
        if isinstance(value, Shown):
            raise ValueError(  # noqa: TRY004 - a fault of the trace, not of the call
                f"{when} {step.verb} of {step.target} was given {value!r}, which is known only as"
                " text; traces keep plain values, dataclasses, named tuples and enums of a module"
            )


class _Player:
    """Makes the calls of a script.

    Args:
        simulation: where.
        clients: of the handlers, by their names in the trace.
    """

    def __init__(self, simulation: Simulation, clients: Mapping[str, str]) -> None:
        self._simulation = simulation
        self._clients = clients
        self._exchanges: dict[str, Any] = {}

    def play(self, step: Step) -> None:
        """Make one call."""
        args = map(self._argument, step.args)
        verb = getattr(self._find(step.target), step.verb)
        with suppress(trio.WouldBlock):  # as in the test, which has seen to it
            result = verb(*args, **dict(step.options))
            if step.result:
                self._exchanges[step.result] = result

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Verb):
            return getattr(self._find(value.target), value.name)
        return self._exchange(value.name) if isinstance(value, Named) else value

    def _find(self, name: str) -> Any:
        if name == "simulation":
            return self._simulation
        exchange = self._exchange(name)
        return exchange if name in self._exchanges else self._simulation.ref(exchange)

    def _exchange(self, name: str) -> Any:
        client = self._clients.get(name, name)
        if client not in self._exchanges:
            raise LookupError(f"{name} of the trace has no client that asked for it")
        return self._exchanges[client]


def reasons_of(journal: Iterable[Entry]) -> dict[str, TerminateReason]:
    """Why the handlers of a journal ended, by the names of their clients."""
    entries = list(journal)
    clients = clients_of(entries)
    return {
        clients.get(entry.who, entry.who): entry.detail
        for entry in entries
        if entry.what == "terminate"
    }


# -- a test to paste -------------------------------------------------------------------------------


def to_test(
    journal: Iterable[Entry],
    *,
    app: str = "app",
    name: str = "test_replay",
    violation: Violation | None = None,
    **options: Any,
) -> str:
    """A test that does again what a journal tells of, and expects the same endings.

    Args:
        journal: of a whole run.
        app: the expression for the application, such as ``"make_app()"``; its import is yours.
        name: of the test.
        violation: the broken law: the test checks the laws, and fails in the same way.
        options: of the `Simulation`, such as ``seed`` and ``schedule``.

    Returns:
        Python source: imports and one function.
    """
    entries = list(journal)
    clients = clients_of(entries)
    source = _Source()
    simulation = source.name_of(Simulation, "trioloop.testing")
    options = {**options, "laws": True} if violation is not None else options
    given = "".join(f", {key}={source.write(value)}" for key, value in options.items())
    lines = [f"def {name}():"]
    if violation is not None:
        sentence = " ".join(violation.sentence.split())
        lines.append(f"    # Breaks law {violation.law}: {sentence}")
    lines.append(f"    with {simulation}({app}{given}) as sim:")
    steps = [f"        {source.write_step(step, clients)}" for step in script_of(entries)]
    lines += steps or ["        pass"]
    if violation is None:
        for client, reason in reasons_of(entries).items():
            lines.append(f"    assert {source.write_reason(client, reason)}")
    return "\n".join([*source.imports(), "", "", *lines, ""]).lstrip("\n")


class _Source:
    """Writes values as Python, and remembers what has to be imported for it."""

    def __init__(self) -> None:
        self._imports: dict[str, set[str]] = {}
        self._local: set[str] = set()
        self._modules: set[str] = set()
        self._unknown: list[str] = []
        self._lambdas: list[str] = []

    def imports(self) -> list[str]:
        """The import statements, and remarks about what cannot be imported or written."""
        return [
            *(f"import {module}" for module in sorted(self._modules)),
            *(
                f"from {module} import {', '.join(sorted(names))}"
                for module, names in sorted(self._imports.items())
            ),
            *(f"# unknown_{n} is {text}" for n, text in enumerate(self._unknown, start=1)),
            *(
                f"# {name} is local to a function: paste this beside it"
                for name in sorted(self._local)
            ),
            *(f"# {name} is the lambda: give it this name" for name in self._lambdas),
        ]

    def name_of(self, cls: type, module: str | None = None) -> str:
        """How a class is called in the source."""
        outside, local, name = cls.__qualname__.rpartition("<locals>.")
        if local or outside:
            self._local.add(name)
        elif cls.__module__ != "builtins":
            self._imports.setdefault(module or cls.__module__, set()).add(name.partition(".")[0])
        return name

    def name_of_lambda(self, name: str) -> str:
        """A name for a function that has none."""
        self._lambdas.append(name)
        return name

    def write_step(self, step: Step, clients: Mapping[str, str]) -> str:
        """The call that makes a step."""
        args = [self._write_argument(arg, clients) for arg in step.args]
        args += [f"{key}={self.write(value)}" for key, value in step.options]
        result = f"{_variable(step.result)} = " if step.result else ""
        return f"{result}{_target(step.target, clients)}.{step.verb}({', '.join(args)})"

    def _write_argument(self, value: Any, clients: Mapping[str, str]) -> str:
        if isinstance(value, Verb):
            return f"{_target(value.target, clients)}.{value.name}"
        if isinstance(value, Named):
            return _variable(clients.get(value.name, value.name))
        return self.write(value)

    def write_reason(self, client: str, reason: TerminateReason) -> str:
        """What is to be asserted of a terminate reason; exceptions are never equal."""
        variable = _variable(client)
        if isinstance(reason, (Crashed, Failed)):
            return f"repr({variable}.reason) == {repr(reason)!r}"
        return f"{variable}.reason == {self.write(reason)}"

    def write(self, value: Any) -> str:
        """An expression that makes an equal value."""
        for applies, write in _WRITERS:
            if applies(value):
                return write(self, value)
        return self.write_other(value)

    def write_other(self, value: Any) -> str:
        text, cls = repr(value), _kind(value)
        try:
            ast.parse(text, mode="eval")
        except SyntaxError:
            self._unknown.append(text)
            return f"unknown_{len(self._unknown)}"
        if text.startswith(f"{cls.__module__}."):
            self._modules.add(cls.__module__)
        elif text.startswith(f"{cls.__qualname__}("):
            self.name_of(cls)
        return text

    def write_float(self, value: float) -> str:
        if math.isfinite(value):
            return repr(value)
        self._modules.add("math")
        return f"{'-' if value < 0 else ''}math.{'nan' if math.isnan(value) else 'inf'}"

    def write_enum(self, value: enum.Enum) -> str:
        if not value.name or "|" in value.name:
            return f"{self.name_of(_kind(value))}({value.value!r})"
        return f"{self.name_of(_kind(value))}.{value.name}"

    def write_collection(self, value: Any) -> str:
        items = ", ".join(map(self.write, value))
        kind = _kind(value)
        if kind is tuple:
            comma = "," if sum(1 for _ in value) == 1 else ""
            return f"({items}{comma})"
        if kind is list:
            return f"[{items}]"
        if not items:
            return f"{kind.__name__}()"
        return f"{{{items}}}" if kind is set else f"frozenset({{{items}}})"

    def write_dict(self, value: Mapping[Any, Any]) -> str:
        items = (f"{self.write(key)}: {self.write(content)}" for key, content in value.items())
        return f"{{{', '.join(items)}}}"

    def write_record(self, value: Any) -> str:
        fields = (f"{key}={self.write(content)}" for key, content in _fields(value).items())
        return f"{self.name_of(_kind(value))}({', '.join(fields)})"

    def write_error(self, value: Any) -> str:
        return f"{self.name_of(_kind(value))}({', '.join(map(self.write, value.args))})"


def _target(name: str, clients: Mapping[str, str]) -> str:
    """Whose verb it is: the simulation's, a client's, or that of a handler's ref."""
    if name == "simulation":
        return "sim"
    variable = _variable(clients.get(name, name))
    return f"sim.ref({variable})" if name in clients else variable


def _variable(name: str) -> str:
    return name.replace(" ", "_")


# -- plain values ----------------------------------------------------------------------------------


def _kind(value: object) -> Any:
    return type(value)


def _is_record(value: Any) -> bool:
    """Whether a value is told by its fields: a dataclass or a named tuple."""
    return _is_record_type(_kind(value))


def _is_record_type(cls: Any) -> bool:
    is_named_tuple = tuple in cls.__mro__ and hasattr(cls, "_fields")
    return cls is not Shown and (is_named_tuple or dataclasses.is_dataclass(cls))


def _fields(value: Any) -> dict[str, Any]:
    """The arguments that make an equal value; those that have their default are left out."""
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        if field.init:
            content = getattr(value, field.name)
            made: Any = field.default_factory
            usual = field.default if made is dataclasses.MISSING else made()
            if not (type(content) is type(usual) and content == usual):
                found[field.name] = content
    return found


_WRITERS: Final[tuple[tuple[Callable[[Any], bool], Callable[[_Source, Any], str]], ...]] = (
    (lambda value: isinstance(value, enum.Enum), _Source.write_enum),
    (_is_record, _Source.write_record),
    (lambda value: type(value) is float, _Source.write_float),
    (lambda value: type(value) is dict, _Source.write_dict),
    (lambda value: type(value) in (list, tuple, set, frozenset), _Source.write_collection),
    (lambda value: isinstance(value, BaseException), _Source.write_error),
)


@dataclass(frozen=True, slots=True, repr=False)
class Shown:
    """A value of a trace that is known only by its repr.

    Args:
        text: the repr.
    """

    text: str

    def __repr__(self) -> str:
        return self.text


def trace_to_json(journal: Iterable[Entry]) -> str:
    """A journal as JSON, one entry a line.

    Plain values, collections, dataclasses, named tuples and enums come back from it as they were;
    anything else as the text of its repr.
    """
    lines = (json.dumps([e.time, e.who, e.what, _pack(e.detail)]) for e in journal)
    return "[" + ",\n ".join(lines) + "]\n"


def trace_from_json(text: str) -> list[Entry]:
    """What `trace_to_json` was given.

    Nothing is imported: a type comes back as itself when its module is loaded, else as its repr.

    Raises:
        ValueError: it is no trace.
    """
    try:
        return [
            Entry(float(time), str(who), str(what), _unpack(detail))
            for time, who, what, detail in json.loads(text)
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is no trace: {error}") from error


def _pack(value: Any) -> Any:
    kind = _kind(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is list:
        return [_pack(item) for item in value]
    if kind in _COLLECTIONS.values():
        items = sorted(value, key=repr) if kind in (set, frozenset) else value
        return {kind.__name__: [_pack(item) for item in items]}
    if kind is dict:
        return {"dict": [[_pack(key), _pack(content)] for key, content in value.items()]}
    if kind is bytes:
        return {"bytes": value.decode("latin-1")}
    if kind is float:
        return {"float": repr(value)}
    return _pack_object(value)


def _pack_object(value: Any) -> Any:
    kind = _kind(value)
    path = f"{kind.__module__}:{kind.__qualname__}"
    if _find(path) is kind:
        if isinstance(value, enum.Enum):
            return {"enum": path, "value": _pack(value.value), "repr": repr(value)}
        if _is_record(value):
            fields = {name: _pack(content) for name, content in _fields(value).items()}
            return {"type": path, "fields": fields, "repr": repr(value)}
    return {"repr": repr(value)}


_COLLECTIONS: Final[Mapping[str, Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def _unpack(value: Any) -> Any:
    kind = _kind(value)
    if kind is list:
        return [_unpack(item) for item in value]
    if kind is not dict:
        return value
    if "repr" in value:
        return _unpack_object(value)
    ((name, content),) = value.items()
    return _unpack_collection(name, content)


def _unpack_collection(kind: str, content: Any) -> Any:
    match kind:
        case "bytes":
            return content.encode("latin-1")
        case "float":
            return float(content)
        case "dict":
            return {_unpack(key): _unpack(item) for key, item in content}
        case _:
            return _COLLECTIONS[kind](map(_unpack, content))


def _unpack_object(packed: Mapping[str, Any]) -> Any:
    found = _find(packed.get("type", packed.get("enum", ":")))
    if isinstance(found, enum.EnumType) and "enum" in packed:
        return found(_unpack(packed["value"]))
    if _is_class(found) and _is_record_type(found) and "type" in packed:
        return found(**{name: _unpack(content) for name, content in packed["fields"].items()})
    return Shown(str(packed["repr"]))


def _is_class(value: object) -> bool:
    return isinstance(value, type)


def _find(path: str) -> Any:
    """A class by its module and name, if that module is loaded."""
    module, _, name = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
