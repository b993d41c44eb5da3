"""Who may import whom: one table, and nothing else is allowed.

The rules of the check:

* Every import counts: inside functions and under ``TYPE_CHECKING`` too.
* A part may import itself, the standard library and ``typing_extensions``; the rest is in the table.
* ``from trioloop import App`` is an import of the facade, ``from trioloop import _wire`` one of
  ``_wire``.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERYTHING = "everything"
FACADE = "trioloop"
SERVER = {"_wire", "hypercorn", "h2", "websockets", "trio"}

MAY_IMPORT = {
    "_core": {"trio"},
    "_wire": set(),
    "_web": {
        "_core",
        "_wire",
        "starlette",
        "trio",
    },  # docs/design.md: the link waits, in Trio's words
    "pubsub": {"_core", "_wire"},
    "pubsub.redis": {"_core", "_wire", "pubsub", "redis"},
    "metrics": {"_core"},
    "inspector": {"_core", "_wire", "_web"},
    "server": SERVER,
    "_serve": SERVER | {"server"},
    "_startup": SERVER | {"_serve"},
    "_process": SERVER | {"server", "_serve", "_startup"},
    "__main__": SERVER | {"server", "_process", "_startup", "_demo"},
    "_demo": {FACADE},
    "testing": EVERYTHING,
    FACADE: {"_core", "_wire", "_web", "pubsub", "metrics", "inspector"},
}
MAY_IMPORT_ON_USE = {
    FACADE: {"_serve", "server", "pubsub.redis"}
}  # inside functions, and for types
NEVER = {
    "_core": {"http"},  # it has never heard of HTTP
    "_wire": {"asyncio", "sched", "select", "socket", "threading", "time"},  # no I/O and no clock
}


@dataclass(frozen=True)
class Import:
    """One imported name, as it stands in the source."""

    target: str
    line: int
    at_import_time: bool


@dataclass(frozen=True)
class Module:
    """One module's name and source."""

    name: str
    path: str
    source: str

    @property
    def package(self) -> str:
        is_package = self.path.endswith("__init__.py")
        return self.name if is_package else self.name.rpartition(".")[0]


def read_package() -> list[Module]:
    modules = []
    for path in sorted(ROOT.glob("trioloop/**/*.py")):
        file = path.relative_to(ROOT)
        name = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        modules.append(Module(name, file.as_posix(), path.read_text(encoding="utf-8")))
    return modules


def imports_of(module: Module, known: set[str]) -> Iterator[Import]:
    yield from _imports_in(ast.parse(module.source), module, known, at_import_time=True)


def _imports_in(node, module, known, *, at_import_time):
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        later = later or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        if isinstance(child, ast.Import | ast.ImportFrom):
            for target in _targets(child, module, known):
                yield Import(target, child.lineno, at_import_time)
        now = at_import_time and not later
        yield from _imports_in(child, module, known, at_import_time=now)


def _targets(node, module, known):
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        base = node.module or ""
        if node.level:
            parents = module.package.split(".")[: 1 - node.level or None]
            base = ".".join([*parents, base]) if base else ".".join(parents)
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            yield submodule if submodule in known else base


def part_of(name: str) -> str:
    """The row of the table to which a module belongs; another project's top-level name."""
    if name == "trioloop" or not name.startswith("trioloop."):
        return name.partition(".")[0]
    inside = name.removeprefix("trioloop.")
    parts = inside.split(".")
    prefixes = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in MAY_IMPORT), inside)


def problems_of(module: Module, known: set[str]) -> list[str]:
    part = part_of(module.name)
    if part not in MAY_IMPORT:
        return [f"{module.path}:1: no row of the table in {Path(__file__).name} covers this module"]
    return [
        f"{module.path}:{found.line}: {part} must not import {found.target}"
        for found in imports_of(module, known)
        if not _is_allowed(part, found)
    ]


def _is_allowed(part: str, found: Import) -> bool:
    target = part_of(found.target)
    if target in sys.stdlib_module_names:
        return target not in NEVER.get(part, ())
    if target in (part, "typing_extensions") or MAY_IMPORT[part] == EVERYTHING:
        return True
    on_use = () if found.at_import_time else MAY_IMPORT_ON_USE.get(part, ())
    return target in MAY_IMPORT[part] or target in on_use


