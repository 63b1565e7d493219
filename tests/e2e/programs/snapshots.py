"""Saves one version after the other, in pieces, until it is killed.

``snapshots LOOP DATA_DIR BACKEND``. It says ``begin NUMBER`` before a save, ``piece NUMBER`` for
each piece that it hands over, and ``saved NUMBER VERSION`` after the ack. Numbers count on over all
lives.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

from mpreg.persistence import PersistenceConfig, PersistenceRegistry, SnapshotRetention
from tests.e2e.programs.shared import run, say

KEPT = 2
RETENTION = SnapshotRetention(versions_max=KEPT)
PIECE_BYTES = 70_000


def pieces_of(number: int) -> list[bytes]:
    """What is saved under a number: it begins with the number."""
    rng = Random(number)
    head = number.to_bytes(8, "big")
    return [head, *(rng.randbytes(PIECE_BYTES) for _ in range(rng.randint(0, 20)))]


async def told(number: int) -> AsyncIterator[bytes]:
    for piece in pieces_of(number):
        say(f"piece {number}")
        yield piece


async def main(data_dir: Path, backend: str) -> None:
    # Small, so that many checkpoints are killed too.
    config = PersistenceConfig(
        data_dir=data_dir,
        backend=backend,
        wal_checkpoint_pages=256,
        journal_segment_bytes=256 << 10,
        upkeep_interval_seconds=0.01,
    )
    async with PersistenceRegistry(config) as registry:
        images = registry.snapshot_store("images", retention=RETENTION)
        newest = await images.load()
        number = 0 if newest is None else int.from_bytes(newest.data[:8], "big")
        while True:
            number += 1
            say(f"begin {number}")
            say(f"saved {number} {await images.save(told(number))}")


if __name__ == "__main__":
    run(sys.argv[1], main, Path(sys.argv[2]), sys.argv[3])
