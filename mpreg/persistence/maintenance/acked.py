"""The file ``ACKED`` of a data directory, held against what the store has."""

from __future__ import annotations

from pathlib import Path

from mpreg.persistence.acked_file import AckedFile, DamagedFileError
from mpreg.persistence.acked_record import AckedRecord, missing_sequences
from mpreg.persistence.backend import FoundState
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.own_names import ACKED_NAME

__all__ = ["Acked", "read_acked", "unaccounted", "write_acked"]


class Acked:
    """What the file says. To be read before the store: beside a server both go on."""

    def __init__(self, record: AckedRecord | None, *, is_damaged: bool = False) -> None:
        self.record = record
        self.is_damaged = is_damaged


def read_acked(data_dir: Path) -> Acked:
    """
    Raises:
        SchemaVersionError: written by a newer mpreg.
        OSError: it cannot be read.
    """
    try:
        return Acked(AckedFile(data_dir / ACKED_NAME).read())
    except DamagedFileError:
        return Acked(None, is_damaged=True)


def unaccounted(acked: Acked, generation: int | None, sequence: int | None) -> list[Finding]:
    """What was acknowledged and is not in a store that has these numbers."""
    if acked.is_damaged:
        message = "both slots are damaged: whether acknowledged commits are missing is not known"
        return [Finding(FindingKind.ACKED, ACKED_NAME, message)]
    if acked.record is None or generation is None or sequence is None:
        return []
    missing = missing_sequences(acked.record, FoundState(sequence, generation))
    if missing is None:
        return []
    first, last = missing
    message = f"commits {first} to {last} were acknowledged as durable and are missing"
    return [Finding(FindingKind.ACKED, ACKED_NAME, message)]


def write_acked(data_dir: Path, generation: int, sequence: int) -> None:
    """Of a store that was restored: what it has is all that counts. Raises OSError."""
    record = AckedRecord(generation, sequence, sequence)
    AckedFile(data_dir / ACKED_NAME).write(record)
