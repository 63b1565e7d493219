"""Large values have a table of their own: nothing stays behind in it, and others pay nothing."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg.actors import Ack
from mpreg.errors import CorruptDataError, StorageFullError, StorageIOError
from mpreg.persistence.backend import (
    GetEntries,
    GetEntry,
    ReadQuery,
    ReadResult,
    ScanEntries,
    StoredEntry,
)
from mpreg.persistence.backends.catalog import Counted, CountEntries
from mpreg.persistence.backends.sqlite import SqliteOptions
from mpreg.persistence.backends.sqlite.catalog import answer_catalog
from mpreg.persistence.backends.sqlite.read_session import ReadSession
from mpreg.persistence.backends.sqlite.schema import LARGE_VALUE_BYTES
from mpreg.persistence.backends.sqlite.write_session import WriteSession
from mpreg.persistence.batch import WriteBatch
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Delete, Operation, Put, SweepExpired
from tests.unit.examples import examples

OPTIONS = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=100_000, busy_timeout_seconds=0.0)
NOW = 1_000.0
LARGE = LARGE_VALUE_BYTES + 1
PAGE_BYTES = 4_096


class Store:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = WriteSession.open(path, OPTIONS)
        self.sequence = 0

    def commit(self, *batches: tuple[Operation, ...]) -> None:
        made = [WriteBatch.of(batch, tuple(Ack[object]() for _ in batch)) for batch in batches]
        self.session.commit(CommitGroup(self.sequence + 1, NOW, tuple(made)))
        self.sequence += 1

    def put(self, key: bytes, value: bytes, expires_at: float | None = None) -> None:
        self.commit((Put(b"n", key, value, expires_at),))

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        return self.session.connection.execute(statement).fetchall()

    def large(self) -> dict[bytes, object]:
        """The keys that have a large value, and their ids."""
        return dict(self.rows("SELECT key, id FROM large_values"))  # type: ignore[arg-type]

    def ask(self, query: ReadQuery) -> ReadResult:
        reader = ReadSession.open(self.path, OPTIONS)
        try:
            (answer,) = reader.read([query])
        finally:
            reader.close()
        if isinstance(answer, CorruptDataError | StorageIOError):
            raise answer
        return answer

    def get(self, key: bytes) -> bytes | None:
        found = self.ask(GetEntry(b"n", key))
        return found.value if isinstance(found, StoredEntry) else None

    def count(self) -> Counted:
        found = answer_catalog(self.session.connection, self.path, CountEntries(b"n", b"", 1_000))
        assert isinstance(found, Counted)
        return found

    def check(self) -> None:
        """Each entry has what belongs to it, and nothing is nobody's."""
        assert self.rows("SELECT * FROM entries WHERE length(value) > 900") == []
        named = "SELECT namespace_id, key, value FROM entries WHERE typeof(value) = 'integer'"
        kept = "SELECT namespace_id, key, id FROM large_values"
        assert sorted(self.rows(named)) == sorted(self.rows(kept))
        small = f"SELECT * FROM large_values WHERE length(value) <= {LARGE_VALUE_BYTES}"
        assert self.rows(small) == []
        assert self.rows("PRAGMA integrity_check") == [("ok",)]


@contextmanager
def opened(directory: Path) -> Iterator[Store]:
    store = Store(directory / "mpreg.db")
    try:
        yield store
    finally:
        store.session.close()


SIZES = st.sampled_from([0, 1, LARGE_VALUE_BYTES, LARGE, 3_000, 9_000])
KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
OPERATIONS = st.one_of(
    st.builds(
        lambda key, size, byte, ttl: Put(b"n", key, byte * size, ttl),
        KEYS,
        SIZES,
        st.sampled_from([b"x", b"y"]),
        st.sampled_from([None, NOW - 1, NOW + 1]),
    ),
    st.builds(lambda key: Delete(b"n", key), KEYS),
    st.builds(lambda count: SweepExpired(b"n", count), st.integers(1, 4)),
)


def applied(state: dict[bytes, tuple[bytes, float | None]], operation: Operation) -> None:
    match operation:
        case Put():
            state[operation.key] = (operation.value, operation.expires_at)
        case Delete():
            state.pop(operation.key, None)
        case SweepExpired():
            expired = sorted(
                (expires_at, key)
                for key, (_, expires_at) in state.items()
                if expires_at is not None and expires_at <= NOW
            )
            for _, key in expired[: operation.entries_max]:
                del state[key]


