"""Logs with a gap: exported when that is asked for, and imported with nothing lost in silence."""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from mpreg.persistence import (
    CorruptDataError,
    InvalidArgumentError,
    PersistenceConfig,
    PersistenceRegistry,
)
from mpreg.persistence.maintenance import (
    ExportReport,
    FindingKind,
    export_lines,
    import_into,
    import_lines,
    repair,
    verify,
)
from mpreg.queues import MessageQueueManager
from tests.integration.support import config, listed, registry, tamper
from tests.integration.test_transfer import each

pytestmark = pytest.mark.anyio

AUDIT = b"audit"


async def with_gaps(data_dir: Path) -> dict[int, bytes]:
    """A log from 2 to 19 without 5, and without 10 to 12; a repair took the first, nobody knows
    what took the others."""
    async with registry(data_dir) as opened:
        audit = opened.log_store("audit")
        await audit.append_many([b"record %d" % number for number in range(20)])
        await audit.truncate_before(2)
        await opened.log_store("whole").append_many([b"a", b"b"])
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 5")
    assert (await repair(data_dir)).sound
    tamper(data_dir, "DELETE FROM records WHERE offset BETWEEN 10 AND 12")
    return {number: b"record %d" % number for number in range(2, 20)}


async def exported(data_dir: Path) -> tuple[ExportReport, list[bytes]]:
    lines: list[bytes] = []
    return await export_lines(data_dir, lines.append, allow_gaps=True), lines


async def records(data_dir: Path, **settings: Any) -> tuple[dict[int, bytes], list[str]]:
    """What can be read of the log, and where it says that it is damaged."""
    damaged: list[CorruptDataError] = []
    async with registry(data_dir, **settings) as opened:
        audit = opened.log_store("audit")
        found = await listed(audit.read_range(on_damaged=damaged.append))
        assert await audit.next_offset() == 20
    return {one.offset: one.data for one in found}, [str(one.where) for one in damaged]


def quarantined(data_dir: Path) -> dict[int, bytes | None]:
    """The data of the audit log's records that are there, by offset."""
    found = {}
    for path in sorted((data_dir / "quarantine").iterdir()):
        for line in path.read_text().splitlines():
            item = json.loads(line)
            assert b64decode(item["log_name"]["base64"]) == AUDIT
            data = item["data"]
            found[item["offset"]] = None if data is None else b64decode(data["base64"])
    return found


async def test_a_log_with_a_gap_is_exported_only_when_that_is_asked_for(data_dir: Path) -> None:
    await with_gaps(data_dir)
    lines: list[bytes] = []
    with pytest.raises(CorruptDataError, match="--allow-gaps") as refused:
        await export_lines(data_dir, lines.append)
    assert refused.value.where == "log 'audit', offsets 5 to 5"
    assert b'"end"' not in lines[-1]


async def test_an_export_tells_each_gap_in_its_lines_and_in_its_report(data_dir: Path) -> None:
    await with_gaps(data_dir)
    report, lines = await exported(data_dir)
    told = [json.loads(line) for line in lines if b'"gap"' in line]
    store = {"name": "audit"}
    assert told == [
        {"type": "gap", "store": store, "offset": 5, "next_offset": 6},
        {"type": "gap", "store": store, "offset": 10, "next_offset": 13},
    ]
    assert (report.records, report.missing) == (16, 4)
    assert list(map(str, report.gaps)) == [
        "log 'audit', offsets 5 to 5: records are missing",
        "log 'audit', offsets 10 to 12: records are missing",
    ]


async def test_a_database_has_the_same_gaps_after_the_trip(data_dir: Path, tmp_path: Path) -> None:
    expected = await with_gaps(data_dir)
    before = await records(data_dir)
    _, lines = await exported(data_dir)
    other = tmp_path / "other"
    report = await import_lines(each(lines), config(other))
    assert (report.records, report.missing) == (16, 4)
    assert [one.where for one in report.gaps] == [
        "log 'audit', offsets 5 to 5",
        "log 'audit', offsets 10 to 12",
    ]
    assert all("where it was" in one.message for one in report.gaps)
    # That records are missing is on record there: it is no damage of the new store.
    found = await verify(other, full=True)
    assert found.sound
    assert [one.kind for one in found.findings] == [FindingKind.SET_ASIDE] * 4
    assert quarantined(other) == dict.fromkeys((5, 10, 11, 12))
    kept, damaged = await records(other)
    assert (kept, damaged) == before
    assert kept == {at: data for at, data in expected.items() if at not in (5, 10, 11, 12)}
    # And again, from there.
    assert (await exported(other))[1][1:-1] == lines[1:-1]


