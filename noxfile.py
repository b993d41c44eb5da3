"""The checks of the project. ``nox`` alone runs what a change must pass.

The laws of this file:

* Tests run against the built and installed package, never against the source tree.
* Nothing is written outside the checkout, except what pip and the tools keep in their caches.
* An interpreter that is not there is skipped with a sentence, or is an error where ``CI`` is set.
"""

import os
import re
import shutil
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
SUPPORTED = ("3.11", "3.12", "3.13")

INSTALLED = {"PYTHONSAFEPATH": "1", "TRIOLOOP_INSTALLED": "1"}
"""The environment of tests: the working directory is not on ``sys.path``, so the wheel is seen."""

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", f"tests-{CURRENT}", "docs", "build"]


def find_more_interpreters() -> None:
    """Let nox find the interpreters behind pyenv's shims, which answer only when switched on."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [path for path in pyenv.glob("versions/3.*/bin") if version_of(path)]
    newest_first = sorted(found, key=version_of, reverse=True)
    own = Path(sys.executable).parent
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, [own, *newest_first])])


def version_of(bin_folder: Path) -> tuple[int, ...]:
    """(3, 12, 1) for ``…/3.12.1/bin``; empty for special builds and virtual environments."""
    name = bin_folder.parent.name
    return tuple(map(int, name.split("."))) if re.fullmatch(r"3\.\d+\.\d+", name) else ()


find_more_interpreters()


@nox.session
def lint(session: nox.Session) -> None:
    """Rules and format."""
    session.install(*extra("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy strict, Pyright strict, and whether a user of the package sees a type everywhere."""
    session.install(".[test,types]")
    session.run("mypy", *existing("trioloop", "tests/typing", "examples"))
    session.run("pyright", "--project", "pyproject.toml")
    session.run("pyright", "--verifytypes", "trioloop", "--ignoreexternal")


