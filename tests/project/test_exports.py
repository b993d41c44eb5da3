"""What ``import trioloop`` gives is what it promises, and each name is documented once."""

import __future__

import ast
import inspect
import re
import subprocess
import sys
import typing
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from starlette.requests import Request

import trioloop
import trioloop.testing

ROOT = Path(__file__).parents[2]
FACADES = [trioloop, trioloop.testing]
PROMISED = [f"{facade.__name__}.{name}" for facade in FACADES for name in facade.__all__]
DIRECTIVE = re.compile(
    r"^\s*\.\. auto(?:class|data|exception|function|protocol)::\s+(trioloop\.[\w.]+)", re.MULTILINE
)
PYTHONS_OWN = (ModuleType, __future__._Feature)  # submodules; `from __future__ import annotations`


def value_of(promised: str) -> typing.Any:
    facade, _, name = promised.rpartition(".")
    return getattr(sys.modules[facade], name)


def is_class_or_function(promised: str) -> bool:
    value = value_of(promised)
    return inspect.isclass(value) or inspect.isroutine(value)


CLASSES_AND_FUNCTIONS = [name for name in PROMISED if is_class_or_function(name)]
CLASSES = [name for name in PROMISED if inspect.isclass(value_of(name))]


def docstring_beneath_assignment(name: str) -> str | None:
    """The string beneath ``name = …``, which is where an alias or a constant is described."""
    for path in ROOT.glob("trioloop/**/*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, following in pairwise(body):
            if name in _assigned_names(statement) and isinstance(following, ast.Expr):
                return ast.literal_eval(following.value)
    return None


def _assigned_names(statement: ast.stmt) -> set[str]:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return {target.id for target in targets if isinstance(target, ast.Name)}


def documented_names() -> Counter[str]:
    pages = (ROOT / "docs" / "reference").glob("**/*.md")
    return Counter(
        name for page in pages for name in DIRECTIVE.findall(page.read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize("facade", FACADES, ids=lambda facade: facade.__name__)
def test_all_is_sorted_and_has_each_name_once(facade):
    assert list(facade.__all__) == sorted(set(facade.__all__))


@pytest.mark.parametrize("promised", PROMISED)
def test_a_promised_name_is_there(promised):
    facade, _, name = promised.rpartition(".")
    assert hasattr(sys.modules[facade], name)
    assert name in dir(sys.modules[facade])


@pytest.mark.parametrize("promised", CLASSES_AND_FUNCTIONS)
def test_a_public_name_lives_in_the_facade(promised):
    value = value_of(promised)
    assert f"{value.__module__}.{value.__name__}" == promised


@pytest.mark.parametrize("promised", PROMISED)
def test_a_public_name_has_a_docstring(promised):
    value = value_of(promised)
    name = promised.rpartition(".")[2]
    if not is_class_or_function(promised):
        assert docstring_beneath_assignment(name), f"no docstring beneath {name} = ..."
        return
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert own, f"{name} has no docstring of its own"
    assert not own.startswith(f"{name}("), f"the docstring of {name} is only the one of @dataclass"


@pytest.mark.parametrize("facade", FACADES, ids=lambda facade: facade.__name__)
def test_nothing_is_public_that_is_not_promised(facade):
    public = {
        name
        for name, value in vars(facade).items()
        if not name.startswith("_")
        if name != "TYPE_CHECKING"
        if not isinstance(value, PYTHONS_OWN)
    }
    assert public <= set(facade.__all__)


# Hypothesis' own base class, from which HandlerMachine derives, has annotations that cannot.
OURS = [promised for promised in CLASSES if not promised.endswith(".HandlerMachine")]


@pytest.mark.parametrize("promised", OURS)
def test_the_annotations_of_a_public_class_can_be_evaluated(promised):
    typing.get_type_hints(value_of(promised))


def test_the_annotations_of_a_users_handler_can_be_evaluated():
    class Chat(trioloop.LoopHandler[str]):
        room: "str | None"

    hints = typing.get_type_hints(Chat)
    assert hints["room"] == str | None
    assert hints["request"] is Request
    assert hints["hub"] is trioloop.Hub
    assert typing.get_origin(hints["ref"]) is trioloop.HandlerRef


def test_the_test_kit_imports_no_test_framework_before_it_is_asked_for():
    look = "import sys, trioloop.testing; print(*{'hypothesis', 'pytest'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


@pytest.mark.parametrize("name", ["HandlerMachine", "Reached", "check_handler"])
def test_what_needs_hypothesis_names_the_extra_where_there_is_none(name):
    code = f"import sys; sys.modules['hypothesis'] = None; from trioloop.testing import {name}"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {name} needs Hypothesis: pip install 'trioloop[testing]'"
    )


def test_the_reference_describes_each_public_name_exactly_once():
    described = documented_names()
    assert sorted(set(PROMISED) - set(described)) == [], "names without an autodoc directive"
    assert [name for name, times in described.items() if times > 1] == []


PLUMBING = {
    "Simulation": {"note_stop", "why_it_runs"},
    "SimulatedRef": {"name"},
    "VirtualClock": {"start_clock", "deadline_to_sleep_time"},  # for Trio
    "Schedule": {"shuffle", "random", "uniform", "arrange"},  # for Trio, and for the hub
    "FakeConnection": {"begin", "cancel", "feed_body", "make_room", "read", "run"},
    "HandlerMachine": {"message_strategy", "burst_strategy", "is_websocket", "teardown"},
}
"""Public members of the kit's classes that are for the kit itself."""

MEMBERS = re.compile(r":: trioloop\.testing\.(\w+).*\n +:members: (.*)")


@pytest.mark.parametrize("name", trioloop.testing.__all__)
def test_the_reference_of_the_kit_describes_each_verb(name):
    page = (ROOT / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
    described = {member for _, members in MEMBERS.findall(page) for member in members.split(", ")}
    kind = getattr(trioloop.testing, name)
    bases = [
        base for base in getattr(kind, "__mro__", ()) if base.__module__.startswith("trioloop")
    ]
    verbs = {
        verb
        for base in bases
        for verb, value in vars(base).items()
        if inspect.isroutine(value) or isinstance(value, property)
        if not verb.startswith("_")
    }
    plumbing = set().union(*(PLUMBING.get(base.__name__, set()) for base in bases))
    told = inspect.cleandoc(kind.__doc__ or "")  # which Python 3.13 has done by itself
    attributes = {verb for verb in verbs if f"\n    {verb}: " in told}
    assert verbs - described - plumbing - attributes == set()


def test_the_reference_describes_nothing_else():
    assert [name for name in documented_names() if name not in PROMISED] == []