async def test_a_journal_keeps_what_is_behind_the_last_gap_and_sets_the_rest_aside(
    data_dir: Path, tmp_path: Path
) -> None:
    expected = await with_gaps(data_dir)
    _, lines = await exported(data_dir)
    other = tmp_path / "other"
    report = await import_lines(each(lines), config(other, backend="file"))
    assert (report.records, report.missing) == (16, 4)
    why = "records are missing; a journal has no gaps, so the log begins at offset"
    assert [one.message for one in report.gaps] == [
        f"{why} 6: its records 2 to 4 are in quarantine",
        f"{why} 13: its records 6 to 9 are in quarantine",
    ]
    assert (await verify(other)).sound
    kept, damaged = await records(other, backend="file")
    assert damaged == []
    assert kept == {at: expected[at] for at in range(13, 20)}
    assert quarantined(other) == {at: expected[at] for at in (2, 3, 4, 6, 7, 8, 9)}
    # What is left has no gap any more.
    again: list[bytes] = []
    assert (await export_lines(other, again.append)).records == 9


async def test_a_gap_at_the_beginning_of_a_log_moves_nothing(
    data_dir: Path, tmp_path: Path
) -> None:
    async with registry(data_dir) as opened:
        await opened.log_store("audit").append_many([b"a", b"b"])
    tamper(data_dir, "DELETE FROM records WHERE offset = 0")
    _, lines = await exported(data_dir)
    for backend in ("sqlite", "file"):
        other = tmp_path / backend
        report = await import_lines(each(lines), config(other, backend=backend))
        assert "are in quarantine" not in report.gaps[0].message
        assert (await verify(other)).sound
        async with registry(other, backend=backend) as opened:
            (record,) = await listed(opened.log_store("audit").read_range(1))
            assert (record.offset, record.data) == (1, b"b")


async def test_a_gap_in_a_queue_is_a_dead_letter_after_the_trip_too(
    data_dir: Path, tmp_path: Path
) -> None:
    async with registry(data_dir) as opened:
        jobs = await MessageQueueManager(opened).create_queue("jobs")
        await jobs.send_many(["a" * 50, "b" * 50, "c" * 50])
    tamper(data_dir, "DELETE FROM records WHERE offset = 1 AND length(data) > 50")
    _, lines = await exported(data_dir)
    await import_lines(each(lines), config(tmp_path / "other"))
    async with registry(tmp_path / "other") as opened:
        jobs = await MessageQueueManager(opened).get_queue("jobs")
        for letter in "ac":
            message = await jobs.receive(wait_seconds=60.0)
            assert message is not None
            assert message.payload == letter * 50
            await message.ack()
        assert await jobs.receive(wait_seconds=0) is None
        assert [letter.offset for letter in await jobs.dead_letters()] == [1]


LOG = b'{"type":"log","store":{"name":"audit"},"first_offset":0,"next_offset":9}'
RECORD = b'{"type":"record","store":{"name":"audit"},"offset":0,"data":{"text":"a"}}'
GAP = '{"type":"gap","store":{"name":"%s"},"offset":%d,"next_offset":%d}'


@pytest.mark.parametrize(
    ("log", "start", "stop"),
    [("audit", 2, 3), ("audit", 0, 3), ("audit", 1, 1), ("audit", 1, 9), ("other", 1, 3)],
)
async def test_a_gap_that_cannot_be_one_is_refused(
    tmp_path: Path, log: str, start: int, stop: int
) -> None:
    first = b'{"type":"mpreg-export","format_version":1,"commit_sequence":1}'
    lines = [first, LOG, RECORD, (GAP % (log, start, stop)).encode()]
    with pytest.raises(InvalidArgumentError, match="line 4: "):
        await import_lines(each(lines), config(tmp_path / "other"))
    assert list(tmp_path.iterdir()) == []


async def test_a_registry_that_is_open_takes_no_gap_in(data_dir: Path) -> None:
    await with_gaps(data_dir)
    _, lines = await exported(data_dir)
    memory = PersistenceRegistry(PersistenceConfig(backend="memory"))
    async with memory as opened, aclosing(each(lines)) as given:
        with pytest.raises(InvalidArgumentError, match=r"offsets 5 to 5.*import_lines"):
            await import_into(opened, given)
