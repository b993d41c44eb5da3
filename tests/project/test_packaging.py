"""What is built, what it is called, and what lies at the top of the project."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import pytest

import trioloop

ROOT = Path(__file__).parents[2]
REQUIRED = {"pyproject.toml", "README.md", "trioloop", "tests", "docs", "noxfile.py"}
OPTIONAL = {"LICENSE", "CHANGELOG.md", "examples", "bench"}
PLUGIN = "trioloop/testing/_plugin.py"  # in the wheel it is pytest_trioloop.py

BUILD = "import sys, hatchling.build as backend; print(backend.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def in_wheel(tmp_path_factory):
    """The names of the files in a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    built = [sys.executable, "-Pc", BUILD, str(folder)]
    result = subprocess.run(built, cwd=ROOT, capture_output=True, text=True, check=True)
    return zipfile.ZipFile(folder / result.stdout.split()[-1]).namelist()


def test_the_wheel_has_every_module(in_wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("trioloop/**/*.py")}
    assert modules - set(in_wheel) == {PLUGIN}


def test_the_wheel_says_that_it_is_typed(in_wheel):
    assert "trioloop/py.typed" in in_wheel


def test_the_wheel_has_nothing_beside_the_package_and_its_pytest_plugin(in_wheel):
    assert {name.partition("/")[0] for name in in_wheel} == {
        "pytest_trioloop.py",
        "trioloop",
        f"trioloop-{trioloop.__version__}.dist-info",
    }


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?(\d[^\s\]]*)", changelog, re.MULTILINE)
    assert newest is not None
    assert {version("trioloop"), trioloop.__version__, newest[1]} == {project["version"]}


@pytest.mark.skipif("TRIOLOOP_INSTALLED" not in os.environ, reason="only nox installs the wheel")
def test_the_installed_package_is_what_is_tested():
    assert not Path(trioloop.__file__).is_relative_to(ROOT / "trioloop")


def test_the_top_of_the_project_has_only_what_belongs_there():
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    made = {name for name in names if is_ignored(name)}
    assert REQUIRED - names == set()
    assert names - made - REQUIRED - OPTIONAL == set()


def is_ignored(name: str) -> bool:
    """Whether .gitignore says that sessions or tools make it."""
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return any(fnmatch(name, pattern.rstrip("/")) for pattern in patterns)
