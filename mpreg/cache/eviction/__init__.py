"""What leaves a full cache first: one policy a module, chosen by name."""

from __future__ import annotations

from mpreg.cache.eviction.cost import CostPolicy
from mpreg.cache.eviction.lfu import LfuPolicy
from mpreg.cache.eviction.lru import LruPolicy
from mpreg.cache.eviction.policy import Evictable, EvictionPolicy, EvictionPolicyName
from mpreg.cache.eviction.s4lru import S4LruPolicy
from mpreg.cache.eviction.ttl_first import TtlFirstPolicy
from mpreg.errors import ConfigurationError

__all__ = ["Evictable", "EvictionPolicy", "EvictionPolicyName", "make_policy", "policy_name"]


def policy_name(value: object) -> EvictionPolicyName:
    """Raises `ConfigurationError` where ``value`` names no policy."""
    try:
        return EvictionPolicyName(value)
    except ValueError:
        names = ", ".join(repr(name.value) for name in EvictionPolicyName)
        raise ConfigurationError(f"policy: one of {names} is expected, not {value!r}") from None


def make_policy(name: EvictionPolicyName | str, entries_max: int, bytes_max: int) -> EvictionPolicy:
    """An empty policy for a cache of these bounds.

    Raises:
        ConfigurationError: there is no policy of that name.
    """
    match policy_name(name):
        case EvictionPolicyName.LRU:
            return LruPolicy()
        case EvictionPolicyName.LFU:
            return LfuPolicy()
        case EvictionPolicyName.S4LRU:
            return S4LruPolicy(entries_max, bytes_max)
        case EvictionPolicyName.TTL_FIRST:
            return TtlFirstPolicy()
        case EvictionPolicyName.COST:
            return CostPolicy()
