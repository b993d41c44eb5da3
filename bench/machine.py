"""CPU per step of the shipped state machine, against the same machine with empty rules.

The empty machine is Hypothesis's own floor: it draws what the other has just drawn, value for
value, and does nothing with it. Which rules Hypothesis may draw, and how often it has to draw again,
hangs on the preconditions, so those of the empty machine answer from a tape what the other's have
answered; that both have made the same steps is checked. The turns alternate in one process, from
the same seeds, and the ratio is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import functools
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
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

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


class Tape:
    """What a machine has done in a turn: its steps, and what its preconditions have answered."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.answers: list[bool] = []

    def rewind(self) -> None:
        """Begin another turn."""
        self.steps.clear()
        self.answers.clear()

    def recorded(self, function: Callable[..., None]) -> Callable[..., None]:
        """A rule that is written down."""

        @functools.wraps(function)
        def record(*args: Any, **values: Any) -> None:
            self.steps.append(function.__name__)
            function(*args, **values)

        return record

    def listening(self, holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
        """A precondition whose answers are written down."""

        def ask(machine: object) -> bool:
            answer = bool(holds(machine))
            self.answers.append(answer)
            return answer

        return ask

    def played(self, function: Callable[..., None]) -> Callable[..., None]:
        """A rule that does nothing."""
        name = function.__name__

        def count(_self: object, **_values: Any) -> None:
            self.steps.append(name)

        count.__name__ = name
        return count

    def answering(self, tape: Tape) -> Callable[[object], bool]:
        """A precondition that answers as one has answered on another tape."""

        def answer(_machine: object) -> bool:
            told = tape.answers[len(self.answers)]
            self.answers.append(told)
            return told

        return answer


def rewritten(
    machine: type[HandlerMachine],
    write: Callable[[Callable[..., None]], Callable[..., None]],
    ask: Callable[[Callable[[Any], bool]], Callable[[Any], bool]],
) -> type[HandlerMachine]:
    """The same machine, with the same arguments of other rules and preconditions.

    Args:
        machine: the shipped one.
        write: makes a rule of a rule.
        ask: makes a precondition of a precondition.
    """

    class Rewritten(machine):
        """The same."""

    for name, method in inspect.getmembers(machine):
        for marker, decorate in MARKERS.items():
            known = getattr(method, marker, None)
            if known is not None:
                changed = decorate(**known.arguments)(write(known.function))
                for holds in known.preconditions:
                    changed = precondition(ask(holds))(changed)
                setattr(Rewritten, name, changed)
    return Rewritten


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
    ours, floor = Tape(), Tape()
    sides = (
        (ours, rewritten(machine, ours.recorded, ours.listening)),
        (floor, rewritten(machine, floor.played, lambda _: floor.answering(ours))),
    )
    costs: list[list[float]] = [[], []]
    for turn in range(repeats + 1):
        for (tape, side), cost in zip(sides, costs, strict=True):
            tape.rewind()
            before = time.process_time()
            run(side, examples=examples, seeded=turn)
            if turn:  # the first one warms up
                cost.append(1e6 * (time.process_time() - before) / len(tape.steps))
        if (ours.steps, ours.answers) != (floor.steps, floor.answers):
            raise RuntimeError(f"the two machines have drawn different steps in turn {turn}")
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
