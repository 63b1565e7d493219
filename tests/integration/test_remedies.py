"""After any damage: what is said of a store, and every way out of it, ends in mpreg's own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpreg.codec import encode_key
from mpreg.persistence import CorruptDataError
from mpreg.persistence.maintenance import backup, export_lines, repair, restore, verify
from tests.integration import test_verify
from tests.integration.maintenance_support import filled
from tests.integration.support import database, registry, tamper

pytestmark = pytest.mark.anyio

#: (what is changed, its parameters, what is told), of all damage that `verify` is tested with.
TOLD = next(
    mark.args[1]
    for mark in vars(test_verify.test_each_kind_of_damage_is_told_by_name)["pytestmark"]
    if mark.name == "parametrize"
)

AUDIT_ID = "(SELECT id FROM logs WHERE name = CAST('audit' AS BLOB))"
MORE = [
    "DELETE FROM logs WHERE name = CAST('audit' AS BLOB)",
    "DELETE FROM namespaces WHERE name = CAST('shelf' AS BLOB)",
    f"UPDATE records SET log_id = 0 WHERE log_id = {AUDIT_ID} AND offset = 20",
    f"UPDATE records SET log_id = 'x', offset = 'y' WHERE log_id = {AUDIT_ID} AND offset = 20",
    f"UPDATE records SET log_id = 1.5, data = 'text' WHERE log_id = {AUDIT_ID} AND offset = 20",
    f"UPDATE records SET offset = 1.5 WHERE log_id = {AUDIT_ID} AND offset = 20",
    f"UPDATE records SET offset = x'00' WHERE log_id = {AUDIT_ID} AND offset = 20",
    "UPDATE logs SET name = 'audit' WHERE name = CAST('audit' AS BLOB)",
    "UPDATE logs SET name = 7 WHERE name = CAST('audit' AS BLOB)",
    "UPDATE logs SET id = id + 32 WHERE name = CAST('audit' AS BLOB)",
    "UPDATE namespaces SET id = id + 32 WHERE name = CAST('shelf' AS BLOB)",
    "UPDATE namespaces SET name = x'80' WHERE name = CAST('shelf' AS BLOB)",
    "UPDATE meta SET last_version = -1",
]


@pytest.fixture
def anyio_backend() -> str:
    """All of it happens on worker threads: which event loop waits makes no difference."""
    return "trio"


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [(damage[0], damage[1]) for damage in TOLD] + [(statement, ()) for statement in MORE],
)
async def test_what_was_damaged_and_repaired_can_be_examined_and_backed_up(
    data_dir: Path, tmp_path: Path, statement: str, parameters: tuple[object, ...]
) -> None:
    await filled(data_dir)
    tamper(data_dir, statement, parameters)
    assert not (await verify(data_dir)).sound
    with pytest.raises(CorruptDataError):
        await export_lines(data_dir, lambda line: None)
    try:
        report = await repair(data_dir)
    except CorruptDataError as error:
        if "nothing was changed" not in str(error):
            raise
        return
    assert (await verify(data_dir)).damaged == report.damaged
    assert (await repair(data_dir)).damaged == report.damaged
    await backup(data_dir, tmp_path / "saved", allow_damaged=True)
    await restore(tmp_path / "saved", tmp_path / "restored", allow_damaged=True)
    # It has an account of its own of what was acknowledged.
    assert (await verify(tmp_path / "restored")).damaged <= report.damaged


async def test_records_of_no_log_are_set_aside_and_explain_no_hole(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        await opened.log_store("audit").append_many([b"a", b"b", b"c"])
    tamper(data_dir, "UPDATE records SET log_id = 0 WHERE offset = 1")
    report = await repair(data_dir)
    assert [one.where for one in report.findings] == ["log 'audit', offsets 1 to 1"]
    (line,) = (data_dir / "quarantine" / "000001.jsonl").read_text().splitlines()
    assert json.loads(line)["log_name"] is None


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE logs SET id = id + 32 WHERE name = CAST('audit' AS BLOB)", "records of log"),
        (
            "UPDATE entries SET key = x'00' || key, namespace_id = 99 WHERE key = ?",
            "entry of namespace number 99",
        ),
        ("UPDATE meta SET last_version = 3", "meta, last_version"),
    ],
)
async def test_an_export_that_would_lack_something_is_not_made(
    data_dir: Path, statement: str, where: str
) -> None:
    await filled(data_dir)
    tamper(data_dir, statement, (encode_key("key 3"),) if "?" in statement else ())
    lines: list[bytes] = []
    with pytest.raises(CorruptDataError) as caught:
        await export_lines(data_dir, lines.append)
    assert str(caught.value.where).startswith(where)
    assert b'"end"' not in b"".join(lines)


async def test_an_export_of_a_log_whose_name_leads_nowhere_is_not_made(data_dir: Path) -> None:
    await filled(data_dir)
    content = database(data_dir).read_bytes()
    # In the index of names alone.
    at = content.rindex(b"audit")
    database(data_dir).write_bytes(content[:at] + b"b" + content[at + 1 :])
    with pytest.raises(CorruptDataError, match="not found by its name"):
        await export_lines(data_dir, lambda line: None)
