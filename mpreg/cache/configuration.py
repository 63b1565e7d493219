"""The settings of a cache."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

import attrs
from attrs import field, frozen

from mpreg.cache.eviction import EvictionPolicyName
from mpreg.errors import ConfigurationError
from mpreg.validation import found, member, refuse_unknown, seconds, whole_number

__all__ = ["NAME_CHARACTERS_MAX", "CacheConfiguration", "WriteMode"]

MIB: Final = 1 << 20

NAME_CHARACTERS_MAX: Final = 200


class WriteMode(enum.Enum):
    """When a `put` or `delete` returns."""

    WRITE_THROUGH = "write_through"
    """When it is on disk: it survives a power cut."""
    RELAXED = "relaxed"
    """When it is committed, before fsync: it survives the process. A power cut may take it."""
    WRITE_BEHIND = "write_behind"
    """When it can be read, and is on its way to the disk. A crash may take what is on the way; its
    ack tells when it is there."""


def _policy(value: object) -> EvictionPolicyName:
    return member(EvictionPolicyName, "policy", value)


def _mode(value: object) -> WriteMode:
    return member(WriteMode, "write_mode", value)


def _name(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARACTERS_MAX:
        raise found(attribute.name, f"a str of 1 to {NAME_CHARACTERS_MAX} characters", value)


@frozen(kw_only=True)
class CacheConfiguration:
    """The settings of a cache; every one has a default.

    Raises:
        ConfigurationError: a value has the wrong type, is out of range, or is impossible beside
            another one. `from_mapping` also raises it for unknown names.
    """

    name: str = field(default="default", validator=_name)
    """Caches of different names in one registry have nothing in common."""

    memory_entries_max: int = field(default=100_000, validator=whole_number(1))
    """Entries in L1."""
    memory_bytes_max: int = field(default=128 * MIB, validator=whole_number(1))
    """Bytes in L1: keys and values as stored, 640 for each entry, and 64 and its bytes for each tag
    and dependency."""
    policy: EvictionPolicyName = field(default=EvictionPolicyName.LRU, converter=_policy)
    """Which entry L1 gives up first."""

    disk_entries_max: int = field(default=1_000_000, validator=whole_number(1))
    """Entries in L2. Each takes about 300 bytes of memory beside its key: see there."""
    disk_bytes_max: int = field(default=1024 * MIB, validator=whole_number(1))
    """Bytes in L2: keys and values as stored, and 64 for each entry."""

    write_mode: WriteMode = field(default=WriteMode.WRITE_THROUGH, converter=_mode)
    """When a call that names no mode returns."""
    default_ttl_seconds: float | None = field(
        default=None, validator=seconds(zero=False, none=True)
    )
    """For calls that name no time to live; None: until it is evicted."""

    warm_up_entries_max: int | None = field(default=None, validator=whole_number(0, none=True))
    """Entries read into L1 at start, the most used first; None: as many as it holds."""
    warm_up_bytes_max: int | None = field(default=None, validator=whole_number(0, none=True))
    """Their bytes together."""
    heat_interval_seconds: float = field(default=300.0, validator=seconds(zero=False))
    """How often it is written down which entries are the most used, where they have changed: a
    crash loses what is newer, of this list alone."""

    watch_changes_max: int = field(default=4_096, validator=whole_number(1))
    """Changes kept for one who watches and does not take them; then the watch ends."""

    def __attrs_post_init__(self) -> None:
        for entries_or_bytes in ("entries", "bytes"):
            memory = getattr(self, f"memory_{entries_or_bytes}_max")
            warm = getattr(self, f"warm_up_{entries_or_bytes}_max")
            if warm is not None and warm > memory:
                raise ConfigurationError(
                    f"warm_up_{entries_or_bytes}_max ({warm}) is above "
                    f"memory_{entries_or_bytes}_max ({memory}): so much could not stay",
                    f"warm_up_{entries_or_bytes}_max",
                )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, object]) -> CacheConfiguration:
        """From a mapping of names to values, as a settings file has it."""
        refuse_unknown(settings, [attribute.name for attribute in attrs.fields(cls)])
        return cls(**settings)  # type: ignore[arg-type]
