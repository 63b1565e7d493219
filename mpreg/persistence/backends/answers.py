"""How much an answer of a reader holds."""

from __future__ import annotations

from mpreg.persistence.backend import (
    FoundEntries,
    ReadFailure,
    ReadResult,
    RecordsPage,
    ScanPage,
    StoredEntry,
    StoredRecord,
)

__all__ = ["answer_bytes"]


def answer_bytes(answer: ReadResult | ReadFailure) -> int:
    """The bytes of the values and records in it."""
    match answer:
        case StoredEntry():
            return len(answer.value)
        case ScanPage() | FoundEntries():
            return sum([len(item.value) for item in answer.entries if type(item) is StoredEntry])
        case RecordsPage():
            return sum([len(item.data) for item in answer.records if type(item) is StoredRecord])
        case _:
            return 0
