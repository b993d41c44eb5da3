"""The test kit: virtual time, faults, schedules and state machines for loop handlers."""

from ._simulation import Simulation as Simulation
