"""How many versions of a snapshot are kept, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from attrs import field, frozen

from mpreg.validation import seconds, whole_number

__all__ = ["SnapshotRetention", "next_due", "surplus"]


@frozen(kw_only=True)
class SnapshotRetention:
    """What is kept of one snapshot: versions beyond any limit are dropped, the oldest first.

    The newest version always stays, however old it is. Versions beyond ``versions_max`` go with
    the save that makes them too many, those that become too old some seconds after that.

    Raises:
        ConfigurationError: a limit has the wrong type or is out of range.
    """

    versions_max: int | None = field(default=1, validator=whole_number(1, 2**63 - 1, none=True))
    """The newest so many stay; None: any number."""
    seconds_max: float | None = field(default=None, validator=seconds(zero=False, none=True))
    """By the wall clock, from when the version was saved; None: for any time."""


class _Version(Protocol):
    @property
    def saved_at(self) -> float: ...


V = TypeVar("V", bound=_Version)


def surplus(retention: SnapshotRetention, versions: Sequence[V], now: float) -> list[V]:
    """Those to be dropped of all versions, which are given from the oldest to the newest."""
    limit = retention.versions_max
    count = 0 if limit is None else max(0, len(versions) - limit)
    return [
        version
        for index, version in enumerate(versions[:-1])
        if index < count or _ends_at(retention, version) <= now
    ]


def next_due(retention: SnapshotRetention, versions: Sequence[V]) -> float:
    """When the next of them becomes too old (wall clock), if nothing is saved until then."""
    return min((_ends_at(retention, version) for version in versions[:-1]), default=math.inf)


def _ends_at(retention: SnapshotRetention, version: _Version) -> float:
    if retention.seconds_max is None:
        return math.inf
    return version.saved_at + retention.seconds_max