@settings(max_examples=examples(15), deadline=None)
@given(st.lists(st.lists(st.tuples(OPERATIONS), max_size=6, min_size=1), max_size=8))
def test_whatever_is_written_is_read_and_no_large_value_is_left_behind(
    groups: list[list[tuple[Operation]]],
) -> None:
    state: dict[bytes, tuple[bytes, float | None]] = {}
    with tempfile.TemporaryDirectory() as directory, opened(Path(directory)) as store:
        for group in groups:
            store.commit(*group)
            for (operation,) in group:
                applied(state, operation)
            store.check()
            page = store.ask(ScanEntries(b"n", b"", None))
            found = {one.key: (one.value, one.expires_at) for one in page.entries}  # type: ignore[union-attr]
            assert found == state
            many = store.ask(GetEntries(b"n", [b"a", b"b", b"c", b"d", b"e"]))
            assert [one and one.value for one in many.entries] == [  # type: ignore[union-attr]
                state[key][0] if key in state else None for key in (b"a", b"b", b"c", b"d", b"e")
            ]
            assert store.get(b"a") == (state[b"a"][0] if b"a" in state else None)
            size = sum(len(key) + len(value) for key, (value, _) in state.items())
            assert (store.count().entries, store.count().size_bytes) == (len(state), size)


