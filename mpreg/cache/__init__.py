"""A cache with memory in front and the stores of a registry behind."""

from mpreg.cache.cached import CachedFunction, cached
from mpreg.cache.configuration import CacheConfiguration, WriteMode
from mpreg.cache.entry import CacheLevel, Found
from mpreg.cache.eviction import EvictionPolicyName
from mpreg.cache.keys import GlobalCacheKey, KeyPart
from mpreg.cache.manager import GlobalCacheManager
from mpreg.cache.memory import EvictionCause, HeldEntry, MemoryCache
from mpreg.cache.statistics import CacheStatistics, NamespaceStatistics, WarmUpState
from mpreg.cache.watching import CacheChange, ChangeKind, Watch
from mpreg.errors import WatchLaggedError

__all__ = [
    "CacheChange",
    "CacheConfiguration",
    "CacheLevel",
    "CacheStatistics",
    "CachedFunction",
    "ChangeKind",
    "EvictionCause",
    "EvictionPolicyName",
    "Found",
    "GlobalCacheKey",
    "GlobalCacheManager",
    "HeldEntry",
    "KeyPart",
    "MemoryCache",
    "NamespaceStatistics",
    "WarmUpState",
    "Watch",
    "WatchLaggedError",
    "WriteMode",
    "cached",
]
