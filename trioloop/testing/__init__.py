"""The test kit: virtual time, faults, schedules and state machines for loop handlers."""

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
