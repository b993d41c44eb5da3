"""The examples: each can be imported, and says how to run it."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("examples/*.py"))]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_imported(example, monkeypatch):
    name = example.replace("/", ".").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, ROOT / example)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    spec.loader.exec_module(module)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_says_the_command_that_runs_it(example):
    doc = ast.get_docstring(ast.parse((ROOT / example).read_text(encoding="utf-8"))) or ""
    stem = re.escape(Path(example).stem)
    command = rf"^ *(\$ )?(python|trioloop|hypercorn)\b.*\b{stem}\b"
    assert re.search(command, doc, re.MULTILINE), f"no line like `$ trioloop serve …` in:\n{doc}"
