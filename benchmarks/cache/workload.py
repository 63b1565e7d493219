"""What is asked for, of whom, and how often: the same for every contender."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import frozen

from benchmarks.cache.trace import Shape, Values, key_of_rank

SEED: Final = 20_261

POLICIES: Final = ("lru", "lfu", "s4lru", "ttl_first", "cost")

# --- hit ratios ---

OPTIMAL: Final = "Belady"
S4LRU: Final = "mpreg s4lru"
HIT_CONTENDERS: Final = (
    OPTIMAL,
    *(f"mpreg {policy}" for policy in POLICIES),
    "cachetools LRU",
    "cachetools LFU",
)

#: Entries of the cache, of a million keys.
ENTRIES: Final = (10_000, 100_000)


def scaled(scale: float) -> Shape:
    """The whole trace, smaller in everything."""
    full = Shape()
    return Shape(
        keys=int(full.keys * scale),
        before_requests=int(full.before_requests * scale),
        scan_keys=int(full.scan_keys * scale),
        after_requests=int(full.after_requests * scale),
    )


@frozen
class HitResult:
    """Parts of the reads that found their key."""

    all: float
    """Over the whole trace, reads of the scan included."""
    before: float
    """Zipf, from the half of the first phase until the scan."""
    through: float
    """Zipf, during the scan."""
    after: float
    """Zipf, after the scan."""
    seconds: float

    @property
    def kept(self) -> float:
        return self.through / self.before


# --- lookups ---

LOOPS: Final = ("asyncio", "uvloop", "trio")

#: In the cache while its lookups are timed: all are hits.
LOOKED_UP_ENTRIES: Final = 10_000


@frozen
class LookupResult:
    """Nanoseconds for a hit, each the least of many passes."""

    awaited: float
    """``await cache.get(key)``, no time for others between"""
    memory: float
    """``MemoryCache.get(key, now)``"""
    cachetools: float
    """``cache[key]``"""


# --- mixed load ---

#: Requests follow Zipf among so many keys.
KEYS: Final = Shape().keys

#: The most wanted, on disk beforehand. About one read in six asks for another one.
PREFILLED: Final = 100_000

#: What the memory in front holds, where there is one: the default of mpreg would hold everything.
MEMORY_ENTRIES: Final = 10_000

WORKERS: Final = (1, 16, 256)

THROUGH: Final = ("mpreg asyncio", "mpreg uvloop", "mpreg trio")
RELAXED: Final = ("mpreg relaxed asyncio", "mpreg relaxed uvloop", "mpreg relaxed trio")
BEHIND: Final = ("mpreg behind asyncio", "mpreg behind uvloop", "mpreg behind trio")
FILLING: Final = ("mpreg filling asyncio", "mpreg filling uvloop", "mpreg filling trio")
OURS: Final = (*THROUGH, *FILLING, *RELAXED, *BEHIND)
DISKCACHE_FULL: Final = "diskcache full"
DISKCACHE_FULL_DIRECT: Final = "diskcache full, direct"
DISKCACHE: Final = "diskcache"
DISKCACHE_DIRECT: Final = "diskcache, direct"
NAIVE: Final = "cachetools + sqlite3"
DURABLE_DISKCACHES: Final = {
    "diskcache through worker threads": DISKCACHE_FULL,
    "diskcache, direct calls": DISKCACHE_FULL_DIRECT,
}
RELAXED_DISKCACHES: Final = {
    "diskcache through worker threads": DISKCACHE,
    "diskcache, direct calls": DISKCACHE_DIRECT,
}
"""By how they are called."""
PEERS: Final = (*DURABLE_DISKCACHES.values(), *RELAXED_DISKCACHES.values(), NAIVE)
MIXED_CONTENDERS: Final = (*OURS, *PEERS)

#: Contenders with the same files begin with copies of the same.
STORES: Final = ("mpreg", DISKCACHE, NAIVE)


def store_of(contender: str) -> str:
    return next(store for store in STORES if contender.startswith(store))


NOTES: Final = {
    "mpreg": "put returns when it is on disk; LRU in memory",
    "mpreg filling": "as the first, but a put that fills a miss is relaxed: it can be filled again",
    "mpreg relaxed": "put returns when it is committed: it survives the process, a power cut may "
    "take the last second",
    "mpreg behind": "put returns when it is in memory; timed until the last one is on disk",
    DISKCACHE_FULL: "synchronous=FULL set by us: set returns when it is on disk; through worker "
    "threads",
    DISKCACHE: "its defaults (synchronous=NORMAL): a set survives the process, a power cut may "
    "take the last ones",
    "diskcache, direct": "one blocking call after the other in one thread, no event loop: a "
    "server would stand still meanwhile",
    NAIVE: "LRU of cachetools, then sqlite3 with synchronous=FULL and a commit for each put, "
    "through worker threads",
}

#: Requests timed at each number of workers: one to a few seconds each.
REQUESTS: Final = {
    "mpreg": {1: 6_000, 16: 40_000, 256: 100_000},
    # They commit each put by itself: more would take minutes, and not say more.
    "peers": {1: 4_000, 16: 8_000, 256: 8_000},
}


def requests(contender: str, workers: int, scale: float) -> int:
    kind = "peers" if contender in PEERS else "mpreg"
    return max(workers, int(REQUESTS[kind][workers] * scale))


@frozen
class MixedResult:
    """One contender under load."""

    per_second: float
    """Requests; the put that fills a miss belongs to its read."""
    memory_ratio: float
    """Reads that memory served, of all reads."""
    hit_ratio: float
    """Reads that found their key, of all reads."""
    put_share: float
    """Puts, those that fill misses among them, of all requests."""
    peak_mib: float
    puts_per_fsync: float | None = None
    """Where the contender counts them."""


@frozen
class FsyncResult:
    """What a durable put cannot do without."""

    seconds: float


def wanted_values(entries: int) -> Iterator[tuple[int, bytes]]:
    """The most wanted keys with their values."""
    values = Values(SEED)
    for rank in range(1, entries + 1):
        key = key_of_rank(rank, KEYS)
        yield key, values.of(key)


# --- restart ---

BARE: Final = "bare sqlite3"

RESTART_ENTRIES: Final = 100_000


@frozen
class RestartResult:
    """A start on what an earlier process left."""

    opened_seconds: float
    """Until registry and cache are open."""
    first_seconds: float
    """Until a get during the warm-up has its value."""
    warm_seconds: float
    """Until memory holds all that it is to hold."""
    cpu_seconds: float
    """Of all threads, until then."""
    first_level: str
    """Where that get found it: "L2", unless the warm-up was faster."""
    entries: int
    peak_mib: float


@frozen
class BareResult:
    """The same rows, read by nothing but `sqlite3`."""

    seconds: float
    cpu_seconds: float
    entries: int
    peak_mib: float
