"""The segments and the snapshot of an open journal: what ends, what begins, what may go.

A snapshot is begun where a segment ends, so that it stands for all segments before the new one.
It is written in steps beside the commits that follow. When it is complete, the segments go, one
beside each commit. A crash between any two of these steps leaves a directory that opens to the
same state; what is left over is removed then.
"""

from __future__ import annotations

import logging
from pathlib import Path

from attrs import define, field

from mpreg.persistence.backends.file.control import Control
from mpreg.persistence.backends.file.control_file import ControlFile
from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import FileHeader
from mpreg.persistence.backends.file.journal import Journal, JournalBrokenError
from mpreg.persistence.backends.file.names import segment_name, snapshot_name
from mpreg.persistence.backends.file.opening import OpenedJournal
from mpreg.persistence.backends.file.policy import segment_is_full, snapshot_is_due, step_bytes
from mpreg.persistence.backends.file.snapshot import SnapshotWriter
from mpreg.persistence.backends.state import MemoryState

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
    _obsolete: list[str] = field(factory=list)
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

    # --- before a commit ---

    def prepare(self, state: MemoryState) -> None:
        """End the segment where it is full, and begin a snapshot where one is due.

        Raises:
            OSError: the segment could not be synced.
            JournalBrokenError: it is uncertain which segment is the last one.
        """
        full = segment_is_full(self.journal.end, self._full_at)
        if self._looked_at_open and not full:
            return
        self._looked_at_open = True
        due = self._snapshot is None and snapshot_is_due(
            self.journal_bytes, state.live_bytes, self._segment_bytes_max
        )
        if (full or due) and self._begin_segment() and due:
            self._begin_snapshot(state)

    def _begin_segment(self) -> bool:
        """Seal the segment and begin the next one. False: there is none, and it goes on."""
        old = self.journal
        if old.commits == 0:
            return True
        old.seal()
        header = FileHeader(old.last_sequence + 1, self._generation)
        try:
            self._control.write(Control(self._generation, old.last_sequence))
            new = Journal.begin(self._files, self._directory, header, self._segment_bytes_max)
        except OSError as error:
            self._full_at = old.end + self._segment_bytes_max
            _log.warning("%s: no new segment, going on with this one: %s", old.path, error)
            return False
        self._sealed[old.first_sequence] = old.end
        self._sealed_bytes += old.end
        self.journal = new
        self._full_at = self._segment_bytes_max
        old.close()
        return True

    def _begin_snapshot(self, state: MemoryState) -> None:
        header = FileHeader(self.journal.first_sequence - 1, self._generation)
        try:
            self._snapshot = SnapshotWriter(self._files, self._directory, state, header)
        except OSError as error:
            _log.warning("%s: no snapshot: %s", self._directory, error)

    # --- after a commit ---

    def go_on(self, written_bytes: int) -> None:
        """Do a step of what is to be done beside commits. The commit itself stands already."""
        if self._obsolete:
            self._remove(self._obsolete.pop())
        if self._snapshot is None:
            return
        try:
            if not self._snapshot.step(step_bytes(written_bytes)):
                return
        except (OSError, JournalBrokenError) as error:
            _log.warning("%s: the snapshot is given up: %s", self._directory, error)
            self.give_up_snapshot()
            return
        self._completed(self._snapshot)

    def _completed(self, snapshot: SnapshotWriter) -> None:
        self._snapshot = None
        self.snapshot_bytes = snapshot.bytes_written
        if self._snapshot_sequence:
            self._obsolete.append(snapshot_name(self._snapshot_sequence))
        self._snapshot_sequence = snapshot.sequence
        for first in [first for first in self._sealed if first <= snapshot.sequence]:
            self._sealed_bytes -= self._sealed.pop(first)
            self._obsolete.append(segment_name(first))

    def _remove(self, name: str) -> None:
        try:
            self._files.remove(self._directory / name)
        except OSError as error:
            _log.warning("%s is not needed any more and stays: %s", self._directory / name, error)

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
            self._remove(self._obsolete.pop())
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
