"""One opening of the journal: how groups become frames, and what a failure of one means.

Used on its own thread only, one call at a time, but for `FileSession.apply`. The state is changed
by that alone, on the event loop, between calls: so the thread may look at it during a call,
readers may look at it at any time, and nobody needs a lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from mpreg.errors import CommitFailedError, PersistenceError, StorageFullError, StorageIOError
from mpreg.persistence.backend import (
    CheckFound,
    Checkpoint,
    CommitInDoubtError,
    OpenedState,
    UpkeepResult,
    UpkeepStep,
    check_nothing,
)
from mpreg.persistence.backends.file.failures import translate
from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import FrameKind
from mpreg.persistence.backends.file.journal import JournalBrokenError
from mpreg.persistence.backends.file.opening import open_journal
from mpreg.persistence.backends.file.payload import encode_changes
from mpreg.persistence.backends.file.policy import step_bytes
from mpreg.persistence.backends.file.segments import Segments
from mpreg.persistence.backends.file.turn import Turn, turn_in
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.backends.system_errors import is_full
from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup, CommitPlan, plan_group

__all__ = ["FileOptions", "FileSession"]


@frozen(kw_only=True)
class FileOptions:
    journal_segment_bytes: int
    """The last frame of a segment may go over it."""
    busy_timeout_seconds: float
    """How long opening waits for a commit that was given up and still is at work."""


class FileSession:
    """One incarnation of the writer. Made and used on its thread, but for `apply`."""

    def __init__(
        self,
        directory: Path,
        turn: Turn,
        generation: int,
        state: MemoryState,
        segments: Segments,
        sequence: int,
    ) -> None:
        self.state = state
        self.segments = segments
        self.fsyncs = 0
        self._directory = directory
        self._turn = turn
        self.upkeep_due: UpkeepStep | None = None
        """What should be done before the next group."""
        self._generation = generation
        self._sequence = sequence
        self._written = 0
        """By the last commit."""
        self._broken = False
        self._closed = False

    @classmethod
    def open(
        cls,
        directory: Path,
        options: FileOptions,
        files: FileSystem,
        *,
        check: CheckFound = check_nothing,
    ) -> FileSession:
        """See `StorageBackend.open`."""
        turn = turn_in(directory)
        with turn.taken(options.busy_timeout_seconds) as taken:
            if not taken:
                raise StorageIOError(
                    "a commit that was given up is still at work on the journal", directory
                )
            opened = open_journal(files, directory, options.journal_segment_bytes, check)
            turn.generation = opened.generation
        segments = Segments.of(files, directory, opened, options.journal_segment_bytes)
        loaded = opened.loaded
        return cls(directory, turn, opened.generation, loaded.state, segments, loaded.sequence)

    @property
    def opened(self) -> OpenedState:
        return OpenedState(self._sequence, self._generation)

    # --- committing ---

    def commit(self, group: CommitGroup) -> CommitPlan:
        """One group, one frame. What it returns is to be given to `apply`, where it is accepted.

        See `StorageBackend.commit` for what it raises.
        """
        with self._turn.taken():
            outcomes: Sequence[BatchOutcome] | None = None
            try:
                self._refuse_stale()
                self._refuse_misplaced(group)
                plan = plan_group(group, self.state)
                if not plan.accepted:
                    return plan
                self.segments.prepare()
                self._written = self._write(group, plan)
                outcomes = plan.outcomes
                if group.durability is Durability.DURABLE:
                    self.segments.journal.sync()
                    self.fsyncs += 1
                self._sequence = group.sequence
                self.upkeep_due = Checkpoint() if self.segments.are_due(self.state) else None
            except Exception as error:
                raise self._failure(error, outcomes) from error
            return plan

    def apply(self, plan: CommitPlan) -> None:
        """Make what was committed visible. On the event loop, while no call is under way."""
        self.state.carry_out(plan)

    def _write(self, group: CommitGroup, plan: CommitPlan) -> int:
        journal = self.segments.journal
        encode_changes(plan, journal.frame)
        before = journal.end
        try:
            journal.append(FrameKind.COMMIT, group.sequence)
        except OSError as error:
            if not is_full(error):
                raise
            self.segments.give_up_snapshot()
            raise StorageFullError(
                f"{journal.path}: no room left on the device; the write was rolled back, reads go "
                "on, writes work again when there is room"
            ) from error
        return journal.end - before

    def _refuse_stale(self) -> None:
        if self._broken:
            raise StorageIOError("the journal is unusable after a failure", self._directory)
        if self._turn.generation != self._generation:
            raise StorageIOError(
                f"another writer has taken over from generation {self._generation}",
                self._directory,
            )

    def _refuse_misplaced(self, group: CommitGroup) -> None:
        if group.sequence != self._sequence + 1:
            raise ValueError(f"commit {group.sequence} cannot follow commit {self._sequence}")

    def _failure(
        self, error: Exception, outcomes: Sequence[BatchOutcome] | None
    ) -> CommitFailedError | CommitInDoubtError:
        if isinstance(error, CommitFailedError):
            return error
        self._broken = True
        if isinstance(error, JournalBrokenError):
            error = error.reason
        if not isinstance(error, OSError):
            return CommitInDoubtError(error, outcomes)
        path = self.segments.journal.path
        reason: PersistenceError = translate(error, path)
        if isinstance(reason, StorageFullError):
            # It was not rolled back: whoever is told this class may believe that it was.
            reason = StorageIOError(str(error), path)
        reason.__cause__ = error
        return CommitInDoubtError(reason, outcomes)

    # --- upkeep ---

    def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        """One step, between two groups. See `StorageBackend.upkeep`.

        Only a checkpoint means anything here: a snapshot, and the end of the segments before it.
        """
        self.upkeep_due = None
        if not isinstance(step, Checkpoint):
            return UpkeepResult()
        with self._turn.taken():
            self._refuse_stale()
            try:
                return self.segments.checkpoint(
                    self.state, step_bytes(self._written), truncate=step.truncate
                )
            except CommitFailedError:
                raise
            except (OSError, JournalBrokenError) as error:
                self._broken = True
                reason = error.reason if isinstance(error, JournalBrokenError) else error
                raise StorageIOError(
                    f"the segment cannot be ended: {reason}", self.segments.journal.path
                ) from error

    # --- closing ---

    def close(self) -> None:
        """Close; after a clean run with a mark at the journal's end.

        A broken session only lets go: what it may not have written it must not sync again. Where
        there is no room for the mark, it goes without.
        """
        if self._closed:
            return
        with self._turn.taken():
            try:
                if not self._broken and self._turn.generation == self._generation:
                    self.segments.finish(self._generation)
            except JournalBrokenError as error:
                raise self._close_failure(error) from error
            except OSError as error:
                if not is_full(error):
                    raise self._close_failure(error) from error
            finally:
                self.let_go()

    def _close_failure(self, error: Exception) -> StorageIOError:
        return StorageIOError(f"closing failed: {error}", self.segments.journal.path)

    def let_go(self) -> None:
        """Close and leave the files as they are. Twice does nothing."""
        self._closed = True
        self.segments.let_go()
