"""Processes that use a cache, one after the other, on one simulated disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from attrs import define, field

from mpreg.cache import CacheConfiguration, GlobalCacheManager
from tests.simulation.lives import SimulatedLives
from tests.simulation.scenario import SCHEDULES

__all__ = ["Lives", "counted", "every_schedule", "tidy_up"]

Life = Callable[[GlobalCacheManager], Awaitable[None]]


@define(eq=False)
class Lives(SimulatedLives):
    """All have one cache."""

    configuration: CacheConfiguration = field(factory=CacheConfiguration)

    def live(self, *lives: Life) -> None:
        for life in lives:
            self.simulation.run(self.run, life)

    async def run(self, life: Life) -> None:
        registry = self.registry()
        cache = GlobalCacheManager(registry, self.configuration)
        async with registry:
            await life(cache)


def every_schedule(make: Callable[[Lives], Life], **settings: Any) -> None:
    """A short story under many schedules: what it says must be true of each."""
    configuration = settings.pop("configuration", CacheConfiguration())
    for seed in range(SCHEDULES):
        lives = Lives(configuration, seed=seed, settings=settings)
        lives.live(make(lives))


async def counted(cache: GlobalCacheManager) -> None:
    """Until it is known what L2 holds."""
    await cache._core.until_counted()


async def tidy_up(cache: GlobalCacheManager) -> None:
    cache._core.ask_for_upkeep()
    await anyio.sleep(20)
    assert cache.statistics().barriers == 0
