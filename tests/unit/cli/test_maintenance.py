"""The commands of maintenance: what they print, and with which exit code they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import anyio
import pytest
from click.testing import CliRunner, Result

from mpreg.cli.app import mpreg
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from tests.integration.maintenance_support import filled
from tests.integration.support import tamper

#: What each report has. Programs are written against these names.
REPORTS: Final = {
    "verify": "path sound commit_sequence generation last_version entries records logs snapshots "
    "bytes full damaged notices findings",
    "backup": "path commit_sequence size_bytes unchanged verification",
    "restore": "path commit_sequence size_bytes replaced",
    "export": "lines entries records snapshots commit_sequence",
    "import": "path entries records snapshots commit_sequence",
}


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(mpreg, list(map(str, arguments)), input=stdin)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    anyio.run(filled, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_verify_tells_sound_from_damaged(data_dir: Path, loop: str) -> None:
    sound = run("verify", "--data-dir", data_dir, "--loop", loop)
    assert (sound.exit_code, sound.output.splitlines()[-1]) == (0, "sound")
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 9 AND length(data) = 100")
    damaged = run("verify", "--data-dir", data_dir, "--loop", loop)
    assert damaged.exit_code == 3
    assert "DAMAGED  log 'audit', offset 9: " in damaged.output
    as_json = run("verify", "--data-dir", data_dir, "--json", "--full")
    assert as_json.exit_code == 3
    (finding,) = json.loads(as_json.output)["findings"]
    assert (finding["kind"], finding["where"]) == ("record", "log 'audit', offset 9")
    assert run("verify", "--data-dir", data_dir, "--repair").exit_code == 0
    assert run("verify", "--data-dir", data_dir).exit_code == 0


def test_what_cannot_be_examined_ends_with_1(tmp_path: Path) -> None:
    missing = run("verify", "--data-dir", tmp_path / "none")
    assert missing.exit_code == 1
    assert "no such directory" in missing.output
    as_json = run("verify", "--data-dir", tmp_path / "none", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stderr) == {
        "error": "DataDirectoryError",
        "message": missing.stderr.splitlines()[0].removeprefix("mpreg: "),
        "state": "unchanged",
        "advice": [],
        "exit_code": 1,
    }
    assert as_json.stdout == ""


def test_backup_and_restore(data_dir: Path, tmp_path: Path) -> None:
    place, new = tmp_path / "backup", tmp_path / "new"
    assert run("backup", place, "--data-dir", data_dir).exit_code == 0
    again = run("backup", place, "--data-dir", data_dir, "--json", "--bytes-per-second", "1e9")
    assert json.loads(again.output)["unchanged"]
    restored = run("restore", place, "--data-dir", new)
    assert restored.exit_code == 0
    assert "commit sequence" in restored.output
    refused = run("restore", place, "--data-dir", new)
    assert (refused.exit_code, "--overwrite" in refused.output) == (1, True)
    assert run("restore", place, "--data-dir", new, "--overwrite").exit_code == 0
    (place / "mpreg.db").write_bytes(b"")
    assert run("restore", place, "--data-dir", new, "--overwrite").exit_code == 3
    assert run("verify", "--data-dir", new).exit_code == 0


def test_a_directory_in_use_is_refused_with_its_holder(data_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "backup"

    async def refused() -> list[Result]:
        async with PersistenceRegistry(PersistenceConfig(data_dir=data_dir)):
            assert (
                await anyio.to_thread.run_sync(lambda: run("backup", place, *at))
            ).exit_code == 0
            return [
                await anyio.to_thread.run_sync(lambda: run("verify", "--repair", *at)),
                await anyio.to_thread.run_sync(lambda: run("restore", place, "--overwrite", *at)),
            ]

    at = ("--data-dir", data_dir)
    for result in anyio.run(refused):
        assert result.exit_code == 1
        assert "in use by the process with pid" in result.output


def test_export_and_import(data_dir: Path, tmp_path: Path) -> None:
    file, new = tmp_path / "store.jsonl", tmp_path / "new"
    assert run("export", file, "--data-dir", data_dir).exit_code == 0
    assert run("import", file, "--data-dir", new).exit_code == 0
    assert run("verify", "--data-dir", new).exit_code == 0
    again = run("import", "--data-dir", new, stdin=file.read_bytes())
    assert (again.exit_code, "not empty" in again.output) == (1, True)
    cut = run("import", "--data-dir", tmp_path / "cut", stdin=file.read_bytes()[:-30])
    assert cut.exit_code == 3
    assert not (tmp_path / "cut").exists()
    missing = run("import", tmp_path / "none.jsonl", "--data-dir", tmp_path / "cut")
    assert missing.exit_code == 1


def test_a_damaged_store_leaves_no_export(data_dir: Path, tmp_path: Path) -> None:
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 9 AND length(data) = 100")
    file = tmp_path / "store.jsonl"
    result = run("export", file, "--data-dir", data_dir)
    assert (result.exit_code, "offset 9" in result.output) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_fields_of_json_are_stable(data_dir: Path, tmp_path: Path) -> None:
    place, file, at = tmp_path / "backup", tmp_path / "lines", ("--data-dir", data_dir)
    found = {
        "verify": run("verify", *at, "--json").stdout,
        "backup": run("backup", place, *at, "--json").stdout,
        "restore": run("restore", place, "--data-dir", tmp_path / "a", "--json").stdout,
        "export": run("export", file, *at, "--json").stderr,
        "import": run("import", file, "--data-dir", tmp_path / "b", "--json").stdout,
    }
    assert {name: " ".join(json.loads(line)) for name, line in found.items()} == REPORTS
