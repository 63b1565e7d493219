"""One program, with the stores of its own process and with those of a node."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from mpreg.client import RemoteKeyValueStore, RemoteQueueManager
from mpreg.errors import (
    ConfigurationError,
    InvalidArgumentError,
    LeaseLostError,
    MpregError,
    QueueFullError,
    QueueNotFoundError,
    VersionConflictError,
)
from mpreg.persistence import KeyValueStore, PersistenceRegistry
from mpreg.queues import MessageQueueManager, QueueConfiguration, QueueType
from tests.integration.client.support import open_client
from tests.integration.support import config

pytestmark = pytest.mark.anyio

Queues: TypeAlias = MessageQueueManager | RemoteQueueManager
Keys: TypeAlias = KeyValueStore | RemoteKeyValueStore

PAYLOADS: list[Any] = [
    *(None, True, 0, -(2**63), 1.0, -0.0, math.inf, "", "ü\x00", b"", b"\xff\x00"),
    *([], {}, [1, [b"x", {"": None}]], {"$base64": "aGk=", "a": {"b": [2.5]}}),
]


async def use_queues(queues: Queues) -> list[Any]:
    """All that this saw."""
    seen: list[Any] = []
    jobs = await queues.create_queue(
        "jobs", QueueConfiguration(max_deliveries=2, max_size=50, retry_delay_seconds=0.0)
    )
    seen.append(jobs.configuration)
    ids = await jobs.send_many(PAYLOADS, topic="a.b", headers={"of": "x"})
    ids.append(await jobs.send("once", deduplication_id="d"))
    assert await jobs.send("again", deduplication_id="d") == ids[-1]
    messages = await jobs.receive_many(100, 5.0)
    assert [message.id for message in messages] == ids
    for message in messages:
        seen.append((message.payload, type(message.payload), message.topic, message.headers))
        seen.append((message.attempt, message.priority, message.subscription))
    for message in messages[2:]:
        await message.ack()
    await messages[0].extend(60.0)
    await messages[0].ack()
    await messages[1].nack(0.0, "later")
    again = await jobs.receive(None)
    assert again is not None
    seen.append((again.payload, again.attempt))
    await again.nack(reason="no")
    [letter] = await jobs.dead_letters()
    seen.append((letter.payload, letter.topic, letter.attempts, letter.reason, letter.last_error))
    seen.append(await jobs.redrive([letter.key]))
    async for message in jobs.consume(prefetch=4):
        seen.append((message.payload, message.attempt))
        await message.ack()
        break
    seen.append(await jobs.receive(0.0))

    audit = await queues.create_queue("audit", QueueConfiguration(delivery_guarantee="broadcast"))
    errors = await audit.subscription("errors", "*.error")
    await audit.send(1, topic="a.error")
    await audit.send(2, topic="a.info")
    seen.append([message.payload for message in await errors.receive_many(5, 1.0)])
    await audit.delete_subscription("errors")

    urgent = await queues.create_queue("urgent", QueueConfiguration(queue_type=QueueType.PRIORITY))
    await urgent.send("low")
    await urgent.send("high", priority=9)
    seen.append([message.payload for message in await urgent.receive_many(2)])
    seen.append(await urgent.purge())
    seen.append(await queues.queue_names())
    await queues.delete_queue("urgent")
    seen.append(await queues.queue_names())
    return seen


async def use_keys(keys: Keys) -> list[Any]:
    seen: list[Any] = []
    first = await keys.put("a/b", b"\x00one")
    second = await keys.put("a/b", b"two", expected_version=first)
    assert second > first
    await keys.put("a/c", b"", ttl_seconds=1e6, expected_version=0)
    await keys.put("b", b"3")
    entry = await keys.get("a/b")
    assert entry is not None
    assert entry.version == second
    seen.append((entry.key, entry.value, entry.expires_at))
    seen.append([(one.key, one.value) async for one in keys.scan("a/")])
    seen.append([one.key async for one in keys.scan("", after="a/b")])
    seen.append((await keys.delete("b"), await keys.delete("b"), await keys.get("b")))
    return seen


async def go_wrong(queues: Queues, keys: Keys) -> list[Any]:
    """The classes of all errors, what they say of the data, and what they know."""
    small = await queues.create_queue("small", QueueConfiguration(max_size=1))
    await small.send(1)
    message = await small.receive()
    assert message is not None
    await message.ack()
    await small.send(2)
    version = await keys.put("k", b"")
    letters: Any = ("no such letter",)
    calls: list[Any] = [
        queues.get_queue("none"),
        queues.delete_queue("none"),
        queues.create_queue("small", QueueConfiguration(queue_type=QueueType.PRIORITY)),
        small.send(3),
        small.send((1, 2)),
        small.send(1, priority=3),
        small.send(1, topic="a..b"),
        small.send(1, delay_seconds=-1.0),
        small.receive_many(0),
        small.get_subscription("default").receive(-1.0),
        message.ack(),
        message.nack(),
        message.extend(),
        keys.put("k", b"", expected_version=version + 1),
        keys.delete("k", expected_version=version + 1),
        keys.put("k", b"", ttl_seconds=0.0),
        keys.put("k", b"", ttl_seconds=math.nan),
        keys.put("k", "text"),  # type: ignore[arg-type]
    ]
    assert await small.redrive(letters) == 0
    seen: list[Any] = []
    for call in calls:
        with pytest.raises(MpregError) as raised:
            await call
        error = raised.value
        seen.append((type(error), error.data_state))
        if isinstance(error, VersionConflictError):
            seen.append(
                (error.key, error.expected_version - version, error.found_version - version)
            )
    return seen


async def test_a_program_does_the_same_with_a_node_as_in_its_own_process(data_dir: Path) -> None:
    async with PersistenceRegistry(config(data_dir / "own", backend="memory")) as registry:
        queues, keys = MessageQueueManager(registry), registry.key_value_store("ns")
        own = [await use_queues(queues), await use_keys(keys), await go_wrong(queues, keys)]
    async with open_client(data_dir / "node") as (node, _, _):
        remote = [
            await use_queues(node.message_queues),
            await use_keys(node.key_value_store("ns")),
            await go_wrong(node.message_queues, node.key_value_store("ns")),
        ]
    for ours, theirs in zip(own, remote, strict=True):
        assert repr(ours) == repr(theirs)
    kinds = {kind for kind, *_ in own[2]}
    assert {QueueFullError, QueueNotFoundError, LeaseLostError, ConfigurationError} <= kinds
    assert {InvalidArgumentError, VersionConflictError} <= kinds


NAMES = ["a b", "ü", ".", "..", "%2F", "a?b#c&d=e+f", "a;b", '"', "\\", "a\u2028b"]


async def test_every_name_and_key_reaches_what_is_called_so(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, server):
        for name in NAMES:
            await (await node.message_queues.create_queue(name)).send(name)
            queue = await server.state.queues.get_queue(name)
            assert queue.statistics().size == 1
            await node.key_value_store(name).put(name, name.encode())
        assert await node.message_queues.queue_names() == sorted([*NAMES, "jobs"])
        keys = node.key_value_store("..")
        for key in [*NAMES, "", "/", "//", "a/../b", "./a", "x/", " ", "x", "x\n", "\n"]:
            await keys.put(key, key.encode())
            stored = await server.state.registry.key_value_store("..").get(key)
            assert stored is not None
            assert stored.value == key.encode()
            found = await keys.get(key)
            assert found == stored
            assert key in [entry.key async for entry in keys.scan(key)]
            assert await keys.delete(key)


async def test_what_cannot_be_asked_over_http_is_told_and_not_sent(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, _):
        keys = node.key_value_store("ns")
        for name in ("a/b", "", "\ud800", 1):
            with pytest.raises(InvalidArgumentError):
                await node.message_queues.get_queue(name)  # type: ignore[arg-type]
        for key in (b"bytes", "\ud800", "x" * 70_000):
            with pytest.raises(InvalidArgumentError):
                await keys.get(key)
        for key in (b"bytes", "\ud800"):
            with pytest.raises(InvalidArgumentError):
                keys.scan(key)
        assert way.asked == []
        for url in ("localhost:8765", "ftp://x", "http://x:y"):
            with pytest.raises(ConfigurationError):
                type(node)(url)
