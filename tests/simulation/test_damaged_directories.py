"""Any file of a data directory, a backup or an export changed, lost or replaced: every command ends
with a code of its own and a word about it, gives nothing wrong, and only repairs change anything.

``MPREG_SIMULATION_SEEDS=1000`` tries more changes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from click.testing import CliRunner, Result

from mpreg.cli.app import mpreg
from mpreg.persistence import PersistenceRegistry
from tests.e2e.support import on_both_backends
from tests.integration.damaged_bytes import CHANGES
from tests.integration.maintenance_support import fill
from tests.integration.support import config

CHANGES_EACH = 5
SEEDS = range(max(CHANGES_EACH, int(os.environ.get("MPREG_SIMULATION_SEEDS", "0"))))

READING: Final = (
    *(("stats", "--json"), ("inspect", "namespaces", "--all"), ("inspect", "keys", "shelf")),
    *(("inspect", "key", "shelf", "key 3"), ("inspect", "logs"), ("inspect", "records", "audit")),
    *(("inspect", "snapshots", "--all"), ("inspect", "snapshot", "image"), ("queue", "list")),
    *(("queue", "show", "jobs"), ("queue", "peek", "jobs"), ("queue", "dead-letters", "jobs")),
    *(("verify",), ("verify", "--full", "--json"), ("export",)),
)
BY_NAME: Final = {change.__name__: change for change in CHANGES}

#: SQLite makes its index anew, and a log that was not there, also to read.
OF_SQLITE: Final = {"mpreg.db-shm", "mpreg.db-wal"}


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    """A command that ends as commands may."""
    done = CliRunner().invoke(mpreg, list(map(str, arguments)), input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), arguments
    assert done.exit_code in (0, 1, 3, 4), (arguments, done.stderr)
    assert done.exit_code == 0 or done.output.strip(), arguments
    assert "Traceback" not in done.output, arguments
    return done


def lines(text: str) -> list[dict[str, Any]]:
    """An export, without what an import gives anew."""
    items = [json.loads(line) for line in text.splitlines()[1:-1]]
    return [{k: v for k, v in one.items() if k not in ("version", "saved_at")} for one in items]


class Stores:
    """A closed store, one as a kill left it, and a backup and an export of each."""

    def __init__(self, directory: Path, backend: str) -> None:
        self.directory = directory
        anyio.run(self._make, backend)
        (directory / "closed" / "quarantine").mkdir()
        (directory / "closed" / "quarantine" / "000001.jsonl").write_text('{"crc32": 0}\n')
        self.exports: dict[str, str] = {}
        for name in ("closed", "killed"):
            at = ("--data-dir", directory / name)
            assert run("backup", directory / f"{name} backup", *at).exit_code == 0
            self.exports[name] = run("export", *at).stdout

    async def _make(self, backend: str) -> None:
        data_dir = self.directory / "closed"
        settings = {"journal_segment_bytes": 64 << 10} if backend == "file" else {}
        async with PersistenceRegistry(config(data_dir, backend=backend, **settings)) as opened:
            await fill(opened)
            for number in range(30):
                await opened.key_value_store("shelf").put(f"key {number}", b"y" * 40 * number)
            copy = ["cp", "-r", str(data_dir), str(self.directory / "killed")]
            await anyio.to_thread.run_sync(lambda: subprocess.run(copy, check=True))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: Any) -> dict[str, Stores]:
    return {
        backend: Stores(tmp_path_factory.mktemp(backend), backend) for backend in ("sqlite", "file")
    }


def content_of(directory: Path) -> dict[Path, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory): path.read_bytes() for path in found}


def changed_since(before: dict[Path, bytes], directory: Path) -> set[str]:
    after = content_of(directory)
    return {one.name for one in {*before, *after} if before.get(one) != after.get(one)}


def damage(directory: Path, luck: random.Random) -> str:
    """Change, lose or replace one of its files; says how."""
    path = directory / luck.choice(sorted(content_of(directory)))
    how = luck.choice([*BY_NAME, "emptied", "removed", "a directory", "another's"])
    if how == "removed":
        path.unlink()
    elif how == "a directory":
        path.unlink()
        (path / "below").mkdir(parents=True)
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "another's":
        path.write_bytes(luck.choice(list(content_of(directory).values())))
    else:
        path.write_bytes(BY_NAME[how](path.read_bytes() or bytes(10), luck))
    return f"{how}: {path.name}"


@on_both_backends
@pytest.mark.parametrize("seed", SEEDS)
def test_damage_to_a_store_is_told_by_every_command(
    stores: dict[str, Stores], tmp_path: Path, backend: str, seed: int
) -> None:
    luck, data_dir = random.Random(seed), tmp_path / "data"
    which = luck.choice(["closed", "killed"])
    shutil.copytree(stores[backend].directory / which, data_dir)
    how = f"{backend}, {which}, {damage(data_dir, luck)}"
    before, at = content_of(data_dir), ("--data-dir", data_dir)
    done = [run(*command, *at) for command in READING]
    exported, is_sound = done[-1], done[-3].exit_code == 0
    if exported.exit_code == 0 and lines(exported.stdout) != lines(stores[backend].exports[which]):
        # The last commits of a killed process are vouched for by nothing that comes after them.
        assert which == "killed" or not is_sound, how
    run("backup", tmp_path / "backup", *at)
    if run("backup", tmp_path / "backup", *at, "--allow-damaged").exit_code == 0:
        run("restore", tmp_path / "backup", "--data-dir", tmp_path / "back", "--allow-damaged")
    assert changed_since(before, data_dir) <= OF_SQLITE, how
    shutil.copytree(data_dir, tmp_path / "opened")
    for command in (("compact",), ("queue", "redrive", "jobs"), ("queue", "purge", "jobs")):
        run(*command, "--data-dir", tmp_path / "opened")
    if run("verify", "--repair", *at).exit_code == 0:
        assert run("verify", *at).exit_code == 0, how


@on_both_backends
@pytest.mark.parametrize("seed", SEEDS)
def test_damage_to_a_backup_is_told_and_never_restored(
    stores: dict[str, Stores], tmp_path: Path, backend: str, seed: int
) -> None:
    luck, place, back = random.Random(seed), tmp_path / "backup", tmp_path / "back"
    which = luck.choice(["closed", "killed"])
    shutil.copytree(stores[backend].directory / f"{which} backup", place)
    how = f"{backend}, {which}, {damage(place, luck)}"
    before = content_of(place)
    run("verify", "--data-dir", place)
    restored = run("restore", place, "--data-dir", back)
    # Without its manifest it is a directory like any other.
    assert changed_since(before, place) <= (set() if (place / "BACKUP").exists() else OF_SQLITE), (
        how
    )
    assert back.exists() == (restored.exit_code == 0), how
    if restored.exit_code == 0:
        found = run("export", "--data-dir", back)
        assert lines(found.stdout) == lines(stores[backend].exports[which]), how
    run("restore", place, "--data-dir", tmp_path / "as it is", "--allow-damaged")
    made = run("backup", place, "--data-dir", stores[backend].directory / which)
    if made.exit_code == 0:
        assert run("restore", place, "--data-dir", back, "--overwrite").exit_code == 0, how


@on_both_backends
@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_export_is_not_imported(
    stores: dict[str, Stores], tmp_path: Path, backend: str, seed: int
) -> None:
    luck = random.Random(seed)
    exported, change = stores[backend].exports["closed"].encode(), luck.choice(CHANGES)
    changed = change(exported, luck)
    done = run("import", "--data-dir", tmp_path / "new", "--backend", backend, stdin=changed)
    assert (done.exit_code == 3) == (changed != exported), change
    assert (tmp_path / "new").exists() == (done.exit_code == 0)
