"""What all that use the snapshots of one registry must know of one another.

What is found on disk does not tell whether somebody is still at it. As only one registry is open
at a time, it can be told here.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from attrs import define, field

from mpreg.persistence.snapshots.retention import SnapshotRetention

__all__ = ["SnapshotSharing"]


@define(eq=False)
class SnapshotSharing:
    repairing: anyio.Lock = field(factory=anyio.Lock)
    """Held by whoever makes a list of versions anew."""
    _slots: set[tuple[bytes, int]] = field(factory=set)
    _reads: Counter[tuple[bytes, int]] = field(factory=Counter)
    _removals: set[tuple[bytes, int]] = field(factory=set)
    removals_begun: int = 0
    """How often anybody has begun to remove chunks."""
    _left: set[tuple[bytes, int]] = field(factory=set)
    _retentions: dict[bytes, SnapshotRetention] = field(factory=dict)
    _due: dict[bytes, float] = field(factory=dict)

    # --- saves under way ---

    def first_free_slot(self, namespace: bytes) -> int:
        return next(slot for slot in itertools.count() if self.is_free(namespace, slot))

    def is_free(self, namespace: bytes, slot: int) -> bool:
        return (namespace, slot) not in self._slots

    def is_saving(self, namespace: bytes) -> bool:
        """Whether any save of this snapshot is under way."""
        return any(held[0] == namespace for held in self._slots)

    @contextmanager
    def hold(self, namespace: bytes, slot: int) -> Iterator[None]:
        """Hold a free slot."""
        self._slots.add((namespace, slot))
        try:
            yield
        finally:
            self._slots.remove((namespace, slot))

    # --- saves that are read or removed ---

    def is_read(self, namespace: bytes, save: int) -> bool:
        return self._reads[namespace, save] > 0

    def begin_read(self, namespace: bytes, save: int) -> None:
        """The chunks of this save are not removed until `end_read` was called as often."""
        self._reads[namespace, save] += 1

    def end_read(self, namespace: bytes, save: int) -> bool:
        """Whether nobody reads it any more and its chunks are left to be removed.

        Upkeep does it otherwise.
        """
        self._reads[namespace, save] -= 1
        if self._reads[namespace, save]:
            return False
        del self._reads[namespace, save]
        if (namespace, save) not in self._left:
            return False
        self._left.remove((namespace, save))
        self.be_due(namespace, -math.inf)
        return True

    def leave_to_reads(self, namespace: bytes, save: int) -> None:
        """Its chunks are to be removed when nobody reads them any more."""
        self._left.add((namespace, save))

    @contextmanager
    def removal(self, namespace: bytes, save: int) -> Iterator[bool]:
        """Whether nobody else is removing its chunks; nobody else begins to, then."""
        if (namespace, save) in self._removals:
            yield False
            return
        self._removals.add((namespace, save))
        self.removals_begun += 1
        try:
            yield True
        finally:
            self._removals.remove((namespace, save))

    # --- what is kept, and when something goes ---

    def keep(self, namespace: bytes, retention: SnapshotRetention) -> None:
        """From now on this is kept, whatever was before."""
        self._retentions[namespace] = retention
        self.be_due(namespace, -math.inf)

    def retention(self, namespace: bytes) -> SnapshotRetention | None:
        """What is to be kept, where somebody has said so."""
        return self._retentions.get(namespace)

    def be_due(self, namespace: bytes, instant: float) -> None:
        """Upkeep is to look at this snapshot then (wall clock), and not before."""
        if instant == math.inf:
            self._due.pop(namespace, None)
        else:
            self._due[namespace] = instant

    def due_at(self, now: float) -> list[bytes]:
        return [namespace for namespace, instant in self._due.items() if instant <= now]

    @property
    def earliest_due(self) -> float:
        return min(self._due.values(), default=math.inf)
