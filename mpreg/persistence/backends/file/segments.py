"""The segments and the snapshot of an open journal: what ends, what begins, what may go.

A snapshot is begun where a segment ends, so that it stands for all segments before the new one.
It is written in steps between the commits that follow. When it is complete, the segments go, one
after each commit. A crash between any two of these steps leaves a directory that opens to the
same state; what is left over is removed then.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from attrs import define, field

from mpreg.errors import CommitFailedError, StorageFullError
from mpreg.persistence.backend import UpkeepResult
from mpreg.persistence.backends.file.control import Control
from mpreg.persistence.backends.file.control_file import ControlFile
from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import FileHeader
from mpreg.persistence.backends.file.journal import Journal, JournalBrokenError
from mpreg.persistence.backends.file.names import segment_name, snapshot_name
from mpreg.persistence.backends.file.opening import OpenedJournal
from mpreg.persistence.backends.file.policy import segment_is_full, snapshot_is_due
from mpreg.persistence.backends.file.snapshot import SnapshotWriter
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.backends.system_errors import is_full

__all__ = ["Segments"]

_log = logging.getLogger("mpreg.persistence")


@define(eq=False)
class Segments:
    """Used under the turn of its directory."""

    journal: Journal
    snapshot_bytes: int
    _files: FileSystem
    _directory: Path
    _segment_bytes_max: int
    _generation: int
    _control: ControlFile
    _sealed: dict[int, int]
    """The segments after the newest snapshot but the one being written: bytes by first sequence."""
    _snapshot_sequence: int
    """Of the newest one that is complete; 0: there is none."""
    _written_at_open: int
    _snapshot: SnapshotWriter | None = None
    _obsolete: list[tuple[str, int]] = field(factory=list)
    """Files that are not needed any more, and their bytes."""
    _sealed_bytes: int = field(init=False)
    _full_at: int = field(init=False)
    """Where the journal's segment is to end."""
    _looked_at_open: bool = False

    def __attrs_post_init__(self) -> None:
        self._full_at = self._segment_bytes_max
        self._sealed_bytes = sum(self._sealed.values())

    @classmethod
    def of(
        cls, files: FileSystem, directory: Path, opened: OpenedJournal, segment_bytes_max: int
    ) -> Segments:
        loaded, journal = opened.loaded, opened.journal
        return cls(
            journal, loaded.snapshot_bytes, files, directory, segment_bytes_max, opened.generation,
            opened.control, loaded.sealed, loaded.snapshot_sequence, journal.end,
        )  # fmt: skip

    @property
    def journal_bytes(self) -> int:
        """Of the segments after the newest snapshot. Any thread."""
        return self._sealed_bytes + self.journal.end

    # --- commits ---

    def prepare(self) -> None:
        """Before a commit: end the segment where it is full.

        Raises:
            OSError: the segment could not be synced.
            JournalBrokenError: it is uncertain which segment is the last one.
        """
        if not segment_is_full(self.journal.end, self._full_at):
            return
        error = self._begin_segment()
        if error is not None:
            _log.warning("%s: no new segment, going on with this one: %s", self.journal.path, error)

    def are_due(self, state: MemoryState) -> bool:
        """After a commit: whether a step of upkeep should be done before the next one."""
        if self._is_under_way:
            return True
        if self._looked_at_open and not segment_is_full(self.journal.end, self._full_at):
            return False
        self._looked_at_open = True
        return snapshot_is_due(self.journal_bytes, state.live_bytes, self._segment_bytes_max)

    @property
    def _is_under_way(self) -> bool:
        return self._snapshot is not None or bool(self._obsolete)

    def _begin_segment(self) -> OSError | None:
        """Seal the segment and begin the next one. Where there can be none, the old one goes on."""
        old = self.journal
        if old.commits == 0:
            return None
        old.seal()
        header = FileHeader(old.last_sequence + 1, self._generation)
        try:
            self._control.write(Control(self._generation, old.last_sequence))
            new = Journal.begin(self._files, self._directory, header, self._segment_bytes_max)
        except OSError as error:
            self._full_at = old.end + self._segment_bytes_max
            return error
        self._sealed[old.first_sequence] = old.end
        self._sealed_bytes += old.end
        self.journal = new
        self._full_at = self._segment_bytes_max
        old.close()
        return None

    # --- upkeep ---

    def checkpoint(self, state: MemoryState, bytes_max: int, *, truncate: bool) -> UpkeepResult:
        """One step: remove a file that is not needed any more, or write about so many bytes of a
        snapshot, or begin one where it is due or, by ``truncate``, where it is of any use.

        Raises:
            CommitFailedError, StorageFullError: the snapshot was given up.
            OSError: the segment could not be synced.
            JournalBrokenError: it is uncertain which segment is the last one.
        """
        freed = checkpoints = 0
        if self._obsolete:
            freed = self._remove(*self._obsolete.pop())
        elif self._snapshot is not None:
            freed, checkpoints = self._go_on(self._snapshot, bytes_max)
        elif self._may_begin(state, truncate=truncate):
            self._begin_snapshot(state)
        return UpkeepResult(
            checkpoints=checkpoints, unfinished=self._is_under_way, freed_bytes=freed
        )

    def _may_begin(self, state: MemoryState, *, truncate: bool) -> bool:
        if truncate:
            return bool(self._sealed or self.journal.commits)
        return snapshot_is_due(self.journal_bytes, state.live_bytes, self._segment_bytes_max)

    def _begin_snapshot(self, state: MemoryState) -> None:
        error = self._begin_segment()
        if error is None:
            header = FileHeader(self.journal.first_sequence - 1, self._generation)
            try:
                self._snapshot = SnapshotWriter(self._files, self._directory, state, header)
            except OSError as raised:
                error = raised
        if error is not None:
            raise self._put_off("cannot be begun", error) from error

    def _go_on(self, snapshot: SnapshotWriter, bytes_max: int) -> tuple[int, int]:
        """A step of it: what is freed, and whether it is complete."""
        try:
            complete = snapshot.step(bytes_max)
        except (OSError, JournalBrokenError) as error:
            self.give_up_snapshot()
            reason = error.reason if isinstance(error, JournalBrokenError) else error
            raise self._put_off("was given up", reason) from error
        if not complete:
            return 0, 0
        self._completed(snapshot)
        return -snapshot.bytes_written, 1

    def _put_off(self, what: str, reason: OSError) -> CommitFailedError:
        # A snapshot is as large as all that is alive: it meets a limit on the size of files first,
        # and for all else that has not come yet.
        is_no_room = is_full(reason) or reason.errno == errno.EFBIG
        kind = StorageFullError if is_no_room else CommitFailedError
        return kind(
            f"{self._directory}: a snapshot {what}: {reason.strerror}; commits go on, and the "
            "journal grows until one is complete"
        )

    def _completed(self, snapshot: SnapshotWriter) -> None:
        self._snapshot = None
        if self._snapshot_sequence:
            self._obsolete.append((snapshot_name(self._snapshot_sequence), self.snapshot_bytes))
        self.snapshot_bytes = snapshot.bytes_written
        self._snapshot_sequence = snapshot.sequence
        for first in [first for first in self._sealed if first <= snapshot.sequence]:
            size = self._sealed.pop(first)
            self._sealed_bytes -= size
            self._obsolete.append((segment_name(first), size))

    def _remove(self, name: str, size: int) -> int:
        """Returns the bytes that it has given back."""
        try:
            self._files.remove(self._directory / name)
        except OSError as error:
            _log.warning("%s is not needed any more and stays: %s", self._directory / name, error)
            return 0
        return size

    def give_up_snapshot(self) -> None:
        """It comes again when the next segment ends."""
        if self._snapshot is not None:
            self._snapshot.abandon()
            self._snapshot = None

    # --- the end ---

    def finish(self, generation: int) -> None:
        """Leave everything on disk and nothing half done.

        Raises:
            OSError, JournalBrokenError
        """
        self.give_up_snapshot()
        while self._obsolete:
            self._remove(*self._obsolete.pop())
        journal = self.journal
        if journal.end == self._written_at_open:
            return
        journal.finish(generation)
        self._control.write(Control(generation, journal.last_sequence))

    def let_go(self) -> None:
        if self._snapshot is not None:
            self._snapshot.let_go()
            self._snapshot = None
        self.journal.close()
