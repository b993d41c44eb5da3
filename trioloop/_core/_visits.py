"""Looking at a living handler from outside, between its callbacks only.

Laws of this file:

* A visit never meets a callback that runs: it waits until there is none.
* While a handler is suspended it handles nothing and is not idle; what ends it still does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from ._errors import HandlerEnded

if TYPE_CHECKING:
    from ._machine import Machine

NOT_STATE: Final = frozenset({"ref", "hub", "request", "last_event_id"})
"""Attributes that the library has set."""


class Visit:
    """Something to be done between two callbacks."""

    __slots__ = ("_do", "_done", "_result", "_was_met")

    def __init__(self, do: Callable[[], Any]) -> None:
        self._do = do
        self._done = trio.Event()
        self._was_met = False
        self._result: Any = None

    def meet(self) -> None:
        """No callback runs: do it."""
        self._result = self._do()
        self._was_met = True
        self._done.set()

    def give_up(self) -> None:
        """The handler has ended."""
        self._done.set()

    async def wait(self, machine: Machine) -> Any:
        """What it gave.

        Raises:
            HandlerEnded: the handler has ended before.
        """
        await self._done.wait()
        if not self._was_met:
            assert machine.reason is not None
            raise HandlerEnded(machine.reason)
        return self._result


async def visit(machine: Machine, do: Callable[[], Any]) -> Any:
    """Do something between two callbacks of a handler, and give what it gives.

    Raises:
        HandlerEnded: the handler has ended, or ends before.
        RuntimeError: a callback visits its own handler.
    """
    if machine.runs_here():
        raise RuntimeError("a handler cannot wait for the end of its own callback")
    if machine.reason is not None:
        raise HandlerEnded(machine.reason)
    planned = Visit(do)
    if machine.phase in ("waiting", "writing"):
        planned.meet()
    else:
        machine.visits = [*(machine.visits or ()), planned]
    return await planned.wait(machine)


def state_of(machine: Machine) -> dict[str, Any]:
    """What a handler remembers: its own attributes, as they are now."""
    own = vars(machine.handler)
    return {name: value for name, value in own.items() if name not in NOT_STATE}
