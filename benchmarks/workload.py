"""What is written and read, and the databases it is written to: the same for every contender."""

from __future__ import annotations

import random
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from mpreg.codec import checksum_entry, encode_key, encode_name
from mpreg.persistence import Durability, PersistenceConfig, WriteBatch
from mpreg.persistence.backends.file import FileOptions
from mpreg.persistence.backends.file.files import OperatingSystem
from mpreg.persistence.backends.file.session import FileSession
from mpreg.persistence.backends.sqlite import SqliteOptions
from mpreg.persistence.backends.sqlite.schema import CREATE_NAMESPACE
from mpreg.persistence.backends.sqlite.write_session import WriteSession
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Put

KEYS = 1_000_000
VALUE = random.Random(0).randbytes(100)
NAMESPACE = "bench"
PUT = (
    "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (namespace_id, key) DO UPDATE SET version = excluded.version, "
    "expires_at = excluded.expires_at, checksum = excluded.checksum, value = excluded.value"
)
GET = "SELECT version, expires_at, checksum, value FROM entries WHERE namespace_id = ? AND key = ?"
NAMESPACE_ID = 1
NAMESPACE_SEED = zlib.crc32(encode_name(NAMESPACE))

#: Operations timed at each number of callers: about a second each, and as many to warm up.
OPERATIONS = {1: 1_500, 16: 12_000, 256: 30_000, 4096: 40_960}


@frozen
class Run:
    """One measurement to make, in a process of its own."""

    contender: str
    callers: int
    directory: Path
    seed: int
    keys: int
    operations: int


@frozen
class Result:
    seconds: float
    operations: int
    latencies: list[float]
    """Seconds from the call to the ack, of a sample of the operations."""
    detail: str = ""


def key(generator: random.Random, keys: int) -> str:
    return f"key{generator.randrange(keys):07}"


def row(name: str, version: int) -> tuple[int, bytes, int, None, int, bytes]:
    """The row that a put writes, checksum and all."""
    encoded = encode_key(name)
    return (
        NAMESPACE_ID,
        encoded,
        version,
        None,
        checksum_entry(NAMESPACE_SEED, encoded, version, None, VALUE),
        VALUE,
    )


def options() -> SqliteOptions:
    config = PersistenceConfig(backend="memory")
    return SqliteOptions(
        cache_bytes=config.cache_bytes,
        wal_checkpoint_pages=config.wal_checkpoint_pages,
        busy_timeout_seconds=config.busy_timeout_seconds,
    )


def open_session(directory: Path) -> WriteSession:
    """mpreg's own connection, so that every contender has the same pragmas and tables."""
    return WriteSession.open(directory / "mpreg.db", options())


def open_plain(directory: Path) -> sqlite3.Connection:
    connection = open_session(directory).connection
    # Nobody makes checkpoints between its commits.
    connection.execute(f"PRAGMA wal_autocheckpoint = {options().wal_checkpoint_pages}")
    return connection


def file_options() -> FileOptions:
    config = PersistenceConfig(backend="memory")
    return FileOptions(
        journal_segment_bytes=config.journal_segment_bytes,
        busy_timeout_seconds=config.busy_timeout_seconds,
    )


def prefill_journal(directory: Path, keys: int) -> None:
    """The same keys in the file backend, written as a program would have written them."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    session = FileSession.open(directory, file_options(), OperatingSystem())
    for sequence, start in enumerate(range(0, keys, 1_024), 1):
        names = [f"key{number:07}" for number in range(start, min(keys, start + 1_024))]
        session.apply(session.commit(put_group(sequence, names, Durability.RELAXED)))
    session.close()


def put_group(sequence: int, names: list[str], durability: Durability) -> CommitGroup:
    """What the writer would make of one put by each of many callers."""
    namespace = encode_name(NAMESPACE)
    batches = tuple(
        WriteBatch.of((Put(namespace, encode_key(name), VALUE),), (), durability) for name in names
    )
    return CommitGroup(sequence, 0.0, batches)


def prefill(directory: Path, keys: int) -> None:
    """A database that holds every key already: a put then costs what it costs in the long run."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    session = open_session(directory)
    connection = session.connection
    connection.execute("BEGIN")
    connection.execute(CREATE_NAMESPACE, (encode_name(NAMESPACE),))
    connection.executemany(PUT, _all_rows(keys))
    connection.execute("UPDATE meta SET last_version = ?", (keys,))
    connection.execute("COMMIT")
    session.close()


def _all_rows(keys: int) -> Iterator[tuple[object, ...]]:
    for number in range(keys):
        yield row(f"key{number:07}", number + 1)
