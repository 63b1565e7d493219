"""A cache with memory in front and the stores of a registry behind."""

from mpreg.cache.eviction import EvictionPolicyName
from mpreg.cache.memory import EvictionCause, HeldEntry, MemoryCache

__all__ = ["EvictionCause", "EvictionPolicyName", "HeldEntry", "MemoryCache"]
