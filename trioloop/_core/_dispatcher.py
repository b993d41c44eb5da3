"""The dispatcher: what handlers have to do, as far as it takes no time, in one task for all of them.

To wake a task costs Trio as much as a short callback. So where a handler waits in somebody else's
task, and its callbacks for messages have been ``def`` so far, they are handled from here; its own task
is woken only when there is something to await, or when it ends.
Source: the dispatchers of Akka, which run the mailboxes of many actors in one thread.

Laws of this file:

* What runs here runs with the handler's own context variables. Trio's current task is the dispatcher's.
* Handlers have their turn in the order in which they got something to do; after `SLICE` of them, and
  before those that got it from them, it is the turn of others.
* The handler's task cannot be cancelled in the middle of its turn. What was missed is made up for at
  once after it.
* What ends more than the handler (KeyboardInterrupt, SystemExit) is raised in the handler's own task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio

from ._loop import WAIT, go_on
from ._machine import Machine

SLICE: Final = 64
"""Handlers that have their turn between two checkpoints."""


class Dispatcher:
    """Runs the handlers that live in tasks of others, one after the other.

    Args:
        start: runs the dispatcher's task, when the first handler has something to do.

    Attributes:
        arrange: puts those whose turn it is into another order; the test kit's schedules do.
        serving: whose turn it is just now.
    """

    def __init__(self, start: Callable[[Callable[[], Awaitable[None]]], object]) -> None:
        self.serving: Machine | None = None
        self.arrange: Callable[[list[Machine]], None] | None = None
        self._start = start
        self._started = False
        self._due: deque[Machine] = deque()
        self._parked: trio.lowlevel.Task | None = None

    def add(self, machine: Machine) -> None:
        """It has something to do."""
        self._due.append(machine)
        if not self._started:
            self._started = True
            self._start(self._run)
        elif self._parked is not None:
            parked, self._parked = self._parked, None
            trio.lowlevel.reschedule(parked)

    async def _run(self) -> None:
        """Run handlers, until cancelled."""
        try:
            while True:
                if self._due:
                    await trio.lowlevel.checkpoint()
                else:
                    self._parked = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._leave)
                self._give_turns()  # a frame that ends, and keeps nobody while this task waits
        finally:
            self._due.clear()
            self._started = False

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _give_turns(self) -> None:
        due = [self._due.popleft() for _ in range(min(SLICE, len(self._due)))]
        if self.arrange is not None:
            self.arrange(due)
        for machine in due:
            if machine.is_dispatched():  # it may sleep meanwhile, or have another nursery
                self._give_turn(machine)

    def _give_turn(self, machine: Machine) -> None:
        """Do what a waiting handler has to do, until it waits again or there is something to await."""
        mailbox = machine.mailbox
        task = mailbox.begin_visit()
        if task is None:
            return  # its own task was woken meanwhile
        machine.phase = "running"
        self.serving = machine
        try:
            left = task.context.run(go_on, machine)
        except BaseException as error:  # raised where it belongs
            left = fail(error)
        self.serving = None
        if left is not WAIT:
            machine.left = left
        mailbox.end_visit(goes_on=left is WAIT)


async def fail(error: BaseException) -> NoReturn:
    """Raise."""
    raise error
