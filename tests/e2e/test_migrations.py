"""A process is killed while it migrates: the next one finds one schema or the next, and goes on."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import anyio

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from tests.e2e.programs.migrating import main as migrate
from tests.e2e.support import Program
from tests.integration.newer_schema import NEW, OLD, dumped, version

#: More than there are.
MOMENTS_MAX = 50


async def _make(data_dir: Path) -> None:
    async with PersistenceRegistry(PersistenceConfig(data_dir=data_dir)) as registry:
        store = registry.key_value_store("things")
        async with registry.transaction() as transaction:
            for number in range(500):
                store.put_nowait(str(number), b"v" * number, transaction=transaction)
        await registry.log_store("log").append_many([b"a", b"b"])


def _without_generation(dump: list[str]) -> list[str]:
    """Each opening has its own."""
    return [line for line in dump if not line.startswith('INSERT INTO "meta"')]


def test_killed_at_every_moment_of_a_migration_it_is_whole_and_goes_on(tmp_path: Path) -> None:
    made, whole = tmp_path / "made", tmp_path / "whole"
    anyio.run(_make, made)
    shutil.copytree(made, whole)
    anyio.run(migrate, whole, MOMENTS_MAX)
    before, after = dumped(made / "mpreg.db"), dumped(whole / "mpreg.db")
    killed = 0
    for moment in range(MOMENTS_MAX):
        loop = ["asyncio", "trio"][moment % 2]
        there = tmp_path / str(moment)
        shutil.copytree(made, there)
        with Program("migrating", loop, there, moment) as program:
            if program.wait() != -signal.SIGKILL:
                break
        killed += 1
        found = version(there / "mpreg.db")
        assert found in (OLD, OLD + 1)
        if found == OLD:
            assert _without_generation(dumped(there / "mpreg.db")) == _without_generation(before)
        anyio.run(migrate, there, MOMENTS_MAX, backend=loop)
        assert version(there / "mpreg.db") == NEW
        assert _without_generation(dumped(there / "mpreg.db")) == _without_generation(after)
        copy = there / f"mpreg.db.schema-{OLD}"
        assert _without_generation(dumped(copy)) == _without_generation(before)
        assert list(there.glob("*.creating*")) == []
    assert killed >= 1 + 3 + 3
