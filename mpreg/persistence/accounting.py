"""Whether the store has all that was acknowledged: asked before each opening, kept for the next.

SQLite drops a damaged tail of its write-ahead log without a word; in the file backend's journal a
last frame that was damaged looks like one that a crash has torn; and a store that is gone is simply
made anew. Whoever was told that a write is durable would never learn of it. So the last sequence
that was acknowledged as durable is also written to a small file of its own, and a store that ends
before it is not opened until somebody has said that the loss is accepted.

The file is a little behind, never ahead: it is written when commits have become durable, but not
for each of them, and never by the writer itself. So it can only say that something is missing when
that is so; what was acknowledged since it was last written it cannot miss.

It is written after every opening, at most ``interval_seconds`` after a commit became durable, after
a checkpoint, and at the end. Where it cannot be written, commits go on, and it is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

import anyio
from attrs import define, evolve, field

from mpreg.errors import AckedDataLostError, CorruptDataError, StorageIOError
from mpreg.persistence.acked_file import AckedFile, DamagedFileError
from mpreg.persistence.acked_record import AckedRecord, missing_sequences
from mpreg.persistence.backend import FoundState, OpenedState, check_nothing
from mpreg.persistence.own_thread import run_in_own_thread

__all__ = ["Accounting", "RETRY_SECONDS", "WRITE_SECONDS_MAX", "Work"]

_log = logging.getLogger("mpreg.persistence")

RETRY_SECONDS: Final = 10.0
"""Before a write that failed is tried again, by itself."""

WRITE_SECONDS_MAX: Final = 5.0
"""How long a write is waited for. It goes on by itself, and keeps the directory locked."""

Work: TypeAlias = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs a blocking function away from the event loop."""


def _hold_nothing() -> Callable[[], None]:
    return lambda: None


