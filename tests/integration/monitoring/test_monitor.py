"""What is told of a real registry with queues and a cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mpreg.cache import GlobalCacheKey
from mpreg.errors import CorruptDataError
from mpreg.monitoring.monitor import QUEUES_PER_TURN
from mpreg.persistence import Durability
from tests.integration.monitoring.support import Node, open_node
from tests.integration.support import TurnedClock, tamper

pytestmark = pytest.mark.anyio

Scraped = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(node: Node) -> Scraped:
    text, _ = await node.monitor.metrics()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def of(scraped: Scraped, name: str, **labels: str) -> float | None:
    return scraped.get((name, frozenset(labels.items())))


async def test_a_scrape_tells_of_commits_queues_and_cache(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_node(data_dir, clock=clock) as node:
        jobs = await node.queues.create_queue("jobs")
        for number in range(3):
            await jobs.send(number)
            clock.now += 10.0
        assert await jobs.receive() is not None
        key = GlobalCacheKey("users", "1")
        await node.cache.put(key, "ann")
        assert await node.cache.get(key) is not None
        assert await node.cache.get(GlobalCacheKey("users", "2")) is None
        scraped = await scrape(node)
        assert of(scraped, "mpreg_queue_pending_messages", queue="jobs") == 2
        assert of(scraped, "mpreg_queue_in_flight_messages", queue="jobs") == 1
        assert of(scraped, "mpreg_queue_oldest_message_seconds", queue="jobs") == 30.0
        commits = of(scraped, "mpreg_commits_total")
        assert commits == of(scraped, "mpreg_commit_seconds_count")
        assert commits == (await node.registry.stats()).commits
        reads = {"cache": "default", "namespace": "users"}
        assert of(scraped, "mpreg_cache_reads_total", **reads, result="L1") == 1
        assert of(scraped, "mpreg_cache_reads_total", **reads, result="miss") == 1
        assert of(scraped, "mpreg_durable_lag_commits") == 0
        await node.registry.key_value_store("n").put("a", b"", durability=Durability.RELAXED)
        assert of(await scrape(node), "mpreg_durable_lag_commits") == 1
        assert (of(scraped, "process_resident_memory_bytes") or 1) > 0


async def test_the_age_of_the_oldest_message_is_known_again_after_a_restart(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_node(data_dir, clock=clock) as node:
        jobs = await node.queues.create_queue("jobs")
        await jobs.send("first")
        clock.now += 100.0
        await jobs.send("second")
    async with open_node(data_dir, clock=clock) as node:
        jobs = await node.queues.get_queue("jobs")
        with anyio.fail_after(60):
            # Upkeep looks at the first message, some time after the start.
            while jobs.statistics().oldest_seconds is None:
                await anyio.sleep(0.001)
        assert jobs.statistics().oldest_seconds == 100.0
        message = await jobs.receive()
        assert message is not None
        await message.ack()
        assert await jobs.receive() is not None
        assert jobs.statistics().oldest_seconds == 0.0


async def test_looking_writes_nothing_reads_nothing_and_lets_others_run(data_dir: Path) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with open_node(data_dir, backend="memory") as node:
        for number in range(10 * QUEUES_PER_TURN):
            await node.queues.create_queue(f"q{number}")
        before = await node.registry.stats()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(count_turns)
            await anyio.lowlevel.checkpoint()
            began = turns
            await node.monitor.snapshot()
            assert turns - began >= 9
            task_group.cancel_scope.cancel()
        await node.monitor.metrics()
        await node.monitor.status()
        await node.monitor.persistence()
        after = await node.registry.stats()
        assert after.commit_sequence == before.commit_sequence
        assert after.batches == before.batches


async def test_the_status_becomes_json_and_its_charts_begin_with_the_second_look(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:
        jobs = await node.queues.create_queue("jobs")
        await jobs.send_many(range(5))
        told: dict[str, Any] = {"history": {"at": []}}
        with anyio.fail_after(60):
            while not told["history"]["at"]:
                told = json.loads(json.dumps(await node.monitor.status(), allow_nan=False))
                await anyio.sleep(0.01)
        assert told["node"]["state"] == "ready"
        assert told["history"]["pending"][-1] == 5
        assert told["history"]["operations_per_second"][-1] >= 0
        assert [queue["name"] for queue in told["queues"]] == ["jobs"]
        names = [one["name"] for one in told["persistence"]["participants"]]
        assert names == ["queues", "cache default", "openings"]


async def test_openings_are_remembered_with_how_they_ended(data_dir: Path) -> None:
    clock = TurnedClock(1_000.0)
    for number in range(3):
        clock.now = 1_000.0 * (number + 1)
        async with open_node(data_dir, clock=clock) as node:
            report = await node.monitor.persistence()
            clock.now += 5.0
    openings = [
        (one["generation"], one["opened_at"], one["closed_at"]) for one in report["openings"]
    ]
    assert openings == [(3, 3_000.0, None), (2, 2_000.0, 2_005.0), (1, 1_000.0, 1_005.0)]


async def test_damaged_items_that_are_met_are_counted(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.registry.key_value_store("n").put("a", b"value")
    tamper(data_dir, "UPDATE entries SET value = x'00' WHERE value = ?", [b"value"])
    async with open_node(data_dir) as node:
        store = node.registry.key_value_store("n")
        with pytest.raises(CorruptDataError):
            await store.get("a")
        assert [one async for one in store.scan(on_damaged=lambda _: None)] == []
        report = await node.monitor.persistence()
        assert report["integrity"]["damaged_items_met"] == 2
