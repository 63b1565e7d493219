"""Keys and values: any bytes, of any size."""

from __future__ import annotations

from pathlib import Path

from mpreg.persistence.backend import StoredEntry
from mpreg.persistence.operations import Append, Delete, Put, SweepExpired
from mpreg.testing.contract.base import NASTY_KEYS, BackendContract, make_batch

__all__ = ["EntriesContract"]


class EntriesContract(BackendContract):
    async def test_any_bytes_are_a_key_and_a_value(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            for key in NASTY_KEYS:
                await store.put(key, key + b"\x00value")
        async with self.opened(tmp_path, store.backend) as again:
            for key in NASTY_KEYS:
                assert await again.value(key) == key + b"\x00value"

    async def test_empty_values_and_records_are_kept(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Put(b"n", b"key", b""), Append(b"log", (b"", b"x", b"")))
            assert await store.value(b"key") == b""
            assert await store.records() == [(0, b""), (1, b"x"), (2, b"")]

    async def test_a_value_of_the_largest_size_comes_back_whole(self, tmp_path: Path) -> None:
        value = bytes(range(256)) * (self.value_bytes_max // 256)
        async with self.opened(tmp_path) as store:
            await store.do(Put(b"n", b"key", value), Append(b"log", (value,)))
        async with self.opened(tmp_path, store.backend) as again:
            # Not asserted in one: a difference would be shown in full.
            same = await again.value(b"key") == value
            assert same
            same = await again.records() == [(0, value)]
            assert same

    async def test_a_value_of_any_size_takes_the_place_of_one_of_any_other(
        self, tmp_path: Path
    ) -> None:
        sizes = (0, 900, 901, 4_096, 100_000, 131_071, 131_072, 200_000)
        async with self.opened(tmp_path) as store:
            for shift in range(len(sizes)):
                turned = [*sizes[shift:], *sizes[:shift]]
                values = {b"%d" % n: bytes([shift]) * size for n, size in enumerate(turned)}
                await store.do(*(Put(b"n", key, value) for key, value in values.items()))
                for key, value in values.items():
                    same = await store.value(key) == value
                    assert same
            await store.do(*(Delete(b"n", key) for key in values))
            assert await store.keys() == []

    async def test_entries_with_and_without_expiry_change_places_in_one_batch(
        self, tmp_path: Path
    ) -> None:
        values = [bytes([size % 251]) * size for size in (0, 1, 100, 4_095, 4_096, 4_097, 20_000)]
        async with self.opened(tmp_path) as store:
            for turn in (0, 1):
                puts = [
                    Put(b"n", b"%d" % number, value, 5_000.5 if number % 2 == turn else None)
                    for number, value in enumerate(values)
                ]
                await store.do(*puts, Append(b"log", values))
            for number, value in enumerate(values):
                expires_at = 5_000.5 if number % 2 else None
                version = len(values) + number + 1
                found = StoredEntry(b"%d" % number, version, expires_at, value)
                assert await store.get(b"%d" % number) == found
            assert await store.records() == list(enumerate(values * 2))
            store.now = 6_000.0
            assert await store.do(SweepExpired(b"n", 10)) == (3,)

    async def test_namespaces_and_logs_do_not_meet(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            names = (b"n", b"N", b"n\x00", b"\xff", "é".encode())
            for name in names:
                await store.do(Put(name, b"key", name), Append(name, (name,)))
            for name in names:
                assert await store.value(b"key", name) == name
                assert await store.keys(namespace=name) == [b"key"]
                assert await store.records(log=name) == [(0, name)]

    async def test_the_last_write_of_a_group_stays(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.commit(
                make_batch(Put(b"n", b"key", b"1"), Put(b"n", b"key", b"2")),
                make_batch(Delete(b"n", b"gone"), Put(b"n", b"gone", b"")),
                make_batch(Put(b"n", b"key", b"3"), Delete(b"n", b"gone")),
            )
            assert await store.value(b"key") == b"3"
            assert await store.keys() == [b"key"]
