"""Functions that are called when the connections are cancelled, before any of them runs again.

The laws of this file:

* Whatever cancels them (the end of the grace, another's crash, the caller of the server), the
  functions are called inside of that very cancellation, by the clean-up of one task that is
  cancelled with them.
* That task keeps nobody from ending: during the drain it is there only while there are functions.
* What a function raises is reported, and keeps no other from being called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import trio


class Cancellation:
    """The functions of one worker.

    Args:
        report: told what a function has raised.
    """

    def __init__(self, report: Callable[[Exception], object]) -> None:
        self._report = report
        self._own_context = copy_context()  # not that of the request that comes first
        self._functions: dict[object, Callable[[], object]] = {}
        self._nursery: trio.Nursery | None = None
        self._waits = False
        self._waiting: trio.lowlevel.Task | None = None
        self._draining = False

    def happens_with(self, nursery: trio.Nursery | None) -> None:
        """Say where the connections run."""
        self._nursery = nursery

    def add(self, key: object, function: Callable[[], object]) -> None:
        """Call this function, in place of another with the same key."""
        self._functions[key] = function
        if not self._waits and self._nursery is not None:
            self._waits = True
            self._own_context.run(self._nursery.start_soon, self._wait)

    def remove(self, key: object) -> None:
        """Do not call the function with this key, if there is one."""
        if self._functions.pop(key, None) is not None:
            self._end_if_idle()

    def drain(self) -> None:
        """Let the connections end."""
        self._draining = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._draining and not self._functions and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._waits = False
            trio.lowlevel.reschedule(waiting)

    async def _wait(self) -> None:
        if self._draining and not self._functions:
            self._waits = False
            return
        self._waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._tell)

    def _tell(self, _: Any) -> trio.lowlevel.Abort:
        self._waiting, self._waits = None, False
        functions, self._functions = self._functions, {}
        for function in functions.values():
            try:
                function()
            except Exception as error:
                self._report(error)
        return trio.lowlevel.Abort.SUCCEEDED
