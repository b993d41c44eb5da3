"""How many examples the state machines need to find each planted bug, and what they print then.

    python tests/support/power.py                 # the table
    python tests/support/power.py --write         # ... and into docs/_power_table.md
    python tests/support/power.py --snapshots     # what is printed, into tests/testing/snapshots

Each takes words of the bugs' names, to look at a few. It takes the installed package; ``nox -s
power`` runs it.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.mutants import MUTANTS, Mutant

from trioloop.testing._laws import LawBroken, Violation
from trioloop.testing._machine import HandlerMachine

ROOT: Final = Path(__file__).resolve().parents[2]
TABLE: Final = ROOT / "docs" / "_power_table.md"
SNAPSHOTS: Final = ROOT / "tests" / "testing" / "snapshots"

LIMIT: Final = 2000
"""Examples within which each bug must be found."""
QUICK: Final = 100
"""Examples within which `MANY` of them must be found."""
MANY: Final = 10
SEEDS: Final = 8
STEPS: Final = 50


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
        examples: how many were tried, the failing one included; infinite when none failed.
        violation: the broken law.
        error: what was raised.
    """

    examples: float
    violation: Violation | None = None
    error: BaseException | None = None

    @property
    def printed(self) -> str:
        """What Python prints of it, without the traceback."""
        assert self.error is not None
        kind = type(self.error)
        notes: Sequence[str] = getattr(self.error, "__notes__", ())
        lines = [f"{kind.__module__}.{kind.__qualname__}: {self.error}", *notes, ""]
        return "\n".join(line.rstrip() for line in "\n".join(lines).split("\n"))


def search(
    machine: type[HandlerMachine], *, at_most: int, seeded: int, shrink: bool = False
) -> Found:
    """Run a machine until it fails.

    Args:
        machine: the class.
        at_most: examples.
        seeded: the seed of Hypothesis's random source.
        shrink: whether to make the failing example small.
    """
    examples = 0
    failed: list[int] = []

    def make() -> HandlerMachine:
        nonlocal examples
        made, examples = machine(), examples + 1
        end = made.teardown

        def teardown() -> None:
            try:
                end()
            finally:
                if isinstance(made.failure, Exception):
                    failed.append(examples)

        made.teardown = teardown
        return made

    options = settings(
        max_examples=at_most,
        stateful_step_count=STEPS,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        run_state_machine_as_test(seed(seeded)(make), settings=options)
    except LawBroken as broken:
        return Found(failed[0], broken.violation, broken)
    except Exception as error:
        return Found(failed[0] if failed else math.inf, None, error)
    return Found(math.inf)


def find(mutant: Mutant, *, at_most: int = LIMIT, seeded: int = 0, shrink: bool = False) -> Found:
    """Search for a planted bug."""
    with mutant.planted():
        return search(mutant.machine, at_most=at_most, seeded=seeded, shrink=shrink)


def snapshot_of(mutant: Mutant) -> Path:
    """Where the printed failure of a bug is kept."""
    return SNAPSHOTS / f"{mutant.slug}.txt"


# -- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A line of the table.

    Args:
        name: what is wrong.
        laws: that were told as broken.
        examples: of each seed, fewest first.
        strays: what else was raised.
    """

    name: str
    laws: tuple[int, ...]
    examples: tuple[float, ...]
    strays: tuple[str, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.examples)

    def __str__(self) -> str:
        laws = ", ".join(map(str, self.laws))
        span = f"{self.examples[0]:g} to {self.examples[-1]:g}"
        return f"| {self.name} | {laws} | {self.median:g} | {span} |"


def job(work: tuple[int, int]) -> tuple[int, float, int, str]:
    """One search, in a process of its own."""
    logging.getLogger("trioloop").setLevel(logging.CRITICAL + 1)
    place, seeded = work
    found = find(MUTANTS[place], seeded=seeded)
    law = found.violation.law if found.violation is not None else 0
    return place, found.examples, law, "" if law else repr(found.error)


def measure(places: Sequence[int], *, seeds: int, processes: int) -> Iterable[Measured]:
    """Search for the bugs of these numbers, from so many seeds each."""
    results: dict[int, list[Any]] = {place: [] for place in places}
    with ProcessPoolExecutor(processes) as pool:
        work = [(place, seeded) for place in places for seeded in range(seeds)]
        for place, *result in pool.map(job, work):
            results[place].append(result)
            if len(results[place]) == seeds:
                examples = tuple(sorted(found for found, _, _ in results[place]))
                laws = tuple(sorted({law for _, law, _ in results[place] if law}))
                strays = tuple({error for _, _, error in results[place] if error})
                yield Measured(MUTANTS[place].name, laws, examples, strays)


HEAD: Final = """\
| planted bug | broken law | examples, median | of {seeds} seeds |
|---|---|---|---|
"""
FOOT: Final = """
Measured by `nox -s power` with Hypothesis {hypothesis} and Trio {trio}, at most {steps} steps an example.
"""


def table(lines: Iterable[Measured]) -> str:
    """The table of the docs, the quickest first."""
    ordered = sorted(lines, key=lambda line: (line.median, line.name))
    foot = FOOT.format(hypothesis=version("hypothesis"), trio=version("trio"), steps=STEPS)
    return HEAD.format(seeds=SEEDS) + "".join(f"{line}\n" for line in ordered) + foot


def shortcomings(lines: Sequence[Measured]) -> list[str]:
    """What is not as it must be."""
    quick = sum(line.median <= QUICK for line in lines)
    found = [f"{line.name}: {line.strays}" for line in lines if line.strays]
    found += [f"{line.name}: {line.median:g} examples" for line in lines if line.median > LIMIT]
    return [*found, f"only {quick} within {QUICK} examples"] if quick < MANY else found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and say whether the machines are as good as they must be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--snapshots", action="store_true")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args(arguments)
    places = [
        place
        for place, mutant in enumerate(MUTANTS)
        if not options.words or any(word in mutant.name for word in options.words)
    ]
    if options.snapshots:
        write_snapshots([MUTANTS[place] for place in places])
        return 0
    lines: list[Measured] = []
    for line in measure(places, seeds=SEEDS, processes=options.processes):
        print(line, *line.strays, flush=True)
        lines.append(line)
    if options.write:
        TABLE.write_text(table(lines), encoding="utf-8")
    if options.words:
        return 0
    for sentence in shortcomings(lines):
        print("not good enough:", sentence)
    return bool(shortcomings(lines))


def write_snapshots(mutants: Iterable[Mutant]) -> None:
    """Keep what is printed of these bugs."""
    logging.getLogger("trioloop").setLevel(logging.CRITICAL + 1)
    SNAPSHOTS.mkdir(exist_ok=True)
    for mutant in mutants:
        found = find(mutant, shrink=True)
        print(mutant.name, found.error, flush=True)
        if found.violation is not None:
            snapshot_of(mutant).write_text(found.printed, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
