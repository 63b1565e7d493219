"""The commands on a journal, beside the process that writes it, after its death, and killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner, Result

from mpreg.cli.app import mpreg
from mpreg.persistence import PersistenceRegistry
from mpreg.persistence.maintenance import verify
from tests.e2e.support import REPOSITORY, Program
from tests.integration.maintenance_support import fill
from tests.integration.support import config


def run(*arguments: object) -> Result:
    return CliRunner().invoke(mpreg, list(map(str, arguments)))


def rows(*arguments: object) -> list[dict[str, Any]]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_beside_its_writer_and_after_its_death_all_commands_tell_the_same(tmp_path: Path) -> None:
    data_dir, place, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"
    at = ("--data-dir", data_dir)
    with Program("holder", "trio", data_dir, "file", 5_000) as holder:
        assert holder.line() == "ready"
        first = rows("stats", *at)[0]
        assert (first["pid"], first["backend"]) == (holder.pid, "file")
        for _ in range(3):
            offsets = [row["offset"] for row in rows("inspect", "records", "beats", *at)]
            assert offsets == list(range(len(offsets)))
        assert rows("queue", "list", *at)[0]["pending"] == 10
        assert rows("verify", *at)[0]["sound"]
        (made,) = rows("backup", place, *at)
        assert made["verification"]["sound"]
        assert made["commit_sequence"] >= first["commit_sequence"]
        refused = run("compact", *at)
        assert refused.exit_code == 1
        assert f"the process with pid {holder.pid}" in refused.stderr
        assert "PersistenceRegistry.compact" in refused.stderr
        holder.send(signal.SIGKILL)
        holder.wait()
    last = rows("stats", *at)[0]
    assert last["pid"] is None
    assert last["commit_sequence"] >= made["commit_sequence"]
    assert last["commit_sequence"] >= (last["acked_sequence"] or 0)
    assert rows("verify", *at)[0]["sound"]
    assert run("restore", place, "--data-dir", restored).exit_code == 0
    assert rows("stats", "--data-dir", restored)[0]["commit_sequence"] == made["commit_sequence"]
    assert run("compact", *at).exit_code == 0


async def _filled(data_dir: Path) -> None:
    settings = config(data_dir, backend="file", journal_segment_bytes=64 << 10)
    async with PersistenceRegistry(settings) as opened:
        await fill(opened)
        for number in range(60):
            await opened.key_value_store("shelf").put(f"{number}", b"x" * 4_000)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_repair_of_a_journal_that_is_killed_loses_nothing(tmp_path: Path, seed: int) -> None:
    data_dir, rng = tmp_path / "data", random.Random(seed)
    anyio.run(_filled, data_dir)
    segment = min(data_dir.glob("journal-*"))
    content = bytearray(segment.read_bytes())
    content[20_000] ^= 1
    segment.write_bytes(content)
    command = [sys.executable, "-m", "mpreg.cli", "verify", "--repair", "--data-dir", str(data_dir)]
    for _ in range(4):
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(rng.uniform(0.2, 0.8))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        found = [path.read_text() for path in (data_dir / "quarantine").glob("*.jsonl")]
        is_sound = anyio.run(verify, data_dir).sound
        assert not is_sound or any('"bytes"' in text for text in found)
    assert run(*command[3:]).exit_code == 0
    assert anyio.run(verify, data_dir).sound
    assert not list(data_dir.glob("*.new"))
