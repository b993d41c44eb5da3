"""How many examples the state machines need to find each planted bug.

    python tests/support/power.py            # the table, on standard output
    python tests/support/power.py --write    # ... and into docs/_power_table.md
    python tests/support/power.py --snapshots NAME ...

It takes the installed package; ``nox -s power`` runs it.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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
LIMIT: Final = 2000
SEEDS: Final = 8
STEPS: Final = 30


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


def search(
    machine: type[HandlerMachine], *, at_most: int, seeded: int, shrink: bool = False
) -> Found:
    """Run a machine until it fails."""
    made: list[HandlerMachine] = []
    failed: list[int] = []

    def make() -> HandlerMachine:
        one = machine()
        made[:] = [one]
        count[0] += 1
        end = one.teardown

        def teardown() -> None:
            try:
                end()
            finally:
                if isinstance(one.failure, Exception):
                    failed.append(count[0])

        one.teardown = teardown
        return one

    count = [0]
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


def one(job: tuple[int, int, int]) -> tuple[int, float, int, str]:
    """A search in a process of its own."""
    logging.getLogger("trioloop").setLevel(logging.CRITICAL + 1)
    place, seeded, limit = job
    found = find(MUTANTS[place], at_most=limit, seeded=seeded)
    law = found.violation.law if found.violation is not None else 0
    return place, found.examples, law, "" if law else repr(found.error)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--limit", type=int, default=LIMIT)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args(arguments)
    places = [
        place
        for place, mutant in enumerate(MUTANTS)
        if not options.names or any(name in mutant.name for name in options.names)
    ]
    results: dict[int, list[Any]] = {place: [] for place in places}
    with ProcessPoolExecutor(options.jobs) as pool:
        jobs = [
            (place, seeded, options.limit) for place in places for seeded in range(options.seeds)
        ]
        for place, *result in pool.map(one, jobs):
            results[place].append(result)
            if len(results[place]) == options.seeds:
                numbers = sorted(n for n, *_ in results[place])
                laws = sorted({law for _, law, _ in results[place]})
                errors = {e for *_, e in results[place] if e and e != "None"}
                print(
                    f"{MUTANTS[place].name:45} {statistics.median(numbers):8.1f} {laws} {numbers} {errors}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
