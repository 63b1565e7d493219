"""The process that does the work and is killed: receive, parse, write, report."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import Final

import anyio
import anyio.to_process
import msgspec
from attrs import frozen

from mpreg.cli.demo.facts import FileFacts, Unreadable, extract_all
from mpreg.cli.demo.job import COMPLETIONS, INDEX, job_of, open_files, read_completed
from mpreg.cli.demo.messages import Acked, Finished, Progress, Reporter, Restored
from mpreg.cli.loops import run
from mpreg.persistence import KeyValueStore, LogStore, PersistenceConfig, PersistenceRegistry
from mpreg.queues import LeaseLostError, Message, MessageQueue

__all__ = ["run_worker"]

#: Files parsed in one call to a process. Their writes are then sent at the same time, each by a
#: task of its own, and meet in a commit group; more would make the last of them wait for longer.
CHUNK_FILES: Final = 16

#: Chunks under way for each parsing process: one is parsed while the other is being written.
CHUNKS_PER_PROCESS: Final = 2

#: How long a lane without messages waits before it looks whether there is still one in the queue.
IDLE_SECONDS: Final = 0.1

STANDARD_OUTPUT: Final = 1


def run_worker(data_dir: Path, processes: int, loop: str) -> int:
    reporter = Reporter(os.dup(STANDARD_OUTPUT))
    _leave_out_warnings()
    code = 1
    try:
        run(loop, _work, data_dir, processes, reporter)
        code = 0
    except* BrokenPipeError:
        # Nobody listens any more: who started this process is gone, so it is not wanted.
        pass
    return code


def _leave_out_warnings() -> None:
    """Those that would stand amid the progress and tell nothing that is not known."""
    # The dead letters are shown at the end.
    logging.getLogger("mpreg.queues").setLevel(logging.ERROR)
    # On asyncio, anyio kills its processes twice at the end: the second time may reap one that the
    # first has killed, and asyncio's watcher then knows of no such child.
    logging.getLogger("asyncio").setLevel(logging.ERROR)


async def _work(data_dir: Path, processes: int, reporter: Reporter) -> None:
    """Do what is left of the job.

    The parsing processes wait on pipes from this one; when it dies, in whatever way, they read the
    pipe's end and exit.
    """
    started = time.perf_counter()
    lanes = processes * CHUNKS_PER_PROCESS
    registry = PersistenceRegistry(PersistenceConfig(data_dir=data_dir))
    async with registry:
        files = await open_files(registry)
        completed = await read_completed(registry)
        stats = await registry.stats()
        seconds = time.perf_counter() - started
        first = await _receive_at_once(files, lanes * CHUNK_FILES)
        attempts = [message.attempt for message in first]
        reporter.tell(
            Restored(
                seconds=seconds,
                completed=tuple(completed),
                returned=sum(attempt > 1 for attempt in attempts),
                attempt_max=max(attempts, default=0),
                commit_sequence=stats.commit_sequence,
                fsyncs=stats.fsyncs,
            )
        )
        lane = _Lane(
            registry=registry,
            files=files,
            index=registry.key_value_store(INDEX),
            completions=registry.log_store(COMPLETIONS),
            first=deque(first),
            limiter=anyio.CapacityLimiter(processes),
            reporter=reporter,
        )
        async with anyio.create_task_group() as task_group:
            for _ in range(lanes):
                task_group.start_soon(lane.run)
    stats = await registry.stats()
    reporter.tell(Finished(commit_sequence=stats.commit_sequence, fsyncs=stats.fsyncs))


async def _receive_at_once(files: MessageQueue, count: int) -> list[Message]:
    """As many as a worker has in flight at most. What was handed out before comes first: so all
    that a killed worker had is among them."""
    received: list[Message] = []
    while more := await files.receive_many(count - len(received), wait_seconds=0.0):
        received += more
        if len(received) == count:
            break
    return received


@frozen(kw_only=True)
class _Lane:
    """Takes chunk after chunk from the queue, until nothing is left in it."""

    registry: PersistenceRegistry
    files: MessageQueue
    index: KeyValueStore
    completions: LogStore
    first: deque[Message]
    """Received already, and to be worked on before more is; all lanes share it."""
    limiter: anyio.CapacityLimiter
    reporter: Reporter

    async def run(self) -> None:
        while self.files.statistics().size:
            # None: what is left is with other lanes, or waits to be tried again.
            if chunk := await self._receive():
                await self._work_on(chunk)

    async def _receive(self) -> list[Message]:
        if self.first:
            return [self.first.popleft() for _ in range(min(CHUNK_FILES, len(self.first)))]
        return await self.files.receive_many(CHUNK_FILES, wait_seconds=IDLE_SECONDS)

    async def _work_on(self, chunk: list[Message]) -> None:
        jobs = [job_of(message.payload) for message in chunk]
        found = await anyio.to_process.run_sync(extract_all, jobs, limiter=self.limiter)
        async with anyio.create_task_group() as task_group:
            for message, (_, path), facts in zip(chunk, jobs, found, strict=True):
                if isinstance(facts, Unreadable):
                    task_group.start_soon(self._give_back, message, facts)
                else:
                    task_group.start_soon(self._complete, message, path, facts)
        stats = await self.registry.stats()
        self.reporter.tell(Progress(commit_sequence=stats.commit_sequence, fsyncs=stats.fsyncs))

    async def _complete(self, message: Message, path: str, facts: FileFacts) -> None:
        """The file's facts, its job's completion and its message's acknowledgment: all or none of
        them, and told once durable."""
        value = msgspec.json.encode(facts)
        sent = time.perf_counter()
        try:
            async with self.registry.transaction() as transaction:
                self.index.put_nowait(path, value, transaction=transaction)
                self.completions.append_nowait(b"%d" % facts.job, transaction=transaction)
                await message.ack(transaction=transaction)
        except LeaseLostError:
            # It took so long that another lane has the message now. Nothing was written here.
            return
        self.reporter.tell(Acked(job=facts.job, seconds=time.perf_counter() - sent))

    async def _give_back(self, message: Message, why: Unreadable) -> None:
        """To be tried again a little later; after its last attempt it is a dead letter."""
        try:
            await message.nack(reason=why.error)
        except LeaseLostError:
            return
