"""Processes that use a cache, one after the other, on one simulated disk and in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from attrs import define, field

from mpreg.cache import CacheConfiguration, GlobalCacheManager
from mpreg.persistence import PersistenceRegistry
from mpreg.testing import FaultInjector, SimulatedBackend, SimulatedDisk, Simulation
from tests.simulation.scenario import SCHEDULES, make_config

__all__ = ["Lives", "counted", "every_schedule", "tidy_up"]

#: Somebody who runs in a circle is soon found.
STEPS_MAX = 100_000

Life = Callable[[GlobalCacheManager], Awaitable[None]]


@define(eq=False)
class Lives:
    """All have one cache."""

    configuration: CacheConfiguration = field(factory=CacheConfiguration)
    seed: int = 0
    settings: dict[str, Any] = field(factory=dict)
    """Of the registry."""
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(factory=SimulatedDisk, init=False)
    faults: FaultInjector = field(factory=FaultInjector, init=False)

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed, seconds_max=10_000, steps_max=STEPS_MAX)

    def live(self, *lives: Life) -> None:
        for life in lives:
            self.simulation.run(self.run, life)

    async def run(self, life: Life) -> None:
        registry = PersistenceRegistry(
            make_config(**self.settings),
            backend=SimulatedBackend(self.disk, self.faults),
            clock=self.simulation.clock,
        )
        cache = GlobalCacheManager(registry, self.configuration)
        async with registry:
            await life(cache)


def every_schedule(make: Callable[[Lives], Life], **settings: Any) -> None:
    """A short story under many schedules: what it says must be true of each."""
    configuration = settings.pop("configuration", CacheConfiguration())
    for seed in range(SCHEDULES):
        lives = Lives(configuration, seed, settings)
        lives.live(make(lives))


async def counted(cache: GlobalCacheManager) -> None:
    """Until it is known what L2 holds."""
    await cache._core.until_counted()


async def tidy_up(cache: GlobalCacheManager) -> None:
    cache._core.ask_for_upkeep()
    await anyio.sleep(20)
    assert cache.statistics().barriers == 0
