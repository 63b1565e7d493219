"""What every durable commit waits for, and nothing else."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Final

from benchmarks.cache.workload import FsyncResult

#: A page and its header in SQLite's write-ahead log. A commit writes one at least.
FRAME: Final = bytes(24 + 4_096)
TIMES: Final = 500


def time_fsync(directory: Path) -> FsyncResult:
    """The median over many commits into a file that has their room already, as a log has that was
    used before."""
    file = os.open(directory / "frames", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.write(file, FRAME * TIMES)
        os.fsync(file)
        return FsyncResult(statistics.median(_time_one(file, one) for one in range(TIMES)))
    finally:
        os.close(file)


def _time_one(file: int, number: int) -> float:
    began = time.perf_counter()
    os.pwrite(file, FRAME, number * len(FRAME))
    # macOS has no such call; SQLite makes do with the other one there, too.
    getattr(os, "fdatasync", os.fsync)(file)
    return time.perf_counter() - began
