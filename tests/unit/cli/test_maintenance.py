"""The commands of maintenance: what they print, and with which exit code they end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import anyio
import pytest
from click.testing import CliRunner, Result

from mpreg.cli.app import mpreg
from mpreg.errors import DataDirectoryError
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.maintenance.staged_file import staged_file
from tests.integration.maintenance_support import fill, filled
from tests.integration.support import config, tamper

#: What each report has. Programs are written against these names.
REPORTS: Final = {
    "verify": "path sound commit_sequence generation last_version entries records logs snapshots "
    "own_entries own_records own_logs own_snapshots bytes full damaged notices findings mended",
    "backup": "path commit_sequence first_sequence size_bytes copied_bytes unchanged verification",
    "compact": "path expired_entries log_records snapshot_versions snapshot_bytes snapshot_chunks "
    "damaged freed_bytes free_bytes database_bytes_before database_bytes wal_bytes_before "
    "wal_bytes",
    "restore": "path commit_sequence size_bytes replaced replaced_backend replaced_sequence "
    "verification",
    "export": "lines entries records snapshots commit_sequence missing gaps",
    "import": "path entries records snapshots commit_sequence missing gaps",
}


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(mpreg, list(map(str, arguments)), input=stdin)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    anyio.run(filled, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def journal_dir(tmp_path: Path) -> Path:
    """The same, in a store of the file backend."""

    async def make() -> None:
        settings = config(tmp_path / "journal", backend="file")
        async with PersistenceRegistry(settings) as opened:
            await fill(opened)

    anyio.run(make)
    return tmp_path / "journal"


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
    repaired = run("verify", "--data-dir", data_dir, "--repair")
    assert (repaired.exit_code, repaired.stdout.splitlines()[-1]) == (0, "sound")
    assert "MENDED  log 'audit', offset 9: the stored record does not match" in repaired.stdout
    assert "MENDED" not in run("verify", "--data-dir", data_dir).stdout


@pytest.mark.parametrize("first", [b"", bytes(1_000)])
def test_verify_tells_of_a_database_whose_first_bytes_are_gone(
    data_dir: Path, first: bytes
) -> None:
    """The queues cannot be looked at then: that must not stand in the place of the report."""
    path = data_dir / "mpreg.db"
    path.write_bytes(first + path.read_bytes()[len(first) :] if first else b"")
    damaged = run("verify", "--data-dir", data_dir, "--json")
    assert damaged.exit_code == 3
    (finding,) = json.loads(damaged.stdout)["findings"]
    assert finding["kind"] == "structure"


def test_what_cannot_be_examined_ends_with_1(tmp_path: Path) -> None:
    missing = run("verify", "--data-dir", tmp_path / "none")
    assert missing.exit_code == 1
    assert "no such directory" in missing.output
    as_json = run("verify", "--data-dir", tmp_path / "none", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stderr) == {
        "error": "DataDirectoryMissingError",
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
                await anyio.to_thread.run_sync(lambda: run("compact", *at)),
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


@pytest.mark.parametrize("name", ["lines", "link"])
def test_an_export_replaces_a_file_only_where_that_is_asked_for(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "lines").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "lines")
    refused = run("export", tmp_path / name, "--data-dir", data_dir)
    assert refused.exit_code == 1
    assert f"{tmp_path / 'lines'}: this file is there already" in refused.stderr
    assert "replace it with --overwrite" in refused.stderr
    assert (tmp_path / "lines").read_text() == "before"
    assert run("export", tmp_path / name, "--data-dir", data_dir, "--overwrite").exit_code == 0
    assert (tmp_path / "lines").read_text().startswith('{"type":"mpreg-export"')
    assert {path.name for path in tmp_path.iterdir()} == {"data", "lines", "link"}


@pytest.mark.parametrize(
    ("name", "told"), [("x" * 300, "too long"), ("loop", "cannot be resolved")]
)
def test_a_name_that_no_file_can_have_is_refused_in_words(
    data_dir: Path, tmp_path: Path, name: str, told: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    refused = run("export", tmp_path / name, "--data-dir", data_dir)
    assert isinstance(refused.exception, SystemExit)
    assert refused.stderr.startswith("mpreg: ")
    assert told in refused.stderr


def test_a_file_that_is_made_while_an_export_is_written_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "lines"
    with pytest.raises(DataDirectoryError, match="there already"), staged_file(place):
        place.write_bytes(b"another's")
    assert place.read_bytes() == b"another's"
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


def test_a_restore_tells_what_it_has_replaced(data_dir: Path, tmp_path: Path) -> None:
    place, new = tmp_path / "backup", ("--data-dir", tmp_path / "new")
    assert run("backup", place, "--data-dir", data_dir).exit_code == 0
    first = run("restore", place, *new)
    assert "replaced" not in first.stdout
    sequence = json.loads(run("verify", "--data-dir", data_dir, "--json").stdout)["commit_sequence"]
    again = run("restore", place, *new, "--overwrite")
    assert again.stdout.splitlines()[1] == (
        "replaced the store of the sqlite backend that was there, acknowledged up to commit "
        f"{sequence}: it is gone"
    )
    for path in (tmp_path / "new").glob("mpreg.db*"):
        path.unlink()
    left = json.loads(run("restore", place, *new, "--overwrite", "--json").stdout)
    told = (left["replaced"], left["replaced_backend"], left["replaced_sequence"])
    assert told == (True, None, sequence)


def test_a_damaged_store_leaves_no_export(data_dir: Path, tmp_path: Path) -> None:
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 9 AND length(data) = 100")
    file = tmp_path / "store.jsonl"
    result = run("export", file, "--data-dir", data_dir)
    assert (result.exit_code, "offset 9" in result.output) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_log_with_a_gap_is_exported_when_asked_for_and_the_gap_is_told_each_time(
    data_dir: Path, tmp_path: Path
) -> None:
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 9 AND length(data) = 100")
    at, file = ("--data-dir", data_dir), tmp_path / "store.jsonl"
    assert run("verify", *at, "--repair").exit_code == 0
    refused = run("export", file, *at)
    assert (refused.exit_code, "--allow-gaps" in refused.stderr) == (3, True)
    exported = run("export", file, *at, "--allow-gaps")
    assert exported.exit_code == 0
    gap = "MISSING  log 'audit', offsets 9 to 9: records are missing"
    assert exported.stderr.splitlines()[1:] == [gap, "records missing from logs: 1"]
    for backend, said in {"sqlite": "the gap is where it was", "file": "in quarantine"}.items():
        new = ("--data-dir", tmp_path / backend)
        imported = run("import", file, *new, "--backend", backend)
        assert imported.exit_code == 0
        assert gap in imported.stdout
        assert said in imported.stdout
        assert run("verify", *new).stdout.splitlines()[-1] == "sound"
    as_json = json.loads(run("export", file, *at, "--allow-gaps", "--overwrite", "--json").stderr)
    assert (as_json["missing"], as_json["gaps"][0]["kind"]) == (1, "gap")


def test_the_fields_of_json_are_stable(data_dir: Path, tmp_path: Path) -> None:
    place, file, at = tmp_path / "backup", tmp_path / "lines", ("--data-dir", data_dir)
    found = {
        "verify": run("verify", *at, "--json").stdout,
        "backup": run("backup", place, *at, "--json").stdout,
        "compact": run("compact", *at, "--json").stdout,
        "restore": run("restore", place, "--data-dir", tmp_path / "a", "--json").stdout,
        "export": run("export", file, *at, "--json").stderr,
        "import": run("import", file, "--data-dir", tmp_path / "b", "--json").stdout,
    }
    assert {name: " ".join(json.loads(line)) for name, line in found.items()} == REPORTS


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_compact_removes_what_has_expired_and_says_what_it_did(data_dir: Path, loop: str) -> None:
    async def expire() -> None:
        async with PersistenceRegistry(config(data_dir)) as opened:
            for number in range(30):
                await opened.key_value_store("brief").put(f"{number}", b"", ttl_seconds=1e-6)

    anyio.run(expire)
    as_json = run("compact", "--data-dir", data_dir, "--loop", loop, "--json")
    assert as_json.exit_code == 0, as_json.output
    assert json.loads(as_json.stdout)["expired_entries"] == 30
    again = run("compact", "--data-dir", data_dir, "--loop", loop)
    assert again.stdout.startswith(f"{data_dir}: removed 0 expired entries, 0 records")
    missing = run("compact", "--data-dir", data_dir.with_name("none"))
    assert (missing.exit_code, data_dir.with_name("none").exists()) == (1, False)


def test_all_commands_know_a_journal(journal_dir: Path, tmp_path: Path) -> None:
    at, place, new = ("--data-dir", journal_dir), tmp_path / "backup", tmp_path / "new"
    assert json.loads(run("stats", "--json", *at).stdout.splitlines()[0])["backend"] == "file"
    assert run("inspect", "keys", "shelf", *at).exit_code == 0
    assert run("queue", "list", *at).stdout.startswith("jobs")
    assert (
        run("queue", "redrive", "jobs", *at).stdout
        == "1 dead letters sent again to 'jobs'; 0 stay\n"
    )
    assert run("compact", *at).exit_code == 0
    assert run("verify", *at).stdout.endswith("sound\n")
    made = json.loads(run("backup", place, *at, "--json").stdout)
    assert made["verification"]["sound"]
    one = str(made["first_sequence"])
    assert run("restore", place, "--to-commit", one, "--data-dir", new).exit_code == 0
    assert run("verify", "--data-dir", new).stdout.endswith("sound\n")
    beyond = str(made["commit_sequence"] + 1)
    refused = run("restore", place, "--to-commit", beyond, "--overwrite", "--data-dir", new)
    assert (refused.exit_code, "can be restored as of commit" in refused.stderr) == (2, True)
    assert run("export", tmp_path / "lines", *at).exit_code == 0
    imported = ("--data-dir", tmp_path / "imported")
    assert run("import", tmp_path / "lines", "--backend", "file", *imported).exit_code == 0
    assert run("verify", *imported).exit_code == 0


def test_a_damaged_journal_is_told_and_mended(journal_dir: Path) -> None:
    segment = next(journal_dir.glob("journal-*"))
    content = bytearray(segment.read_bytes())
    content[5_000] ^= 1
    segment.write_bytes(content)
    at = ("--data-dir", journal_dir)
    for command in (("stats",), ("verify",), ("queue", "list"), ("compact",)):
        result = run(*command, *at)
        assert result.exit_code == 3, result.output
        assert f"{segment.name}" in result.output
    repaired = run("verify", "--repair", *at)
    assert repaired.exit_code == 0
    (kept,) = (journal_dir / "quarantine").iterdir()
    items = len(kept.read_bytes().splitlines())
    assert repaired.stderr == f"{items} items were set aside, in {kept}\n"
    assert run("stats", *at).exit_code == 0


def test_acknowledged_commits_that_are_missing_are_damage(data_dir: Path) -> None:
    copy = data_dir.with_name("copy")
    shutil.copytree(data_dir, copy)

    async def go_on() -> None:
        async with PersistenceRegistry(config(data_dir)) as opened:
            await opened.key_value_store("shelf").put("later", b"")

    anyio.run(go_on)
    shutil.copy(data_dir / "ACKED", copy)
    for command in (("stats",), ("verify",)):
        result = run(*command, "--data-dir", copy)
        assert result.exit_code == 3
        assert "were acknowledged as durable and are missing" in result.stdout


def test_a_queue_whose_messages_are_lost_behind_its_cursor_is_told(data_dir: Path) -> None:
    tamper(
        data_dir,
        "DELETE FROM records WHERE log_id = (SELECT id FROM logs WHERE hex(name) LIKE '%2F30')",
    )
    done = run("verify", "--data-dir", data_dir, "--json")
    assert done.exit_code == 3
    kinds = {one["kind"]: one["where"] for one in json.loads(done.stdout)["findings"]}
    assert kinds == {"cursor": "queue 'jobs', subscription 'default', priority 0"}


def test_whatever_is_in_a_name_moves_no_cursor(data_dir: Path, tmp_path: Path) -> None:
    wicked = "\x1b[2J\x9b5m\u202e"
    place = tmp_path / f"to{wicked}"
    shown = [
        run("backup", place, "--data-dir", data_dir),
        run("verify", "--data-dir", place),
        run("stats", "--data-dir", place),
        run("restore", tmp_path / wicked, "--data-dir", tmp_path / "new"),
        run("inspect", "keys", wicked, "--data-dir", data_dir),
        run("queue", "show", wicked, "--data-dir", data_dir),
        run("queue", "redrive", wicked, "--data-dir", data_dir),
        run("verify", wicked),
        run(wicked),
        run("verify", "--config", tmp_path / wicked),
    ]
    for done in shown:
        assert "\\x1b[2J\\x9b5m\\u202e" in done.output
        assert all(char == "\n" or char.isprintable() for char in done.output), done.output


def test_a_backup_is_not_put_where_it_goes_with_the_store(data_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "backup"
    assert run("backup", place, "--data-dir", data_dir).exit_code == 0
    commands: list[tuple[object, ...]] = [
        ("backup", data_dir / "backup", "--data-dir", data_dir),
        ("restore", place, "--data-dir", place, "--overwrite"),
        ("restore", place, "--data-dir", place / "data"),
        ("export", data_dir / "mpreg.db", "--data-dir", data_dir),
        ("backup", "/", "--data-dir", data_dir),
    ]
    for command in commands:
        refused = run(*command)
        assert refused.exit_code == 1, command
        assert "name another place" in refused.stderr or "name a directory in it" in refused.stderr
    assert run("verify", "--data-dir", data_dir).exit_code == 0
    assert {path.name for path in place.iterdir()} == {"BACKUP", "mpreg.db", "values"}


def test_an_export_goes_to_what_is_no_file_and_never_in_its_place(
    data_dir: Path, tmp_path: Path
) -> None:
    assert run("export", "/dev/null", "--data-dir", data_dir).exit_code == 0
    assert Path("/dev/null").is_char_device()
    if Path("/dev/full").exists():
        full = run("export", "/dev/full", "--data-dir", data_dir)
        assert (full.exit_code, "/dev/full: no room left" in full.stderr) == (4, True)
    refused = run("export", tmp_path, "--data-dir", data_dir)
    assert refused.exit_code == 1
    missing = run("export", tmp_path / "none" / "lines", "--data-dir", data_dir)
    assert missing.exit_code == 1
    (tmp_path / "lines").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "lines")
    again = run("export", tmp_path / "link", "--data-dir", data_dir, "--overwrite")
    assert again.exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "lines").read_text().startswith('{"type":"mpreg-export"')
    assert {path.name for path in tmp_path.iterdir()} == {"data", "lines", "link"}


def test_a_damaged_acked_file_is_set_aside_where_it_can_be_read(data_dir: Path) -> None:
    (data_dir / "ACKED").write_bytes(b"\xff" * 200)
    assert run("verify", "--data-dir", data_dir).exit_code == 3
    assert run("verify", "--repair", "--data-dir", data_dir).exit_code == 0
    (line,) = (data_dir / "quarantine" / "000001.jsonl").read_text().splitlines()
    assert json.loads(line)["data"] == {"base64": "//" + "//" * 132 + "8="}
    assert run("verify", "--data-dir", data_dir).exit_code == 0


def test_what_was_set_aside_and_is_changed_is_told_and_is_no_damage(data_dir: Path) -> None:
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 9 AND length(data) = 100")
    assert run("verify", "--repair", "--data-dir", data_dir).exit_code == 0
    kept = data_dir / "quarantine" / "000001.jsonl"
    kept.write_text(kept.read_text().replace('"offset": 9', '"offset": 8'))
    done = run("verify", "--data-dir", data_dir)
    assert "note  quarantine/000001.jsonl, line 1: " in done.stdout
    # The offset is missing for no reason that is known any more.
    assert done.exit_code == 3


INTERRUPTED: Final = {
    "verify": "nothing was changed",
    "verify --repair": "in the store, in its quarantine directory, or in both",
    "backup place": "place is as it was before",
    "export place": "place is as it was before",
    "export -": "cannot be imported",
    "export /dev/null": "cannot be imported",
    "import place": "there is no new data directory",
    "compact": "what was removed until then is gone",
    "restore place": "the data directory is as it was before",
    "queue redrive jobs": "those sent until then stay sent",
}


@pytest.mark.parametrize("command", INTERRUPTED)
def test_long_work_that_is_interrupted_says_how_things_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mpreg.cli.execution.run", interrupt)
    at = ("--data-dir", tmp_path)
    found = run(*command.split(), *at)
    assert found.exit_code == 130
    assert found.stderr.startswith("interrupted: ")
    assert INTERRUPTED[command] in found.stderr
    as_json = json.loads(run(*command.split(), *at, "--json").stderr)
    assert as_json["message"] == found.stderr.removesuffix("\n")
