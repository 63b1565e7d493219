"""Any bytes of any file changed: never wrong data, and never another exception.

What a damaged page hides, `verify` finds. ``MPREG_SIMULATION_SEEDS=1000`` tries more changes.
"""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from mpreg.errors import (
    AckedDataLostError,
    CorruptDataError,
    ForeignDatabaseError,
    PersistenceError,
)
from mpreg.persistence.maintenance import VerificationReport, verify
from tests.integration.damaged_bytes import (
    CHANGES,
    Read,
    Stored,
    fill,
    put_back,
    read_everything,
)

CHANGES_EACH = 12
NAMES = {
    "entry": ("namespaces", b"shelf"),
    "record": ("logs", b"audit"),
    "snapshot": ("namespaces", b"\xffsnapshot/images"),
}
STORES = 1 + int(os.environ.get("MPREG_SIMULATION_SEEDS", "0")) // CHANGES_EACH


@pytest.mark.parametrize("seed", range(STORES))
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_changed_bytes_are_told_or_do_not_matter(
    tmp_path: Path, seed: int, *, closed: bool
) -> None:
    stored = anyio.run(_filled, tmp_path / "made", seed, closed)
    luck = random.Random(f"{seed} {closed}")
    for number in range(CHANGES_EACH):
        name = luck.choice([name for name, data in stored.files.items() if name != "LOCK" and data])
        change = luck.choice(CHANGES)
        data_dir = tmp_path / "damaged"
        put_back(data_dir, stored.files | {name: change(stored.files[name], luck)})
        report = anyio.run(_verified, data_dir)
        read = anyio.run(read_everything, data_dir)
        try:
            check(stored, read, report, data_dir)
        except AssertionError as error:
            error.add_note(f"seed {seed}, number {number}: {change.__name__} of {name}")
            raise


async def _filled(data_dir: Path, seed: int, closed: bool) -> Stored:
    return await fill(data_dir, seed, closed=closed)


async def _verified(data_dir: Path) -> VerificationReport | PersistenceError:
    """A report, or why there is none."""
    try:
        return await verify(data_dir)
    except PersistenceError as error:
        return error


def check(
    stored: Stored, read: Read, report: VerificationReport | PersistenceError, data_dir: Path
) -> None:
    """Hold what was read against what was written, and what was said against what is known."""
    if read.refused is not None:
        check_told(read.refused, data_dir)
        if not isinstance(read.refused, ForeignDatabaseError):
            # A file without its header is not touched, although a log beside it may have all of it.
            assert not isinstance(report, VerificationReport) or report.findings
        return
    errors = [answer for answer in read.items.values() if isinstance(answer, PersistenceError)]
    for error in errors:
        check_told(error, data_dir)
    state = stored.at(read.sequence)
    hidden = []
    for item, answer in read.items.items():
        if not isinstance(answer, PersistenceError) and answer not in state[item]:
            # SQLite's pages have no checksum. One that lies about what is in it hides rows: single
            # ones, never all of a namespace or log for want of its name.
            assert answer is None, f"{item} is not what it was at {read.sequence}"
            assert _is_named(item, data_dir), f"{item} is hidden with all of its kind"
            hidden.append(item)
    if hidden or errors:
        assert not isinstance(report, VerificationReport) or report.findings, hidden[:5]


def _is_named(item: tuple[object, ...], data_dir: Path) -> bool:
    """Whether the store finds what an item belongs to by its name."""
    table, name = NAMES[str(item[0])]
    with closing(sqlite3.connect(data_dir / "mpreg.db")) as connection:
        find = f"SELECT id FROM {table} WHERE name = ?"
        found: list[tuple[object]] = connection.execute(find, (name,)).fetchall()
        kept: list[tuple[object]] = connection.execute(
            f"SELECT id FROM {table} NOT INDEXED WHERE +name = ?",
            (name,),
        ).fetchall()
    return len(found) == 1 and found == kept


def check_told(error: PersistenceError, data_dir: Path) -> None:
    """It says which file, and where in it."""
    if isinstance(error, AckedDataLostError):
        assert error.path == data_dir
        return
    while not isinstance(error, CorruptDataError | ForeignDatabaseError):
        assert isinstance(error.__cause__, PersistenceError), repr(error)
        error = error.__cause__
    if error.path is not None:
        assert error.path.parent == data_dir
    else:
        # Of a snapshot, which is known by its name wherever it is kept.
        assert isinstance(error, CorruptDataError)
        assert error.where
