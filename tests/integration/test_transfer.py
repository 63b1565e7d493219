"""Export and import: everything but versions survives the trip, from and to any backend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpreg.codec import KEY_BYTES_MAX, NAME_BYTES_MAX
from mpreg.persistence import (
    CorruptDataError,
    DataDirectoryError,
    DataDirectoryLockedError,
    InvalidArgumentError,
    OffsetOutOfRangeError,
    PersistenceConfig,
    PersistenceRegistry,
    StorageFullError,
)
from mpreg.persistence.maintenance import (
    export_lines,
    import_into,
    import_lines,
    importing,
    line_bytes_max,
    verify,
)
from mpreg.persistence.snapshots import CHUNK_BYTES
from mpreg.queues import MessageQueueManager
from tests.integration.maintenance_support import fill, filled, read_all
from tests.integration.support import config, listed, registry, tamper

pytestmark = pytest.mark.anyio


async def each(lines: Sequence[bytes]) -> AsyncGenerator[bytes, None]:
    for line in lines:
        yield line


async def exported(data_dir: Path) -> list[bytes]:
    lines: list[bytes] = []
    await export_lines(data_dir, lines.append)
    return lines


async def test_a_store_with_one_of_everything_survives_the_trip(
    data_dir: Path, tmp_path: Path
) -> None:
    await filled(data_dir)
    lines = await exported(data_dir)
    other = tmp_path / "other"
    report = await import_lines(each(lines), config(other))
    assert report.snapshots >= 2
    assert (await verify(other, full=True)).sound
    assert await read_all(other) == await read_all(data_dir)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "other"]


async def test_queues_survive_with_what_is_pending_dead_and_not_to_be_sent_again(
    data_dir: Path, tmp_path: Path
) -> None:
    await filled(data_dir, entries=1)
    await import_lines(each(await exported(data_dir)), config(tmp_path / "other"))
    async with registry(tmp_path / "other") as opened:
        jobs = await MessageQueueManager(opened).get_queue("jobs")
        assert jobs.statistics().pending == 1
        await jobs.send({"is": "the same"}, deduplication_id="once")
        message = await jobs.receive(wait_seconds=5.0)
        assert message is not None
        assert message.payload == {"is": "pending"}
        await message.ack()
        assert await jobs.receive(wait_seconds=0.0) is None
        assert [letter.payload for letter in await jobs.dead_letters()] == [{"is": "dead"}]


async def test_a_store_in_use_is_exported_in_one_state(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        await fill(opened, entries=3)
        lines = await exported(data_dir)
        assert json.loads(lines[0])["commit_sequence"] == (await opened.stats()).commit_sequence
    digest = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert json.loads(lines[-1]) == {"type": "end", "lines": len(lines) - 1, "sha256": digest}


async def test_another_backend_takes_it_in(data_dir: Path) -> None:
    await filled(data_dir)
    lines = await exported(data_dir)
    async with PersistenceRegistry(PersistenceConfig(backend="memory")) as opened:
        await import_into(opened, each(lines))
        log = opened.log_store("emptied")
        assert (await log.first_offset(), await log.next_offset()) == (3, 3)
        assert await log.append(b"d") == 3
        audit = await listed(opened.log_store("audit").read_range())
        assert [record.offset for record in audit] == list(range(7, 40))
        snapshot = await opened.snapshot_store("image").load()
        assert snapshot is not None
        assert len(snapshot.data) == 600_000


async def test_a_log_goes_on_counting_after_the_trip(data_dir: Path, tmp_path: Path) -> None:
    await filled(data_dir, entries=1)
    await import_lines(each(await exported(data_dir)), config(tmp_path / "other"))
    for _ in range(2):
        async with registry(tmp_path / "other") as opened:
            log = opened.log_store("emptied")
            assert await log.next_offset() >= 3
            assert await log.append(b"d") == await log.next_offset() - 1
            with pytest.raises(OffsetOutOfRangeError):
                await log.truncate_before(100)


@pytest.mark.parametrize(
    "what", ["cut", "no end", "hole", "changed", "after", "not JSON", "newer", "nothing"]
)
async def test_an_export_that_is_not_whole_is_refused_and_leaves_nothing(
    data_dir: Path, tmp_path: Path, what: str
) -> None:
    await filled(data_dir, entries=5)
    lines = await exported(data_dir)
    damaged = {
        "cut": lines[:20],
        "no end": lines[:-1],
        "hole": [*lines[:3], *lines[4:]],
        "changed": [line.replace(b'"expires_at":null', b'"expires_at":9e9') for line in lines],
        "after": [*lines, lines[1]],
        "not JSON": [*lines[:3], lines[3][:-9], *lines[4:]],
        "newer": [lines[0].replace(b'"format_version":1', b'"format_version":2'), *lines[1:]],
        "nothing": [],
    }[what]
    with pytest.raises(InvalidArgumentError, match="line "):
        await import_lines(each(damaged), config(tmp_path / "other"))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


ENTRY = '{"type":"entry","store":%s,"key":{"str":"a"},"value":{"text":"1"},"expires_at":%s}'
LOG = '{"type":"log","store":{"name":"audit"},"first_offset":7,"next_offset":9}'
SNAPSHOT = (
    '{"type":"snapshot","store":{"kind":"snapshot","name":"a"},"chunks":0,'
    '"versions_max":%s,"seconds_max":%s}'
)
USERS = '{"name":"sessions"}'


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, id=name)
        for name, line in {
            "huge": ENTRY % (USERS, "9" * 400),
            "too long to be shown": ENTRY % (USERS, "9" * 5_000),
            "NaN": ENTRY % (USERS, "NaN"),
            "infinite": ENTRY % (USERS, "1e999"),
            "a flag": ENTRY % (USERS, "true"),
            "a text": ENTRY % (USERS, '"1.0"'),
            "half a pair": ENTRY % ('{"kind":"\\ud800","name":"a"}', "null"),
            "two kinds": ENTRY % ('{"kind":"a/b","name":"a"}', "null"),
            "into a snapshot": ENTRY % ('{"kind":"snapshot","name":"a"}', "null"),
            "records are missing": LOG,
            "versions": SNAPSHOT % (10**28, "null"),
            "seconds": SNAPSHOT % ("1", "1e999"),
        }.items()
    ],
)
async def test_a_line_that_was_changed_to_what_no_store_can_hold_is_refused(
    data_dir: Path, tmp_path: Path, line: str
) -> None:
    first = b'{"type":"mpreg-export","format_version":1,"commit_sequence":1}\n'
    lines = [first, f"{line}\n".encode(), b'{"type":"end","lines":2}\n']
    with pytest.raises(InvalidArgumentError, match=r"line [23]: "):
        await import_lines(each(lines), config(tmp_path / "other"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["sqlite", "file"])
async def test_a_log_that_comes_twice_is_refused(tmp_path: Path, backend: str) -> None:
    """Its records would be found at offsets that their lines do not say."""
    log = b'{"type":"log","store":{"name":"audit"},"first_offset":0,"next_offset":1}\n'
    record = b'{"type":"record","store":{"name":"audit"},"offset":0,"data":{"text":"%d"}}\n'
    first = b'{"type":"mpreg-export","format_version":1,"commit_sequence":1}\n'
    lines = [first, log, record % 1, log, record % 2, b'{"type":"end","lines":5}\n']
    with pytest.raises(InvalidArgumentError, match="line 4: the log 'audit' was begun"):
        await import_lines(each(lines), config(tmp_path / "other", backend=backend))
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_imported_over_a_store(data_dir: Path) -> None:
    await filled(data_dir, entries=1)
    lines = await exported(data_dir)
    with pytest.raises(DataDirectoryError, match="not empty"):
        await import_lines(each(lines), config(data_dir))
    async with registry(data_dir):
        with pytest.raises(DataDirectoryLockedError):
            await import_lines(each(lines), config(data_dir))


@pytest.mark.parametrize("backend", ["sqlite", "file"])
async def test_a_line_that_is_longer_than_any_of_an_export_is_refused(
    data_dir: Path, tmp_path: Path, backend: str
) -> None:
    await filled(data_dir, entries=1)
    lines = await exported(data_dir)
    lines[3] = b" " * (line_bytes_max(4_096) + 1)
    other = config(tmp_path / "other", backend=backend, value_bytes_max=4_096)
    with pytest.raises(InvalidArgumentError, match=rf"line 4: .* {line_bytes_max(4_096)} bytes"):
        await import_lines(each(lines), other)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("byte", [b"\x00", b"\xff", b"a", "\u20ac".encode()])
async def test_no_line_of_an_export_is_longer(data_dir: Path, tmp_path: Path, byte: bytes) -> None:
    key, name = "\x00" * KEY_BYTES_MAX, "\x00" * NAME_BYTES_MAX
    size = CHUNK_BYTES + CHUNK_BYTES // 2
    value = byte * (size // len(byte))
    async with registry(data_dir, value_bytes_max=size) as opened:
        await opened.key_value_store(name).put(key, value, ttl_seconds=1e9)
        await opened.log_store(name).append(value)
        await opened.snapshot_store("s").save(value)
    lines = await exported(data_dir)
    assert max(map(len, lines)) <= line_bytes_max(size)
    await import_lines(each(lines), config(tmp_path / "other", value_bytes_max=size))
    assert await exported(tmp_path / "other")


async def test_an_import_without_room_is_not_told_what_a_server_does(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise StorageFullError("a file: no room; reads go on")

    await filled(data_dir, entries=1)
    lines = await exported(data_dir)
    monkeypatch.setattr(importing, "run_unless_full", full)
    other = tmp_path / "other"
    with pytest.raises(StorageFullError) as raised:
        await import_lines(each(lines), config(other))
    assert str(raised.value).startswith(f"{other}: no room left on the device; nothing was impo")
    assert not other.exists()


async def test_a_cancelled_import_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    await filled(data_dir, entries=1)
    lines = await exported(data_dir)
    reached = anyio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for line in lines[:-1]:
            yield line
        reached.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(import_lines, endless(), config(tmp_path / "other"))
        await reached.wait()
        task_group.cancel_scope.cancel()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE large_values SET value = x'00' WHERE typeof(value) = 'text'",
        "DELETE FROM large_values WHERE typeof(value) = 'text'",
        "DELETE FROM large_values WHERE typeof(value) = 'blob'",
        "UPDATE large_values SET value = NULL WHERE typeof(value) = 'text'",
        "UPDATE large_values SET value = NULL WHERE typeof(value) = 'blob'",
        "UPDATE entries SET value = x'00' WHERE length(key) = 6",
        "UPDATE entries SET value = NULL WHERE length(key) = 6",
        "UPDATE entries SET version = NULL WHERE length(key) = 6",
        "UPDATE entries SET checksum = NULL WHERE length(key) = 6",
        "UPDATE records SET data = x'00' WHERE offset = 9",
        "DELETE FROM records WHERE offset = 9",
        "UPDATE meta SET last_version = 'x'",
        "UPDATE logs SET first_offset = 'x'",
        "UPDATE logs SET name = x'fe' WHERE id = 1",
        "DROP TABLE records",
    ],
)
async def test_damage_is_told_and_never_exported(data_dir: Path, statement: str) -> None:
    await filled(data_dir)
    tamper(data_dir, statement)
    lines: list[bytes] = []
    with pytest.raises(CorruptDataError):
        await export_lines(data_dir, lines.append)
    assert b'"end"' not in b"".join(lines[-1:])


KEYS = st.one_of(st.text(st.characters(), max_size=5), st.binary(max_size=5))
STORES = st.fixed_dictionaries(
    {
        "entries": st.dictionaries(KEYS, st.tuples(st.binary(max_size=40), st.booleans())),
        "records": st.lists(st.binary(max_size=20), max_size=20),
        "truncated": st.integers(0, 20),
        "snapshots": st.dictionaries(
            st.text(st.characters(), min_size=1, max_size=4), st.binary(max_size=99), max_size=3
        ),
    }
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STORES)
async def test_whatever_is_stored_survives_the_trip(stored: dict[str, object]) -> None:
    with TemporaryDirectory() as temporary:
        directory = Path(temporary)
        async with registry(directory / "one") as opened:
            await _store(opened, stored)
            before = await _stored(opened, stored)
        lines = await exported(directory / "one")
        await import_lines(each(lines), config(directory / "two"))
        async with registry(directory / "two") as opened:
            assert await _stored(opened, stored) == before


async def _store(opened: PersistenceRegistry, stored: dict[str, object]) -> None:
    store, log = opened.key_value_store("caf\u00e9 \udc80"), opened.log_store("log \u2713")
    entries, records = stored["entries"], stored["records"]
    assert isinstance(entries, dict)
    assert isinstance(records, list)
    for key, (value, expires) in entries.items():
        await store.put(key, value, ttl_seconds=1e6 if expires else None)
    if records:
        await log.append_many(records)
        assert isinstance(stored["truncated"], int)
        await log.truncate_before(min(stored["truncated"], len(records)))
    assert isinstance(stored["snapshots"], dict)
    for name, data in stored["snapshots"].items():
        await opened.snapshot_store(name).save(data)


async def _stored(opened: PersistenceRegistry, stored: dict[str, object]) -> list[object]:
    store, log = opened.key_value_store("caf\u00e9 \udc80"), opened.log_store("log \u2713")
    found: list[object] = [
        (entry.key, entry.value, entry.expires_at) async for entry in store.scan()
    ]
    found += [(record.offset, record.data) async for record in log.read_range()]
    found += [await log.first_offset(), await log.next_offset()]
    assert isinstance(stored["snapshots"], dict)
    for name in stored["snapshots"]:
        snapshot = await opened.snapshot_store(name).load()
        found.append(None if snapshot is None else snapshot.data)
    return found
