"""A process that saves snapshots is killed by SIGKILL in the middle, again and again."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from tests.e2e.programs.snapshots import KEPT, pieces_of
from tests.e2e.support import Program, on_both_loops

KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "3"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))


@on_both_loops
def test_what_is_visible_is_whole_over_many_kills(loop: str, tmp_path: Path) -> None:
    rng = random.Random(f"{SEED} {loop}")
    data_dir = tmp_path / "data"
    begun = acked = 0
    versions: dict[int, int] = {}
    for _ in range(KILLS):
        with Program("snapshots", loop, data_dir) as program:
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
        anyio.run(_check, data_dir, begun, acked, versions, backend=loop)
    assert len(set(versions.values())) == len(versions)
    assert list(versions.values()) == sorted(versions.values())


async def _check(data_dir: Path, begun: int, acked: int, versions: dict[int, int]) -> None:
    config = PersistenceConfig(data_dir=data_dir, upkeep_interval_seconds=None)
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
    with closing(sqlite3.connect(f"file:{data_dir}/mpreg.db?mode=ro", uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    expected = sum(-(-size // (256 << 10)) for size in sizes) + len(found) + bool(found)
    assert count == expected, "something of a save that was cut short has stayed"
