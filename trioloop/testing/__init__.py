"""The test kit: virtual time, faults, schedules and state machines for loop handlers."""

from __future__ import annotations

import importlib

from .. import _show_public_names
from ._clock import VirtualClock as VirtualClock
from ._connection import FakeConnection as FakeConnection
from ._detached import detached as detached
from ._exchange import Seen as Seen
from ._fake_client import FakeClient as FakeClient
from ._fake_client import FakeClients as FakeClients
from ._fake_client import FakeExchange as FakeExchange
from ._journal import Entry as Entry
from ._journal import Journal as Journal
from ._schedule import Schedule as Schedule
from ._simulation import SimulatedExchange as SimulatedExchange
from ._simulation import SimulatedRef as SimulatedRef
from ._simulation import Simulation as Simulation
from ._simulation import SimulationError as SimulationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._messages import messages_for as messages_for

__all__ = [
    "Entry",
    "FakeClient",
    "FakeClients",
    "FakeConnection",
    "FakeExchange",
    "Journal",
    "Schedule",
    "Seen",
    "SimulatedExchange",
    "SimulatedRef",
    "Simulation",
    "SimulationError",
    "VirtualClock",
    "detached",
    "messages_for",
]

_ON_USE = {"messages_for": "._messages"}
"""Names that are imported when they are asked for: they need Hypothesis, or are for those who do."""


def __getattr__(name: str) -> object:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(_ON_USE[name], __name__), name)
    _show_public_names(globals(), [name])
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_USE})


_show_public_names(globals(), __all__)
