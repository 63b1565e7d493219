"""Values in files beside the database: written, removed, left by crashes, lost, read meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from mpreg.actors import Ack
from mpreg.errors import CorruptDataError
from mpreg.persistence import (
    CommitFailedError,
    Durability,
    StorageFullError,
    StorageIOError,
    WriteBatch,
)
from mpreg.persistence.backend import (
    Checkpoint,
    CommitInDoubtError,
    GetEntries,
    GetEntry,
    ReadQuery,
    ReadResult,
    ScanEntries,
    StoredEntry,
)
from mpreg.persistence.backends.file.files import OperatingSystem
from mpreg.persistence.backends.sqlite import read_session, room
from mpreg.persistence.backends.sqlite.places import (
    FILE_VALUE_BYTES,
    Place,
    file_name,
    first_number,
)
from mpreg.persistence.backends.sqlite.read_session import ReadSession
from mpreg.persistence.backends.sqlite.value_files import (
    EMPTIED_MAX,
    UNSYNCED_BYTES_MAX,
    WHOLES_OPEN_MAX,
)
from mpreg.persistence.backends.sqlite.value_reading import ValueReader, held
from mpreg.persistence.backends.sqlite.write_session import SqliteOptions, WriteSession
from mpreg.persistence.batch import operation_bytes
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.maintenance import opening
from mpreg.persistence.maintenance.worker import Control
from mpreg.persistence.operations import Delete, Operation, Put, SweepExpired

DURABLE, RELAXED = Durability.DURABLE, Durability.RELAXED
N = b"s"
LARGE = bytes(range(256)) * (FILE_VALUE_BYTES // 256)
OTHER = LARGE[::-1]
OPTIONS = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=10_000, busy_timeout_seconds=0.0)


def whole_of(namespace: bytes, key: bytes) -> object:
    """Of what ``part/WHOLE/…`` is a part."""
    return key.split(b"/")[1] if key.startswith(b"part/") else None


IN_PARTS = evolve(OPTIONS, together=whole_of)


class Killed(BaseException):
    """The process is gone. No handler of errors is to take it for one."""


@define
class Watched(OperatingSystem):
    """The real system; says what it was asked for, and fails where it is told to."""

    asked: list[str] = field(factory=list)
    fails: Callable[[str], BaseException | None] = lambda _kind: None
    in_part: bool = False

    def _ask(self, kind: str) -> None:
        self.asked.append(kind)
        if (error := self.fails(kind)) is not None:
            raise error

    def create(self, path: Path) -> int:
        self._ask("create")
        return super().create(path)

    def write(self, file: int, data: Any, offset: int) -> None:
        try:
            self._ask("write")
        except OSError:
            # A part of it is there: that is what a full disk leaves.
            super().write(file, data[: len(data) // 2], offset)
            raise
        super().write(file, data, offset)

    def sync(self, file: int) -> None:
        self._ask("sync")
        super().sync(file)

    def begin_sync(self, file: int) -> Callable[[], None]:
        """Its thread is always as late as it can be."""
        self._ask("begin sync")
        own = os.dup(file)

        def end() -> None:
            try:
                self._ask("end sync")
                OperatingSystem.sync(self, own)
            finally:
                os.close(own)

        return end

    def sync_directory(self, directory: Path) -> None:
        self._ask("sync names")
        super().sync_directory(directory)

    def remove(self, path: Path) -> None:
        self._ask("remove")
        super().remove(path)


def failing(kind: str, code: int, nth: int = 0) -> Callable[[str], OSError | None]:
    left = [nth]

    def fails(asked: str) -> OSError | None:
        if asked != kind:
            return None
        left[0] -= 1
        return OSError(code, os.strerror(code)) if left[0] == -1 else None

    return fails


@define
class Store:
    path: Path
    system: Watched = field(factory=Watched)
    options: SqliteOptions = OPTIONS
    session: WriteSession = field(init=False)

    def open(self) -> Store:
        self.session = WriteSession.open(self.path, self.options, system=self.system)
        return self

    def commit(self, *operations: Operation, durability: Durability = DURABLE) -> Sequence[Any]:
        acks = tuple(Ack[object]() for _ in operations)
        size = sum(map(operation_bytes, operations))
        batch = WriteBatch(operations, acks, durability, size)
        sequence = self.session._sequence + 1
        return self.session.commit(CommitGroup(sequence, 1_000.0, (batch,)))

    def read(self, *queries: ReadQuery) -> Sequence[Any]:
        with closing(ReadSession.open(self.path, OPTIONS)) as reader:
            return reader.read(queries)

    def value(self, key: bytes) -> object:
        (found,) = self.read(GetEntry(N, key))
        return found.value if isinstance(found, StoredEntry) else found

    @property
    def directory(self) -> Path:
        return self.path.with_name("values")

    @property
    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir()) if self.directory.exists() else []

    def rows(self) -> list[tuple[int, int, int, int]]:
        found = self.session.connection.execute("SELECT * FROM value_files ORDER BY number")
        return found.fetchall()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "d").mkdir(mode=0o700)
    made = Store(tmp_path / "d" / "mpreg.db", options=IN_PARTS).open()
    yield made
    made.session.close()


# --- where a value stands ---


def test_a_value_of_the_size_stands_in_a_file_of_its_owner_alone(store: Store) -> None:
    store.commit(Put(N, b"large", LARGE), Put(N, b"small", LARGE[:-1]))
    (file,) = store.files
    assert file.read_bytes() == LARGE
    assert file.stat().st_mode & 0o777 == 0o600
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert store.path.stat().st_size + (store.path.parent / "mpreg.db-wal").stat().st_size > 0
    assert store.value(b"large") == LARGE
    assert store.value(b"small") == LARGE[:-1]


def test_every_kind_of_read_gives_the_value(store: Store) -> None:
    keys = [b"k%02d" % number for number in range(6)]
    store.commit(*(Put(N, key, key + LARGE) for key in keys))
    many, scan = store.read(GetEntries(N, keys), ScanEntries(N, b"", None))
    assert [entry.value for entry in many.entries] == [key + LARGE for key in keys]
    assert [entry.value for entry in scan.entries] == [key + LARGE for key in keys]
    together = store.read(*(GetEntry(N, key) for key in (b"k00", *keys)))
    assert [entry.value[:3] for entry in together] == [b"k00", *keys]


def test_a_page_is_bounded_by_the_bytes_of_its_values(store: Store) -> None:
    keys = [b"k%02d" % number for number in range(20)]
    store.commit(*(Put(N, key, LARGE) for key in keys))
    (scan,) = store.read(ScanEntries(N, b"", None))
    assert len(scan.entries) == (1 << 20) // len(LARGE)
    assert scan.next_start == keys[len(scan.entries)]


@pytest.mark.parametrize("new", [b"small", LARGE[:5_000], OTHER], ids=["small", "large", "file"])
@pytest.mark.parametrize("old", [b"small", LARGE[:5_000], LARGE], ids=["small", "large", "file"])
def test_what_is_overwritten_leaves_nothing_behind(store: Store, old: bytes, new: bytes) -> None:
    store.commit(Put(N, b"key", old))
    store.commit(Put(N, b"key", new))
    assert store.value(b"key") == new
    assert [file.read_bytes() for file in store.files] == ([new] if new == OTHER else [])
    store.commit(Delete(N, b"key"))
    assert store.value(b"key") is None
    assert store.files == []


def test_a_value_that_expires_is_swept_with_its_file(store: Store) -> None:
    store.commit(Put(N, b"goes", LARGE, expires_at=999.0), Put(N, b"stays", LARGE))
    assert store.commit(SweepExpired(N, 10))[0] == (1,)
    assert len(store.files) == 1


def test_a_damaged_one_that_has_expired_is_not_swept(store: Store) -> None:
    store.commit(Put(N, b"gone", LARGE, expires_at=999.0), Put(N, b"cut", LARGE, expires_at=999.0))
    gone, cut = store.files
    gone.unlink()
    os.truncate(cut, 10)
    assert store.commit(SweepExpired(N, 10))[0] == (0,)


# --- before and after the commit ---


def test_the_file_and_its_name_are_synced_before_a_commit_whatever_it_asks_for(
    store: Store,
) -> None:
    for durability in (DURABLE, RELAXED):
        store.system.asked.clear()
        store.commit(Put(N, b"key", LARGE), Put(N, b"b", LARGE), durability=durability)
        asked = [one for one in store.system.asked if one != "remove"]
        assert asked[-3:] == ["sync", "sync", "sync names"]


def test_a_file_stays_until_what_removed_its_value_is_durable(store: Store) -> None:
    store.commit(Put(N, b"key", LARGE))
    store.commit(Delete(N, b"key"), durability=RELAXED)
    assert len(store.files) == 1
    store.commit(Put(N, b"other", b""), durability=DURABLE)
    assert store.files == []


def test_a_checkpoint_makes_it_durable_too(store: Store) -> None:
    store.commit(Put(N, b"key", LARGE))
    store.commit(Delete(N, b"key"), durability=RELAXED)
    store.session.upkeep(Checkpoint())
    assert store.files == []


def test_a_bounded_number_of_files_waits_for_that(store: Store) -> None:
    keys = [b"k%02d" % number for number in range(2 * EMPTIED_MAX)]
    store.commit(*(Put(N, key, LARGE) for key in keys))
    for key in keys:
        store.commit(Delete(N, key), durability=RELAXED)
        assert len(store.files) <= len(keys) - keys.index(key) + EMPTIED_MAX
    assert len(store.files) <= EMPTIED_MAX


def test_rows_of_files_go_with_the_files(store: Store) -> None:
    for number in range(5):
        store.commit(Put(N, b"key", LARGE + bytes([number])))
    assert len(store.rows()) == 2, "that of the last, and that of the one which has just gone"


def test_a_full_disk_leaves_nothing_and_the_next_commit_works(store: Store) -> None:
    store.commit(Put(N, b"key", LARGE))
    before = store.files
    for kind in ("create", "write"):
        store.system.fails = failing(kind, errno.ENOSPC, nth=1)
        with pytest.raises(StorageFullError):
            store.commit(Put(N, b"key", OTHER), Put(N, b"new", OTHER))
        assert store.files == before
        assert store.value(b"key") == LARGE
    store.commit(Put(N, b"key", OTHER))
    assert store.value(b"key") == OTHER


def test_a_part_that_a_full_disk_refused_leaves_the_others(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.system.fails = failing("write", errno.ENOSPC)
    with pytest.raises(StorageFullError):
        store.commit(Put(N, b"part/w/1", OTHER), durability=RELAXED)
    assert store.files[0].stat().st_size == len(LARGE)
    store.commit(Put(N, b"part/w/1", OTHER))
    assert [store.value(b"part/w/%d" % n) for n in (0, 1)] == [LARGE, OTHER]
    assert store.files[0].stat().st_size == 2 * len(LARGE)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", ["sync", "sync names"])
def test_after_a_failed_sync_the_session_is_broken_and_its_group_not_committed(
    store: Store, kind: str, code: int
) -> None:
    store.commit(Put(N, b"key", LARGE))
    before = store.files
    store.system.fails = failing(kind, code)
    with pytest.raises(CommitInDoubtError) as caught:
        store.commit(Put(N, b"key", OTHER))
    assert caught.value.outcomes is None, "it never came to its commit"
    store.system.fails = lambda _kind: None
    store.session.close()
    store.open()
    assert store.files == before
    assert store.session.opened.commit_sequence == 1
    assert store.value(b"key") == LARGE


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE], ids=["EMFILE", "ENFILE"])
@pytest.mark.parametrize("kind", ["create", "sync names"])
def test_where_too_many_files_are_open_the_group_is_rolled_back_and_the_next_commit_works(
    store: Store, kind: str, code: int
) -> None:
    """That passes, and to begin anew would need more of them."""
    store.commit(Put(N, b"key", LARGE))
    before = store.files
    store.system.fails = failing(kind, code)
    with pytest.raises(CommitFailedError, match="rolled back") as caught:
        store.commit(Put(N, b"key", OTHER))
    assert not isinstance(caught.value, StorageFullError)
    assert store.files == before
    assert store.value(b"key") == LARGE
    store.system.asked.clear()
    store.commit(Put(N, b"key", OTHER))
    assert "sync names" in store.system.asked
    assert store.value(b"key") == OTHER


def test_the_name_of_the_directory_is_synced_by_whoever_comes_after_one_that_could_not(
    store: Store,
) -> None:
    store.system.fails = failing("sync names", errno.EMFILE)
    with pytest.raises(CommitFailedError):
        store.commit(Put(N, b"key", LARGE))
    assert store.directory.is_dir()
    assert store.files == []
    store.system.asked.clear()
    store.commit(Put(N, b"key", LARGE))
    assert store.system.asked == ["sync names", "create", "write", "sync", "sync names"]
    store.system.asked.clear()
    store.commit(Put(N, b"other", LARGE))
    assert store.system.asked == ["create", "write", "sync", "sync names"]


def test_the_name_of_the_directory_is_synced_after_a_kill_before_that(store: Store) -> None:
    store.directory.mkdir(mode=0o700)
    store.commit(Put(N, b"key", LARGE))
    assert store.system.asked == ["sync names", "create", "write", "sync", "sync names"]


def test_where_too_many_files_are_open_a_checkpoint_is_put_off(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.system.fails = failing("sync names", errno.EMFILE)
    with pytest.raises(CommitFailedError, match="put off"):
        store.session.upkeep(Checkpoint())
    store.session.upkeep(Checkpoint())
    assert store.system.asked[-1] == "sync names"
    store.commit(Put(N, b"other", b""))


def test_a_writer_that_another_one_has_taken_over_from_makes_no_files(store: Store) -> None:
    with closing(WriteSession.open(store.path, OPTIONS)):
        with pytest.raises(CommitInDoubtError, match="another writer"):
            store.commit(Put(N, b"key", LARGE))
        assert store.files == []


def test_a_write_that_fails_otherwise_breaks_the_session(store: Store) -> None:
    store.system.fails = failing("write", errno.EIO)
    with pytest.raises(CommitInDoubtError) as caught:
        store.commit(Put(N, b"key", LARGE))
    assert caught.value.outcomes is None
    store.session.close()
    store.open()
    assert store.files == []


# --- crashes ---


KINDS = ("create", "write", "sync", "sync names", "remove")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nth", range(4))
def test_a_process_killed_at_any_step_leaves_a_whole_state_and_no_file_too_many(
    store: Store, kind: str, nth: int
) -> None:
    store.commit(Put(N, b"a", LARGE), Put(N, b"b", LARGE))
    left = [nth]

    def fails(asked: str) -> BaseException | None:
        left[0] -= asked == kind
        return Killed() if left[0] < 0 else None

    store.system.fails = fails
    try:
        store.commit(Put(N, b"a", OTHER), Put(N, b"c", LARGE), Delete(N, b"b"))
        store.commit(Put(N, b"a", OTHER), Put(N, b"c", LARGE), Delete(N, b"b"))
    except Killed:
        pass
    store.session.connection.close()
    store.system.fails = lambda _kind: None
    store.open()
    state = [store.value(key) for key in (b"a", b"b", b"c")]
    assert state in ([LARGE, LARGE, None], [OTHER, None, LARGE])
    assert len(store.files) == 2
    assert [number for number, *_ in store.rows()] == [int(one.name, 16) for one in store.files]


def test_an_opening_leaves_the_files_that_somebody_holds_to_a_later_one(store: Store) -> None:
    store.commit(Put(N, b"a", LARGE))
    store.commit(Delete(N, b"a"), durability=RELAXED)
    store.session.let_go()
    with held(store.path):
        store.open()
        store.commit(Put(N, b"b", b""))
        assert len(store.files) == 1
        store.session.close()
    store.open()
    assert store.files == []


def test_the_first_file_is_held_though_its_directory_was_made_after_the_hold(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the hold of a long view, which finds no directory, and its transaction."""
    connect = opening._connect

    def connect_later(*given: Any, **options: Any) -> Any:
        if not store.files:
            store.commit(Put(N, b"key", LARGE))
        return connect(*given, **options)

    monkeypatch.setattr(opening, "_connect", connect_later)
    with opening.open_source(store.path, Control()) as source:
        store.commit(Delete(N, b"key"))
        assert len(store.files) == 1
        entry = source.entry(source.namespace_id(N), b"key")
        assert entry is not None
        assert entry.value == LARGE
    store.commit(Put(N, b"other", b""))
    assert store.files == []


