"""What callers give, checked and made ready to be sent. Nothing was sent where these raise."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from attrs import define, field

from mpreg.cache.configuration import CacheConfiguration, WriteMode
from mpreg.cache.core import CacheCore
from mpreg.cache.entry import CachedEntry, make_entry
from mpreg.cache.index import ENTRY_OVERHEAD_BYTES
from mpreg.cache.invalidation import Prefix, Target
from mpreg.cache.keys import GlobalCacheKey, KeyPart, encode_key, encode_prefix
from mpreg.cache.records import FORMAT, CachedRecord, Link, encode_record
from mpreg.cache.writes import Change
from mpreg.codec import KEY_BYTES_MAX, encode_value
from mpreg.errors import InvalidArgumentError, ValueTooLargeError
from mpreg.persistence import Durability
from mpreg.persistence.operations import Put

__all__ = [
    "TAG_BYTES_MAX",
    "Details",
    "check_choices",
    "check_compute",
    "check_increment",
    "check_negative_ttl",
    "checked_beginning",
    "checked_seconds",
    "checked_tag",
    "checked_target",
    "checked_version",
    "durability_of",
    "is_behind",
    "prepare_put",
]

#: Its invalidation is a row whose key is the tag and a byte before it.
TAG_BYTES_MAX: Final = KEY_BYTES_MAX - 1


# Not frozen, as nobody changes it: one is made for every put, which would cost twice as much.
@define(kw_only=True)
class Details:
    """What belongs to a value beside it."""

    ttl_seconds: float | None = None
    """`math.inf`: until it is evicted; None: as configured."""
    stale_seconds: float = 0.0
    tags: Iterable[str] = ()
    dependencies: Iterable[GlobalCacheKey] = ()
    cost: float = 1.0
    expected_version: int | None = None
    given_at: float | None = None
    """From when the time to live counts, by the wall clock; None: from when it is prepared."""
    checked_tags: tuple[str, ...] = field(init=False, default=())
    checked_dependencies: tuple[bytes, ...] = field(init=False, default=())

    def __attrs_post_init__(self) -> None:
        if self.ttl_seconds is not None:
            checked_seconds("ttl_seconds", self.ttl_seconds)
        # The common case first: this is done for every put.
        stale_seconds, cost = self.stale_seconds, self.cost
        if type(stale_seconds) is not float or not stale_seconds >= 0.0:
            checked_seconds("stale_seconds", self.stale_seconds, zero=True)
        if type(cost) is not float or not 0.0 <= cost < math.inf:
            _check_cost(self.cost)
        if self.tags:
            self.tags = self.checked_tags = _tags(self.tags)
        if self.dependencies:
            # What can be gone through only once is needed again where this is evolved.
            self.dependencies = keys = _several(self.dependencies, "dependencies")
            self.checked_dependencies = tuple(dict.fromkeys(map(_dependency, keys)))


def checked_seconds(name: str, seconds: object, *, zero: bool = False) -> float:
    """Raises `InvalidArgumentError`."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:
        raise InvalidArgumentError(f"{name} is a number of seconds, not {seconds!r:.80}")
    if sys.float_info.max < seconds < math.inf:
        raise InvalidArgumentError(f"{name} is more than can be counted; math.inf is for ever")
    if seconds < 0 or (seconds == 0 and not zero):
        raise InvalidArgumentError(
            f"{name} must be {'at least' if zero else 'above'} 0, not {seconds!r}"
        )
    return seconds


