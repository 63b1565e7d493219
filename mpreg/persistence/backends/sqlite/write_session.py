"""The writer's connection, used only on its own thread: one call, one transaction."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

from mpreg.codec import checksum_entry, checksum_record, decode_name
from mpreg.errors import CommitFailedError, CorruptDataError, StorageFullError, StorageIOError
from mpreg.persistence.backend import CommitInDoubtError, OpenedState
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.failures import is_full, is_transient, translate
from mpreg.persistence.backends.sqlite.files import ensure_database, rewrite_wal
from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import (
    BatchOutcome,
    CommitGroup,
    CommitPlan,
    LogBounds,
    NewEntry,
    plan_group,
)
from mpreg.persistence.operations import EntryKey

__all__ = ["SqliteOptions", "WriteSession", "checked_bounds"]

DAMAGED_VERSION: Final = -1
"""That of an entry whose stored one is no number: it is there, and matches no expected version."""


@frozen(kw_only=True)
class SqliteOptions:
    cache_bytes: int
    wal_checkpoint_pages: int
    busy_timeout_seconds: float

    def prepare(self, connection: sqlite3.Connection) -> None:
        """What every connection needs."""
        connection.execute(f"PRAGMA busy_timeout = {_clamped(self.busy_timeout_seconds * 1000)}")
        connection.execute(f"PRAGMA cache_size = -{_clamped(self.cache_bytes / 1024)}")
        # No column holds text, but a damaged one may say so: it must not fail to be read.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")


def _clamped(value: float) -> int:
    """SQLite takes a larger number for 0, without a word."""
    return round(min(value, 2**31 - 1))


@frozen
class _Name:
    """A namespace or log as the tables know it."""

    id: int
    seed: int
    """CRC-32 of its name: where the checksums of its items start."""


@define(eq=False)
class _Known:
    """What is known of the committed state without asking. Only a commit changes it."""

    last_version: int = 0
    namespaces: dict[bytes, _Name] = field(factory=dict)
    logs: dict[bytes, tuple[_Name, LogBounds]] = field(factory=dict)

    def add(self, newer: _Known) -> None:
        self.last_version = newer.last_version
        self.namespaces.update(newer.namespaces)
        self.logs.update(newer.logs)


class WriteSession:
    """One incarnation of the writer's connection. Made and used on the connection's thread.

    It is the `StoredState` that `plan_group` asks. What it remembers between groups it may
    remember, because nobody else writes; what a group adds to that counts only once committed.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.fsyncs = 0
        self._path = path
        self._known = _Known()
        self._synchronous = Durability.DURABLE
        self._checkpoint_pages = 0
        self._relaxed_pages = 0
        self._generation = 0
        self._sequence = 0
        self._broken = False
        self._closed = False

    # --- opening ---

    @classmethod
    def open(cls, path: Path, options: SqliteOptions, *, again: bool = False) -> WriteSession:
        """Connect, creating the database where there is none. See `StorageBackend.open`.

        ``again``: this process has opened it before and may have other connections to it. The file
        is not looked at then: to close it would drop the locks that they hold on it, and another
        program that came by could take itself for the only one, and remove the WAL.
        """
        try:
            if not again:
                ensure_database(path)
            elif not path.exists():
                raise StorageIOError("the database is gone", path)
        except sqlite3.Error as error:
            raise translate(error, path) from error
        except OSError as error:
            raise StorageIOError(f"cannot be opened: {error.strerror}", path) from error
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=128
        )
        session = cls(connection, path)
        try:
            session._configure(options)
            session._make_durable()
            session._take_over()
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise translate(error, path) from error
            if isinstance(error, OSError):
                raise StorageIOError(f"the WAL cannot be synced: {error.strerror}", path) from error
            raise
        return session

    @property
    def opened(self) -> OpenedState:
        return OpenedState(self._sequence, self._generation)

    def _configure(self, options: SqliteOptions) -> None:
        execute = self.connection.execute
        options.prepare(self.connection)
        for pragma in schema.WRITER_PRAGMAS:
            execute(pragma)
        execute("PRAGMA synchronous = FULL")
        self._checkpoint_pages = _clamped(options.wal_checkpoint_pages)
        execute(f"PRAGMA wal_autocheckpoint = {self._checkpoint_pages}")
        # A WAL that one huge transaction has blown up gives its space back at the next restart.
        page_size = execute("PRAGMA page_size").fetchone()[0]
        execute(f"PRAGMA journal_size_limit = {2 * options.wal_checkpoint_pages * page_size}")

    def _make_durable(self) -> None:
        """Move what a crash left in the WAL into the database, and start an empty WAL.

        After a failed fsync the WAL's pages may be in the system's cache and never reach the disk,
        while SQLite reads them as committed; a later, successful fsync would not write them again,
        and everything after them would be lost with them. The checkpoint writes them anew, into
        the database file, and syncs that.

        Not before the WAL itself is whole on the disk: a power cut after the checkpoint would find
        a new database, and an old WAL up to the first page that is missing, and apply that.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        rewrite_wal(self._path)
        self.connection.execute("ROLLBACK")
        busy, *_ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageIOError(
                "what the last run left in the WAL cannot be moved into the database while another "
                "process uses it; close it",
                self._path,
            )

    def _take_over(self) -> None:
        """Commit a new generation: proves that the store can be written, fences older writers."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        meta = execute(schema.READ_META).fetchone()
        if meta is None or not all(type(number) is int for number in meta):
            raise CorruptDataError(
                "the row with the store's own numbers is missing or damaged; restore the file from "
                "a backup",
                self._path,
            )
        found, self._sequence, self._known.last_version = meta
        self._generation = found + 1
        execute(schema.NEW_GENERATION, (self._generation, found)).fetchall()
        execute("COMMIT")
        self.fsyncs += 1

    def close(self) -> None:
        """Close; after a clean run with an empty WAL, so that the next open finds all in one file.

        A broken session only lets go: what it may not have written it must not sync again. Where
        there is no room to empty the WAL, it stays: what it holds is durable there as well.
        """
        try:
            try:
                if not self._broken and not self._closed:
                    self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._closed = True
                self.connection.close()
        except sqlite3.Error as error:
            if not is_transient(error):
                raise translate(error, self._path) from error

    # --- committing ---

    def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        """One group, one transaction. See `StorageBackend.commit`."""
        outcomes: Sequence[BatchOutcome] | None = None
        durability = self._durability_of(group)
        try:
            self._set_synchronous(durability)
            self.connection.execute("BEGIN IMMEDIATE")
            plan = plan_group(group, self)
            if not plan.accepted:
                self.connection.execute("ROLLBACK")
                return plan.outcomes
            added = self._carry_out(plan)
            self._number(group.sequence, plan.last_version)
            outcomes = plan.outcomes
            self.connection.execute("COMMIT")
        except Exception as error:
            raise self._failure(error, outcomes) from error
        self._known.add(added)
        self._sequence = group.sequence
        if durability is Durability.DURABLE:
            self.fsyncs += 1
            self._relaxed_pages = 0
        return outcomes

    def _durability_of(self, group: CommitGroup) -> Durability:
        """What the group asks for; more, once relaxed groups have filled the WAL.

        A relaxed commit must not checkpoint. The checkpoint would sync the WAL, and SQLite says
        nothing where that fails; the system may then take the WAL's pages for written, the next
        durable commit would sync only its own, and a power cut would leave a WAL with a hole in
        front of it. A durable commit syncs the WAL before the checkpoint, and fails where that
        does. So checkpoints are left to those, and when it is time for one, one is made.
        """
        if group.durability is Durability.DURABLE:
            return Durability.DURABLE
        size = sum(batch.size_bytes for batch in group.batches)
        # At most: a page for each row, those that large values fill, and that of the meta row.
        self._relaxed_pages += group.operations + size // 4096 + 1
        full = self._relaxed_pages >= self._checkpoint_pages
        return Durability.DURABLE if full else Durability.RELAXED

    def _set_synchronous(self, durability: Durability) -> None:
        if durability is not self._synchronous:
            durable = durability is Durability.DURABLE
            execute = self.connection.execute
            execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            execute(f"PRAGMA wal_autocheckpoint = {self._checkpoint_pages if durable else 0}")
            self._synchronous = durability

    def _number(self, sequence: int, last_version: int) -> None:
        parameters = (sequence, last_version, self._generation, self._sequence)
        if not self.connection.execute(schema.UPDATE_META, parameters).fetchall():
            raise StorageIOError(
                f"another writer has taken over from generation {self._generation}", self._path
            )

    def _failure(
        self, error: Exception, outcomes: Sequence[BatchOutcome] | None
    ) -> CommitFailedError | CommitInDoubtError:
        if isinstance(error, sqlite3.Error) and is_transient(error) and self._rolled_back():
            if is_full(error):
                return StorageFullError(
                    f"{self._path}: no room left on the device; the write was rolled back, "
                    "reads go on, writes work again when there is room"
                )
            return CommitFailedError(f"{self._path}: {error}; the write was rolled back")
        self._broken = True
        if not isinstance(error, sqlite3.Error):
            return CommitInDoubtError(error, outcomes)
        reason = translate(error, self._path)
        reason.__cause__ = error
        return CommitInDoubtError(reason, outcomes)

    def _rolled_back(self) -> bool:
        # SQLite has rolled back some failures by itself; ours to do for the others.
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return not self.connection.in_transaction

    # --- carrying out a plan ---

    def _carry_out(self, plan: CommitPlan) -> _Known:
        """Write the rows. What it returns is known only if the transaction commits."""
        added = _Known(plan.last_version)
        if plan.entries:
            self._write_entries(plan.entries, added)
        if plan.records or plan.truncated:
            self._write_logs(plan, added)
        return added

    def _write_entries(self, entries: dict[EntryKey, NewEntry | None], added: _Known) -> None:
        known = self._known.namespaces
        puts: list[Any] = []
        deletes = []
        for (namespace, key), entry in entries.items():
            name = known.get(namespace) or added.namespaces.get(namespace)
            if name is None:
                name = added.namespaces[namespace] = self._namespace(namespace)
            if entry is None:
                deletes.append((name.id, key))
            else:
                version, expires_at, value = entry
                checksum = checksum_entry(name.seed, key, version, expires_at, value)
                puts += (name.id, key, version, expires_at, checksum, value)
        schema.PUT_ENTRIES.execute(self.connection, puts)
        if deletes:
            self.connection.executemany(schema.DELETE_ENTRY, deletes)

    def _namespace(self, name: bytes) -> _Name:
        found = self.connection.execute(schema.FIND_NAMESPACE, (name,)).fetchone()
        if found is None:
            found = self.connection.execute(schema.CREATE_NAMESPACE, (name,)).fetchone()
        return _Name(found[0], zlib.crc32(name))

    def _write_logs(self, plan: CommitPlan, added: _Known) -> None:
        changed = added.logs
        for log in {log for log, _, _ in plan.records} | plan.truncated.keys():
            changed[log] = (self._log(log), plan.logs[log])
        rows: list[Any] = []
        for log, offset, data in plan.records:
            name, (first, _) = changed[log]
            if offset >= first:
                checksum = checksum_record(name.seed, offset, data)
                rows += (name.id, offset, checksum, data)
        for log, first in plan.truncated.items():
            id = changed[log][0].id
            self.connection.execute(schema.SET_FIRST_OFFSET, (first, id))
            self.connection.execute(schema.DELETE_RECORDS, (id, first))
        schema.APPEND_RECORDS.execute(self.connection, rows)

    def _log(self, log: bytes) -> _Name:
        if log in self._known.logs:
            return self._known.logs[log][0]
        found = self.connection.execute(schema.FIND_LOG, (log,)).fetchone()
        if found is None:
            found = self.connection.execute(schema.CREATE_LOG, (log,)).fetchone()
        return _Name(found[0], zlib.crc32(log))

    # --- what `plan_group` asks ---

    @property
    def last_version(self) -> int:
        return self._known.last_version

    def entry_version(self, key: EntryKey) -> tuple[int, float | None] | None:
        namespace, encoded = key
        name = self._known.namespaces.get(namespace) or self._stored_namespace(namespace)
        if name is None:
            return None
        found = self.connection.execute(schema.GET_ENTRY_VERSION, (name.id, encoded)).fetchone()
        if found is None:
            return None
        version, expires_at = found
        if type(version) is not int or not isinstance(expires_at, float | None):
            return DAMAGED_VERSION, None
        return version, expires_at

    def _stored_namespace(self, namespace: bytes) -> _Name | None:
        found = self.connection.execute(schema.FIND_NAMESPACE, (namespace,)).fetchone()
        if found is None:
            return None
        # Stored, so committed: to be remembered whatever becomes of this group.
        name = self._known.namespaces[namespace] = _Name(found[0], zlib.crc32(namespace))
        return name

    def log_bounds(self, log: bytes) -> LogBounds:
        if log in self._known.logs:
            return self._known.logs[log][1]
        found = self.connection.execute(schema.FIND_LOG, (log,)).fetchone()
        if found is None:
            return (0, 0)
        id, first = found
        (last,) = self.connection.execute(schema.LAST_OFFSET, (id,)).fetchone()
        bounds = checked_bounds(log, first, last, self._path)
        self._known.logs[log] = (_Name(id, zlib.crc32(log)), bounds)
        return bounds


def checked_bounds(log: bytes, first: object, last: object, path: Path) -> LogBounds:
    """A log's bounds from its first offset and the last one that is stored, if any is."""
    if type(first) is not int or not (last is None or type(last) is int):
        raise CorruptDataError(
            "the stored offsets are damaged", path, where=f"log {decode_name(log)!r}"
        )
    return (first, first if last is None else max(first, last + 1))
