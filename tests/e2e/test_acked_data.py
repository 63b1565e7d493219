"""A process is killed, and the end of its log is damaged: the next one says what is missing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import AckedDataLostError, PersistenceConfig, PersistenceRegistry
from tests.e2e.support import Program, on_both_backends, on_both_loops

COMMITS = 40


async def _count(data_dir: Path, backend: str, accepted: str | None = None) -> int:
    config = PersistenceConfig(data_dir=data_dir, backend=backend, accept_acked_data_loss=accepted)
    async with PersistenceRegistry(config) as registry:
        return len([entry async for entry in registry.key_value_store("things").scan()])


def killed(loop: str, data_dir: Path, backend: str) -> None:
    with Program("noted", loop, data_dir, COMMITS, backend) as program:
        assert program.line() == "noted"
        program.send(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL


@on_both_backends
@on_both_loops
def test_a_kill_alone_loses_nothing_and_raises_no_alarm(
    loop: str, backend: str, tmp_path: Path
) -> None:
    killed(loop, tmp_path, backend)
    assert anyio.run(_count, tmp_path, backend, backend=loop) == COMMITS


@on_both_loops
@pytest.mark.parametrize(
    ("backend", "damage"),
    [
        ("sqlite", "the last third is cut off"),
        ("sqlite", "a byte in the middle"),
        ("file", "the last third is cut off"),
    ],
)
def test_a_log_damaged_after_a_kill_is_told_before_it_is_dropped(
    loop: str, backend: str, damage: str, tmp_path: Path
) -> None:
    killed(loop, tmp_path, backend)
    (wal,) = tmp_path.glob("mpreg.db-wal" if backend == "sqlite" else "journal-*")
    used = len(wal.read_bytes().rstrip(b"\x00"))
    if damage == "the last third is cut off":
        os.truncate(wal, used * 2 // 3)
    else:
        with wal.open("r+b") as file:
            file.seek(used // 2)
            file.write(b"\xa5")
    before = wal.read_bytes()
    with pytest.raises(AckedDataLostError) as caught:
        anyio.run(_count, tmp_path, backend, backend=loop)
    error = caught.value
    assert error.last_sequence == COMMITS
    assert error.first_sequence == (error.found_sequence or 0) + 1
    assert 0 < (error.found_sequence or 0) < COMMITS
    assert wal.read_bytes() == before, "the evidence is still there"
    found = error.found_sequence
    assert anyio.run(_count, tmp_path, backend, error.acceptance, backend=loop) == found
    assert anyio.run(_count, tmp_path, backend, backend=loop) == found
