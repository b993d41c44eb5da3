"""The private names of Trio that the kit uses.

Laws of this file:

* No other module touches one: the scheduler's random source with the flag that makes its batches
  comparable, and the inside of a guest run.
* ``tests/testing/test_trio_internals.py`` fails when Trio renames them. Then `AVAILABLE` is false and
  schedules cannot be chosen, or steps of a guest run are Trio's own, which are slower; everything
  else works.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import outcome as outcomes
import trio

from ._schedule import Schedule

_trio_run: Any = getattr(getattr(trio, "_core", None), "_run", None)

AVAILABLE: bool = all(
    hasattr(_trio_run, name) for name in ("_r", "_ALLOW_DETERMINISTIC_SCHEDULING")
)

IO_TASKS_OF_TRIO: Final = 1
"""Tasks of Trio's own that wait for real I/O: one, for calls from outside of the run."""

_library: Any = getattr(_trio_run, "sniffio_library", None)
"""Where Trio says that it runs, for whoever asks sniffio."""

_OF_A_GUEST: Final = ("runner", "unrolled_run_gen", "done_callback")
_OF_AN_IO_MANAGER: Final = ("_registered",)
_OF_A_RUNNER: Final = ("runq", "entry_queue", "deadlines", "io_manager", "main_task_outcome")

_NO_EVENTS: Final[Any] = 0 if sys.platform == "win32" else []


@contextmanager
def scheduled_by(schedule: Schedule) -> Generator[None]:
    """Let a schedule decide for every Trio run of this process in the meantime."""
    if not AVAILABLE:  # pragma: no cover - a Trio of the future
        yield
        return
    run = _trio_run
    saved = run._r, run._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001 - the law of this file
    run._r, run._ALLOW_DETERMINISTIC_SCHEDULING = schedule, True  # noqa: SLF001
    try:
        yield
    finally:
        run._r, run._ALLOW_DETERMINISTIC_SCHEDULING = saved  # noqa: SLF001


class GuestRun:
    """The steps of a guest run.

    Trio asks the system for I/O in every step. Where none is expected, a step is made without that,
    unless somebody has called from outside of the run, which comes as I/O.

    Attributes:
        outcome: what has become of the run; `None` before its end.
    """

    def __init__(self) -> None:
        self.outcome: outcomes.Outcome[Any] | None = None
        self._next: Callable[[], object] | None = None
        self._inside: Any = None
        self._known: Any = None  # the guest run, when its inside is what it was

    def take(self, step: Callable[[], object]) -> None:
        """Trio's next step: it is ``run_sync_soon_not_threadsafe``."""
        guest = getattr(step, "__self__", None)
        if guest is not self._known:
            self._known = guest if _is_known(guest) else None
        self._inside, self._next = self._known, step

    def end(self, outcome: outcomes.Outcome[Any]) -> None:
        """The run has ended: it is ``done_callback``."""
        self.outcome = outcome

    @property
    def is_over(self) -> bool:
        """Whether there is no step to make: the run has ended, or is making one."""
        return self._next is None

    def wait(self, now: float) -> float:
        """Seconds to the next deadline; ``math.inf`` when there is none.

        Args:
            now: the time of the run's clock, in seconds.
        """
        if self._inside is None:
            return trio.lowlevel.current_statistics().seconds_to_next_deadline
        deadline: float = self._inside.runner.deadlines.next_deadline()
        return deadline - now

    @property
    def io_tasks(self) -> int:
        """How many tasks wait for real I/O, on any platform; `IO_TASKS_OF_TRIO` among them.

        Of two that wait for one file, one is counted.
        """
        if self._inside is not None:
            return len(self._inside.runner.io_manager._registered)  # noqa: SLF001
        io: Any = trio.lowlevel.current_statistics().io_statistics
        return (
            getattr(io, "tasks_waiting", 0)  # kqueue
            + getattr(io, "tasks_waiting_read", 0)
            + getattr(io, "tasks_waiting_write", 0)
            + getattr(io, "tasks_waiting_overlapped", 0)
        )

    def go_on(self, now: float) -> bool:
        """Make the next step; false when all tasks wait, and no deadline has come.

        Args:
            now: the time of the run's clock, in seconds.
        """
        run = self._inside
        if run is None:
            told = trio.lowlevel.current_statistics()
            called, runnable = told.run_sync_soon_queue_size, told.tasks_runnable
        else:
            called, runnable = run.runner.entry_queue.size(), run.runner.runq
        if not (called or runnable) and self.wait(now) > 0:
            return False
        if run is None or called:
            self.look()
        else:
            self._go_on_inside(run)
        return True

    def look(self) -> None:
        """Make a step as Trio makes it, with a look at I/O."""
        step, self._next = self._next, None
        assert step is not None
        self._inside = None
        step()

    def _go_on_inside(self, run: Any) -> None:
        step, self._next = self._next, None
        before, _library.name = _library.name, "trio"
        try:
            run.unrolled_run_gen.send(_NO_EVENTS)
        except StopIteration:
            self._end_inside(run.runner.main_task_outcome)
        except trio.TrioInternalError as error:
            self._end_inside(outcomes.Error(error))
        else:
            self._next = step
        finally:
            _library.name = before

    def _end_inside(self, outcome: outcomes.Outcome[Any]) -> None:
        run, self._inside = self._inside, None
        run.done_callback(outcome)


def _is_known(guest: object) -> bool:
    """Whether the state of a guest run has what is looked at here."""
    runner = getattr(guest, "runner", None)
    io_manager = getattr(runner, "io_manager", None)
    parts = (guest, _OF_A_GUEST), (runner, _OF_A_RUNNER), (io_manager, _OF_AN_IO_MANAGER)
    names = ((part, name) for part, names in parts for name in names)
    return _library is not None and all(hasattr(part, name) for part, name in names)
