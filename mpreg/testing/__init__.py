"""Tools to test programs that use mpreg, and mpreg itself.

`mpreg.testing.contract` is not imported here, because it needs pytest.
"""

from mpreg.testing.backend import ContractBrokenError, SimulatedBackend, SimulatedReader
from mpreg.testing.clock import VirtualClock
from mpreg.testing.disk import SimulatedDisk
from mpreg.testing.faults import Fault, FaultInjector, FaultPlan
from mpreg.testing.history import (
    History,
    InvariantError,
    Mark,
    Part,
    check_restored,
    find_violations,
)
from mpreg.testing.recording import HeldCommit, RecordingBackend
from mpreg.testing.simulation import Simulation, SimulationStuckError, seeded_scheduler

__all__ = [
    "ContractBrokenError",
    "Fault",
    "FaultInjector",
    "FaultPlan",
    "HeldCommit",
    "History",
    "InvariantError",
    "Mark",
    "Part",
    "RecordingBackend",
    "SimulatedBackend",
    "SimulatedDisk",
    "SimulatedReader",
    "Simulation",
    "SimulationStuckError",
    "VirtualClock",
    "check_restored",
    "find_violations",
    "seeded_scheduler",
]
