"""Real failures of the disk below real stores."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import (
    DataDirectoryError,
    MigrationFailedError,
    PersistenceConfig,
    PersistenceRegistry,
    StorageFullError,
)
from mpreg.persistence.maintenance import backup, export_lines, verify
from tests.e2e.programs.migrating import main as migrate
from tests.e2e.support import Program, on_both_backends, on_both_loops, on_loops_and_backends
from tests.integration.life import Life
from tests.integration.newer_schema import NEW, OLD, version
from tests.integration.test_refused_calls import STRIDE

MIB = 1 << 20
DISK_BYTES = 16 * MIB


@on_loops_and_backends
@pytest.mark.parametrize(
    ("scenario", "last_line"), [("mended", "acked after"), ("never_mended", "all there")]
)
def test_writes_that_the_system_refuses(
    scenario: str, last_line: str, loop: str, backend: str, tmp_path: Path
) -> None:
    """The program asserts for itself; see there what."""
    with Program("io_errors", scenario, loop, tmp_path / "data", backend) as program:
        lines = list(program.lines())
        assert program.wait() == 0, program.errors
        assert lines[-1].startswith(last_line)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with very little room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small disk has to be mounted, and there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk has to be mounted, which takes root: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def _write_on(registry: PersistenceRegistry, acked: dict[str | bytes, bytes]) -> None:
    store = registry.key_value_store("things")
    while True:
        key = f"{len(acked)}"
        await store.put(key, key.encode() * 20_000)
        acked[key] = key.encode() * 20_000


async def _read_all(registry: PersistenceRegistry) -> dict[str | bytes, bytes]:
    store = registry.key_value_store("things")
    return {entry.key: entry.value async for entry in store.scan()}


async def _full_disk(disk: Path, backend: str) -> None:
    """Two ballasts: room to write again, and later room to open. The journal's opening copies its
    last segment; that of SQLite needs no more room than a commit."""
    small, large = disk / "small", disk / "large"
    small.write_bytes(bytes(MIB))
    large.write_bytes(bytes(8 * MIB))
    config = PersistenceConfig(data_dir=disk / "data", backend=backend)
    acked: dict[str | bytes, bytes] = {}
    async with PersistenceRegistry(config) as registry:
        with pytest.raises(StorageFullError):
            await _write_on(registry, acked)
        assert len(acked) > 10
        assert await _read_all(registry) == acked
        # And again: a full disk is no reason to start anything anew.
        with pytest.raises(StorageFullError):
            await registry.key_value_store("things").put("more", bytes(MIB))
        assert (await registry.stats()).writer_restarts == 0
        small.unlink()
        await registry.key_value_store("things").put("after", b"room")
        acked["after"] = b"room"
    # Closing had no room to tidy up, which is no failure.
    if backend == "file":
        with pytest.raises(StorageFullError, match="make room"):
            await PersistenceRegistry(config).__aenter__()
    else:
        async with PersistenceRegistry(config) as registry:
            assert await _read_all(registry) == acked
    large.unlink()
    async with PersistenceRegistry(config) as registry:
        assert await _read_all(registry) == acked


@on_both_backends
@on_both_loops
def test_a_full_disk_fails_writes_only_and_only_while_it_is_full(
    loop: str, backend: str, small_disk: Path
) -> None:
    anyio.run(_full_disk, small_disk, backend, backend=loop)


PAGE_BYTES = 4_096


def _leave_room(disk: Path, pages: int) -> Path:
    """Fill a file system but for so many pages; what is returned is to be removed."""
    ballast, status = disk / "ballast", os.statvfs(disk)
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - pages * PAGE_BYTES))
    return ballast


async def _save_elsewhere(data_dir: Path, elsewhere: Path) -> None:
    assert (await verify(data_dir)).sound
    lines: list[bytes] = []
    assert (await export_lines(data_dir, lines.append)).entries == 1
    await backup(data_dir, elsewhere)
    assert (await verify(elsewhere)).sound


@on_both_backends
@on_both_loops
@pytest.mark.parametrize("ended", ["closed", "killed"])
def test_what_is_on_a_full_disk_can_be_verified_and_saved_elsewhere(
    ended: str, loop: str, backend: str, small_disk: Path, tmp_path: Path
) -> None:
    """SQLite has no room for the index of a write-ahead log, which it makes to read one."""
    data_dir = small_disk / "data"

    async def fill() -> None:
        config = PersistenceConfig(data_dir=data_dir, backend=backend)
        async with PersistenceRegistry(config) as registry:
            await registry.key_value_store("things").put("a", b"1")
            if ended == "killed":
                shutil.copytree(data_dir, small_disk / "copy")

    anyio.run(fill, backend=loop)
    if ended == "killed":
        data_dir = small_disk / "copy"
        # It is not copied where files are moved to another machine, or out of a backup.
        (data_dir / "mpreg.db-shm").unlink(missing_ok=True)
    _leave_room(small_disk, 0)
    before = {path.name: path.read_bytes() for path in data_dir.iterdir() if path.name != "LOCK"}
    anyio.run(_save_elsewhere, data_dir, tmp_path / "elsewhere", backend=loop)
    after = {path.name: path.read_bytes() for path in data_dir.iterdir()}
    assert after.items() >= before.items()
    # SQLite had tried, and is not waited for: another process may be using them by now.
    assert after.keys() - before.keys() <= {"LOCK", "mpreg.db-wal", "mpreg.db-shm"}


@on_both_backends
def test_a_disk_that_is_full_after_any_number_of_pages_is_waited_out(
    backend: str, small_disk: Path
) -> None:
    refusals = 0
    # A page takes several calls.
    for pages in itertools.count(step=max(1, STRIDE // 4)):
        life, loop = Life(small_disk / str(pages), backend), ["asyncio", "trio"][pages % 2]
        ballast = _leave_room(small_disk, pages)
        try:
            anyio.run(life.live, backend=loop)
            opened = True
        except (StorageFullError, DataDirectoryError):
            opened = False
            assert not life.entries, "once it is open it stays so"
        ballast.unlink()
        anyio.run(life.open_again, backend=loop)
        shutil.rmtree(life.data_dir)
        refusals += life.refusals
        if opened and not life.refusals:
            break
    assert pages > 0
    assert refusals > 0


async def _log_that_can_be_moved(disk: Path) -> None:
    config = PersistenceConfig(
        data_dir=disk / "data", wal_checkpoint_pages=2_000, upkeep_interval_seconds=None
    )
    async with PersistenceRegistry(config) as registry:
        store = registry.key_value_store("s")
        async with registry.transaction() as transaction:
            for number in range(500):
                store.put_nowait(f"{number}", bytes(1_000), transaction=transaction)
        await store.put("spare", bytes(MIB))
        await store.delete("spare")
    async with PersistenceRegistry(config) as registry:
        store = registry.key_value_store("s")
        _leave_room(disk, pages=500)
        with pytest.raises(StorageFullError):  # noqa: PT012
            for number in itertools.count():
                await store.put(f"{number % 500}", b"first" * 200)
        assert (await registry.stats()).wal_bytes < 2_000 * PAGE_BYTES, "not moved for its length"
        for number in range(100):
            await store.put(f"{number}", b"again" * 200)
        stats = await registry.stats()
        assert (stats.checkpoints, stats.failed) == (1, 1)


@on_both_loops
def test_the_log_is_moved_where_that_makes_room(loop: str, small_disk: Path) -> None:
    """Nobody else can make any: what removes something is written to the log as well."""
    anyio.run(_log_that_can_be_moved, small_disk, backend=loop)


async def _old_store(data_dir: Path) -> None:
    async with PersistenceRegistry(PersistenceConfig(data_dir=data_dir)) as registry:
        store = registry.key_value_store("s")
        async with registry.transaction() as transaction:
            for number in range(100):
                store.put_nowait(f"{number}", bytes(400), transaction=transaction)


def test_a_disk_that_is_full_anywhere_in_a_migration_is_waited_out(small_disk: Path) -> None:
    anyio.run(_old_store, small_disk / "made")
    never = 1 << 30
    refusals = 0
    for pages in itertools.count(step=max(1, STRIDE // 4)):
        there = shutil.copytree(small_disk / "made", small_disk / "there")
        ballast = _leave_room(small_disk, pages)
        try:
            anyio.run(migrate, there, never)
            done = True
        except (StorageFullError, MigrationFailedError):
            done = False
            refusals += 1
        ballast.unlink()
        anyio.run(migrate, there, never)
        names = {path.name for path in there.iterdir()}
        assert names == {"ACKED", "LOCK", "mpreg.db", f"mpreg.db.schema-{OLD}"}
        assert version(there / "mpreg.db") == NEW
        shutil.rmtree(there)
        if done:
            break
    assert refusals > 3
