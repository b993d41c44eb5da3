"""CPU per step of the shipped state machine, against the same machine with empty rules.

The empty machine draws what the other draws and does nothing with it: it is Hypothesis's own floor.
The turns alternate in one process, from the same seeds, and the ratio is the median of the ratios
of neighbours.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import print_table
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from trioloop import EventStreamHandler, LoopHandler, Reply, ServerSentEvent
from trioloop.testing import HandlerMachine


@dataclass(frozen=True)
class Said:
    """Something to write."""

    text: str


@dataclass(frozen=True)
class Turned:
    """Whether it is written."""

    way: Literal["on", "off"]


class Radio(EventStreamHandler[Said | Turned]):
    """An event stream that can be switched off."""

    on = True

    def info(self, message: Said | Turned) -> ServerSentEvent | None:
        """Write what was said, as long as it is on."""
        if isinstance(message, Turned):
            self.on = message.way == "on"
            return None
        return ServerSentEvent(message.text) if self.on else None


class Poll(LoopHandler[str]):
    """A long poll."""

    def info(self, message: str) -> Reply:
        """Answer."""
        return Reply(200, body=message)


class RadioMachine(HandlerMachine):
    """Drives event streams."""

    handler = Radio


class PollMachine(HandlerMachine):
    """Drives long polls."""

    handler = Poll


MARKERS = {"hypothesis_stateful_rule": rule, "hypothesis_stateful_initialize_rule": initialize}


def emptied(machine: type[HandlerMachine], steps: list[int]) -> type[HandlerMachine]:
    """The same rules, with the same arguments, that only count themselves."""

    class Empty(machine):
        """Does nothing."""

    for name, method in inspect.getmembers(machine):
        for marker, decorate in MARKERS.items():
            known = getattr(method, marker, None)
            if known is not None:
                setattr(Empty, name, decorate(**known.arguments)(counting(name, steps)))
    return Empty


def counting(name: str, steps: list[int]) -> Callable[..., None]:
    """A rule that only counts."""

    def count(_self: object, **_values: Any) -> None:
        steps[0] += 1

    count.__name__ = name
    return count


def counted(machine: type[HandlerMachine], steps: list[int]) -> type[HandlerMachine]:
    """The same machine, which counts its steps when it has ended."""

    class Counted(machine):
        """Counts."""

        def teardown(self) -> None:
            steps[0] += len(self.steps)
            super().teardown()

    return Counted


@dataclass(frozen=True, slots=True)
class Result:
    """CPU microseconds per step.

    Args:
        case: the kind of handler.
        machine: the median of the shipped machine.
        empty: the median of the empty one.
        ratio: the median of machine / empty over pairs of turns.
        ratios: of each pair.
    """

    case: str
    machine: float
    empty: float
    ratio: float
    ratios: tuple[float, ...]


def measure(case: str, machine: type[HandlerMachine], *, examples: int, repeats: int) -> Result:
    """Measure.

    Args:
        case: the kind of handler.
        machine: drives it.
        examples: of one turn.
        repeats: turns of each machine.
    """
    steps = [0]
    sides = (counted(machine, steps), emptied(machine, steps))
    costs: list[list[float]] = [[], []]
    for turn in range(repeats + 1):
        for side, cost in zip(sides, costs, strict=True):
            steps[0] = 0
            before = time.process_time()
            run(side, examples=examples, seeded=turn)
            if turn:  # the first one warms up
                cost.append(1e6 * (time.process_time() - before) / steps[0])
    ratios = tuple(ours / floor for ours, floor in zip(*costs, strict=True))
    return Result(case, median(costs[0]), median(costs[1]), median(ratios), ratios)


def run(machine: type[HandlerMachine], *, examples: int, seeded: int) -> None:
    """Run a machine as a test does."""
    run_state_machine_as_test(
        seed(seeded)(machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def main(arguments: list[str] | None = None) -> list[Result]:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run?")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each machine")
    options = parser.parse_args(arguments)
    logging.getLogger("trioloop").setLevel(logging.CRITICAL)
    examples, repeats = (20, 3) if options.quick else (100, options.repeats)
    cases = (("event stream", RadioMachine), ("long poll", PollMachine))
    results = [measure(*case, examples=examples, repeats=repeats) for case in cases]
    print("CPU µs per step of a state machine")
    print_table(
        ["case", "machine", "empty rules", "ratio", "a quarter below", "above"],
        [(r.case, r.machine, r.empty, r.ratio, *quantiles(r.ratios)[::2]) for r in results],
    )
    return results


if __name__ == "__main__":
    main()
