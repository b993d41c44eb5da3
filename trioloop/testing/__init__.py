"""The test kit: virtual time, faults, schedules and state machines for loop handlers."""

from __future__ import annotations

import importlib

from .. import _show_public_names
from ._clock import VirtualClock as VirtualClock
from ._connection import FakeConnection as FakeConnection
from ._detached import detached as detached
from ._exchange import Seen as Seen
from ._explore import Exploration as Exploration
from ._explore import ScheduleFailure as ScheduleFailure
from ._explore import explore as explore
from ._fake_client import FakeClient as FakeClient
from ._fake_client import FakeClients as FakeClients
from ._fake_client import FakeExchange as FakeExchange
from ._journal import Entry as Entry
from ._journal import Journal as Journal
from ._laws import LawBroken as LawBroken
from ._laws import Violation as Violation
from ._messages import Seconds as Seconds
from ._replay import Replay as Replay
from ._replay import Step as Step
from ._replay import replay as replay
from ._replay import script_of as script_of
from ._replay import to_test as to_test
from ._replay import trace_from_json as trace_from_json
from ._replay import trace_to_json as trace_to_json
from ._schedule import Schedule as Schedule
from ._simulation import SimulatedExchange as SimulatedExchange
from ._simulation import SimulatedRef as SimulatedRef
from ._simulation import Simulation as Simulation
from ._simulation import SimulationError as SimulationError
from ._timeline import sequence_diagram as sequence_diagram
from ._timeline import timeline as timeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._check import check_handler as check_handler
    from ._machine import HandlerMachine as HandlerMachine
    from ._machine import Reached as Reached
    from ._messages import messages_for as messages_for

__all__ = [
    "Entry",
    "Exploration",
    "FakeClient",
    "FakeClients",
    "FakeConnection",
    "FakeExchange",
    "HandlerMachine",
    "Journal",
    "LawBroken",
    "Reached",
    "Replay",
    "Schedule",
    "ScheduleFailure",
    "Seconds",
    "Seen",
    "SimulatedExchange",
    "SimulatedRef",
    "Simulation",
    "SimulationError",
    "Step",
    "Violation",
    "VirtualClock",
    "check_handler",
    "detached",
    "explore",
    "messages_for",
    "replay",
    "script_of",
    "sequence_diagram",
    "timeline",
    "to_test",
    "trace_from_json",
    "trace_to_json",
]

_ON_USE = {
    "HandlerMachine": "._machine",
    "Reached": "._machine",
    "check_handler": "._check",
    "messages_for": "._messages",
}
"""Names that are imported when they are asked for: they need Hypothesis, or are for those who do."""


def __getattr__(name: str) -> object:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_ON_USE[name], __name__)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "hypothesis":
            raise
        raise ModuleNotFoundError(
            f"{name} needs Hypothesis: pip install 'trioloop[testing]'", name=error.name
        ) from error
    globals()[name] = getattr(module, name)
    _show_public_names(globals(), [name])
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_USE})


_show_public_names(globals(), __all__)
