"""The limit: `sqlite3` in one thread, minimal tables, no event loop, perfect group commit.

It knows beforehand how many messages come and which are next, checks nothing and has nothing to
wake. Its pragmas are mpreg's own.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import peak_mib, percentile
from benchmarks.queues.channel import WARM_UP
from benchmarks.queues.commits import count_commits
from benchmarks.queues.workload import BODY, CycleResult
from benchmarks.workload import options
from mpreg.persistence.backends.sqlite.schema import WRITER_PRAGMAS

CREATE = """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        attempts INTEGER NOT NULL,
        body BLOB NOT NULL
    )
"""
SEND = "INSERT INTO messages VALUES (?, 0, ?)"
NEXT = "SELECT id, body FROM messages WHERE id > ? ORDER BY id LIMIT ?"
ATTEMPT = "UPDATE messages SET attempts = attempts + 1 WHERE id = ?"
ACKNOWLEDGE = "DELETE FROM messages WHERE id = ?"

Group = Callable[[sqlite3.Connection, int, int], float]
"""Takes P messages after an id through their lives; returns what the sends took."""


def three_commits(connection: sqlite3.Connection, after: int, workers: int) -> float:
    """P sends in a transaction, P receives in one, P acknowledgements in one."""
    began = time.perf_counter()
    with _transaction(connection):
        _send(connection, after, workers)
    sent = time.perf_counter() - began
    with _transaction(connection):
        _receive(connection, after, workers)
    with _transaction(connection):
        _acknowledge(connection, after, workers)
    return sent


def one_commit(connection: sqlite3.Connection, after: int, workers: int) -> float:
    """P sends, P receives of those sent before, and P acknowledgements of those before them.

    Producers and consumers that do not wait for each other can share commits like this.
    """
    began = time.perf_counter()
    with _transaction(connection):
        _acknowledge(connection, after - 2 * workers, workers)
        _receive(connection, after - workers, workers)
        _send(connection, after, workers)
    return time.perf_counter() - began


def time_bare_cycles(group: Group, directory: Path, workers: int, cycles: int) -> CycleResult:
    """All life cycles, after a part of as many to warm up."""
    groups = cycles // workers
    warm_up = max(1, groups // WARM_UP)
    with contextlib.closing(_open(directory)) as connection:
        for number in range(warm_up):
            group(connection, number * workers, workers)
        before = count_commits(directory)
        began = time.perf_counter()
        latencies = [
            group(connection, number * workers, workers)
            for number in range(warm_up, warm_up + groups)
        ]
        seconds = time.perf_counter() - began
        commits = count_commits(directory) - before
    return CycleResult(
        per_second=cycles / seconds,
        send_p50=percentile(latencies, 50),
        send_p99=percentile(latencies, 99),
        peak_mib=peak_mib(),
        fsyncs_per_cycle=commits / cycles,
    )


def _open(directory: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    settings = options()
    settings.prepare(connection)
    for pragma in WRITER_PRAGMAS:
        connection.execute(pragma)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {settings.wal_checkpoint_pages}")
    connection.execute(CREATE)
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _send(connection: sqlite3.Connection, after: int, count: int) -> None:
    _each(connection, SEND, [(after + number, BODY) for number in range(1, count + 1)])


def _receive(connection: sqlite3.Connection, after: int, count: int) -> None:
    found = connection.execute(NEXT, (after, count)).fetchall()
    _each(connection, ATTEMPT, [(id,) for id, _body in found])


def _acknowledge(connection: sqlite3.Connection, after: int, count: int) -> None:
    _each(connection, ACKNOWLEDGE, [(after + number,) for number in range(1, count + 1)])


def _each(connection: sqlite3.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    if len(rows) == 1:
        connection.execute(statement, rows[0])
    else:
        connection.executemany(statement, rows)
