"""What depends on what is invalidated, in turn: found by looking at few of many."""

from __future__ import annotations

import math

from mpreg.cache import CacheConfiguration
from mpreg.cache.core import CacheCore
from mpreg.cache.index import Stored
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from tests.unit.cache.calls import calls_during


def test_of_all_that_depend_on_a_key_only_those_are_looked_at_on_which_others_depend() -> None:
    core = CacheCore(PersistenceRegistry(PersistenceConfig(backend="memory")), CacheConfiguration())
    core.barriers.depended_on.update([b"shared", b"page"])

    def work() -> None:
        assert set(core.dependents.cascade([b"shared"])) == {b"shared", b"page"}
        assert set(core.dependents.cascade(["tag"])) == {"tag", b"page"}

    core.index.put(b"page", Stored(1, 1, math.inf, ("tag", b"shared")))
    calls = calls_during(work)
    for number in range(1_000):
        core.index.put(b"%d" % number, Stored(2, 1, math.inf, ("tag", b"shared")))
    assert calls_during(work) == calls
