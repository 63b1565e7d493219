"""Metrics of caches, by namespace as far as they are not too many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from mpreg.cache import CacheStatistics, NamespaceStatistics, WarmUpState
from mpreg.monitoring.http import OTHER
from mpreg.monitoring.metrics.spec import Read, Sample, counter, gauge
from mpreg.monitoring.snapshot import NodeSnapshot

__all__ = ["CACHES", "CACHE_NAMESPACES_MAX", "bounded_namespaces"]

#: Namespaces of a cache that have samples of their own; the others are counted together as "other".
CACHE_NAMESPACES_MAX: Final = 64


def _caches(read: Callable[[CacheStatistics], float | None]) -> Read:
    return lambda snapshot: (((name,), read(one)) for name, one in snapshot.caches.items())


def _levels(read: Callable[[CacheStatistics], tuple[float, float]]) -> Read:
    def samples(snapshot: NodeSnapshot) -> Iterator[Sample]:
        for name, one in snapshot.caches.items():
            for level, value in zip(("L1", "L2"), read(one), strict=True):
                yield (name, level), value

    return samples


def _evictions(snapshot: NodeSnapshot) -> Iterator[Sample]:
    for name, one in snapshot.caches.items():
        for cause, count in one.evicted_from_memory.items():
            yield (name, "L1", cause.name.lower()), count
        yield (name, "L2", "room"), one.evicted_from_disk


def _cache_reads(snapshot: NodeSnapshot) -> Iterator[Sample]:
    for name, cache in snapshot.caches.items():
        for namespace, one in bounded_namespaces(cache).items():
            yield (name, namespace, "L1"), one.memory_hits
            yield (name, namespace, "L2"), one.disk_hits
            yield (name, namespace, "miss"), one.misses


def bounded_namespaces(cache: CacheStatistics) -> dict[str, NamespaceStatistics]:
    """The first ones that were used, so that what is told of each only grows, and all others, with
    any that has that name and those that were forgotten, as one."""
    named = (one for one in cache.namespaces.items() if one[0] != OTHER)
    shown = dict(islice(named, CACHE_NAMESPACES_MAX))
    rest = NamespaceStatistics(
        memory_hits=cache.memory_hits - sum(one.memory_hits for one in shown.values()),
        disk_hits=cache.disk_hits - sum(one.disk_hits for one in shown.values()),
        misses=cache.misses - sum(one.misses for one in shown.values()),
    )
    if len(shown) < len(cache.namespaces) or any((rest.memory_hits, rest.disk_hits, rest.misses)):
        shown[OTHER] = rest
    return shown


CACHES: Final = (
    counter(
        "mpreg_cache_reads_total",
        'Reads by where the value was found: "L1" (memory), "L2" (disk), or "miss".',
        _cache_reads,
        "cache",
        "namespace",
        "result",
    ),
    gauge(
        "mpreg_cache_entries",
        "Entries by level.",
        _levels(lambda c: (c.memory_entries, c.disk_entries)),
        "cache",
        "level",
    ),
    gauge(
        "mpreg_cache_bytes",
        "Their bytes.",
        _levels(lambda c: (c.memory_bytes, c.disk_bytes)),
        "cache",
        "level",
    ),
    counter(
        "mpreg_cache_evictions_total",
        "Entries given up, by level and cause.",
        _evictions,
        "cache",
        "level",
        "cause",
    ),
    counter("mpreg_cache_puts_total", "Entries put.", _caches(lambda c: c.puts), "cache"),
    counter(
        "mpreg_cache_deletions_total", "Entries deleted.", _caches(lambda c: c.deletions), "cache"
    ),
    counter(
        "mpreg_cache_invalidations_total",
        "Invalidations.",
        _caches(lambda c: c.invalidations),
        "cache",
    ),
    gauge(
        "mpreg_cache_writing_behind",
        "Keys whose last write is still on its way.",
        _caches(lambda c: c.writing_behind),
        "cache",
    ),
    counter(
        "mpreg_cache_damaged_total",
        "Entries that were read and are not what was written.",
        _caches(lambda c: c.damaged),
        "cache",
    ),
    counter(
        "mpreg_cache_computations_total",
        "Computations of missing values.",
        _caches(lambda c: c.computations),
        "cache",
    ),
    counter(
        "mpreg_cache_computing_seconds_total",
        "What all of them took.",
        _caches(lambda c: c.computing_seconds),
        "cache",
    ),
    counter(
        "mpreg_cache_stampedes_avoided_total",
        "Calls that got what another one had computed.",
        _caches(lambda c: c.stampedes_avoided),
        "cache",
    ),
    gauge(
        "mpreg_cache_warm",
        "1 when what was used most before the restart is in memory again.",
        _caches(lambda c: float(c.warm_up in (WarmUpState.COUNTING, WarmUpState.DONE))),
        "cache",
    ),
    gauge(
        "mpreg_cache_warm_up_seconds",
        "What that took.",
        _caches(lambda c: c.warm_up_seconds),
        "cache",
    ),
)
