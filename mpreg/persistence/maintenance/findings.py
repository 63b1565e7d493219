"""What an examination of a store finds."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

__all__ = ["Finding", "FindingKind", "VerificationReport"]

#: What a report keeps of its findings; all are counted.
FINDINGS_KEPT_MAX = 10_000


class FindingKind(enum.Enum):
    STRUCTURE = "structure"
    """SQLite's own pages, or its schema: `quick_check` says what. Of a journal: frames, headers,
    and commits that are missing."""
    META = "meta"
    """The store's own numbers contradict what is stored, or each other."""
    ENTRY = "entry"
    """An entry does not match its checksum, or belongs to no namespace; its large value, or the
    file of its value, is missing; a large value is no entry's; the values of a file are not as many
    as its row says."""
    NAMESPACE = "namespace"
    """A namespace's name is none, or it cannot be found by it."""
    LOG = "log"
    """A log's name or offsets are damaged, or it cannot be found by its name."""
    RECORD = "record"
    """A record does not match its checksum, or belongs to no log."""
    GAP = "gap"
    """Records are missing between a log's bounds."""
    SNAPSHOT = "snapshot"
    """A snapshot's manifest or chunks are damaged or missing."""
    ACKED = "acked"
    """Commits that were acknowledged as durable are missing, or the file that tells is damaged."""
    CURSOR = "cursor"
    """A queue's cursor has come further than its log reaches. `verify` knows nothing of queues: who
    does, adds these."""
    LEFTOVER = "leftover"
    """Chunks that no snapshot names; a file that no value names. They take room and harm nothing:
    not counted as damage."""
    SET_ASIDE = "set aside"
    """Records that are missing because a repair put them into quarantine: not counted as damage."""
    QUARANTINE = "quarantine"
    """What a repair has set aside cannot be read any more: not counted as damage of the store."""

    @property
    def is_damage(self) -> bool:
        return self not in (FindingKind.LEFTOVER, FindingKind.SET_ASIDE, FindingKind.QUARANTINE)


@frozen
class Finding:
    """One thing that is not as it should be."""

    kind: FindingKind
    where: str
    """The item: ``namespace 'shelf', key 'bob'``, ``log 'audit', offset 2``, ``page 7``."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"

    def as_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": self.kind.value, "where": self.where, "message": self.message}


@frozen(kw_only=True)
class VerificationReport:
    """What `verify` has found in a store."""

    path: Path
    """The database."""
    commit_sequence: int | None = None
    """Of the state that was examined; None where the numbers cannot be read."""
    generation: int | None = None
    last_version: int | None = None
    entries: int = 0
    """Examined, damaged ones included."""
    records: int = 0
    logs: int = 0
    snapshots: int = 0
    """Snapshots with a manifest."""
    own_entries: int = 0
    """Of these entries, those that mpreg keeps for itself: of queues and caches, and the parts that
    snapshots are made of. Lists show them only where they are asked for."""
    own_records: int = 0
    """Of the records, those in logs of mpreg's own: messages of queues, and what became of them."""
    own_logs: int = 0
    own_snapshots: int = 0
    """Cursors of queues."""
    bytes: int = 0
    """Values and records together."""
    full: bool = False
    """Whether SQLite's ``integrity_check`` was made, and not only ``quick_check``."""
    findings: tuple[Finding, ...] = ()
    """At most 10,000 of them."""
    damaged: int = 0
    """Findings that are damage, also those that are not kept."""
    notices: int = 0
    """Those that are not."""
    mended: tuple[Finding, ...] = ()
    """Damage that a repair has found and that is there no more: what it tells of is in quarantine,
    or lost. At most 10,000 of them."""

    @property
    def sound(self) -> bool:
        """No damage: all that is stored can be read, and is what was written."""
        return self.damaged == 0

    def with_damage(self, findings: Sequence[Finding]) -> VerificationReport:
        """The same, with what was found beside the store."""
        return evolve(
            self, findings=(*findings, *self.findings), damaged=self.damaged + len(findings)
        )

    def with_mended(self, before: Sequence[Finding]) -> VerificationReport:
        """After a repair: the same, with what was damaged before it and is no more."""
        left = set(self.findings)
        gone = [one for one in before if one.kind.is_damage and one not in left]
        return evolve(self, mended=(*self.mended, *gone)[:FINDINGS_KEPT_MAX])

    def as_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "sound": self.sound,
            "commit_sequence": self.commit_sequence,
            "generation": self.generation,
            "last_version": self.last_version,
            "entries": self.entries,
            "records": self.records,
            "logs": self.logs,
            "snapshots": self.snapshots,
            "own_entries": self.own_entries,
            "own_records": self.own_records,
            "own_logs": self.own_logs,
            "own_snapshots": self.own_snapshots,
            "bytes": self.bytes,
            "full": self.full,
            "damaged": self.damaged,
            "notices": self.notices,
            "findings": [one.as_mapping() for one in self.findings],
            "mended": [one.as_mapping() for one in self.mended],
        }
