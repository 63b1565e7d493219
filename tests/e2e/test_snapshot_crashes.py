"""A process that saves snapshots is killed by SIGKILL in the middle, again and again."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.backends.file.files import OperatingSystem
from mpreg.persistence.backends.file.session import FileOptions, FileSession
from mpreg.persistence.snapshots import CHUNK_BYTES
from tests.e2e.programs.snapshots import KEPT, pieces_of
from tests.e2e.support import Program
from tests.integration.support import left_over

KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "2"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))


@pytest.mark.parametrize(("loop", "backend"), [("asyncio", "file"), ("trio", "sqlite")])
def test_what_is_visible_is_whole_over_many_kills(loop: str, backend: str, tmp_path: Path) -> None:
    rng = random.Random(f"{SEED} {loop} {backend}")
    data_dir = tmp_path / "data"
    begun = acked = 0
    versions: dict[int, int] = {}
    for _ in range(KILLS):
        with Program("snapshots", loop, data_dir, backend) as program:
            stop_after = rng.randint(1, 60)
            for count, line in enumerate(program.lines()):
                kind, *numbers = line.split()
                number = int(numbers[0])
                begun = max(begun, number)
                if kind == "saved":
                    acked, versions[number] = number, int(numbers[1])
                if count == stop_after:
                    program.send(signal.SIGKILL)
            assert program.wait() == -signal.SIGKILL, program.errors
        anyio.run(_check, data_dir, backend, begun, acked, versions, backend=loop)
    assert len(set(versions.values())) == len(versions)
    assert list(versions.values()) == sorted(versions.values())


async def _check(
    data_dir: Path, backend: str, begun: int, acked: int, versions: dict[int, int]
) -> None:
    config = PersistenceConfig(data_dir=data_dir, backend=backend, upkeep_interval_seconds=None)
    async with PersistenceRegistry(config) as registry:
        # Nobody saves again: what was cut short goes all the same.
        await registry.compact()
        images = registry.snapshot_store("images")
        found = []
        for kept in await images.versions():
            async with images.open(kept.version) as reader:
                data = b"".join([chunk async for chunk in reader])
            assert len(data) == kept.size_bytes
            number = int.from_bytes(data[:8], "big")
            assert data == b"".join(pieces_of(number))
            assert versions.get(number, kept.version) == kept.version
            found.append(number)
        assert found == sorted(found)
        assert len(found) <= KEPT
        newest = found[-1] if found else 0
        assert acked <= newest <= begun
        if acked > 1:
            assert len(found) == KEPT
    sizes = [sum(map(len, pieces_of(number))) for number in found]
    expected = sum(-(-size // CHUNK_BYTES) for size in sizes) + len(found) + bool(found)
    assert left_over(data_dir, backend) == []
    count = _entries(data_dir, backend)
    assert count == expected, "something of a save that was cut short has stayed"


def _entries(data_dir: Path, backend: str) -> int:
    """How many there are, of all that mpreg and its users keep."""
    if backend == "file":
        options = FileOptions(journal_segment_bytes=1 << 20, busy_timeout_seconds=0.0)
        with closing(FileSession.open(data_dir, options, OperatingSystem())) as session:
            state = session.state
            return sum(len(list(state.entry_sizes(name, b""))) for name in state.namespaces())
    with closing(sqlite3.connect(f"file:{data_dir}/mpreg.db?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        assert isinstance(count, int)
        return count
