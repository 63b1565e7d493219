"""A scenario is run under many schedules: what it says must be true of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from mpreg.persistence import PersistenceConfig
from mpreg.testing import Simulation

Scenario = Callable[[Simulation], Awaitable[None]]

SCHEDULES = 15


def every_schedule(scenario: Scenario) -> Callable[[], None]:
    """Make a test of it."""

    def test() -> None:
        for seed in range(SCHEDULES):
            simulation = Simulation(seed)
            simulation.run(scenario, simulation)

    test.__name__ = getattr(scenario, "__name__", "test")
    test.__doc__ = scenario.__doc__
    return test


def make_config(**settings: Any) -> PersistenceConfig:
    """A configuration for a backend without files and threads."""
    return PersistenceConfig(backend="memory", switch_interval_seconds=None, **settings)


@contextmanager
def cancellable(scopes: list[anyio.CancelScope]) -> Iterator[None]:
    """While it lasts, who meddles finds its scope among ``scopes``."""
    with anyio.CancelScope() as scope:
        scopes.append(scope)
        try:
            yield
        finally:
            scopes.remove(scope)
