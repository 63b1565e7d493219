"""Opening a directory: made where there is none, read, taken over, tidied up."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from mpreg.persistence.backend import CheckFound, FoundState
from mpreg.persistence.backends.file.control import Control
from mpreg.persistence.backends.file.control_file import ControlFile
from mpreg.persistence.backends.file.failures import corrupt, translate, translated
from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import FileHeader
from mpreg.persistence.backends.file.journal import Journal, JournalBrokenError
from mpreg.persistence.backends.file.loading import Loaded, load
from mpreg.persistence.backends.file.names import Names
from mpreg.persistence.own_names import JOURNAL_NAME

__all__ = ["OpenedJournal", "open_journal"]


@frozen
class OpenedJournal:
    loaded: Loaded
    generation: int
    control: ControlFile
    journal: Journal


def open_journal(
    files: FileSystem, directory: Path, segment_bytes_max: int, check: CheckFound
) -> OpenedJournal:
    """Read what is there and take it over. All of it is on disk when this returns.

    Nothing that is there is changed before all of it was read and found whole, and ``check`` has
    agreed to where it ends.

    Raises:
        ForeignDatabaseError, SchemaVersionError, CorruptDataError: left untouched.
        StorageIOError, StorageFullError: the disk failed, or has no room for a copy of the last
            segment.
    """
    with translated(directory):
        names = _names(files, directory)
        try:
            control, loaded, generation_min = _look_at(files, directory, names, check)
            # First on disk: from here on an older writer is an older writer. And no end is missed
            # any more that was accepted as lost.
            generation = max(loaded.generation, generation_min) + 1
            durable = min(control.content.durable_sequence, loaded.sequence)
            control.write(Control(generation, durable))
            journal = _take_over(files, directory, loaded, generation, segment_bytes_max)
        except JournalBrokenError as error:
            # Only told as what it is: while it is opened nothing has been promised yet.
            raise translate(error.reason, directory) from error
        try:
            if control.content.durable_sequence != loaded.sequence:
                control.write(Control(generation, loaded.sequence))
            _tidy_up(files, directory, names)
        except BaseException:
            journal.close()
            raise
    return OpenedJournal(loaded, generation, control, journal)


def _names(files: FileSystem, directory: Path) -> Names:
    return Names.of(files.names(directory), JOURNAL_NAME)


def _look_at(
    files: FileSystem, directory: Path, names: Names, check: CheckFound
) -> tuple[ControlFile, Loaded, int]:
    """What is there, and the generation that the next one's must be above."""
    path = directory / JOURNAL_NAME
    generation_min = 0
    if not names.has_control:
        if names.segments or names.snapshots:
            raise corrupt(path, 0, "the control file is missing, and there is a journal")
        generation_min = check(None)
        ControlFile.create(files, path)
    control = ControlFile.read(files, path)
    loaded = load(files, directory, names, control.content)
    if names.has_control:
        lost_sequence = 0 if loaded.lost is None else control.content.durable_sequence
        generation_min = check(
            FoundState(loaded.sequence, loaded.generation, lost_sequence, loaded.lost)
        )
    return control, loaded, generation_min


def _take_over(
    files: FileSystem, directory: Path, loaded: Loaded, generation: int, segment_bytes_max: int
) -> Journal:
    last = loaded.last_segment
    if last is None:
        header = FileHeader(loaded.sequence + 1, generation)
        return Journal.begin(files, directory, header, segment_bytes_max)
    return Journal.take_over(files, directory, last, generation, segment_bytes_max)


def _tidy_up(files: FileSystem, directory: Path, names: Names) -> None:
    """Remove what a crash has left. The names that stay are on disk: taking over synced them."""
    for name in (*names.unfinished, *names.obsolete):
        files.remove(directory / name)
