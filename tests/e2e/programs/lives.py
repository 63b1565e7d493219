"""A short life of a store, killed at one of the calls that it makes to the system.

``lives LOOP DATA_DIR BACKEND CALL``. It says ``done`` after each call of its own that has come to
its end, and ``lived`` where it was not killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.e2e.programs.shared import run, say
from tests.integration.life import Life
from tests.integration.refusing_system import RefusingSystem, refusing


async def main(data_dir: Path, backend: str, call: int) -> None:
    system = RefusingSystem(data_dir, "anything", call)
    system.on_refusal = lambda: os.kill(os.getpid(), signal.SIGKILL)
    with refusing(system):
        await Life(data_dir, backend, on_done=lambda: say("done")).live()
    say("lived")


if __name__ == "__main__":
    run(sys.argv[1], main, Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
