"""What a backup and a restore tell of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.maintenance.findings import Finding, FindingKind, VerificationReport

__all__ = ["BackupReport", "RestoreReport", "changed_file", "damage_in"]


@frozen(kw_only=True)
class BackupReport:
    """What a backup holds."""

    path: Path
    commit_sequence: int
    """All groups up to this one are in it: every durable ack given before it was begun."""
    first_sequence: int
    """The earliest commit as of which it can be restored; of a database, ``commit_sequence``."""
    size_bytes: int
    copied_bytes: int
    """Of these, what was not in the backup before."""
    unchanged: bool
    """The backup that was there is of this very state already: it was verified and left alone."""
    verification: VerificationReport

    def as_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "commit_sequence": self.commit_sequence,
            "first_sequence": self.first_sequence,
            "size_bytes": self.size_bytes,
            "copied_bytes": self.copied_bytes,
            "unchanged": self.unchanged,
            "verification": self.verification.as_mapping(),
        }


@frozen(kw_only=True)
class RestoreReport:
    """What was restored."""

    path: Path
    commit_sequence: int
    """Of the last group that is there. Whatever was committed after it is not."""
    size_bytes: int
    replaced: bool
    """Whether there was a store before; it is gone."""
    replaced_backend: str | None = None
    """Of which backend it was; None where no more than its files beside were left of it."""
    replaced_sequence: int | None = None
    """Up to which commit it had acknowledged; None where that was not known."""
    verification: VerificationReport
    """What was found in the backup, and so is in the store; damage only with ``allow_damaged``."""

    def as_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "commit_sequence": self.commit_sequence,
            "size_bytes": self.size_bytes,
            "replaced": self.replaced,
            "replaced_backend": self.replaced_backend,
            "replaced_sequence": self.replaced_sequence,
            "verification": self.verification.as_mapping(),
        }


def changed_file(name: str) -> Finding:
    """Of a backup: also where every item in the file is intact."""
    return Finding(FindingKind.STRUCTURE, name, "the file is not what the backup wrote")


def damage_in(report: VerificationReport, path: Path, hint: str) -> CorruptDataError:
    """The error where a store that must be sound is not."""
    first = report.findings[0]
    more = "" if report.damaged == 1 else f" (and {report.damaged - 1} more)"
    return CorruptDataError(f"{first.message}{more}; {hint}", path, first.where)
