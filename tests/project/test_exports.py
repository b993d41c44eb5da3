"""What ``import trioloop`` gives is what it promises, and each name is documented once."""

import __future__

import ast
import inspect
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import trioloop

ROOT = Path(__file__).parents[2]
PROMISED = [name for name in trioloop.__all__ if not name.startswith("__")]
DIRECTIVE = re.compile(
    r"^\s*\.\. auto(?:class|data|exception|function|protocol)::\s+trioloop\.([\w.]+)", re.MULTILINE
)
PYTHONS_OWN = (ModuleType, __future__._Feature)  # submodules; `from __future__ import annotations`


def is_class_or_function(name: str) -> bool:
    value = getattr(trioloop, name)
    return inspect.isclass(value) or inspect.isroutine(value)


CLASSES_AND_FUNCTIONS = [name for name in PROMISED if is_class_or_function(name)]


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


def test_all_is_sorted_and_has_each_name_once():
    assert list(trioloop.__all__) == sorted(set(trioloop.__all__))


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_name_is_there(name):
    assert hasattr(trioloop, name)
    assert name in dir(trioloop)


@pytest.mark.parametrize("name", CLASSES_AND_FUNCTIONS)
def test_a_public_name_lives_in_the_facade(name):
    value = getattr(trioloop, name)
    assert (value.__module__, value.__name__) == ("trioloop", name)


@pytest.mark.parametrize("name", PROMISED)
def test_a_public_name_has_a_docstring(name):
    value = getattr(trioloop, name)
    if not is_class_or_function(name):
        assert docstring_beneath_assignment(name), f"no docstring beneath {name} = ..."
        return
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert own, f"{name} has no docstring of its own"
    assert not own.startswith(f"{name}("), f"the docstring of {name} is only the one of @dataclass"


def test_nothing_is_public_that_is_not_promised():
    public = {
        name
        for name, value in vars(trioloop).items()
        if not name.startswith("_")
        if name != "TYPE_CHECKING"
        if not isinstance(value, PYTHONS_OWN)
    }
    assert public <= set(trioloop.__all__)


def test_the_reference_describes_each_public_name_exactly_once():
    described = documented_names()
    assert sorted(set(PROMISED) - set(described)) == [], "names without an autodoc directive"
    assert [name for name, times in described.items() if times > 1] == []


def test_the_reference_describes_nothing_else():
    unknown = [name for name in documented_names() if name.partition(".")[0] not in PROMISED]
    assert unknown == []
