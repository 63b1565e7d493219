"""Stores of every released version of a backend are read by this mpreg, with all that was in it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mpreg.persistence import MigrationFailedError, PersistenceConfig, PersistenceRegistry
from mpreg.persistence.backends.file.format import FORMAT_VERSION
from mpreg.persistence.backends.sqlite.files import look_at
from mpreg.persistence.backends.sqlite.migrations import CURRENT, FIRST_VERSION
from mpreg.persistence.backends.sqlite.schema import SCHEMA_VERSION
from mpreg.persistence.maintenance import verify
from tests.data.schemas.kept import (
    CONTENTS,
    NEWEST,
    STATES,
    directory_of,
    kept_versions,
    read_contents,
    receive_messages,
)
from tests.data.schemas.make_kept_database import WALL, make
from tests.integration.newer_schema import MIGRATIONS, NEW, upgraded, version
from tests.integration.support import OpenBackend, TurnedClock
from tests.integration.test_migrations import CutShort, CutShortError, opened

pytestmark = pytest.mark.anyio


def every_store(backend: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "kept",
        [directory_of(backend, one) / state for one in kept_versions(backend) for state in STATES],
        ids=lambda kept: f"{kept.parent.name}-{kept.name}",
    )


def config(data_dir: Path, backend: str) -> PersistenceConfig:
    return PersistenceConfig(data_dir=data_dir, backend=backend, upkeep_interval_seconds=None)


async def read(data_dir: Path, backend: str = "sqlite") -> dict[str, Any]:
    """What can be read twice, in a first life, and in a second one the messages as well."""
    async with PersistenceRegistry(config(data_dir, backend), clock=TurnedClock(WALL)) as registry:
        first = await read_contents(registry)
    async with PersistenceRegistry(config(data_dir, backend), clock=TurnedClock(WALL)) as registry:
        assert await read_contents(registry) == first
        first["messages"] = await receive_messages(registry)
    found: dict[str, Any] = json.loads(json.dumps(first))
    return found


def contents_of(kept: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((kept.parent / CONTENTS).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(("backend", "name"), [("sqlite", "mpreg.db"), ("file", "mpreg.journal")])
def test_a_store_is_kept_of_every_version(backend: str, name: str) -> None:
    """See ``tests/data/schemas/make_kept_database.py``: it makes that of the current one."""
    assert kept_versions(backend) == list(range(FIRST_VERSION, NEWEST[backend] + 1))
    for one in kept_versions(backend):
        for state in STATES:
            assert (directory_of(backend, one) / state / name).exists()


def test_every_schema_version_has_its_migration() -> None:
    assert CURRENT.version == SCHEMA_VERSION


@every_store("file")
async def test_a_kept_journal_is_read_and_has_all_that_was_in_it(
    kept: Path, data_dir: Path
) -> None:
    shutil.copytree(kept, data_dir)
    assert await read(data_dir, "file") == contents_of(kept)
    for path in kept.iterdir():
        if path.name != "ACKED":
            assert path.read_bytes()[8:12] == FORMAT_VERSION.to_bytes(4, "little")


@every_store("sqlite")
async def test_a_kept_store_is_migrated_and_has_all_that_was_in_it(
    kept: Path, data_dir: Path
) -> None:
    shutil.copytree(kept, data_dir)
    assert await read(data_dir) == contents_of(kept)
    assert version(data_dir / "mpreg.db") == SCHEMA_VERSION


def definitions(data_dir: Path) -> dict[str, str]:
    with closing(sqlite3.connect(data_dir / "mpreg.db")) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {name: sql for name, sql in rows if not name.startswith("sqlite_stat")}


class Refusing(sqlite3.Connection):
    """As where SQLite is built so that its own tables are written by nobody."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute("" if sql == "PRAGMA writable_schema = ON" else sql, *parameters)


@every_store("sqlite")
@pytest.mark.parametrize("refuses", [False, True])
async def test_what_is_migrated_has_the_tables_of_what_is_new(
    kept: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    shutil.copytree(kept, data_dir)
    async with PersistenceRegistry(config(tmp_path / "new", "sqlite")):
        pass
    if refuses:
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Refusing))
    assert await read(data_dir) == contents_of(kept)
    assert definitions(data_dir) == definitions(tmp_path / "new")
    report = await verify(data_dir, full=True)
    assert report.findings == ()


async def test_no_statement_of_puts_may_abort_right_after_the_migration(data_dir: Path) -> None:
    """The connection that has migrated knows the tables as they are now."""
    shutil.copytree(directory_of("sqlite", 1) / "closed", data_dir)
    backend = OpenBackend(data_dir)
    await backend.open()
    try:
        put = "EXPLAIN UPDATE entries SET version = ?, checksum = ?, value = ?"
        steps = await backend.thread.run(
            lambda: backend.session.connection.execute(put, (1, 2, b"")).fetchall()
        )
        assert "HaltIfNull" not in [step[1] for step in steps]
    finally:
        await backend.close()


@every_store("sqlite")
async def test_a_migration_cut_short_at_any_moment_leaves_one_version_or_the_other(
    kept: Path, data_dir: Path
) -> None:
    shutil.copytree(kept, data_dir)
    moment = 0
    while version(data_dir / "mpreg.db") != SCHEMA_VERSION:
        before = definitions(data_dir)
        with suppress(CutShortError, MigrationFailedError):
            await opened(data_dir, CURRENT, on_progress=CutShort(moment))
        if version(data_dir / "mpreg.db") != SCHEMA_VERSION:
            assert definitions(data_dir) == before
        moment += 1
    assert await read(data_dir) == contents_of(kept)


@every_store("sqlite")
async def test_migrations_to_come_will_find_it_whole(kept: Path, data_dir: Path) -> None:
    shutil.copytree(kept, data_dir)
    await opened(data_dir, upgraded(*MIGRATIONS))
    assert version(data_dir / "mpreg.db") == NEW
    copy = data_dir / f"mpreg.db.schema-{kept.parent.name.removeprefix('schema-')}"
    (data_dir / "mpreg.db-wal").unlink(missing_ok=True)
    (data_dir / "mpreg.db-shm").unlink(missing_ok=True)
    copy.replace(data_dir / "mpreg.db")
    assert await read(data_dir) == contents_of(kept)


@every_store("sqlite")
def test_where_a_kept_store_ends_is_told_without_a_migration(kept: Path, data_dir: Path) -> None:
    shutil.copytree(kept, data_dir)
    before = (data_dir / "mpreg.db").read_bytes()
    found = look_at(data_dir / "mpreg.db")
    assert found is not None
    assert found.commit_sequence > 0
    assert (data_dir / "mpreg.db").read_bytes() == before


@pytest.mark.parametrize(
    ("backend", "log"),
    [("sqlite", "mpreg.db-wal"), ("file", "journal-00000000000000000024")],
)
async def test_the_script_makes_what_is_kept_of_the_current_version(
    tmp_path: Path, backend: str, log: str
) -> None:
    """So that it works on the day on which the next version is kept."""
    await make(tmp_path / "made", backend)
    assert (tmp_path / "made" / "killed" / log).stat().st_size > 0
    for state in STATES:
        made = tmp_path / "made" / state
        shutil.copytree(made, tmp_path / state)
        assert await read(tmp_path / state, backend) == contents_of(made)
