"""One program, with the logs, snapshots and cache of its own process and with those of a node."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import pytest

from mpreg.cache import CacheChange, GlobalCacheKey, GlobalCacheManager
from mpreg.client import MPREGClient, RemoteCacheManager
from mpreg.errors import (
    InvalidArgumentError,
    MpregError,
    OffsetOutOfRangeError,
    SnapshotNotFoundError,
    VersionConflictError,
)
from mpreg.persistence import Durability, PersistenceRegistry, SnapshotRetention
from tests.integration.client.support import client_at
from tests.integration.client.test_same_program import PAYLOADS
from tests.integration.server.test_connections import serving
from tests.integration.support import config

pytestmark = pytest.mark.anyio

Cache: TypeAlias = GlobalCacheManager | RemoteCacheManager
Stores: TypeAlias = PersistenceRegistry | MPREGClient


async def use_logs(stores: Stores) -> list[Any]:
    seen: list[Any] = []
    audit = stores.log_store("audit")
    seen.append((await audit.bounds(), [one async for one in audit.read_range()]))
    records = [b"", bytes(range(256)), *(b"%d" % number for number in range(2_500))]
    seen.append((await audit.append(b"first"), await audit.append_many(records)))
    seen.append([one async for one in audit.read_range()])
    seen.append([one async for one in audit.read_range(2, 5)])
    seen.append([one async for one in audit.read_range(2_500, 9_999)])
    reading = audit.read_range(2_500)
    seen.append(await anext(reading))
    await audit.append(b"later")
    seen.append([one async for one in reading][-1])
    async with audit.follow(2_501) as records_to_come, audit.follow() as new:
        seen += [await anext(records_to_come) for _ in range(3)]
        await audit.append_many([b"x", b"y"])
        seen += [await anext(records_to_come), await anext(new), await anext(new)]
    seen.append(await audit.truncate_before(2_503))
    seen.append(await audit.truncate_before(1))
    seen.append((await audit.first_offset(), await audit.next_offset()))
    async with audit.follow(0) as left:
        seen.append(await anext(left))
    async with audit.follow(await audit.next_offset()) as left:
        await audit.append(b"z")
        seen.append(await anext(left))
    seen.append((await audit.delete(), await audit.bounds(), await audit.append(b"anew")))
    return seen


async def use_snapshots(stores: Stores) -> list[Any]:
    seen: list[Any] = []

    async def pieces() -> AsyncIterator[bytes]:
        try:
            for number in range(7):
                yield bytes([number]) * 100_000
            yield b""
        finally:
            seen.append("closed")

    async def loaded(number: int | None = None) -> Any:
        found = await images.load(number if number is None else first + number)
        return (
            None if found is None else (found.version - first, len(found.data), crc32(found.data))
        )

    images = stores.snapshot_store("images", retention=SnapshotRetention(versions_max=3))
    seen.append((await images.load(), await images.versions(), await images.delete()))
    first = await images.save(b"")
    seen.append(await loaded())
    second = await images.save(pieces())
    seen += [second - first, await loaded(), await loaded(0)]
    async with images.open(second) as reader:
        assert reader.saved_at > 0.0
        checksum = crc32(b"".join([part async for part in reader]))
        seen.append((reader.version - first, reader.size_bytes, checksum))
        with pytest.raises(StopAsyncIteration):
            await anext(reader)
    with pytest.raises(InvalidArgumentError):
        await anext(reader)
    async with images.open(second) as reader:
        await anext(reader)
    seen += [await images.save(b"%d" % number) - first for number in range(2)]
    seen.append([(one.version - first, one.size_bytes) for one in await images.versions()])
    seen += [await loaded(number) for number in range(5)]
    seen.append((await images.delete(second), await images.delete(second)))
    kept = stores.snapshot_store("images", retention=SnapshotRetention(versions_max=None))
    for number in range(5):
        await kept.save(b"%d" % number)
    seen.append([one.version - first for one in await kept.versions()])
    seen.append((await images.delete(), await images.load()))
    return seen


async def use_cache(cache: Cache) -> list[Any]:
    seen: list[Any] = []
    keys = [
        GlobalCacheKey("ns", "a/b?", 7, b"\xff"),
        GlobalCacheKey("ns", "ü"),
        GlobalCacheKey("n", 1),
    ]
    for number, payload in enumerate(PAYLOADS):
        await cache.put(keys[0], payload, cost=3.0)
        found = await cache.get(keys[0])
        assert found is not None
        seen.append((number, found.value, type(found.value), found.expires_at))
    first = await (await cache.put(keys[1], 1, ttl_seconds=math.inf, tags=("t",)))
    assert await cache.compare_and_set(keys[1], 2, expected_version=first) > first
    assert await cache.compare_and_set(keys[2], [3], expected_version=0) > first
    ack = await cache.put_many({keys[1]: 5, keys[2]: {"x": b""}}, dependencies=[keys[0]])
    assert ack is not None
    seen.append((await cache.put_many({}), ack.done))
    found_all = await cache.get_many([*keys, GlobalCacheKey("ns", "none")])
    seen.append({key: one.value for key, one in found_all.items()})
    version = found_all[keys[2]].version
    assert version == await ack
    seen.append((await cache.delete(keys[0]), await cache.delete(keys[0])))
    # What depended on it has gone with it.
    seen.append((await cache.get(keys[1]), await cache.get_many(keys)))
    count = GlobalCacheKey("numbers", "n")
    seen.append((await cache.increment(count), await cache.increment(count, -5, initial=9)))
    seen.append(await cache.increment(GlobalCacheKey("numbers", "m"), initial=9, ttl_seconds=60.0))
    seen.append([await cache.increment(count, durability=one) for one in Durability])
    targets: list[dict[str, Any]] = [
        {"tag": "t"},
        {"namespace": "a", "prefix": "b"},
        {"namespace": "a"},
    ]
    for target in targets:
        await cache.put(GlobalCacheKey("a", "bc", 1), 1, tags=["t"])
        assert await cache.invalidate(**target) > first
        seen.append(await cache.get(GlobalCacheKey("a", "bc", 1)))
    await cache.put(GlobalCacheKey("a", "x"), 1, dependencies=[count])
    await cache.invalidate(dependency=count)
    seen.append(await cache.get(GlobalCacheKey("a", "x")))
    for prefix in (("bc", 2), ("bc", 1), b"b", 4):
        await cache.put(GlobalCacheKey("a", "bc", 1), 1)
        await cache.invalidate(namespace="a", prefix=prefix)
        seen.append(await cache.get(GlobalCacheKey("a", "bc", 1)) is None)

    computed: list[int] = []

    async def compute() -> Any:
        computed.append(1)
        return None if len(computed) == 1 else {"n": len(computed)}

    key = GlobalCacheKey("computed", "k")
    seen.append(await cache.get_or_compute(key, compute, negative_ttl_seconds=0))
    seen.append(await cache.get_or_compute(key, compute, ttl_seconds=60.0, tags=["c"]))
    seen.append(await cache.get_or_compute(key, compute))
    await cache.invalidate(tag="c")
    seen.append((await cache.get_or_compute(key, compute), len(computed)))
    return seen


async def watch_cache(cache: Cache) -> list[Any]:
    key = GlobalCacheKey("w", "ab", b"\x00")
    seen: list[CacheChange] = []
    async with (
        cache.watch() as all_changes,
        cache.watch(namespace="w", prefix=("ab", b"\x00")) as some,
        cache.watch(namespace="w", prefix="x") as none,
    ):
        await cache.put(key, 1)
        await cache.put(GlobalCacheKey("other", 1), 1)
        await cache.delete(key)
        await cache.invalidate(namespace="w", prefix=("ab", b"\x00"))
        await cache.invalidate(namespace="w", prefix="x")
        await cache.invalidate(tag="t")
        await cache.invalidate(dependency=key)
        seen += [await anext(all_changes) for _ in range(7)]
        seen += [await anext(some) for _ in range(3)]
        seen.append(await anext(none))
    return [(one.kind, one.key, one.namespace, one.prefix, one.tag, one.dependency) for one in seen]


async def go_wrong_elsewhere(stores: Stores, cache: Cache) -> list[Any]:
    log, images = stores.log_store("log"), stores.snapshot_store("none")
    key = GlobalCacheKey("ns", "k")
    await log.append(b"0")
    version = await (await cache.put(key, "text"))

    async def follow(start: int) -> None:
        async with log.follow(start):
            pass

    async def open_none(version: int | None) -> None:
        async with images.open(version):
            pass

    async def bad() -> AsyncIterator[Any]:
        yield b"good"
        yield "text"

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        raise LookupError("mine")

    calls: list[Any] = [
        log.append("text"),  # type: ignore[arg-type]
        log.append_many([]),
        log.truncate_before(2),
        log.truncate_before(-1),
        follow(2),
        open_none(None),
        open_none(7),
        images.load("newest"),  # type: ignore[arg-type]
        images.delete(0),
        images.save("text"),  # type: ignore[arg-type]
        images.save(bad()),
        cache.get("k"),  # type: ignore[arg-type]
        cache.put(key, (1, 2)),
        cache.put(key, 1, ttl_seconds=0.0),
        cache.put(key, 1, ttl_seconds=math.nan),
        cache.put(key, 1, tags="text"),
        cache.put(key, 1, dependencies=[key]),
        cache.put_many({key: object()}),
        cache.compare_and_set(key, 1, expected_version=version + 1),
        cache.compare_and_set(key, 1, expected_version=-1),
        cache.increment(key),
        cache.increment(GlobalCacheKey("ns", "x"), initial=2**63 - 1),
        cache.increment(key, 1.5),  # type: ignore[arg-type]
        cache.increment(GlobalCacheKey("ns", "x"), durability="relaxed"),  # type: ignore[arg-type]
        cache.invalidate(),
        cache.invalidate(tag="a", namespace="b"),
        cache.invalidate(tag="a", prefix="b"),
        cache.get_or_compute(key, None),  # type: ignore[arg-type]
        cache.get_or_compute(GlobalCacheKey("ns", "y"), lambda: 1),  # type: ignore[arg-type,return-value]
    ]
    seen: list[Any] = []
    for call in calls:
        with pytest.raises(MpregError) as raised:
            await call
        error = raised.value
        seen.append((type(error), error.data_state))
        if isinstance(error, VersionConflictError):
            seen.append((error.key, error.expected_version - version))
        if isinstance(error, OffsetOutOfRangeError):
            seen.append((error.log, error.offset, error.next_offset, str(error)))
        if isinstance(error, SnapshotNotFoundError):
            seen.append((error.name, error.version, str(error)))
    with pytest.raises(LookupError, match="mine"):
        await images.save(broken())
    seen.append(await images.versions())
    return seen


async def test_logs_snapshots_and_a_cache_do_the_same_at_a_node(data_dir: Path) -> None:
    async with PersistenceRegistry(config(data_dir / "own", backend="memory")) as registry:
        own = await use_all(registry, GlobalCacheManager(registry))
    async with serving(data_dir / "node") as server, client_at(server.state.url) as node:
        remote = await use_all(node, node.cache)
    for ours, theirs in zip(own, remote, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert repr(one) == repr(other)
    kinds = {one[0] for one in own[-1] if one}
    assert {OffsetOutOfRangeError, SnapshotNotFoundError, VersionConflictError} <= kinds


async def use_all(stores: Stores, cache: Cache) -> list[Any]:
    return [
        await use_logs(stores),
        await use_snapshots(stores),
        await use_cache(cache),
        await watch_cache(cache),
        await go_wrong_elsewhere(stores, cache),
    ]