def test_the_bound_is_the_size_of_the_value(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put(b"small", bytes(LARGE_VALUE_BYTES))
        store.put(b"large", bytes(LARGE))
        assert list(store.large()) == [b"large"]


def test_an_overwritten_large_value_keeps_its_row(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put(b"other", bytes(LARGE))
        store.put(b"key", bytes(LARGE))
        before = store.large()
        store.put(b"key", b"x" * 9_000)
        assert store.large() == before
        assert store.get(b"key") == b"x" * 9_000


def test_a_damaged_id_however_large_keeps_nothing_from_being_written(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put(b"damaged", bytes(LARGE))
        store.rows(f"UPDATE large_values SET id = {2**63 - 1}")
        for number in range(3):
            store.put(b"%d" % number, b"%d" % number * LARGE)
        assert [store.get(b"%d" % number) for number in range(3)] == [
            b"%d" % number * LARGE for number in range(3)
        ]


def test_a_failed_group_leaves_no_large_value(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put(b"key", bytes(LARGE))
        before = store.large()
        store.commit((Put(b"n", b"key", b"x" * LARGE, None, 77), Put(b"n", b"new", bytes(LARGE))))
        assert store.large() == before
        assert store.get(b"key") == bytes(LARGE)


def test_without_room_for_a_large_value_the_entry_is_what_it_was(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put(b"key", b"x" * LARGE)
        store.rows("PRAGMA max_page_count = 1")
        with pytest.raises(StorageFullError):
            store.put(b"key", b"y" * 100_000)
        assert store.get(b"key") == b"x" * LARGE
        store.commit((Delete(b"n", b"key"),))
        store.check()


def statements(store: Store, *batches: tuple[Operation, ...]) -> list[str]:
    told: list[str] = []
    store.session.connection.set_trace_callback(told.append)
    store.commit(*batches)
    store.session.connection.set_trace_callback(None)
    return [one.split()[0] for one in told if not one.startswith(("--", "PRAGMA"))]


def test_small_values_cost_no_statement_more(tmp_path: Path) -> None:
    """Also where others of the namespace are large."""
    group = [(Put(b"n", b"%d" % number, b"v"),) for number in range(32)]
    with opened(tmp_path) as store:
        store.put(b"large", bytes(LARGE))
        for _ in range(2):
            assert statements(store, *group) == ["BEGIN", "UPDATE", "INSERT", "COMMIT"]
        deletes = [(Delete(b"n", b"%d" % number),) for number in range(2)]
        planned = ["SELECT", "SELECT"]
        assert statements(store, *deletes) == (
            ["BEGIN", *planned, "UPDATE", "DELETE", "DELETE", "COMMIT"]
        )


# --- what need not be read is not read ---


def lose_the_pages_of_large_values(store: Store) -> None:
    """All that are not the first of a row: reading on in one of them fails."""
    store.session.close()
    content = store.path.read_bytes()
    pages = [content[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)]
    with store.path.open("r+b") as file:
        for number, page in enumerate(pages):
            if b"L" * 4_000 in page[4:]:
                file.seek(number * PAGE_BYTES)
                file.write(b"\xff" * PAGE_BYTES)
    store.session = WriteSession.open(store.path, OPTIONS, again=True)


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path) as store:
        for number in range(20):
            store.put(b"large %02d" % number, b"L" * 20_000)
            store.put(b"small %02d" % number, b"s")
        lose_the_pages_of_large_values(store)
        with pytest.raises(CorruptDataError):
            store.ask(GetEntry(b"n", b"large 07"))
        yield store


def test_counting_reads_no_large_value(unreadable: Store) -> None:
    assert (unreadable.count().entries, unreadable.count().size_bytes) == (
        (40, 20 * (20_000 + 8) + 20 * (1 + 8))
    )


def test_small_keys_beside_large_values_do_not_read_them(unreadable: Store) -> None:
    for number in range(20):
        assert unreadable.get(b"small %02d" % number) == b"s"
        unreadable.put(b"small %02d" % number, b"another")
        unreadable.commit((Put(b"n", b"new %02d" % number, b"s"),))
    unreadable.commit((Delete(b"n", b"small 00"),))


def test_a_condition_on_a_large_value_does_not_read_it(unreadable: Store) -> None:
    unreadable.commit((Put(b"n", b"large 07", b"", None, 1), Put(b"n", b"x", b"never")))
    assert unreadable.get(b"x") is None


# --- damage ---


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM large_values WHERE key = x'61'",
        "UPDATE large_values SET key = x'62' WHERE key = x'61'",
        "UPDATE large_values SET namespace_id = 7 WHERE key = x'61'",
        "UPDATE large_values SET value = x'00' WHERE key = x'61'",
        "UPDATE large_values SET value = NULL WHERE key = x'61'",
        "UPDATE entries SET value = NULL WHERE key = x'61'",
        "UPDATE entries SET version = NULL WHERE key = x'61'",
        "UPDATE entries SET checksum = NULL WHERE key = x'61'",
        "UPDATE entries SET value = 77 WHERE key = x'61'",
        "UPDATE entries SET value = (SELECT min(id) FROM large_values) WHERE key = x'61'",
        "UPDATE entries SET value = 'text' WHERE key = x'61'",
        "UPDATE entries SET value = 1.5 WHERE key = x'61'",
    ],
)
@pytest.mark.parametrize("size", [1, LARGE, None])
def test_damage_to_one_is_told_is_overwritten_or_deleted_and_never_spreads(
    tmp_path: Path, damage: str, size: int | None
) -> None:
    with opened(tmp_path) as store:
        store.put(b"z", b"z" * LARGE)
        store.put(b"a", b"a" * LARGE)
        store.session.connection.execute(damage)
        with pytest.raises(CorruptDataError, match="does not match its checksum"):
            store.get(b"a")
        assert store.get(b"z") == b"z" * LARGE
        if size is None:
            store.commit((Delete(b"n", b"a"),))
            assert store.get(b"a") is None
        else:
            store.put(b"a", b"n" * size)
            assert store.get(b"a") == b"n" * size
        assert store.get(b"z") == b"z" * LARGE


def test_a_reader_between_two_writes_sees_one_of_them(tmp_path: Path) -> None:
    """What an entry names may have been removed, or be another's, when it is looked for."""
    with opened(tmp_path) as store:
        store.put(b"a", b"a" * LARGE)
        reader = ReadSession.open(tmp_path / "mpreg.db", OPTIONS)
        reader.read([GetEntry(b"n", b"a")])
        connection = reader.connection

        class Meanwhile:
            """The connection of the reader; after each of its statements something is written."""

            def execute(self, statement: str, parameters: tuple[object, ...]) -> sqlite3.Cursor:
                found = connection.execute(statement, parameters).fetchall()
                store.put(b"a", b"small now")
                store.put(b"b", b"b" * LARGE)
                return connection.execute(f"VALUES ({','.join('?' * len(found[0]))})", found[0])

        reader.connection = Meanwhile()  # type: ignore[assignment]
        (found,) = reader.read([GetEntry(b"n", b"a")])
        reader.connection = connection
        reader.close()
        assert isinstance(found, StoredEntry)
        assert found.value == b"small now"


# --- values from before ---


def test_a_large_value_of_the_first_schema_is_read_overwritten_and_deleted(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for key in (b"a", b"b", b"c", b"d"):
            store.put(key, key * LARGE)
        store.session.connection.execute(
            "UPDATE entries SET value = (SELECT value FROM large_values WHERE id = entries.value)"
        )
        store.session.connection.execute("DELETE FROM large_values")
        for key in (b"a", b"b", b"c", b"d"):
            assert store.get(key) == key * LARGE
        assert store.count().size_bytes == 4 * (LARGE + 1)
        store.put(b"a", b"small")
        store.put(b"b", b"B" * 9_000)
        store.commit((Delete(b"n", b"c"),))
        store.put(b"d", b"D" * LARGE, NOW - 1)
        store.commit((SweepExpired(b"n", 1),))
        assert (store.get(b"a"), store.get(b"b")) == (b"small", b"B" * 9_000)
        assert (store.get(b"c"), store.get(b"d")) == (None, None)
        store.check()
