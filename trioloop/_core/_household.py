"""The household of a handler: its nursery, and the child tasks that live there.

Laws of this file:

* The nursery is opened where it is first needed: most long polls never need theirs. It is opened and
  closed in the handler's own task, where the scopes nest as if it had always been there.
* Cancelling it cancels the child tasks, never the handler, which is shielded from it once it is used.
* Whoever cancels it, the handler hears of it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import trio

from ._reasons import ShutDown

if TYPE_CHECKING:
    from ._machine import Machine


class Household:
    """Stands where a nursery would be opened; without `open` it costs nothing, nor takes a turn.

    Args:
        machine: whose it is.

    Attributes:
        nursery: when it is open.
        used: whether a callback has asked for the nursery.
    """

    __slots__ = ("_machine", "_opened", "nursery", "used")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._opened: AbstractAsyncContextManager[trio.Nursery, bool | None] | None = None
        self.nursery: trio.Nursery | None = None
        self.used: bool = False

    async def __aenter__(self) -> Self:
        return self

    def open(self) -> trio.Nursery:
        """Open the nursery, unless it is open.

        In the handler's own task, and outside of all scopes that it has entered since. A nursery does
        not block on entry, as `trio.open_nursery` says: so a function can enter one.
        """
        if self.nursery is not None:
            return self.nursery
        opened = trio.open_nursery()
        try:
            next(opened.__aenter__().__await__())
        except StopIteration as entered:
            self._opened = opened
            nursery: trio.Nursery = entered.value
            self.nursery = nursery
            return nursery
        raise AssertionError("a nursery of this Trio blocks on entry")

    def use(self) -> trio.Nursery:
        """What callbacks get.

        Raises:
            RuntimeError: it is somebody else who asks, and no callback has asked before.
        """
        machine = self._machine
        if self.used:
            return self.open()
        if not (machine.runs_here() or machine.hub.dispatcher.serving is machine):
            raise RuntimeError(
                "self.nursery is opened when a callback of the handler uses it; nobody else can use"
                " it before that: send the handler a message"
            )
        nursery = self.open()
        self.used = True
        if machine.resident and machine.scope is not None:
            machine.scope.shield = True
        nursery.start_soon(self._tell_of_cancellation, nursery, name="<canary>")
        return nursery

    async def _tell_of_cancellation(self, nursery: trio.Nursery) -> None:
        # A callback is shielded from the nursery, so somebody inside has to tell it.
        machine = self._machine

        def tell(_: object) -> trio.lowlevel.Abort:
            # Here it is known what was cancelled: a child that ends of it cancels the nursery, too.
            if machine.resident and not nursery.cancel_scope.cancel_called:
                machine.end(ShutDown())  # what is around the nursery
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(tell)
        finally:
            machine.wake()

    @property
    def tasks(self) -> frozenset[trio.lowlevel.Task]:
        """Who lives here: the child tasks, and the canary."""
        return frozenset() if self.nursery is None else self.nursery.child_tasks

    def has_child_tasks(self) -> bool:
        """Whether somebody lives here beside the canary."""
        return len(self.tasks) > self.used

    def is_cancelled(self) -> bool:
        """Whether it was cancelled, by the handler or by a crash in it."""
        return self.nursery is not None and self.nursery.cancel_scope.cancel_called

    def dismiss(self) -> None:
        """Cancel those who live here."""
        if self.used and self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._opened is None:
            return None
        return await self._opened.__aexit__(kind, error, traceback)
