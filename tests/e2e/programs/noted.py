"""Writes, waits until that is written down as acknowledged, says so, and waits to be killed:
``noted LOOP DATA_DIR COMMITS BACKEND``."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.acked_file import AckedFile
from tests.e2e.programs.shared import run, say


async def main(data_dir: Path, commits: int, backend: str) -> None:
    config = PersistenceConfig(data_dir=data_dir, backend=backend, accounting_interval_seconds=0.01)
    async with PersistenceRegistry(config) as registry:
        store = registry.key_value_store("things")
        for number in range(commits):
            await store.put(f"{number:03}", bytes(100))
        while (record := AckedFile(data_dir / "ACKED").read()) is None or record.sequence < commits:
            await anyio.sleep(0.005)
        say("noted")
        await anyio.sleep_forever()


if __name__ == "__main__":
    run(sys.argv[1], main, Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
