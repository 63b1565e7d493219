"""Stores of every released schema version are read by this mpreg, with all that was in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.backends.sqlite.files import look_at
from mpreg.persistence.backends.sqlite.migrations import CURRENT, FIRST_VERSION
from mpreg.persistence.backends.sqlite.schema import SCHEMA_VERSION
from tests.data.schemas.kept import (
    CONTENTS,
    STATES,
    directory_of,
    kept_versions,
    read_contents,
    receive_messages,
)
from tests.data.schemas.make_kept_database import WALL, make
from tests.integration.newer_schema import MIGRATIONS, NEW, upgraded, version
from tests.integration.support import TurnedClock
from tests.integration.test_migrations import opened

pytestmark = pytest.mark.anyio

every_store = pytest.mark.parametrize(
    "kept",
    [directory_of(one) / state for one in kept_versions() for state in STATES],
    ids=lambda kept: f"{kept.parent.name}-{kept.name}",
)


def config(data_dir: Path) -> PersistenceConfig:
    return PersistenceConfig(data_dir=data_dir, upkeep_interval_seconds=None)


async def read(data_dir: Path) -> dict[str, Any]:
    """What can be read twice, in a first life, and in a second one the messages as well."""
    async with PersistenceRegistry(config(data_dir), clock=TurnedClock(WALL)) as registry:
        first = await read_contents(registry)
    async with PersistenceRegistry(config(data_dir), clock=TurnedClock(WALL)) as registry:
        assert await read_contents(registry) == first
        first["messages"] = await receive_messages(registry)
    found: dict[str, Any] = json.loads(json.dumps(first))
    return found


def contents_of(kept: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((kept.parent / CONTENTS).read_text(encoding="utf-8"))
    return found


def test_a_store_is_kept_of_every_schema_version() -> None:
    """See ``tests/data/schemas/make_kept_database.py``: it makes that of the current one."""
    assert kept_versions() == list(range(FIRST_VERSION, SCHEMA_VERSION + 1))
    for one in kept_versions():
        for state in STATES:
            assert (directory_of(one) / state / "mpreg.db").exists()


def test_every_schema_version_has_its_migration() -> None:
    assert CURRENT.version == SCHEMA_VERSION


@every_store
async def test_a_kept_store_is_migrated_and_has_all_that_was_in_it(
    kept: Path, data_dir: Path
) -> None:
    shutil.copytree(kept, data_dir)
    assert await read(data_dir) == contents_of(kept)
    assert version(data_dir / "mpreg.db") == SCHEMA_VERSION


@every_store
async def test_migrations_to_come_will_find_it_whole(kept: Path, data_dir: Path) -> None:
    shutil.copytree(kept, data_dir)
    await opened(data_dir, upgraded(*MIGRATIONS))
    assert version(data_dir / "mpreg.db") == NEW
    copy = data_dir / f"mpreg.db.schema-{kept.parent.name.removeprefix('schema-')}"
    (data_dir / "mpreg.db-wal").unlink(missing_ok=True)
    (data_dir / "mpreg.db-shm").unlink(missing_ok=True)
    copy.replace(data_dir / "mpreg.db")
    assert await read(data_dir) == contents_of(kept)


@every_store
def test_where_a_kept_store_ends_is_told_without_a_migration(kept: Path, data_dir: Path) -> None:
    shutil.copytree(kept, data_dir)
    before = (data_dir / "mpreg.db").read_bytes()
    found = look_at(data_dir / "mpreg.db")
    assert found is not None
    assert found.commit_sequence > 0
    assert (data_dir / "mpreg.db").read_bytes() == before


async def test_the_script_makes_what_is_kept_of_the_current_version(tmp_path: Path) -> None:
    """So that it works on the day on which the next version is kept."""
    await make(tmp_path / "made")
    assert (tmp_path / "made" / "killed" / "mpreg.db-wal").stat().st_size > 0
    for state in STATES:
        made = tmp_path / "made" / state
        shutil.copytree(made, tmp_path / state)
        assert await read(tmp_path / state) == contents_of(made)
