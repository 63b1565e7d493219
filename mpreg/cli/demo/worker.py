"""The process that does the work and is killed: parse, write, report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import anyio.to_process
import msgspec
from attrs import frozen

from mpreg.cli.demo.facts import FileFacts, extract_all
from mpreg.cli.demo.job import COMPLETIONS, INDEX, read_completed, read_paths
from mpreg.cli.demo.messages import Acked, Finished, Progress, Reporter, Restored
from mpreg.cli.demo.plan import chunks_left
from mpreg.cli.loops import run
from mpreg.persistence import KeyValueStore, LogStore, PersistenceConfig, PersistenceRegistry

__all__ = ["run_worker"]

#: Files parsed in one call to a process. Their writes are then sent at the same time, each by a
#: task of its own, and meet in a commit group; more would make the last of them wait for longer.
CHUNK_FILES: Final = 16

#: Chunks under way for each parsing process: one is parsed while the other is being written.
CHUNKS_PER_PROCESS: Final = 2

STANDARD_OUTPUT: Final = 1


def run_worker(data_dir: Path, processes: int, loop: str) -> int:
    reporter = Reporter(os.dup(STANDARD_OUTPUT))
    code = 1
    try:
        run(loop, _work, data_dir, processes, reporter)
        code = 0
    except* BrokenPipeError:
        # Nobody listens any more: who started this process is gone, so it is not wanted.
        pass
    return code


async def _work(data_dir: Path, processes: int, reporter: Reporter) -> None:
    """Do what is left of the job.

    The parsing processes wait on pipes from this one; when it dies, in whatever way, they read the
    pipe's end and exit.
    """
    started = time.perf_counter()
    registry = PersistenceRegistry(PersistenceConfig(data_dir=data_dir))
    async with registry:
        paths = await read_paths(registry)
        completed = await read_completed(registry)
        stats = await registry.stats()
        reporter.tell(
            Restored(
                seconds=time.perf_counter() - started,
                completed=tuple(completed),
                commit_sequence=stats.commit_sequence,
                fsyncs=stats.fsyncs,
            )
        )
        lane = _Lane(
            registry=registry,
            index=registry.key_value_store(INDEX),
            completions=registry.log_store(COMPLETIONS),
            chunks=chunks_left(paths, set(completed), CHUNK_FILES),
            limiter=anyio.CapacityLimiter(processes),
            reporter=reporter,
        )
        async with anyio.create_task_group() as task_group:
            for _ in range(processes * CHUNKS_PER_PROCESS):
                task_group.start_soon(lane.run)
    stats = await registry.stats()
    reporter.tell(Finished(commit_sequence=stats.commit_sequence, fsyncs=stats.fsyncs))


@frozen(kw_only=True)
class _Lane:
    """Takes chunk after chunk from ``chunks``, which all lanes share."""

    registry: PersistenceRegistry
    index: KeyValueStore
    completions: LogStore
    chunks: Iterator[list[tuple[int, str]]]
    limiter: anyio.CapacityLimiter
    reporter: Reporter

    async def run(self) -> None:
        for chunk in self.chunks:
            found = await anyio.to_process.run_sync(extract_all, chunk, limiter=self.limiter)
            async with anyio.create_task_group() as task_group:
                for facts, (_, path) in zip(found, chunk, strict=True):
                    task_group.start_soon(self._write, path, facts)
            stats = await self.registry.stats()
            self.reporter.tell(Progress(commit_sequence=stats.commit_sequence, fsyncs=stats.fsyncs))

    async def _write(self, path: str, facts: FileFacts) -> None:
        """The file's facts and its job's completion: both or neither, and told once durable."""
        value = msgspec.json.encode(facts)
        sent = time.perf_counter()
        async with self.registry.transaction() as transaction:
            self.index.put_nowait(path, value, transaction=transaction)
            self.completions.append_nowait(b"%d" % facts.job, transaction=transaction)
        self.reporter.tell(Acked(job=facts.job, seconds=time.perf_counter() - sent))