def checked_version(version: object) -> int:
    """Raises `InvalidArgumentError`."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise InvalidArgumentError(f"expected_version is a version or 0, not {version!r:.80}")
    return version


def _check_cost(cost: object) -> None:
    if (
        isinstance(cost, bool)
        or not isinstance(cost, int | float)
        or not 0 <= cost <= sys.float_info.max
    ):
        raise InvalidArgumentError(f"cost is a number, at least 0, not {cost!r:.80}")


def _several(items: object, name: str) -> tuple[Any, ...]:
    if isinstance(items, str | GlobalCacheKey) or not isinstance(items, Iterable):
        raise InvalidArgumentError(f"{name} are several: give ({items!r},) and not {items!r}")
    return tuple(items)


def _dependency(key: GlobalCacheKey) -> bytes:
    encoded = encode_key(key)
    _check_row("a key on which others depend", encoded)
    return encoded


def _check_row(what: str, encoded: bytes) -> None:
    """It is the key of a row, with a byte before it. Raises `ValueTooLargeError`."""
    if len(encoded) >= KEY_BYTES_MAX:
        raise ValueTooLargeError(f"{what} has {len(encoded)} bytes; at most {KEY_BYTES_MAX - 1}")


def _tags(tags: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(checked_tag, _several(tags, "tags"))))


def checked_tag(tag: object) -> str:
    """Raises `InvalidArgumentError`, `ValueTooLargeError`."""
    if type(tag) is not str or not tag:
        raise InvalidArgumentError(f"a tag is a str that is not empty, not {tag!r:.80}")
    try:
        size = len(tag.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a tag that is no text: {error}") from error
    if size > TAG_BYTES_MAX:
        raise ValueTooLargeError(f"a tag of {size} bytes; at most {TAG_BYTES_MAX}")
    return tag


def checked_beginning(namespace: str | None, prefix: KeyPart | tuple[KeyPart, ...] | None) -> bytes:
    """Of encoded keys: of all, of those of a namespace, or of those of it that begin with
    ``prefix``. Raises `InvalidArgumentError`."""
    if namespace is not None:
        return encode_prefix(namespace, prefix)
    _check_no_prefix(prefix)
    return b""


def _check_no_prefix(prefix: object) -> None:
    if prefix is not None:
        raise InvalidArgumentError("prefix is one within a namespace: give that, too")


def checked_target(
    namespace: str | None,
    prefix: KeyPart | tuple[KeyPart, ...] | None,
    tag: str | None,
    dependency: GlobalCacheKey | None,
) -> Target:
    """What an invalidation concerns. Raises `InvalidArgumentError`, `ValueTooLargeError`."""
    if sum(one is not None for one in (namespace, tag, dependency)) != 1:
        raise InvalidArgumentError(
            "give one of namespace (with or without prefix), tag, dependency"
        )
    if namespace is not None:
        target = Prefix.of(namespace, prefix)
        _check_row("a prefix", target.encoded)
        return target
    _check_no_prefix(prefix)
    if tag is not None:
        return checked_tag(tag)
    assert dependency is not None
    return _dependency(dependency)


def check_increment(by: object, initial: object, ttl_seconds: object) -> None:
    """Raises `InvalidArgumentError`."""
    for name, number in (("by", by), ("initial", initial)):
        if type(number) is not int:
            raise InvalidArgumentError(f"{name} is an int, not {number!r:.80}")
    if ttl_seconds is not None:
        checked_seconds("ttl_seconds", ttl_seconds)


def check_negative_ttl(seconds: object) -> None:
    """Of what is not there; 0: not at all. Raises `InvalidArgumentError`."""
    if seconds is not None:
        checked_seconds("negative_ttl_seconds", seconds, zero=True)


def check_compute(compute: object) -> None:
    """Raises `InvalidArgumentError`."""
    if not callable(compute):
        raise InvalidArgumentError(
            f"compute is an async function that takes nothing, not {compute!r:.80}"
        )


def prepare_put(
    core: CacheCore,
    key: GlobalCacheKey,
    value: object,
    details: Details,
    like: CachedEntry | None = None,
    inherited: Iterable[Link] = (),
) -> tuple[Change, Put]:
    """What is to be sent: the value and the times as they are now. Where it depends on other keys
    and the index is not complete yet, `CacheCore.inherit` it when it is. ``like``: what belongs to
    the value is as it was with that entry, and not as the details say. ``inherited``: what
    invalidated that which it depends on, when the value was made from it.

    Raises:
        InvalidArgumentError, ValueTooLargeError
    """
    encoded = encode_key(key)
    if encoded in details.checked_dependencies:
        raise InvalidArgumentError(f"{key!r} cannot depend on itself")
    payload = encode_value(value, core.registry.config.value_bytes_max)
    if like is None:
        record, expires_at = _record(core, encoded, payload, details, inherited)
    else:
        record, expires_at = _like(payload, like)
    data = encode_record(record)
    size = len(encoded) + len(data) + ENTRY_OVERHEAD_BYTES
    core.check_fits(key, size)
    entry = make_entry(
        key,
        encoded,
        core.barriers.space(key.namespace),
        record,
        expires_at=expires_at,
    )
    put = core.storage.put(encoded, data, expires_at, details.expected_version)
    return Change(key, encoded, entry, size), put


def _record(
    core: CacheCore, encoded: bytes, payload: bytes, details: Details, inherited: Iterable[Link]
) -> tuple[CachedRecord, float | None]:
    fresh_until, expires_at = _times(core, details)
    tags, dependencies = details.checked_tags, details.checked_dependencies
    if dependencies:
        now = core.dependents.inherited(dependencies)
        links = dict.fromkeys((*tags, *dependencies, *now, *inherited))
        tags = tuple(one for one in links if isinstance(one, str))
        # Where keys depend on each other in a circle, one of them is this one.
        dependencies = tuple(one for one in links if isinstance(one, bytes) and one != encoded)
    record = CachedRecord(
        FORMAT,
        msgspec.Raw(payload),
        fresh_until,
        float(details.cost),
        tags,
        dependencies,
    )
    return record, expires_at


def _like(payload: bytes, entry: CachedEntry) -> tuple[CachedRecord, float | None]:
    record = CachedRecord(
        FORMAT,
        msgspec.Raw(payload),
        None if entry.fresh_until == math.inf else entry.fresh_until,
        entry.cost,
        tuple(one for one in entry.links if isinstance(one, str)),
        tuple(one for one in entry.links if isinstance(one, bytes)),
    )
    return record, None if entry.expires_at == math.inf else entry.expires_at


def _times(core: CacheCore, details: Details) -> tuple[float | None, float | None]:
    ttl = details.ttl_seconds
    if ttl is None:
        ttl = core.configuration.default_ttl_seconds
    if ttl is None or ttl == math.inf:
        return None, None
    given_at = core.wall() if details.given_at is None else details.given_at
    fresh_until = given_at + ttl
    expires_at = fresh_until + details.stale_seconds
    return fresh_until, None if expires_at == math.inf else expires_at


def check_choices(mode: object, durability: object) -> None:
    """Raises `InvalidArgumentError`: what is no member would be taken for the default."""
    if mode is not None and not isinstance(mode, WriteMode):
        raise InvalidArgumentError(f"mode is a WriteMode, not {mode!r:.80}")
    if durability is not None and not isinstance(durability, Durability):
        raise InvalidArgumentError(f"durability is a Durability, not {durability!r:.80}")


def is_behind(configuration: CacheConfiguration, mode: WriteMode | None) -> bool:
    return (mode or configuration.write_mode) is WriteMode.WRITE_BEHIND


def durability_of(
    configuration: CacheConfiguration, mode: WriteMode | None, durability: Durability | None
) -> Durability:
    if durability is not None:
        return durability
    relaxed = (mode or configuration.write_mode) is WriteMode.RELAXED
    return Durability.RELAXED if relaxed else Durability.DURABLE
