"""A cache that breaks a promise is found out by the stories: so they look where it matters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mpreg.cache.core import CacheCore
from mpreg.cache.dependents import Dependents
from mpreg.cache.invalidation import Barriers
from mpreg.cache.reading import CacheReader
from tests.simulation.cache.story import CacheStory

SEEDS_MAX = 100

#: The first story that found it when it was last looked for: where it still does, no other is told.
FOUND_BY = {
    "what was invalidated is shown": 2,
    "what depends on others is not invalidated with them": 2,
    "what depends on what depends is not invalidated with it": 28,
    "what depends on keys that are invalidated by their beginning is shown": 2,
    "what was evicted from L2 stays in L1": 0,
    "who is depended on is forgotten at a restart": 7,
}


def forget_dependencies(restore: Callable[..., None]) -> Callable[..., None]:
    def restored(barriers: Barriers, row: bytes, version: int) -> None:
        if not row.startswith(b"r"):
            restore(barriers, row, version)

    return restored


BROKEN: dict[str, tuple[type, str, Callable[..., object]]] = {
    "what was invalidated is shown": (CacheReader, "is_alive", lambda _: lambda *_: True),
    "what depends on others is not invalidated with them": (
        Dependents,
        "invalidated_by",
        lambda _: lambda _dependents, write: write.targets,
    ),
    "what depends on what depends is not invalidated with it": (
        Dependents,
        "inherited",
        lambda _: lambda *_: (),
    ),
    "what depends on keys that are invalidated by their beginning is shown": (
        Barriers,
        "_key_kills",
        lambda _: lambda *_: False,
    ),
    "what was evicted from L2 stays in L1": (CacheCore, "_gone", lambda _: lambda *_: None),
    "who is depended on is forgotten at a restart": (Barriers, "restore", forget_dependencies),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_cache_is_found_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, broken = BROKEN[what]
    monkeypatch.setattr(where, name, broken(getattr(where, name)))
    for seed in (FOUND_BY[what], *range(SEEDS_MAX)):
        try:
            CacheStory(seed).tell()
        except (AssertionError, ExceptionGroup):
            return
    pytest.fail(f"nobody has noticed that {what}")
