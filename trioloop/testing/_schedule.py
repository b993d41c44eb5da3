"""Which runnable task goes first.

Law of this file: the order of each batch of runnable tasks, or of handlers that have their turns in
one task, is a pure function of the schedule's policy and of how many batches with a choice came
before.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import trio

_FIXED = (
    "<",
    "trioloop.testing.",
    *(f"trioloop.server._{module}." for module in ("deadlines", "turns", "worker")),
)
"""How the names of tasks begin that have nothing to do with the application: those of Trio, of the kit
and of the server."""

Plan: TypeAlias = Mapping[int, tuple[int, ...]]
"""Batches that leave spawn order: from the number of the batch to the order of its tasks."""

Policy: TypeAlias = Literal["spawn order", "reverse"] | int | Plan
"""How batches are ordered: by age, youngest first, shuffled from a seed, or by a recorded plan."""


@dataclass(frozen=True, slots=True)
class Reordering:
    """A batch of tasks or handlers that did not run in spawn order.

    Args:
        batch: its number, counting batches with at least two tasks.
        time: virtual seconds.
        tasks: the names of the tasks as they ran; those of one name are numbered by their age.
    """

    batch: int
    time: float
    tasks: tuple[str, ...]

    def __str__(self) -> str:
        return f"at t={self.time:g} ran {' < '.join(self.tasks)}"


class Schedule:
    """Decides the order of every batch of runnable tasks.

    Args:
        policy: how.

    Attributes:
        plan: what it did, as a plan that does it again.
        reorderings: the same, for people.
    """

    def __init__(self, policy: Policy = "spawn order") -> None:
        if isinstance(policy, bool) or not isinstance(policy, (str, int, Mapping)):
            raise TypeError(f"a schedule is a seed, a plan or a policy's name, not {policy!r}")
        if isinstance(policy, str) and policy not in ("spawn order", "reverse"):
            raise ValueError(f"a policy is 'spawn order' or 'reverse', not {policy!r}")
        self.policy = policy
        self.plan: dict[int, tuple[int, ...]] = {}
        self.reorderings: list[Reordering] = []
        self._batches = 0
        self._random = random.Random(policy) if isinstance(policy, int) else None  # noqa: S311 - an order

    def shuffle(self, batch: MutableSequence[Any]) -> None:
        """Order a batch, as ``random.shuffle`` would; Trio runs it from its end."""
        batch.reverse()
        if len(batch) < 2 or self.policy == "spawn order":
            return
        places = [index for index, task in enumerate(batch) if not task.name.startswith(_FIXED)]
        places.reverse()  # oldest first; the others keep their places
        tasks = [batch[place] for place in places]
        self.arrange(tasks)
        for place, task in zip(places, tasks, strict=True):
            batch[place] = task

    def arrange(self, batch: MutableSequence[Any]) -> None:
        """Order a batch of tasks, or of handlers that have their turn in one task, oldest first."""
        if len(batch) < 2 or self.policy == "spawn order":
            return
        self._batches += 1
        order = self._order(len(batch))
        if order == tuple(range(len(batch))):
            return
        self.plan[self._batches] = order
        names = _tell_apart([one.name.rsplit(".", 1)[-1] for one in batch])
        ran = tuple(names[index] for index in order)
        self.reorderings.append(Reordering(self._batches, trio.current_time(), ran))
        batch[:] = [batch[index] for index in order]

    def _order(self, size: int) -> tuple[int, ...]:
        order = list(range(size))
        if isinstance(self.policy, Mapping):
            planned = self.policy.get(self._batches, ())
            return tuple(planned) if sorted(planned) == order else tuple(order)
        if self._random is not None:
            self._random.shuffle(order)
        elif self.policy == "reverse":
            order.reverse()
        return tuple(order)

    # What else Trio asks of its random source.

    def random(self) -> float:
        """Not asked while batches are sorted; a constant keeps it deterministic."""
        return 1.0

    def uniform(self, low: float, high: float) -> float:
        """For clocks that start at a random time."""
        return low

    def describe(self) -> str:
        """The schedule in words."""
        if not self.reorderings:
            return "spawn order"
        return "spawn order, except: " + "; ".join(map(str, self.reorderings))


def _tell_apart(names: list[str]) -> list[str]:
    """Number the names that come more than once."""
    return [
        f"{name} {names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