@define(eq=False)
class Accounting:
    """Of one opening of a registry. Without a file it does nothing."""

    _file: AckedFile | None = None
    _accepted: str | None = None
    """The loss that may be passed over, as `AckedDataLostError.acceptance` says it."""
    _interval_seconds: float = 1.0
    _hold: Callable[[], Callable[[], None]] = _hold_nothing
    """Keeps the data directory locked until what it returns is called: also while a write goes on
    that nobody waits for any more."""
    _work: Work = run_in_own_thread

    _known: AckedRecord | None = None
    """What is known to have been acknowledged; on disk perhaps a little less."""
    _sequence: int = 0
    """Of the last commit that has become durable since; only a number, since it changes often."""
    _written: AckedRecord | None = None
    _loss_accepted: bool = False
    _failing: bool = False
    _was_read: bool = False
    _under_way: set[object] = field(factory=set)
    """The writes that somebody still works at, also such as nobody waits for any more."""
    _is_due: bool = False
    _due: anyio.Event = field(factory=anyio.Event)
    _hurry: anyio.Event = field(factory=anyio.Event)

    # --- at open ---

    def check(self, found: FoundState | None) -> int:
        """See `mpreg.persistence.backend.CheckFound`: compare what is there with what was acked.

        Raises:
            AckedDataLostError: something is missing, and that was not accepted.
            CorruptDataError: there is no store, and the file is damaged that says what it held; or
                the store says itself that its end is missing, and there is no account.
            SchemaVersionError: the file was written by a newer mpreg.
            StorageIOError: the file cannot be read.
        """
        if not self._was_read:
            self._known = self._written = self._read(found)
            self._was_read = True
        self._catch_up()
        if self._file is None:
            return check_nothing(found)
        known = self._known
        missing = missing_sequences(known, found)
        if missing is not None:
            generation = max(one.generation for one in (known, found) if one is not None)
            self._judge(AckedDataLostError(
                self._directory, *missing, generation if known is None else known.generation,
                None if found is None else found.commit_sequence,
            ))  # fmt: skip
        return 0 if known is None else known.generation

    def _catch_up(self) -> None:
        if self._known is not None and self._sequence > self._known.sequence:
            self._known = evolve(self._known, sequence=self._sequence)

    @property
    def _directory(self) -> Path:
        assert self._file is not None
        return self._file.path.parent

    def _judge(self, loss: AckedDataLostError) -> None:
        if loss.acceptance != self._accepted:
            raise loss
        _log.warning(
            "%s: commits %d to %d were acknowledged and are missing; opened without them, since "
            "accept_acked_data_loss says %r",
            loss.path,
            loss.first_sequence,
            loss.last_sequence,
            self._accepted,
        )
        self._loss_accepted = True

    def _read(self, found: FoundState | None) -> AckedRecord | None:
        if self._file is None:
            return None
        path = self._file.path
        try:
            return self._file.read()
        except DamagedFileError as error:
            if found is None:
                # It is only ever made for a store that was there.
                raise CorruptDataError(
                    "the file is damaged, and the store of which it kept account is gone; restore "
                    "the directory from a backup, or move this file away to begin anew",
                    path,
                ) from error
            self._set_damaged_aside()
            return None
        except OSError as error:
            raise StorageIOError(f"cannot be read: {error.strerror}", path) from error

    def _set_damaged_aside(self) -> None:
        assert self._file is not None
        try:
            aside = self._file.set_aside()
        except OSError as error:
            raise StorageIOError(
                f"the file is damaged and cannot be moved away: {error.strerror}", self._file.path
            ) from error
        _log.error(
            "%s: both slots are damaged, so it cannot be told whether acknowledged commits are "
            "missing; the store was opened as it is, account is kept anew, and the damaged file "
            "is kept as %s",
            self._file.path,
            aside,
        )

    async def opened(self, opened: OpenedState) -> None:
        """The store is open: all that it has is durable, and what it commits is of its generation.

        Raises:
            StorageIOError: a loss was accepted, and that cannot be written down. The numbers of
                what is missing would be given again, and the loss be told of others.
        """
        if self._file is None:
            return
        self._sequence = opened.commit_sequence
        self._known = AckedRecord(opened.generation, opened.commit_sequence, opened.commit_sequence)
        error = await self._write()
        if error is not None and self._loss_accepted:
            raise StorageIOError(
                f"the accepted loss cannot be written down: {error}", self._file.path
            ) from error
        self._loss_accepted = False

    # --- while open ---

    def acked(self, sequence: int) -> None:
        """The commit has become durable, and all before it. Called for every such group."""
        self._sequence = sequence
        if not self._is_due and self._file is not None:
            self._set_due()

    def checkpointed(self) -> None:
        """What was acknowledged is in the store proper now: not to be waited with any longer."""
        self._hurry.set()

    def _set_due(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._due.set()

    async def run(self) -> None:
        """Write what there is to be written, a while after it came. Sleeps while there is nothing.

        Cancelled: `finish` writes the rest.
        """
        while True:
            await self._due.wait()
            self._hurry = anyio.Event()
            with anyio.move_on_after(self._interval_seconds):
                await self._hurry.wait()
            if self._failing:
                await anyio.sleep(RETRY_SECONDS)
            await self.record()

    async def record(self) -> None:
        """Write down what has been acknowledged up to now. Where that fails, it stays due."""
        if self._is_due:
            # Only then: `run` waits for the one that is not set.
            self._due, self._is_due = anyio.Event(), False
        if self._under_way:
            # On a device that hangs, each more would only be one more thread that hangs.
            self._set_due()
        else:
            await self._write()

    @property
    def written_sequence(self) -> int | None:
        """The last sequence that the file is known to have; None without one."""
        return None if self._written is None else self._written.sequence

    async def finish(self) -> None:
        """At the end, when nothing is acknowledged any more."""
        await self._write()

    async def _write(self) -> Exception | None:
        self._catch_up()
        file, record = self._file, self._known
        if file is None or record is None or record == self._written:
            return None
        release, one = self._hold(), object()
        self._under_way.add(one)

        def ended() -> None:
            self._under_way.discard(one)
            release()

        def write() -> None:
            try:
                file.write(record)
            finally:
                ended()

        error: Exception = TimeoutError(f"it takes more than {WRITE_SECONDS_MAX:g} seconds")
        try:
            # Shielded: the directory must not be locked any more when the registry has closed. But
            # a device that hangs must not keep it for ever.
            with anyio.move_on_after(WRITE_SECONDS_MAX, shield=True):
                await self._work(write)
                self._written = record
                self._failing = False
                return None
        except (OSError, RuntimeError) as raised:
            # RuntimeError: the system has no thread to spare, and nothing was begun.
            ended()
            error = raised
        self._tell(error)
        self._set_due()
        return error

    def _tell(self, error: Exception) -> None:
        if self._failing or self._file is None:
            return
        self._failing = True
        _log.warning(
            "%s: cannot be written (%s); commits go on, and it is tried again: until then the loss "
            "of later commits could not be noticed",
            self._file.path,
            error,
        )