def find_cycle(modules: list[Module]) -> list[str] | None:
    """Modules that import each other in a circle while they are being imported."""
    known = {module.name for module in modules}
    graph = {
        module.name: {
            found.target
            for found in imports_of(module, known)
            if found.at_import_time and found.target in known - {module.name}
        }
        for module in modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


MODULES = read_package()
KNOWN = {module.name for module in MODULES}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.path)
def test_a_module_imports_only_what_the_table_allows(module):
    assert not (problems := problems_of(module, KNOWN)), "\n".join(problems)


def test_modules_do_not_import_each_other_in_a_circle():
    assert (cycle := find_cycle(MODULES)) is None, f"import cycle: {' -> '.join(cycle)}"


WIRE = [module for module in MODULES if part_of(module.name) == "_wire"]


@pytest.mark.parametrize("module", WIRE, ids=lambda module: module.path)
def test_the_formats_wait_for_nothing(module):
    lines = [
        node.lineno
        for node in ast.walk(ast.parse(module.source))
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith | ast.AsyncFunctionDef)
    ]
    assert not lines, f"{module.path}:{lines[0]}: _wire must not wait"


WITHOUT_IO = ("_head", "_body", "_response", "_frames", "_handshake")
PURE = [module for module in MODULES if module.name.removeprefix("trioloop.server.") in WITHOUT_IO]


@pytest.mark.parametrize("module", PURE, ids=lambda module: module.path)
def test_the_formats_of_the_server_know_no_socket_and_no_clock(module):
    targets = {found.target.partition(".")[0] for found in imports_of(module, KNOWN)}
    assert targets & {"trio", "socket", "select", "ssl", "time"} == set()


def test_the_formats_of_the_server_are_all_there():
    assert len(PURE) == len(WITHOUT_IO)


# ── The check itself ─────────────────────────────────────────────────────────────────────────────


def planted(name: str, source: str) -> Module:
    return Module(f"trioloop.{name}", f"trioloop/{name.replace('.', '/')}.py", source)


@pytest.mark.parametrize(
    "name, source, target",
    [
        ("_wire._x", "import trio", "trio"),
        ("_wire._x", "def f():\n    import trio.lowlevel", "trio.lowlevel"),
        ("_wire._x", "if TYPE_CHECKING:\n    from .._core import Stop", "trioloop._core"),
        ("_wire._x", "import time", "time"),
        ("_core._x", "from http import HTTPStatus", "http"),
        ("_core._x", "from ..testing import Simulation", "trioloop.testing"),
        ("_core._x", "from trioloop import App", "trioloop"),
        ("_web._x", "from .. import _serve", "trioloop._serve"),
        ("_serve", "from ._web import App", "trioloop._web"),
        ("_serve", "import uvicorn", "uvicorn"),
        ("pubsub._memory", "from . import redis", "trioloop.pubsub.redis"),
    ],
)
def test_the_check_finds_a_planted_edge(name, source, target):
    module = planted(name, source)
    known = {"trioloop._serve", "trioloop.pubsub.redis", module.name}
    line = source.count("\n") + 1
    part = part_of(module.name)
    assert problems_of(module, known) == [f"{module.path}:{line}: {part} must not import {target}"]


@pytest.mark.parametrize(
    "name, source",
    [
        ("_core._x", "import trio, math\nfrom typing_extensions import TypeVar\nfrom . import _y"),
        ("_web._x", "from .._core import Stop\nfrom starlette.requests import Request"),
        ("testing._x", "import hypothesis\nfrom .. import _web"),
    ],
)
def test_the_check_accepts_what_the_table_allows(name, source):
    assert problems_of(planted(name, source), {"trioloop._web"}) == []


def test_the_facade_may_import_the_server_only_on_use():
    facade = Module("trioloop", "trioloop/__init__.py", "def f():\n    from ._serve import serve")
    too_early = Module("trioloop", "trioloop/__init__.py", "from ._serve import serve")
    assert problems_of(facade, set()) == []
    assert problems_of(too_early, set()) == [
        "trioloop/__init__.py:1: trioloop must not import trioloop._serve"
    ]


def test_a_module_without_a_row_is_a_problem():
    (problem,) = problems_of(planted("_surprise", ""), set())
    assert problem.startswith("trioloop/_surprise.py:1: no row of the table")


def test_the_check_finds_a_planted_cycle():
    a = planted("_core._a", "from ._b import x")
    b = planted("_core._b", "from . import _a")
    for_types = planted("_core._b", "if TYPE_CHECKING:\n    from ._a import y")
    assert set(find_cycle([a, b]) or ()) == {"trioloop._core._a", "trioloop._core._b"}
    assert find_cycle([a, for_types]) is None
