"""Entries that have expired are removed."""

from __future__ import annotations

from pathlib import Path

from mpreg.errors import VersionConflictError
from mpreg.persistence.operations import Delete, Put, SweepExpired
from mpreg.testing.contract.base import BackendContract, make_batch

__all__ = ["SweepsContract"]


class SweepsContract(BackendContract):
    async def test_a_sweep_removes_those_that_expired_first(self, tmp_path: Path) -> None:
        sweep = SweepExpired(b"n", 2)
        async with self.opened(tmp_path) as store:
            assert await store.do(sweep) == (0,)
            for key, expires_at in ((b"c", 30.0), (b"a", 50.0), (b"d", 20.5), (b"b", 40.0)):
                await store.put(key, expires_at=expires_at)
                await store.put(key, namespace=b"other", expires_at=expires_at)
            await store.put(b"never")
            store.now = 20.0
            assert await store.do(sweep) == (0,)
            store.now = 40.0
            assert await store.do(sweep) == (2,)
            assert await store.keys() == [b"a", b"b", b"never"]
            assert await store.do(sweep) == (1,)
            assert await store.do(sweep) == (0,)
            assert await store.keys() == [b"a", b"never"]
        async with self.opened(tmp_path, store.backend) as again:
            assert await again.keys() == [b"a", b"never"]
            assert await again.keys(namespace=b"other") == [b"a", b"b", b"c", b"d"]
            again.now = 50.0
            assert await again.do(SweepExpired(b"other", 100)) == (4,)
            assert await again.keys() == [b"a", b"never"]

    async def test_a_sweep_goes_by_the_last_expiry_of_an_entry(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            for key in (b"earlier", b"later", b"never", b"gone", b"back"):
                await store.put(key, expires_at=500.0)
            await store.put(b"earlier", expires_at=100.0)
            await store.put(b"later", expires_at=900.0)
            await store.put(b"never")
            await store.do(Delete(b"n", b"gone"), Delete(b"n", b"back"))
            await store.put(b"back")
            store.now = 499.0
            assert await store.do(SweepExpired(b"n", 10)) == (1,)
            store.now = 899.0
            assert await store.do(SweepExpired(b"n", 10)) == (0,)
            store.now = 900.0
            assert await store.do(SweepExpired(b"n", 10)) == (1,)
            assert await store.keys() == [b"back", b"never"]

    async def test_a_sweep_sees_the_batches_before_it_in_its_group(self, tmp_path: Path) -> None:
        sweep = make_batch(SweepExpired(b"n", 3))
        async with self.opened(tmp_path) as store:
            for number in range(8):
                await store.put(b"%d" % number, expires_at=500.0 + number)
            outcomes = await store.commit(
                make_batch(Put(b"n", b"0", b"anew")),
                make_batch(Delete(b"n", b"1")),
                make_batch(Put(b"n", b"2", b"", 2_000.0), Put(b"n", b"new", b"", 503.5)),
                sweep,
                make_batch(Put(b"n", b"3", b"", 600.0)),
                sweep,
                sweep,
            )
            assert list(outcomes) == [(9,), (False,), (10, 11), (3,), (12,), (3,), (1,)]
            assert await store.value(b"0") == b"anew"
            assert await store.keys() == [b"0", b"2"]

    async def test_a_refused_batch_sweeps_nothing(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.put(b"key", expires_at=1.0)
            outcome = await store.do(
                SweepExpired(b"n", 1), Put(b"n", b"other", b"", expected_version=7)
            )
            assert isinstance(outcome, VersionConflictError)
            assert await store.keys() == [b"key"]

    async def test_many_are_swept_in_steps(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(*(Put(b"n", b"%03d" % n, b"", float(n)) for n in range(300)))
            results = [await store.do(SweepExpired(b"n", 64)) for _ in range(6)]
            assert results == [(64,), (64,), (64,), (64,), (44,), (0,)]
            assert await store.keys() == []
