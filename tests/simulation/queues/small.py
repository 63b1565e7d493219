"""What happens to a queue after thousands of messages happens here after a few dozen."""

from __future__ import annotations

import pytest

from mpreg.queues import core, selection, storage, truncation, upkeep

__all__ = ["make_small"]


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "SNAPSHOT_AFTER_CHANGES", 30)
    monkeypatch.setattr(upkeep, "SNAPSHOT_AFTER_CHANGES", 30)
    monkeypatch.setattr(upkeep, "DROPPED_PER_BATCH", 3)
    monkeypatch.setattr(upkeep, "COPIED_BYTES_MAX", 300)
    monkeypatch.setattr(upkeep, "BURIED_PER_BATCH", 3)
    monkeypatch.setattr(upkeep, "SWEPT_AT_ONCE_MAX", 2)
    monkeypatch.setattr(selection, "PASSED_AT_ONCE_MAX", 2)
    monkeypatch.setattr(truncation, "FINISHED_MIN", 8)
    monkeypatch.setattr(truncation, "REMOVED_MAX", 40)
    monkeypatch.setattr(truncation, "FINISHED_PER_COPY", 3)
    monkeypatch.setattr(storage, "READ_AHEAD_RECORDS", 5)
