"""Standard streams that are closed, full, or cannot show a name: a command says so, or goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from tests.e2e.support import GUARD_SECONDS

NAME = "Käse ☕"


def run(
    redirection: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    script = f'exec "$@" {redirection}'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "mpreg.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=GUARD_SECONDS,
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    async def fill() -> None:
        async with PersistenceRegistry(PersistenceConfig(data_dir=tmp_path / "data")) as registry:
            await registry.key_value_store(NAME).put("a", b"1")

    anyio.run(fill)
    return tmp_path / "data"


def test_a_command_whose_output_nobody_wants_does_its_work(data_dir: Path, tmp_path: Path) -> None:
    assert run(">&- 2>&-", "verify", "--data-dir", data_dir).returncode == 0
    backup = tmp_path / "backup"
    assert run("2>&-", "backup", backup, "--data-dir", data_dir).returncode == 0
    assert run("<&- >&-", "verify", "--data-dir", backup).returncode == 0


def test_an_export_to_an_output_that_is_closed_is_refused(data_dir: Path) -> None:
    found = run(">&-", "export", "--data-dir", data_dir)
    assert found.returncode == 1
    assert "the standard output is closed; nothing was exported" in found.stderr


def test_an_import_from_an_input_that_is_closed_says_that_it_is_empty(tmp_path: Path) -> None:
    found = run("<&-", "import", "--data-dir", tmp_path / "other")
    assert found.returncode == 3
    assert "the input is empty" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_output_is_named(data_dir: Path) -> None:
    found = run(">/dev/full", "inspect", "namespaces", "--data-dir", data_dir)
    assert found.returncode == 4
    assert "the standard output: No space left on device" in found.stderr


def test_an_output_that_cannot_show_a_name_gets_it_escaped(data_dir: Path) -> None:
    for encoding in ("ascii", "latin-1"):
        found = run("", "inspect", "namespaces", "--data-dir", data_dir, PYTHONIOENCODING=encoding)
        assert found.returncode == 0, found.stderr
        assert r"\u2615" in found.stdout
