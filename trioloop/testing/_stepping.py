"""Steps of a guest run in a row, without a look at the operating system after each.

Laws of this file:

* It touches private names of Trio, as `_schedule` does: those of a guest run's state.
  ``tests/testing/test_stepping.py`` fails when Trio renames them; then every step is Trio's own,
  and the same things happen, more slowly.
* It skips only what cannot matter: a simulation has no I/O but Trio's own wakeup, and that is looked
  at by the next tick of Trio's, before the simulation is found to rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from ._clock import VirtualClock

_trio_run: Any = getattr(getattr(trio, "_core", None), "_run", None)
_library: Any = getattr(_trio_run, "sniffio_library", None)
_Guest: Any = getattr(_trio_run, "GuestState", None)

AVAILABLE: bool = hasattr(_library, "name") and all(
    hasattr(_Guest, name) for name in ("unrolled_run_gen", "unrolled_run_next_send")
)


def hurry(tick: Callable[[], object], clock: VirtualClock, most: int) -> int:
    """Step a guest run until no task can run, or something is left to its own tick.

    Args:
        tick: what the run has scheduled.
        clock: the run's.
        most: steps.

    Returns:
        How many steps that were.
    """
    guest: Any = getattr(tick, "__self__", None)
    if not (AVAILABLE and isinstance(guest, _Guest)):  # pragma: no cover - a Trio of the future
        return 0
    events = _nothing_new(guest.unrolled_run_next_send)
    if events is None:
        return 0
    before, _library.name = _library.name, "trio"
    try:
        return _step(guest.unrolled_run_gen.send, events, clock, most)
    finally:
        _library.name = before


def _nothing_new(held: Any) -> Any:
    """The empty collection of events that a run gets next; `None` if it gets something else."""
    events: Any = getattr(held, "value", None)  # an error has none
    return None if events else events


def _step(send: Callable[[Any], object], events: Any, clock: VirtualClock, most: int) -> int:
    for steps in range(most):
        if clock.asked_for is not None and clock.asked_for > clock.current_time():
            return steps
        clock.asked_for = None
        try:
            send(events)
        except StopIteration:  # the run is over, of which its own tick will tell
            return steps
    return most