def test_numbers_are_not_given_again_after_a_crash(store: Store) -> None:
    store.commit(Put(N, b"a", LARGE))
    (first,) = store.files
    store.system.fails = lambda kind: Killed() if kind == "sync" else None
    with pytest.raises(Killed):
        store.commit(Put(N, b"a", OTHER))
    lost = set(store.files) - {first}
    store.session.connection.close()
    store.system.fails = lambda _kind: None
    store.open()
    store.commit(Put(N, b"b", OTHER))
    assert not lost & set(store.files)


def test_what_cannot_be_removed_is_removed_by_the_next_opening(store: Store) -> None:
    store.commit(Put(N, b"a", LARGE))
    store.system.fails = lambda kind: OSError(errno.EIO, "no") if kind == "remove" else None
    store.commit(Delete(N, b"a"))
    assert len(store.files) == 1
    store.session.close()
    store.open()
    assert len(store.files) == 1, "it could still not be removed"
    store.session.close()
    store.system.fails = lambda _kind: None
    store.open()
    assert store.files == []
    assert store.rows() == []


@pytest.mark.parametrize("emptied", [False, True])
def test_where_the_table_of_files_is_damaged_none_is_removed(
    store: Store, *, emptied: bool
) -> None:
    store.commit(*(Put(N, b"k%d" % number, LARGE) for number in range(3)))
    if emptied:
        store.commit(Delete(N, b"k0"), durability=RELAXED)
    store.session.close()
    if emptied:
        # As if the process had been killed before it came to that.
        (store.directory / file_name(first_number(1))).write_bytes(LARGE)
    before = store.files
    with closing(sqlite3.connect(store.path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'value_files'"
        (page,) = connection.execute(query).fetchone()
    with store.path.open("r+b") as file:
        # The number of cells of a leaf: rows at its end are hidden.
        file.seek((page - 1) * 4096 + 4)
        file.write(b"\x01")
    store.open()
    assert store.files == before


@pytest.mark.parametrize("live", ["1", "-1"], ids=["a value's", "emptied"])
def test_where_the_number_in_a_row_is_damaged_no_file_is_removed(store: Store, live: str) -> None:
    """The file that it should name looks as if it had never been committed."""
    store.commit(Put(N, b"a", LARGE))
    store.commit(Put(N, b"b", LARGE), Put(N, b"c", LARGE))
    last = int(store.files[-1].name, 16)
    store.session.connection.execute(
        f"UPDATE value_files SET number = number - (1 << 32), live = CASE number WHEN {last} "
        f"THEN 1 ELSE {live} END WHERE number > {last} - 2"
    )
    before = store.files
    store.session.close()
    store.open()
    assert store.files == before
    assert [store.value(key) for key in (b"a", b"b", b"c")] == [LARGE, LARGE, LARGE]


def test_an_older_database_that_is_put_back_beside_newer_files_does_not_remove_them(
    store: Store, tmp_path: Path
) -> None:
    store.commit(Put(N, b"key", LARGE))
    store.session.close()
    shutil.copy(store.path, tmp_path / "older")
    store.open()
    store.commit(Put(N, b"key", OTHER))
    store.session.close()
    shutil.copy(store.path, tmp_path / "newer")
    shutil.copy(tmp_path / "older", store.path)
    store.open()
    store.session.close()
    shutil.copy(tmp_path / "newer", store.path)
    store.open()
    assert store.value(b"key") == OTHER


def test_a_file_between_others_that_nothing_names_is_left_alone(store: Store) -> None:
    """Damage may hide what names it: only what comes after all that is committed is a leftover."""
    store.commit(Put(N, b"a", LARGE))
    store.commit(Put(N, b"b", LARGE))
    hidden, _ = store.files
    store.session.connection.execute(
        "DELETE FROM value_files WHERE number = ?", (int(hidden.name, 16),)
    )
    store.session.close()
    store.open()
    assert hidden in store.files
    assert store.value(b"a") == LARGE


# --- parts of a whole ---


def test_the_parts_of_a_whole_share_a_file_which_goes_with_the_last(store: Store) -> None:
    for index in range(4):
        store.commit(Put(N, b"part/w/%d" % index, LARGE), durability=RELAXED)
    (file,) = store.files
    assert file.stat().st_size == 4 * len(LARGE)
    assert store.rows() == [(int(file.name, 16), 4 * len(LARGE), 0, 4)]
    for index in range(3):
        store.commit(Delete(N, b"part/w/%d" % index))
        assert store.files == [file]
    store.commit(Delete(N, b"part/w/3"))
    assert store.files == []
    store.commit(Put(N, b"part/w/0", LARGE))
    assert store.files != [file]
    assert store.value(b"part/w/0") == LARGE


def test_the_last_part_removed_and_another_written_in_one_group(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE))
    store.commit(Delete(N, b"part/w/0"), Put(N, b"part/w/1", OTHER))
    assert store.value(b"part/w/1") == OTHER
    assert len(store.files) == 1


def test_a_part_written_after_the_last_one_was_removed_is_not_removed_with_it(
    store: Store,
) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.commit(Delete(N, b"part/w/0"), durability=RELAXED)
    store.commit(Put(N, b"part/w/1", OTHER), durability=RELAXED)
    store.commit(Put(N, b"other", b""))
    assert store.value(b"part/w/1") == OTHER
    assert len(store.files) == 1


def test_parts_are_synced_before_the_next_commit_that_is_durable(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.commit(Put(N, b"other", b""), durability=RELAXED)
    # Of the directory above, in which that of the values was made.
    assert store.system.asked.count("sync names") == 1
    assert "sync" not in store.system.asked
    store.commit(Put(N, b"other", b""))
    assert store.system.asked[-2:] == ["sync", "sync names"]
    assert store.rows()[0][2] == len(LARGE)


def test_a_durable_commit_elsewhere_does_not_wait_for_parts(store: Store) -> None:
    """It cannot name their whole: so the small writes of others do not wait for a large one."""
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.system.asked.clear()
    store.commit(Put(b"elsewhere", b"key", b""))
    assert store.system.asked == []
    store.commit(Delete(N, b"other"))
    assert store.system.asked == ["sync", "sync names"]


def test_parts_are_synced_before_a_checkpoint(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.session.upkeep(Checkpoint())
    assert store.system.asked[-2:] == ["sync", "sync names"]


def test_a_sync_of_parts_that_fails_in_a_checkpoint_breaks_the_session(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.system.fails = failing("sync", errno.EIO)
    with pytest.raises(StorageIOError, match="cannot be synced"):
        store.session.upkeep(Checkpoint())
    store.session.close()
    assert (store.path.parent / "mpreg.db-wal").stat().st_size > 0, "nothing was moved"


def test_where_parts_cannot_be_synced_at_the_end_the_log_stays_as_it_is(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.system.fails = failing("sync", errno.EIO)
    with pytest.raises(StorageIOError, match="cannot be synced"):
        store.session.close()
    assert (store.path.parent / "mpreg.db-wal").stat().st_size > 0, "nothing was moved"
    store.system.asked.clear()
    store.open()
    assert store.system.asked == ["write", "sync", "sync names"]


def test_parts_that_are_not_synced_are_bounded(store: Store) -> None:
    write_parts(store, 2 * UNSYNCED_BYTES_MAX)
    assert store.system.asked.count("begin sync") == 2
    assert store.system.asked.count("end sync") == 1
    assert "sync" not in store.system.asked
    assert store.rows()[0][2] == UNSYNCED_BYTES_MAX, "what was begun last may not be there yet"


def write_parts(store: Store, size: int) -> None:
    part = bytes(1 << 20)
    for index in range(size >> 20):
        store.commit(Put(N, b"part/w/%d" % index, part), durability=RELAXED)


def test_what_names_the_whole_waits_for_the_sync_under_way_and_for_the_rest(store: Store) -> None:
    write_parts(store, UNSYNCED_BYTES_MAX)
    store.system.asked.clear()
    store.commit(Put(b"elsewhere", b"key", b""))
    assert store.system.asked == []
    store.commit(Put(N, b"other", b""))
    assert store.system.asked == ["end sync"]
    write_parts(store, UNSYNCED_BYTES_MAX)
    store.commit(Put(N, b"part/w/a", LARGE), durability=RELAXED)
    store.system.asked.clear()
    store.commit(Put(N, b"other", b""))
    assert store.system.asked == ["end sync", "sync"]


def test_a_checkpoint_waits_for_the_sync_under_way(store: Store) -> None:
    write_parts(store, UNSYNCED_BYTES_MAX)
    store.system.asked.clear()
    store.session.upkeep(Checkpoint())
    assert store.system.asked == ["end sync"]


def test_a_sync_under_way_that_fails_breaks_the_session_before_the_whole_is_named(
    store: Store,
) -> None:
    write_parts(store, UNSYNCED_BYTES_MAX)
    store.system.fails = failing("end sync", errno.ENOSPC)
    store.commit(Put(b"elsewhere", b"key", b""))
    with pytest.raises(CommitInDoubtError) as caught:
        store.commit(Put(N, b"other", b""))
    assert caught.value.outcomes is None, "it never came to its commit"
    store.session.close()
    store.system.asked.clear()
    store.open()
    assert store.system.asked == ["write"] * (UNSYNCED_BYTES_MAX >> 20) + ["sync", "sync names"]
    assert store.value(b"other") is None


def test_a_sync_under_way_that_fails_is_told_by_the_next_one(store: Store) -> None:
    write_parts(store, 2 * UNSYNCED_BYTES_MAX - (1 << 20))
    store.system.fails = failing("end sync", errno.EIO)
    with pytest.raises(CommitInDoubtError):
        store.commit(Put(N, b"part/w/last", bytes(1 << 20)), durability=RELAXED)


def test_after_a_sync_under_way_that_failed_the_log_stays_as_it_is(store: Store) -> None:
    write_parts(store, UNSYNCED_BYTES_MAX)
    store.system.fails = failing("end sync", errno.EIO)
    with pytest.raises(StorageIOError, match="cannot be synced"):
        store.session.close()
    assert (store.path.parent / "mpreg.db-wal").stat().st_size > 0, "nothing was moved"


def test_where_no_sync_can_be_begun_parts_are_synced_later_and_bounded(store: Store) -> None:
    none_left = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    store.system.fails = lambda kind: none_left if kind == "begin sync" else None
    write_parts(store, 4 * UNSYNCED_BYTES_MAX)
    assert store.system.asked.count("sync") == 2
    assert store.rows()[0][2] == 4 * UNSYNCED_BYTES_MAX


def test_a_whole_that_is_closed_to_make_room_is_not_left_to_the_sync_under_way(
    store: Store,
) -> None:
    """Nobody would wait for that when the whole is named."""
    write_parts(store, UNSYNCED_BYTES_MAX)
    for number in range(WHOLES_OPEN_MAX):
        store.commit(Put(N, b"part/%d/0" % number, LARGE), durability=RELAXED)
    assert store.system.asked[-4:] == ["end sync", "sync names", "create", "write"]
    assert store.rows()[0][2] == UNSYNCED_BYTES_MAX


def test_a_session_that_lets_go_leaves_no_sync_under_way(store: Store) -> None:
    write_parts(store, UNSYNCED_BYTES_MAX)
    store.session.let_go()
    assert store.system.asked[-1] == "end sync"


def test_a_whole_whose_parts_all_go_while_it_is_synced_leaves_nothing(store: Store) -> None:
    write_parts(store, UNSYNCED_BYTES_MAX)
    store.commit(*(Delete(N, b"part/w/%d" % n) for n in range(UNSYNCED_BYTES_MAX >> 20)))
    assert store.files == []
    store.session.close()
    store.open()
    assert store.rows() == []


def test_what_was_synced_with_a_group_that_was_rolled_back_is_not_taken_for_what_came_after_it(
    store: Store,
) -> None:
    store.commit(Put(N, b"part/w/0", LARGE))
    store.system.fails = failing("sync names", errno.EMFILE)
    with pytest.raises(CommitFailedError):
        store.commit(Put(N, b"part/w/1", LARGE), Put(N, b"alone", LARGE))
    store.commit(Put(N, b"part/w/2", OTHER), durability=RELAXED)
    store.commit(Put(b"elsewhere", b"alone", LARGE))
    assert store.rows()[0][1:3] == (2 * len(LARGE), len(LARGE))


def test_files_that_are_open_are_bounded(store: Store) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for number in range(3 * WHOLES_OPEN_MAX):
        store.commit(Put(N, b"part/%d/0" % number, LARGE), durability=RELAXED)
    assert open_files() <= before + WHOLES_OPEN_MAX
    for number in range(3 * WHOLES_OPEN_MAX):
        assert store.value(b"part/%d/0" % number) == LARGE


def test_a_whole_that_is_closed_to_make_room_is_synced_with_its_name(store: Store) -> None:
    for number in range(WHOLES_OPEN_MAX):
        store.commit(Put(N, b"part/%d/0" % number, LARGE), durability=RELAXED)
    store.system.asked.clear()
    store.commit(Put(N, b"part/another/0", LARGE), durability=RELAXED)
    assert store.system.asked == ["sync", "sync names", "create", "write"]


def test_a_whole_that_is_closed_to_make_room_is_known_to_be_synced(store: Store) -> None:
    for number in range(WHOLES_OPEN_MAX):
        store.commit(Put(N, b"part/%d/0" % number, LARGE))
    store.commit(Put(N, b"part/0/1", LARGE), durability=RELAXED)
    store.commit(Put(N, b"part/another/0", LARGE), durability=RELAXED)
    assert store.rows()[0][1:3] == (2 * len(LARGE), 2 * len(LARGE))


def test_parts_that_were_not_known_to_be_synced_are_written_anew_by_the_next_opening(
    store: Store,
) -> None:
    """After a failed sync only that brings them to the device."""
    store.commit(Put(N, b"part/w/0", LARGE))
    store.commit(Put(N, b"part/w/1", OTHER), durability=RELAXED)
    store.session.let_go()
    store.system.asked.clear()
    store.open()
    assert store.system.asked == ["write", "sync", "sync names"]
    assert store.rows()[0][1:3] == (2 * len(LARGE), 2 * len(LARGE))
    store.session.close()
    store.system.asked.clear()
    store.open()
    assert store.system.asked == []


def test_a_session_that_is_closed_leaves_nothing_to_be_written_anew(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), durability=RELAXED)
    store.session.close()
    store.system.asked.clear()
    store.open()
    assert store.system.asked == []
    assert store.rows()[0][2] == len(LARGE)


def test_parts_that_a_power_cut_has_lost_do_not_keep_a_store_from_opening(store: Store) -> None:
    store.commit(Put(N, b"part/w/0", LARGE), Put(N, b"part/v/0", LARGE), durability=RELAXED)
    store.session.let_go()
    one, other = store.files
    one.unlink()
    os.truncate(other, 100)
    store.open()
    assert len(store.files) == 1


# --- the room of large ones ---


@define
class Freed(Watched):
    """Says which files it has cut off, and to what size."""

    cut: list[int] = field(factory=list)
    opened: list[int] = field(factory=list)
    closed: list[int] = field(factory=list)

    def open(self, path: Path) -> int:
        self.opened.append(super().open(path))
        return self.opened[-1]

    def truncate(self, file: int, size: int) -> None:
        self._ask("truncate")
        self.cut.append(size)
        super().truncate(file, size)

    def close(self, file: int) -> None:
        self.closed.append(file)
        super().close(file)


PIECE = len(LARGE)


@pytest.fixture
def freed(store: Store, monkeypatch: pytest.MonkeyPatch) -> Freed:
    """That of a store for which three times `LARGE` is a large file, in three pieces."""
    monkeypatch.setattr(room, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(room, "REST_SECONDS", 0.0)
    store.session.close()
    store.system = Freed()
    store.open()
    return store.system


def test_a_large_file_loses_its_name_and_then_its_room_in_pieces(
    store: Store, freed: Freed
) -> None:
    store.commit(Put(N, b"key", 3 * LARGE))
    freed.closed.clear()
    with store.files[0].open("rb") as opened:
        store.commit(Delete(N, b"key"))
        assert store.files == []
        (aside,) = store.session._values._room._files
        aside.wait()
        assert freed.cut == [2 * PIECE, PIECE]
        assert os.fstat(opened.fileno()).st_size == PIECE
    assert len(freed.closed) == 1


def test_a_file_that_is_not_large_is_removed_at_once(store: Store, freed: Freed) -> None:
    store.commit(Put(N, b"key", LARGE))
    store.commit(Delete(N, b"key"))
    assert store.session._values._room._files == []
    assert freed.cut == []


def test_a_session_that_is_closed_has_given_back_the_room_without_a_rest(
    store: Store, freed: Freed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "REST_SECONDS", 3_600.0)
    store.commit(Put(N, b"key", 3 * LARGE))
    freed.closed.clear()
    store.commit(Delete(N, b"key"))
    store.session.close()
    assert freed.closed
    assert len(freed.cut) <= 1


def test_where_the_disk_is_full_what_was_removed_has_made_room_when_that_is_told(
    store: Store, freed: Freed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "REST_SECONDS", 3_600.0)
    store.commit(Put(N, b"key", 3 * LARGE))
    store.commit(Delete(N, b"key"))
    freed.closed.clear()
    freed.fails = failing("create", errno.ENOSPC)
    with pytest.raises(StorageFullError):
        store.commit(Put(N, b"new", LARGE))
    assert len(freed.closed) == 1


def test_a_file_that_has_another_name_is_left_whole(store: Store, freed: Freed) -> None:
    """As a copy of the directory that was made of links has."""
    store.commit(Put(N, b"key", 3 * LARGE))
    other = store.path.with_name("other")
    other.hardlink_to(store.files[0])
    store.commit(Delete(N, b"key"))
    for aside in store.session._values._room._files:
        aside.wait()
    assert store.files == []
    assert other.read_bytes() == 3 * LARGE


@pytest.mark.parametrize("kind", ["truncate", "no thread"])
def test_where_it_cannot_be_done_in_pieces_it_is_done_all_the_same(
    store: Store, freed: Freed, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(Put(N, b"key", 3 * LARGE))
    freed.closed.clear()
    freed.fails = failing(kind, errno.EIO)
    if kind == "no thread":
        monkeypatch.setattr(threading.Thread, "start", no_more_threads)
    store.commit(Delete(N, b"key"))
    for aside in store.session._values._room._files:
        aside.wait()
    assert len(freed.closed) == 1
    assert store.files == []


def no_more_threads(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_large_files_are_given_back_one_after_the_other_and_a_few_wait_for_that(
    store: Store, freed: Freed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "REST_SECONDS", 3_600.0)
    for number in range(room.FILES_MAX + 3):
        store.commit(Put(N, b"key", 3 * LARGE + bytes([number])))
    assert len(store.session._values._room._files) == room.FILES_MAX
    assert len(store.files) == 1
    freed.closed.clear()
    store.session.close()
    waited = freed.opened[: room.FILES_MAX]
    assert [one for one in freed.closed if one in waited] == waited


def test_a_large_file_that_cannot_be_removed_keeps_its_room(store: Store, freed: Freed) -> None:
    store.commit(Put(N, b"key", 3 * LARGE))
    freed.fails = lambda kind: OSError(errno.EIO, "no") if kind == "remove" else None
    before = len(list(Path("/proc/self/fd").iterdir()))
    store.commit(Delete(N, b"key"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert store.files[0].stat().st_size == 3 * PIECE


def test_what_a_crash_has_left_of_the_removal_of_a_large_file_is_removed(
    store: Store, freed: Freed
) -> None:
    """Its name may be back, and some of its room gone."""
    store.commit(Put(N, b"key", 3 * LARGE), Put(N, b"other", 3 * LARGE))
    store.commit(Delete(N, b"key"), durability=RELAXED)
    store.session.let_go()
    os.truncate(store.files[0], PIECE)
    store.open()
    assert len(store.files) == 1
    assert store.value(b"other") == 3 * LARGE


# --- readers ---


@contextmanager
def before_the_file_is_read(do: Callable[[], object]) -> Iterator[None]:
    """Once: what a writer does between the row and the file that it names."""
    left = [do]

    class Late(ValueReader):
        def read(self, place: Place) -> bytes | None:
            while left:
                left.pop()()
            return super().read(place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_session, "ValueReader", Late)
        yield


QUERIES: list[list[ReadQuery]] = [
    [GetEntry(N, b"key")],
    [GetEntries(N, [b"key", b"stays"])],
    [ScanEntries(N, b"", None)],
    [GetEntry(N, b"key"), GetEntry(N, b"stays")],
]


def found_in(result: ReadResult | object) -> list[object]:
    entries = getattr(result, "entries", [result])
    return [entry.value if isinstance(entry, StoredEntry) else entry for entry in entries]


@pytest.mark.parametrize("queries", QUERIES, ids=["get", "get many", "scan", "gets"])
@pytest.mark.parametrize("new", [None, OTHER, b"small"], ids=["deleted", "file", "small"])
def test_a_reader_whose_view_is_older_than_the_removal_reads_in_a_new_one(
    store: Store, queries: list[ReadQuery], new: bytes | None
) -> None:
    store.commit(Put(N, b"key", LARGE), Put(N, b"stays", LARGE))
    change = Delete(N, b"key") if new is None else Put(N, b"key", new)
    with before_the_file_is_read(lambda: store.commit(change)):
        found = [value for result in store.read(*queries) for value in found_in(result)]
    expected = [new, LARGE][: 1 if queries == QUERIES[0] else 2]
    if queries == QUERIES[2] and new is None:
        expected = [LARGE]
    assert found == expected


def test_a_call_in_which_no_file_is_gone_makes_nothing_for_itself(store: Store) -> None:
    store.commit(Put(N, b"key", LARGE), Put(N, b"small", b"value"))
    made, reads = [], []

    class Counted(ValueReader):
        def __init__(self, database: Path) -> None:
            made.append(self)
            super().__init__(database)

        def read(self, place: Place) -> bytes | None:
            reads.append(place)
            return super().read(place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_session, "ValueReader", Counted)
        with closing(ReadSession.open(store.path, OPTIONS)) as session:
            for key in (b"small", b"key", b"small", b"key"):
                assert isinstance(session.read([GetEntry(N, key)])[0], StoredEntry)
            assert (len(made), len(reads)) == (1, 2)
            store.files[0].unlink()
            # In two views each time: another call is another view.
            for call in (1, 2):
                assert isinstance(session.read([GetEntry(N, b"key")])[0], CorruptDataError)
                assert len(reads) == 2 + 2 * call


@pytest.mark.parametrize("queries", QUERIES, ids=["get", "get many", "scan", "gets"])
def test_a_reader_that_has_a_file_open_which_is_given_back_reads_in_a_new_view(
    store: Store, queries: list[ReadQuery]
) -> None:
    store.commit(Put(N, b"key", LARGE), Put(N, b"stays", LARGE))

    def change() -> None:
        (file, *_) = store.files
        store.commit(Put(N, b"key", OTHER))
        file.write_bytes(LARGE[:100])

    with before_the_file_is_read(change):
        found = [value for result in store.read(*queries) for value in found_in(result)]
    assert found == [OTHER, LARGE][: 1 if queries == QUERIES[0] else 2]


@contextmanager
def too_many_open_files() -> Iterator[None]:
    """For whoever opens what is in the directory of values, or that itself."""
    real = os.open

    def refused(path: Any, *rest: Any, **options: Any) -> int:
        if "values" in str(path):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return real(path, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refused)
        yield


@pytest.mark.parametrize("queries", QUERIES, ids=["get", "get many", "scan", "gets"])
def test_where_too_many_files_are_open_only_who_reads_a_file_is_told(
    store: Store, queries: list[ReadQuery]
) -> None:
    """The reader goes on: to open its connection anew would need more of them."""
    store.commit(Put(N, b"key", LARGE), Put(N, b"small", b"1"))
    with closing(ReadSession.open(store.path, OPTIONS)) as reader:
        with too_many_open_files():
            *failed, small = reader.read([*queries[:1], GetEntry(N, b"small")])
            assert [str(one) for one in failed if isinstance(one, StorageIOError)] == [
                f"{store.path}: a value cannot be read: Too many open files"
            ]
            assert isinstance(small, StoredEntry)
        found = [value for result in reader.read(queries) for value in found_in(result)]
    assert found[0] == LARGE


def test_where_too_many_files_are_open_what_has_expired_is_swept_later(store: Store) -> None:
    store.commit(Put(N, b"goes", LARGE, expires_at=999.0))
    with too_many_open_files():
        assert store.commit(SweepExpired(N, 10))[0] == (0,)
    assert store.commit(SweepExpired(N, 10))[0] == (1,)


def test_where_it_cannot_be_asked_whether_a_file_is_held_it_is_removed_later(store: Store) -> None:
    store.commit(Put(N, b"key", LARGE))
    with held(store.path):
        with too_many_open_files():
            store.commit(Delete(N, b"key"))
        assert len(store.files) == 1
    store.commit(Put(N, b"other", b""))
    assert store.files == []


def test_who_cannot_hold_the_files_is_told(store: Store) -> None:
    store.commit(Put(N, b"key", LARGE))
    with too_many_open_files(), pytest.raises(OSError, match="Too many open files"):
        held(store.path).__enter__()


def test_what_is_held_at_an_opening_is_removed_by_that_session_later(store: Store) -> None:
    store.commit(Put(N, b"a", LARGE))
    store.commit(Delete(N, b"a"), durability=RELAXED)
    store.session.let_go()
    never_committed = store.directory / file_name(first_number(7))
    never_committed.write_bytes(LARGE)
    with held(store.path):
        store.open()
        assert len(store.files) == 1
        assert never_committed not in store.files, "no view names it, so nobody can hold it"
    store.commit(Put(N, b"b", b""))
    assert store.files == []


@pytest.mark.parametrize("queries", QUERIES, ids=["get", "get many", "scan", "gets"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "a directory"])
def test_a_damaged_file_is_told_as_the_damage_of_its_value_alone(
    store: Store, queries: list[ReadQuery], damage: str
) -> None:
    store.commit(Put(N, b"key", LARGE), Put(N, b"stays", LARGE))
    file = store.files[0]
    match damage:
        case "cut":
            os.truncate(file, len(LARGE) - 1)
        case "flipped":
            file.write_bytes(LARGE[:77] + b"!" + LARGE[78:])
        case _:
            file.unlink()
    if damage == "a directory":
        file.mkdir()
    found = [value for result in store.read(*queries) for value in found_in(result)]
    assert f"does not match its checksum; its value is in values/{file.name}" in str(found[0])
    assert found[1:] in ([], [LARGE])
    if damage == "a directory":
        file.rmdir()


def test_what_keeps_a_store_from_being_opened_is_named(store: Store) -> None:
    store.commit(Put(N, b"key", LARGE))
    store.session.close()
    values = store.files[0].parent
    shutil.rmtree(values)
    values.touch()
    with pytest.raises(StorageIOError, match="opening the store failed here") as raised:
        WriteSession.open(store.path, OPTIONS)
    assert raised.value.path == values


def test_a_place_that_is_damaged_leads_nowhere(store: Store) -> None:
    store.commit(Put(N, b"key", LARGE))
    store.session.connection.execute("UPDATE large_values SET value = '../../etc/passwd'")
    assert "does not match its checksum" in str(store.value(b"key"))
    store.commit(Put(N, b"key", OTHER))
    assert store.value(b"key") == OTHER
