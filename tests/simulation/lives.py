"""Processes that end in peace, one after the other, on one simulated disk and in virtual time."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from mpreg.persistence import PersistenceRegistry
from mpreg.testing import FaultInjector, SimulatedBackend, SimulatedDisk, Simulation
from tests.simulation.scenario import make_config

__all__ = ["SimulatedLives"]

#: Somebody who runs in a circle is soon found.
STEPS_MAX = 200_000


@define(eq=False)
class SimulatedLives:
    seed: int = field(default=0, kw_only=True)
    settings: dict[str, Any] = field(factory=dict, kw_only=True)
    """Of the registry."""
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(factory=SimulatedDisk, init=False)
    faults: FaultInjector = field(factory=FaultInjector, init=False)

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed, seconds_max=10_000, steps_max=STEPS_MAX)

    def registry(self) -> PersistenceRegistry:
        """Of the next process."""
        return PersistenceRegistry(
            make_config(**self.settings),
            backend=SimulatedBackend(self.disk, self.faults),
            clock=self.simulation.clock,
        )
