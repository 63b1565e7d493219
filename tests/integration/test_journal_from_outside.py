"""A journal looked at from outside, while a process writes it and after that has ended."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from mpreg.persistence import CorruptDataError, PersistenceRegistry, StoredName, open_read_only
from mpreg.persistence.backends.file.following import JournalFollower
from mpreg.persistence.backends.file.names import Names, segment_name
from mpreg.persistence.own_names import JOURNAL_NAME
from tests.integration.maintenance_support import fill
from tests.integration.support import listed, registry

pytestmark = pytest.mark.anyio

SEGMENT_BYTES = 64 << 10


def journal(data_dir: Path) -> PersistenceRegistry:
    return registry(data_dir, backend="file", journal_segment_bytes=SEGMENT_BYTES)


def names(data_dir: Path) -> Names:
    return Names.of((path.name for path in data_dir.iterdir()), JOURNAL_NAME)


def contents(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_dir.iterdir() if path.name != "LOCK"}


async def test_everything_is_seen_and_nothing_is_changed(data_dir: Path) -> None:
    async with journal(data_dir) as opened:
        await fill(opened)
        expected = await listed(opened.key_value_store("shelf").scan())
        numbers = await opened.stats()
    before = contents(data_dir)
    async with open_read_only(data_dir) as view:
        assert await listed(view.key_value_store("shelf").scan()) == expected
        assert [record.offset async for record in view.log_store("audit").read_range()] == list(
            range(7, 40)
        )
        snapshot = await view.snapshot_store("image").load()
        assert snapshot is not None
        assert len(snapshot.data) == 600_000
        stats = await view.stats()
        assert (stats.backend, stats.holder) == ("file", None)
        assert stats.commit_sequence == stats.acked_sequence == numbers.commit_sequence
        assert not stats.is_acked_damaged
        logs = {log.name.shown: (log.first_offset, log.records) async for log in view.logs()}
        assert (logs["audit"], logs["emptied"]) == ((7, 33), (3, 0))
        spaces = [name async for name in view.namespaces() if not name.is_reserved]
        assert spaces == [StoredName.parse("other \u00e9"), StoredName.parse("shelf")]
        some = await view.count_keys("shelf", 10)
        assert (some.keys, some.is_exact) == (10, False)
        exact = await view.count_keys("shelf")
        assert (exact.keys, exact.is_exact) == (len(expected), True)
        size = sum(
            len(e.key if isinstance(e.key, bytes) else e.key.encode("utf-8", "surrogatepass"))
            + 1
            + len(e.value)
            for e in expected
        )
        assert exact.size_bytes == size
    assert contents(data_dir) == before


async def test_beside_its_writer_a_view_sees_each_commit_across_segments_and_snapshots(
    data_dir: Path,
) -> None:
    rng = random.Random(3)
    async with journal(data_dir) as opened:
        store = opened.key_value_store("shelf")
        await store.put("first", b"1")
        async with open_read_only(data_dir) as view:
            seen = view.key_value_store("shelf")
            for number in range(500):
                key = f"{rng.randrange(40)}"
                await store.put(key, rng.randbytes(3_000))
                if number % 50 == 0:
                    assert await seen.get(key) == await store.get(key)
            assert names(data_dir).snapshots
            assert await listed(seen.scan()) == await listed(store.scan())
            holder = (await view.stats()).holder
            assert holder is not None
            assert holder.pid == os.getpid()


async def test_a_journal_that_was_opened_anew_is_followed(data_dir: Path) -> None:
    async with journal(data_dir) as opened:
        await opened.key_value_store("shelf").put("a", b"1")
    async with open_read_only(data_dir) as view:
        seen = view.key_value_store("shelf")
        for number in range(3):
            async with journal(data_dir) as opened:
                await opened.key_value_store("shelf").put("a", b"%d" % number)
                entry = await seen.get("a")
                assert entry is not None
                assert entry.value == b"%d" % number


async def test_only_whole_frames_count(data_dir: Path, tmp_path: Path) -> None:
    """At each length that a write may have got to; seen by one that was there before, too."""
    copy = tmp_path / "copy"
    async with journal(data_dir) as opened:
        await opened.key_value_store("shelf").put("a", b"1")
        shutil.copytree(data_dir, copy)
        await opened.key_value_store("shelf").put("a", b"2")
        path = segment_name(names(data_dir).segments[-1])
        whole, before = (data_dir / path).read_bytes(), (copy / path).read_bytes()
    follower = JournalFollower(copy)
    start = next(at for at, pair in enumerate(zip(whole, before, strict=True)) if len({*pair}) > 1)
    end = len(whole.rstrip(b"\x00"))
    with (copy / path).open("r+b") as file:
        for written in range(start, end + 1):
            file.seek(start)
            file.write(whole[start:written])
            file.flush()
            expected = 2 if written == end else 1
            assert JournalFollower(copy).sequence == expected
            follower.catch_up()
            assert follower.sequence == expected
    follower.close()


async def test_damage_is_told_with_its_byte_and_looks_the_same_each_time(data_dir: Path) -> None:
    async with journal(data_dir) as opened:
        await fill(opened)
    path = data_dir / segment_name(names(data_dir).needed_segments[0])
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptDataError) as caught:
        async with open_read_only(data_dir):
            pass
    assert caught.value.path == path
    assert caught.value.where.startswith("byte ")


async def test_two_stores_in_one_directory_are_refused(data_dir: Path) -> None:
    async with journal(data_dir) as opened:
        await opened.key_value_store("shelf").put("a", b"1")
    (data_dir / "mpreg.db").touch()
    with pytest.raises(Exception, match="two stores here"):
        async with open_read_only(data_dir):
            pass
