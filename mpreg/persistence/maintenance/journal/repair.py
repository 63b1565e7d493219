"""A journal written anew from what can still be read of it.

Everything that cannot be part of it goes into quarantine first. Then a snapshot of the rest gets
its name, and with that all files before it are superfluous. Killed at any moment, the damaged
journal is there as it was, or the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from mpreg.persistence.backends.file.control import Control
from mpreg.persistence.backends.file.control_file import ControlFile
from mpreg.persistence.backends.file.files import FileSystem, OperatingSystem
from mpreg.persistence.backends.file.format import FileHeader
from mpreg.persistence.backends.file.journal import Journal
from mpreg.persistence.backends.file.names import Names
from mpreg.persistence.backends.file.payload import FramePayload
from mpreg.persistence.backends.file.snapshot import SnapshotWriter
from mpreg.persistence.commit_group import NewEntry
from mpreg.persistence.maintenance.journal.salvage import Salvage, salvage
from mpreg.persistence.maintenance.journal.source import JournalSource, WatchedFiles
from mpreg.persistence.maintenance.rows import EntryRow, NewEntryRow, RecordRow, Source
from mpreg.persistence.maintenance.worker import Control as Work
from mpreg.persistence.operations import EntryKey
from mpreg.persistence.own_names import JOURNAL_NAME

__all__ = ["repair_journal"]

STEP_BYTES: Final = 1 << 20

#: Commits that are lost may have given versions, nobody knows how many: so many are passed over.
VERSIONS_PASSED_OVER: Final = 1 << 32


def repair_journal(
    directory: Path,
    work: Work,
    damaged_rows: Callable[[Source], Iterable[EntryRow | RecordRow]],
    written_rows: Callable[[Source], Iterable[NewEntryRow]],
    set_aside: Callable[[dict[str, Any]], None],
    sync: Callable[[], None],
) -> None:
    """``set_aside`` takes an item into quarantine, and ``sync`` has all of them on disk.

    Raises:
        OSError, StorageFullError, StorageIOError: the damaged journal is as it was.
    """
    found = salvage(WatchedFiles(work), directory)
    for one in found.damaged:
        set_aside({"kind": "bytes", "file": one.file, "offset": one.start, "data": one.data})
    for log, offset, data in found.cut_off:
        set_aside({"kind": "record", "log_name": log, "offset": offset, "data": data})
    source = JournalSource(
        directory / JOURNAL_NAME, found.state, (found.generation, found.sequence)
    )
    changed: dict[EntryKey, NewEntry | None] = {}
    for row in damaged_rows(source):
        # Of whole frames, so only entries: parts of snapshots that lack another part.
        assert isinstance(row, EntryRow)
        item = {"namespace_name": row.namespace_id, "key": row.key, "version": row.version}
        set_aside({"kind": "entry", **item, "expires_at": row.expires_at, "value": row.value})
        changed[row.namespace_id, row.key] = None
    last_version = found.state.last_version
    for new in written_rows(source):
        last_version += 1
        changed[new.namespace_id, new.key] = (last_version, None, new.value)
    for finding in found.findings:
        set_aside({"kind": "finding", "where": finding.where, "message": finding.message})
    sync()
    found.state.carry_out(FramePayload(last_version, changed, [], {}, []))
    _write_anew(directory, found, work)


def _write_anew(directory: Path, found: Salvage, work: Work) -> None:
    files, path = OperatingSystem(), directory / JOURNAL_NAME
    sequence = max(found.sequence, found.durable_sequence)
    generation = found.generation + 1
    found.state.last_version += VERSIONS_PASSED_OVER
    # First what the snapshot is gone on with: a snapshot without it is not opened.
    Journal.begin(files, directory, FileHeader(sequence + 1, generation), STEP_BYTES).close()
    snapshot = SnapshotWriter(files, directory, found.state, FileHeader(sequence, generation))
    while not snapshot.step(STEP_BYTES):
        work.step("writing bytes", snapshot.bytes_written)
    ControlFile.create(files, path)
    ControlFile.read(files, path).write(Control(generation, sequence))
    _remove_obsolete(files, directory)


def _remove_obsolete(files: FileSystem, directory: Path) -> None:
    names = Names.of(files.names(directory), JOURNAL_NAME)
    for name in (*names.unfinished, *names.obsolete):
        files.remove(directory / name)
    files.sync_directory(directory)
