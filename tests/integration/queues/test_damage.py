"""Stored bytes of queues that are not what was written: told, set aside, and all else goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpreg.queues import (
    DeliveryGuarantee,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueType,
)
from tests.integration.queues.support import (
    copied_while_open,
    finished,
    log_named,
    open_queue,
    payloads,
    rows,
    take,
    tamper,
    tamper_log,
    until,
)

pytestmark = pytest.mark.anyio


def reported(caplog: pytest.LogCaptureFixture, *words: str) -> bool:
    """Whether one line of the log has all these words."""
    lines = [record.getMessage() for record in caplog.records if record.name == "mpreg.queues"]
    return any(all(word in line for word in words) for line in lines)


async def test_a_damaged_message_becomes_a_dead_letter_and_the_others_come(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(5))
    tamper_log(data_dir, "/0", 2)
    async with open_queue(data_dir) as jobs:
        assert await finished(jobs, 4) == [0, 1, 3, 4]
        await until(lambda: jobs.statistics().dead == 1)
        (letter,) = await jobs.dead_letters()
        assert (letter.id, letter.payload, letter.sent_at) == (None, None, None)
        assert (letter.topic, letter.headers) == ("", {})
        assert (letter.offset, letter.attempts) == (2, 0)
        assert letter.reason == "queue 'jobs', priority 0, offset 2 cannot be read"
        assert "offset 2" in letter.last_error
        assert jobs.statistics().size == 0
        # What is gone cannot be sent again, but it can be removed.
        assert await jobs.redrive() == 0
        assert len(await jobs.dead_letters()) == 1
    assert reported(caplog, "'jobs'", "offset 2")
    async with open_queue(data_dir) as jobs:
        assert len(await jobs.dead_letters()) == 1
        assert await jobs.purge_dead_letters() == 1
        assert await jobs.receive(wait_seconds=0) is None


async def test_missing_messages_become_dead_letters_too(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(5))
        await jobs.subscription("keep this log apart")
    tamper(data_dir, "DELETE FROM records WHERE offset IN (1, 3) AND length(data) > 20")
    async with open_queue(data_dir) as jobs:
        assert await finished(jobs, 3) == [0, 2, 4]
        await until(lambda: jobs.statistics().dead == 2)
        assert [letter.offset for letter in await jobs.dead_letters()] == [1, 3]
    assert reported(caplog, "'jobs'", "offset 1")
    assert reported(caplog, "'jobs'", "offset 3")


async def test_a_message_whose_bytes_are_right_and_no_message_is_set_aside_too(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send("x")
        await jobs._core.storage.lane(0).append(b"\x93no message")
    async with open_queue(data_dir) as jobs:
        assert await finished(jobs, 1) == ["x"]
        assert await jobs.receive(wait_seconds=0) is None
        await until(lambda: jobs.statistics().dead == 1)
    assert reported(caplog, "'jobs'", "offset 1")


async def test_a_message_damaged_while_it_waits_for_its_next_attempt_dies(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1])
        await (await take(jobs)).nack(0, "once")
    tamper_log(data_dir, "/0", 0)
    async with open_queue(data_dir) as jobs:
        assert await finished(jobs, 1) == [1]
        await until(lambda: jobs.statistics().dead == 1)
        (letter,) = await jobs.dead_letters()
        assert (letter.payload, letter.attempts) == (None, 1)


async def test_of_a_damaged_event_only_that_is_forgotten_and_its_messages_come_again(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(4))
        await finished(jobs, 3)
    # The first was handed out; then each next one is, and the one before is acknowledged.
    tamper_log(data_dir, "/events", 4)
    async with open_queue(data_dir) as jobs:
        assert await finished(jobs, 2) == [1, 3]
        assert await jobs.receive(wait_seconds=0) is None
        assert jobs.statistics().size == 0
    assert reported(caplog, "'jobs'", "events", "4")


async def test_an_event_whose_bytes_are_right_and_no_event_is_passed_over(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs._core.storage.events.append(b"\x93no event")
    async with open_queue(data_dir) as jobs:
        await jobs.send("x")
        assert await finished(jobs, 1) == ["x"]
    assert reported(caplog, "'jobs'", "event 0")
    async with open_queue(data_dir) as jobs:
        assert jobs.statistics().size == 0


async def test_a_subscription_whose_making_is_damaged_is_there_from_its_first_event(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        await jobs.send_many([0, 1])
        await finished(audit, 1)
    tamper_log(data_dir, "/events", 0)
    async with open_queue(data_dir) as jobs:
        assert set(jobs.statistics().subscriptions) == {"default", "audit"}
        assert await finished(await jobs.subscription("audit"), 1) == [1]
        assert await finished(jobs, 2) == [0, 1]


async def test_a_priority_whose_first_use_is_damaged_keeps_its_messages(data_dir: Path) -> None:
    settings = QueueConfiguration(queue_type=QueueType.PRIORITY)
    async with open_queue(data_dir, settings) as jobs:
        for number in range(3):
            await jobs.send(number, priority=5)
    tamper_log(data_dir, "/events", 0)
    async with open_queue(data_dir) as jobs:
        assert jobs.statistics().pending == 3
        await jobs.send(3, priority=5)
        assert await finished(jobs, 4) == [0, 1, 2, 3]
        assert jobs.statistics().size == 0


async def saved_twice(data_dir: Path) -> None:
    """A queue with two snapshots of its state, and some events after them."""

    async def work(jobs: MessageQueue, count: int) -> None:
        for _ in range(count // 1_000):
            await jobs.send_many([None] * 1_000)
            await jobs.ack(await jobs.receive_many(1_000))

    async with open_queue(data_dir) as jobs:
        for _ in range(2):
            await work(jobs, 5_000)
            await until(lambda: jobs._core.changes < 4_096)
        await jobs.send_many(["a", "b", "c"])
        await finished(jobs, 1)


def damage_snapshot(data_dir: Path, slot: int) -> None:
    found = rows(data_dir, "SELECT id, name FROM namespaces")
    (identity,) = [
        one for one, name in found if b"queues.snapshot" in name and name.endswith(b"/%d" % slot)
    ]
    tamper(
        data_dir,
        "UPDATE entries SET value = CAST(x'ff' || value AS BLOB) WHERE namespace_id = ?",
        (identity,),
    )


@pytest.mark.parametrize("slot", [0, 1])
async def test_where_one_snapshot_is_damaged_the_other_one_has_it_all(
    data_dir: Path, slot: int, caplog: pytest.LogCaptureFixture
) -> None:
    await saved_twice(data_dir)
    damage_snapshot(data_dir, slot)
    async with open_queue(data_dir) as jobs:
        statistics = jobs.statistics()
        assert (statistics.sent, statistics.size, statistics.acknowledged) == (10_003, 2, 10_001)
        assert await finished(jobs, 2) == ["b", "c"]
    assert reported(caplog, "'jobs'", "snapshot is damaged")


@pytest.mark.parametrize("change", ["pattern", "subscription", "pattern after the damage"])
@pytest.mark.parametrize("saves", [1, 2, 3])
async def test_what_was_passed_over_stays_so_without_the_newest_snapshot(
    data_dir: Path, saves: int, change: str
) -> None:
    broadcast = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
    async with open_queue(data_dir, broadcast) as jobs:

        async def save() -> None:
            jobs._core.changes = 1_000
            await jobs._core.registry.save_snapshots()

        audit = await jobs.subscription("audit")
        narrow = await jobs.subscription("narrow", "wanted")
        for _ in range(saves):
            await save()
        await jobs.send_many(["a", "b"], topic="unwanted")
        assert await narrow.receive(0) is None
        assert await finished(audit, 2) == ["a", "b"]
        await save()
        keeper = MessageQueueManager(jobs._core.registry)._queues.keeper
        newest = keeper._queues[jobs._core].saved.newest
        if change == "pattern":
            await jobs.subscription("narrow", "#")
        elif change == "subscription":
            await jobs.subscription("new")
        await jobs.send("c")
        data_dir = copied_while_open(data_dir)
    damage_snapshot(data_dir, newest)
    async with open_queue(data_dir) as jobs:
        name = "new" if change == "subscription" else "narrow"
        found = await (await jobs.subscription(name, "#")).receive_many(9, 0)
        assert [message.payload for message in found] == ["c"]


async def test_where_both_snapshots_are_damaged_messages_come_again_and_none_is_lost(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await saved_twice(data_dir)
    damage_snapshot(data_dir, 0)
    damage_snapshot(data_dir, 1)
    async with open_queue(data_dir) as jobs:
        found = [message.payload for message in await jobs.receive_many(10_000)]
        assert found[-2:] == ["b", "c"]
        await jobs.send("new")
        assert (await take(jobs)).payload == "new"
    assert reported(caplog, "'jobs'", "missing", "no snapshot")


async def test_a_damaged_dead_letter_is_told_and_the_others_are_listed(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=1)) as jobs:
        await jobs.send_many([0, 1, 2])
        for _ in range(3):
            await (await take(jobs)).nack()
    tamper(
        data_dir,
        "UPDATE entries SET value = x'00' WHERE instr(key, ?)",
        (b"000/00000000000000000001/",),
    )
    async with open_queue(data_dir) as jobs:
        assert payloads(await jobs.dead_letters()) == [0, 2]
        assert reported(caplog, "'jobs'", "dead letter is damaged")
        assert await jobs.redrive() == 2
        assert jobs.statistics().dead == 1
        assert await jobs.purge_dead_letters() == 1
        assert jobs.statistics().dead == 0


async def test_offsets_of_messages_that_were_lost_are_not_given_again(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A repair can lose the end of a log and keep what became of the messages there."""
    async with open_queue(data_dir) as jobs:
        await jobs.subscription("other")
        await jobs.send_many(range(5))
        assert await finished(jobs, 4) == [0, 1, 2, 3]
    log = log_named(data_dir, "/0")
    tamper(data_dir, "DELETE FROM records WHERE log_id = ? AND offset >= 2", (log,))
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(["new", "newer"])
        assert await finished(jobs, 2) == ["new", "newer"]
        other = await jobs.subscription("other")
        assert await finished(other, 4) == [0, 1, "new", "newer"]
        # The attempt of the last one was counted ahead, so it was there.
        assert [letter.offset for letter in await jobs.dead_letters()] == [2, 3, 4, 4]
    assert reported(caplog, "'jobs'", "from offset 2 to 4", "lost")
    caplog.clear()
    async with open_queue(data_dir) as jobs:
        assert await jobs.receive(wait_seconds=0) is None
    assert not reported(caplog, "lost")
