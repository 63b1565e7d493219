"""Opens a store with a newer schema, and is killed at one of the moments that its upgrade tells:
``migrating LOOP DATA_DIR MOMENT``. Says ``migrated`` where it was not."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mpreg.persistence.backends.sqlite import SqliteBackend, SqliteOptions, Upgrade
from mpreg.persistence.backends.sqlite.upgrade import Progress
from tests.e2e.programs.shared import run, say
from tests.integration.newer_schema import MIGRATIONS, upgraded


class Killer:
    def __init__(self, moment: int) -> None:
        self._left = moment

    def __call__(self, progress: Progress) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


async def main(data_dir: Path, moment: int) -> None:
    options = SqliteOptions(
        cache_bytes=1 << 20, wal_checkpoint_pages=1_000, busy_timeout_seconds=5.0
    )
    upgrade = Upgrade(schema=upgraded(*MIGRATIONS), on_progress=Killer(moment))
    backend = SqliteBackend(data_dir / "mpreg.db", options, upgrade=upgrade)
    await backend.open()
    say("migrated")
    await backend.close()


if __name__ == "__main__":
    run(sys.argv[1], main, Path(sys.argv[2]), int(sys.argv[3]))
