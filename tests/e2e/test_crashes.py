"""A real process, killed by SIGKILL at random moments again and again, on one directory."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mpreg.persistence import DataDirectoryLockedError
from tests.e2e.ledger import Ledger, read_found
from tests.e2e.support import Program, on_loops_and_backends
from tests.integration.support import left_over

#: On each loop; `make crash` sets more. Another seed gives other moments.
KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "3"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))

ACKS_MAX = 1_500


def check_directory(loop: str, data_dir: Path, ledger: Ledger, backend: str) -> None:
    """Restore, check all promises, that nothing is left over, and have SQLite check its file."""
    ledger.check(read_found(loop, data_dir, backend))
    assert left_over(data_dir, backend) == []
    if backend == "file":
        return
    with closing(sqlite3.connect(f"file:{data_dir}/mpreg.db?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def follow(program: Program, ledger: Ledger, *, acks: int | None) -> None:
    """Note the next ``acks`` acks; None: all there are, to the end."""
    if acks == 0:
        return
    for count, line in enumerate(program.lines(), 1):
        ledger.note(line)
        if count == acks:
            return


@on_loops_and_backends
def test_acked_is_restored_and_restored_was_sent_over_many_kills(
    loop: str, backend: str, tmp_path: Path
) -> None:
    """acked ⊆ restored ⊆ sent, order kept per caller, no batch torn, nothing numbered twice."""
    rng = random.Random(f"{SEED} {loop} {backend}")
    ledger = Ledger()
    data_dir = tmp_path / "data"
    for _ in range(KILLS):
        with Program("writer", loop, data_dir, backend) as program:
            assert program.line() == "starting"
            # None at all, one time in eight: that kill meets the opening.
            acks = rng.choice([0, *[1] * 7]) * rng.randint(1, ACKS_MAX)
            follow(program, ledger, acks=acks)
            program.send(signal.SIGKILL)
            # What is in the pipe was told before the kill, and counts.
            follow(program, ledger, acks=None)
            assert program.wait() == -signal.SIGKILL, program.errors
        check_directory(loop, data_dir, ledger, backend)
    print(f"{KILLS} kills, {ledger.told:,} acks told, seed {SEED}")  # shown by pytest -rP


@on_loops_and_backends
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_program_promptly_and_loses_nothing_acked(
    loop: str, backend: str, number: signal.Signals, tmp_path: Path
) -> None:
    """Neither Ctrl-C nor SIGTERM waits for the grace time, which is longer than the guard here."""
    ledger = Ledger()
    data_dir = tmp_path / "data"
    with Program("writer", loop, data_dir, backend) as program:
        follow(program, ledger, acks=500)
        program.send(number)
        follow(program, ledger, acks=None)
        assert program.wait() != 0
    assert ledger.told > 400
    check_directory(loop, data_dir, ledger, backend)


@on_loops_and_backends
def test_the_lock_names_its_holder_and_is_free_when_the_holder_is_killed(
    loop: str, backend: str, tmp_path: Path
) -> None:
    ledger = Ledger()
    with Program("writer", loop, tmp_path, backend) as program:
        follow(program, ledger, acks=20)
        with pytest.raises(DataDirectoryLockedError) as caught:
            read_found(loop, tmp_path, backend)
        assert caught.value.pid == program.pid
        assert str(program.pid) in str(caught.value)
        program.send(signal.SIGKILL)
        follow(program, ledger, acks=None)
        program.wait()
    check_directory(loop, tmp_path, ledger, backend)


def _forget(statement: str, database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE CAST(substr(key, 2) AS TEXT) = 'put-1'",
        "DELETE FROM entries WHERE CAST(substr(key, 2) AS TEXT) = 'tx-1' AND namespace_id = 1",
        "DELETE FROM records WHERE (log_id, offset) = (SELECT log_id, max(offset) FROM records)",
    ],
)
def test_the_check_itself_finds_what_is_missing(statement: str, tmp_path: Path) -> None:
    """A check that finds nothing proves something only if it would have found it."""
    ledger = Ledger()
    with Program("writer", "asyncio", tmp_path, "sqlite") as program:
        follow(program, ledger, acks=800)
        program.send(signal.SIGKILL)
        follow(program, ledger, acks=None)
        program.wait()
    check_directory("asyncio", tmp_path, ledger, "sqlite")
    _forget(statement, tmp_path / "mpreg.db")
    with pytest.raises(AssertionError):
        check_directory("asyncio", tmp_path, ledger, "sqlite")
