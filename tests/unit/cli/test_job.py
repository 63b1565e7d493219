"""The queue of files: sent once however often the demo starts, and a proof that can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from mpreg.cli.demo.facts import read_facts
from mpreg.cli.demo.job import (
    COMPLETIONS,
    DELIVERIES_MIN,
    INDEX,
    OtherJobError,
    enqueue,
    job_of,
    open_files,
)
from mpreg.cli.demo.recount import Verdict, measure, read_stored, recount
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.queues import Message, MessageQueue, MessageQueueManager

pytestmark = pytest.mark.anyio

KILLS = 4


class Job:
    """Three files, one that is not there, and a data directory. Opening it again is what a kill
    leaves to be done: nobody has a lease."""

    def __init__(self, path: Path) -> None:
        self.data_dir = path / "data"
        self.paths = [str(path / f"{name}.py") for name in ("a", "b", "c-\udcff")]
        self.unreadable = str(path / "none.py")
        for file in self.paths:
            Path(file).write_text(f"import os\nname = {file!a}\n")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PersistenceRegistry]:
        config = PersistenceConfig(data_dir=self.data_dir)
        async with PersistenceRegistry(config) as registry:
            yield registry

    async def enqueue(self, registry: PersistenceRegistry, kills: int = KILLS) -> MessageQueue:
        await enqueue(registry, self.paths, self.unreadable, kills)
        return await open_files(registry)

    async def recount(self, registry: PersistenceRegistry) -> Verdict:
        measured = [measure(path) for path in self.paths]
        return recount(self.paths, measured, await read_stored(registry), set())


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


async def effect_of(message: Message, registry: PersistenceRegistry, *, acked: bool) -> None:
    """What the worker writes for a file; a worker that is wrong leaves out the ack."""
    number, path = job_of(message.payload)
    value = msgspec.json.encode(read_facts(number, path))
    async with registry.transaction() as transaction:
        registry.key_value_store(INDEX).put_nowait(path, value, transaction=transaction)
        completions = registry.log_store(COMPLETIONS)
        completions.append_nowait(b"%d" % number, transaction=transaction)
        if acked:
            await message.ack(transaction=transaction)


async def work_off(files: MessageQueue, registry: PersistenceRegistry) -> None:
    while files.statistics().size:
        for message in await files.receive_many(10):
            if job_of(message.payload)[0] == 3:
                await message.nack(0.0, reason="it is not there")
            else:
                await effect_of(message, registry, acked=True)


async def test_files_are_sent_once_however_often_it_starts(job: Job) -> None:
    for _ in range(2):
        async with job.open() as registry:
            files = await job.enqueue(registry)
            assert files.statistics().sent == 4
    async with job.open() as registry:
        files = await open_files(registry)
        messages = await files.receive_many(10)
    jobs = [job_of(message.payload) for message in messages]
    assert jobs == [(3, job.unreadable), *enumerate(job.paths)]


async def test_a_start_that_was_killed_before_anything_was_sent_is_gone_on_with(job: Job) -> None:
    async with job.open() as registry:
        await job.enqueue(registry)
        await MessageQueueManager(registry).delete_queue("files")
    async with job.open() as registry:
        files = await job.enqueue(registry)
        assert files.statistics().sent == 4


async def test_another_job_is_refused_and_nothing_is_written(job: Job) -> None:
    async with job.open() as registry:
        await job.enqueue(registry)
        before = (await registry.stats()).commit_sequence
        with pytest.raises(OtherJobError, match="other files"):
            await enqueue(registry, job.paths[1:], job.unreadable, KILLS)
        assert (await registry.stats()).commit_sequence == before


async def test_data_of_others_is_refused(job: Job) -> None:
    async with job.open() as registry:
        await registry.key_value_store("mine").put("key", b"value")
        with pytest.raises(OtherJobError, match="not the demo's"):
            await job.enqueue(registry)


async def test_no_kill_makes_a_dead_letter_of_a_file_that_can_be_read(job: Job) -> None:
    """Each planned kill, and the end of a run before its time, may meet the same messages."""
    attempt = 0
    for _ in range(2):
        async with job.open() as registry:
            await job.enqueue(registry)
        for _ in range(KILLS + 1):
            async with job.open() as registry:
                files = await open_files(registry)
                messages = await files.receive_many(10)
                attempt += 1
                assert [message.attempt for message in messages] == [attempt] * 4
    async with job.open() as registry:
        files = await job.enqueue(registry)
        await work_off(files, registry)
        assert await job.recount(registry) == Verdict(lost=0, duplicated=0, problems=())
        [letter] = await files.dead_letters()
    assert letter.attempts >= attempt + DELIVERIES_MIN
    assert letter.last_error == "it is not there"


async def test_a_job_that_is_done_allows_for_no_more_kills(job: Job) -> None:
    async with job.open() as registry:
        files = await job.enqueue(registry)
        await work_off(files, registry)
        before = files.configuration
        assert (await job.enqueue(registry)).configuration == before


async def test_an_effect_whose_ack_is_not_in_its_transaction_is_found_out(job: Job) -> None:
    async with job.open() as registry:
        files = await job.enqueue(registry)
        _, message = await files.receive_many(2)
        await effect_of(message, registry, acked=False)
    async with job.open() as registry:
        files = await open_files(registry)
        await work_off(files, registry)
        verdict = await job.recount(registry)
    assert verdict.duplicated == 1
    assert f"1 completed more than once: {job.paths[0]}" in verdict.problems


async def test_an_ack_without_its_effect_is_found_out(job: Job) -> None:
    async with job.open() as registry:
        files = await job.enqueue(registry)
        _, message = await files.receive_many(2)
        await message.ack()
    async with job.open() as registry:
        files = await open_files(registry)
        await work_off(files, registry)
        verdict = await job.recount(registry)
    assert f"1 neither completed nor a dead letter: {job.paths[0]}" in verdict.problems