@nox.session(python=list(dict.fromkeys([*SUPPORTED, CURRENT])))
def tests(session: nox.Session) -> None:
    """The tests; with coverage for this interpreter's full run. Arguments go to pytest."""
    session.install(".[test]")
    run_tests(session, with_coverage=session.python == CURRENT and not session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """The tests, with the oldest releases that ``dependencies`` allows."""
    dependencies = project()["dependencies"]
    session.install(".[test]", *(re.sub(r">=([^,]+).*", r"==\1", item) for item in dependencies))
    run_tests(session, with_coverage=False)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, where a warning is an error and every reference leads somewhere."""
    session.install(".[docs]")
    shutil.rmtree(ROOT / "docs" / "_build", ignore_errors=True)
    session.run("sphinx-build", "-nW", "--keep-going", "-q", "docs", "docs/_build/html")
    session.log("docs/_build/html/index.html")


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and sdist in ``dist``: what is in them, and that the wheel works where it is alone."""
    session.install("build", *project(of="build-system")["requires"])
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", silent=True)
    (wheel,), (sdist,) = (list(ROOT.glob(f"dist/*.{kind}")) for kind in ("whl", "tar.gz"))
    check_contents(session, wheel, sdist)
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(str(wheel))
    session.run("python", "-Pc", "import trioloop; print(trioloop.__version__)")
    session.run("trioloop", "--help", silent=True)


@nox.session
def matrix(session: nox.Session) -> None:
    """Print which terminate reason is reached in which phase of which transport."""
    session.install(".[test]")
    session.run("python", "tests/support/endings.py", env=INSTALLED)


@nox.session
def determinism(session: nox.Session) -> None:
    """One scenario 1,000 times, in 50 processes with different hash seeds: one transcript."""
    session.install(".[test]")
    prove(session, "tests/testing/test_determinism.py")


@nox.session
def faithful(session: nox.Session) -> None:
    """20,000 generated scenarios on the fake and on Hypercorn in memory, 2,000 on each worker."""
    session.install(".[test]")
    prove(session, "tests/testing/test_faithful.py")


@nox.session
def traps(session: nox.Session) -> None:
    """The kit under pytest-trio, plain pytest, pytest-xdist, pytest-randomly and strict warnings."""
    session.install(".[test]", "pytest-randomly")
    prove(session, "-p", "no:randomly", "tests/testing/test_traps.py")


@nox.session
def power(session: nox.Session) -> None:
    """How many examples the state machine needs to find each planted bug, and what it prints then.

    Writes the table of the docs. Arguments are words of the bugs' names, to look at a few.
    """
    session.install(".[test]")
    if session.posargs:
        session.run("python", "tests/support/power.py", *session.posargs, env=INSTALLED)
        return
    session.run("python", "tests/support/power.py", "--write", env=INSTALLED)
    prove(session, "tests/testing/test_power.py")


@nox.session
def fuzz(session: nox.Session) -> None:
    """200,000 mutated inputs with 50 streams beside them; parsing against h11 and wsproto."""
    session.install(".[test]")
    files = ("tests/server/test_fuzz.py", "tests/server/test_formats.py")
    session.run("pytest", *files, env={"TRIOLOOP_LONG": "1"})


@nox.session
def soak(session: nox.Session) -> None:
    """10,000 idle streams and 200 active ones for five minutes: is the memory flat?"""
    session.install(".")
    session.run("python", "bench/soak.py", *session.posargs)


@nox.session
def servers(session: nox.Session) -> None:
    """The server among its peers, and ``docs/performance.md`` written anew."""
    session.install(".", *extra("bench"))
    write = () if session.posargs else ("--write", "docs/performance.md")
    session.run("python", "bench/servers.py", *write, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every program in ``bench``, one after the other. Arguments go to each, such as ``--quick``."""
    files = sorted(ROOT.glob("bench/*.py"))
    programs = [path for path in files if "--quick" in path.read_text(encoding="utf-8")]
    if not programs:
        session.skip("There is nothing in bench/.")
    session.install(".[test]", *extra("bench"))
    for program in programs:
        session.run("python", str(program), *session.posargs)


def run_tests(session: nox.Session, *, with_coverage: bool) -> None:
    """Pytest, on the installed wheel."""
    side_by_side = ("--numprocesses", "logical")
    if not with_coverage:
        session.run("pytest", *side_by_side, *session.posargs, env=INSTALLED)
        return
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *side_by_side, env=INSTALLED)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


def prove(session: nox.Session, *arguments: str) -> None:
    """The long form of some tests: one of them may take an hour."""
    env = INSTALLED | {"TRIOLOOP_LONG": "1"}
    session.run("pytest", "-o", "faulthandler_timeout=3600", *arguments, *session.posargs, env=env)


def check_contents(session: nox.Session, wheel: Path, sdist: Path) -> None:
    """Stop when something is missing in the archives, or is in the wheel by accident."""
    package = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("trioloop/**/*.py")}
    package.add("trioloop/py.typed")
    moved = project(of="tool")["hatch"]["build"]["targets"]["wheel"]["force-include"]
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    around = {"pyproject.toml", "noxfile.py", "README.md", "LICENSE", "docs/conf.py"}
    wrong_in_wheel = {moved.get(name, name) for name in package} ^ in_wheel
    missing_in_sdist = (package | around) - in_sdist
    if wrong_in_wheel or missing_in_sdist:
        session.error(
            f"Wrong in the wheel: {wrong_in_wheel}; missing in the sdist: {missing_in_sdist}"
        )


def project(*, of: str = "project") -> dict:
    """One table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[of]


def extra(name: str) -> list[str]:
    """What an extra asks for, to be installed without the package."""
    return project()["optional-dependencies"][name]


def existing(*paths: str) -> list[str]:
    """Those of the paths that are there."""
    return [path for path in paths if (ROOT / path).exists()]
