"""A queue of jobs: three workers count words, each result is written with its message's
acknowledgment, and a job that cannot be done ends as a dead letter."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.queues import Message, MessageQueue, MessageQueueManager, QueueConfiguration

JOBS = QueueConfiguration(max_deliveries=3, retry_delay_seconds=0.01)
TEXTS = ["a rose", "is a rose", "is a rose", 42, "is a rose"]


async def count_words(registry: PersistenceRegistry, message: Message) -> None:
    words = len(message.payload.split())
    async with registry.transaction() as transaction:
        counts = registry.key_value_store("counts")
        counts.put_nowait(message.id, b"%d" % words, transaction=transaction)
        await message.ack(transaction=transaction)  # both, or neither


async def work(registry: PersistenceRegistry, jobs: MessageQueue) -> None:
    while (message := await jobs.receive(wait_seconds=0.5)) is not None:
        try:
            await count_words(registry, message)
        except AttributeError as error:
            await message.nack(reason=str(error))  # tried again a little later


async def main(data_dir: Path) -> None:
    config = PersistenceConfig(data_dir=data_dir)
    async with PersistenceRegistry(config) as registry:
        jobs = await MessageQueueManager(registry).create_queue("jobs", JOBS)
        await jobs.send_many(TEXTS)
        taken = await jobs.receive()
        assert taken is not None
        print(f"stopped while working on {taken.payload!r}")

    async with PersistenceRegistry(config) as registry:  # a restart: nothing is lost
        jobs = await MessageQueueManager(registry).get_queue("jobs")
        async with anyio.create_task_group() as workers:
            for _ in range(3):
                workers.start_soon(work, registry, jobs)
        counts = registry.key_value_store("counts")
        print("words:", sorted([int(entry.value) async for entry in counts.scan()]))
        for letter in await jobs.dead_letters():
            print(f"{letter.payload!r} {letter.reason}: {letter.last_error}")


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        anyio.run(main, Path(directory))
