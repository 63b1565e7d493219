"""The running part of a registry: directory, backend, writer and reader, from open to close."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mpreg.actors import Supervisor
from mpreg.clock import Clock
from mpreg.errors import ReaderStoppedError, WriterStoppedError
from mpreg.persistence.accounting import Accounting
from mpreg.persistence.acked_file import AckedFile
from mpreg.persistence.activity import Activity
from mpreg.persistence.backend import StorageBackend
from mpreg.persistence.backends.file import FileBackend, FileOptions
from mpreg.persistence.backends.memory import MemoryBackend
from mpreg.persistence.backends.sqlite import SqliteBackend, SqliteOptions, Upgrade
from mpreg.persistence.compactor import CompactionReport, Compactor
from mpreg.persistence.config import PersistenceConfig
from mpreg.persistence.data_directory import DataDirectory
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.reader import Reader
from mpreg.persistence.snapshots import SnapshotSharing, save_in
from mpreg.persistence.statistics import RegistryStatistics
from mpreg.persistence.switch_interval import lowered_switch_interval
from mpreg.persistence.upkeep_policy import CheckpointWatch
from mpreg.persistence.writer import GroupLimits, Writer

__all__ = ["Engine", "collapsed_groups"]

_log = logging.getLogger("mpreg.persistence")


class Engine:
    """One opening of a store. Made for each, thrown away with it."""

    def __init__(
        self,
        config: PersistenceConfig,
        gateway: StoreGateway,
        clock: Clock,
        backend: StorageBackend | None,
        snapshots: SnapshotSharing,
    ) -> None:
        self._config = config
        self._background: TaskGroup | None = None
        self._directory = _directory(config, backend)
        self._backend = backend or _make_backend(config, self._directory, clock)
        self._accounting = _make_accounting(config, self._directory)
        activity = Activity()
        self._compactor = Compactor(gateway, snapshots, activity, self._backend.statistics)
        gateway.new_mailboxes()
        self._writer = Writer(
            gateway.writes,
            self._backend,
            clock,
            GroupLimits(batches_max=config.group_batches_max, bytes_max=config.group_bytes_max),
            self._accounting,
            activity,
            CheckpointWatch(config.wal_checkpoint_pages),
            gateway.followers,
        )
        self._followers = gateway.followers
        self._writes = Supervisor(
            self._writer,
            gateway.writes,
            config.restart_policy,
            grace_seconds=config.grace_seconds,
            make_stopped_error=_writer_stopped,
            on_failure=lambda error: _log.error("the writer failed: %s", error, exc_info=error),
        )
        self._reader = Reader(gateway.reads, self._backend.reader())
        self._reads = Supervisor(
            self._reader,
            gateway.reads,
            config.restart_policy,
            grace_seconds=config.grace_seconds,
            make_stopped_error=_reader_stopped,
            on_failure=lambda error: _log.error("the reader failed: %s", error, exc_info=error),
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Open, run while the block runs, stop when it ends in whatever way."""
        with collapsed_groups(), ExitStack() as stack:
            stack.callback(self._end_followers)
            # Where opening fails, those who called meanwhile must not wait for ever.
            stack.callback(self._reads.discard)
            stack.callback(self._writes.discard)
            stack.enter_context(lowered_switch_interval(self._config.switch_interval_seconds))
            if self._directory is not None:
                stack.callback(self._directory.acquire())
            try:
                async with anyio.create_task_group() as task_group:
                    await task_group.start(self._writes.run)
                    # The reader inside: the last connection to be closed tidies up the files, and
                    # a read-only one cannot.
                    async with anyio.create_task_group() as inner_task_group:
                        await inner_task_group.start(self._reads.run)
                        # Innermost: what runs on the stores ends before they do.
                        async with self._in_background():
                            yield
                        self._reads.stop()
                    self._writes.stop()
            finally:
                # The last acks were given meanwhile.
                await self._accounting.finish()

    def _end_followers(self) -> None:
        self._followers.end(
            WriterStoppedError("the registry has closed: nothing more will be committed")
        )

    @asynccontextmanager
    async def _in_background(self) -> AsyncGenerator[None, None]:
        async with anyio.create_task_group() as background:
            background.start_soon(self._accounting.run)
            background.start_soon(self._compactor.run)
            self._background = background
            try:
                yield
            finally:
                # Whoever comes while its tasks end would start one that is cancelled at once, and
                # where all have ended, trio refuses that with an error of its own.
                self._background = None
                background.cancel_scope.cancel()

    def start_soon(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task for as long as the engine runs.

        Raises:
            WriterStoppedError: it does not (any more).
        """
        if self._background is None:
            raise WriterStoppedError("the registry has closed; nothing was started")
        self._background.start_soon(task)

    async def compact(self) -> CompactionReport:
        return await self._compactor.compact()

    def statistics(self) -> RegistryStatistics:
        counters = self._writer.counters
        writes = self._writes.statistics()
        reads = self._reads.statistics()
        backend = self._backend.statistics()
        return RegistryStatistics(
            commit_sequence=counters.commit_sequence,
            durable_sequence=counters.durable_sequence,
            generation=counters.generation,
            commits=counters.commits,
            fsyncs=backend.fsyncs,
            batches=counters.batches,
            operations=counters.operations,
            rejected=counters.rejected,
            failed=counters.failed,
            largest_group=counters.largest_group,
            checkpoints=counters.checkpoints,
            checkpointed_at=counters.checkpointed_at,
            checkpoint_seconds=counters.checkpoint_seconds,
            compactions=self._compactor.rounds,
            compacted_at=self._compactor.ended_at,
            compaction_seconds=self._compactor.seconds,
            wal_pages_left=counters.wal_pages_left,
            mailbox_depth=writes.mailbox.depth,
            mailbox_bytes=writes.mailbox.bytes,
            waiting_senders=writes.mailbox.waiting_senders,
            writer=writes.state,
            writer_restarts=writes.restarts,
            writer_failures=writes.failures,
            reader=reads.state,
            reader_restarts=reads.restarts,
            reader_failures=reads.failures,
            damaged=self._reader.damaged,
            acked_sequence=self._accounting.written_sequence,
            database_bytes=backend.database_bytes,
            value_bytes=backend.value_bytes,
            wal_bytes=backend.wal_bytes,
        )


def _directory(config: PersistenceConfig, backend: StorageBackend | None) -> DataDirectory | None:
    if backend is not None or config.data_dir is None or config.backend == "memory":
        return None
    return DataDirectory(config.data_dir, backend=config.backend)


def _make_backend(
    config: PersistenceConfig, directory: DataDirectory | None, clock: Clock
) -> StorageBackend:
    if directory is None:
        return MemoryBackend()
    if config.backend == "file":
        file_options = FileOptions(
            journal_segment_bytes=config.journal_segment_bytes,
            busy_timeout_seconds=config.busy_timeout_seconds,
        )
        return FileBackend(directory.path, file_options, hold=directory.hold)
    return SqliteBackend(
        directory.database,
        SqliteOptions(
            cache_bytes=config.cache_bytes,
            wal_checkpoint_pages=config.wal_checkpoint_pages,
            busy_timeout_seconds=config.busy_timeout_seconds,
            together=save_in,
        ),
        hold=directory.hold,
        upgrade=Upgrade(clock=clock),
    )


def _make_accounting(config: PersistenceConfig, directory: DataDirectory | None) -> Accounting:
    if directory is None:
        return Accounting()
    return Accounting(
        AckedFile(directory.acked),
        config.accept_acked_data_loss,
        config.accounting_interval_seconds,
        directory.hold,
    )


def _writer_stopped() -> Exception:
    return WriterStoppedError("the writer has stopped; not written")


def _reader_stopped() -> Exception:
    return ReaderStoppedError("the reader has stopped; nothing was read")


@contextmanager
def collapsed_groups() -> Iterator[None]:
    """Let a single exception out of a task group that the caller does not know of as itself.

    What only echoes another one does not make it two: a call that waited when the writer gave up
    gets an error with the writer's as its cause, and trio puts the cancellation beside it.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        echoes = anyio.get_cancelled_exc_class()
        errors = [
            error
            for error in group.exceptions
            if not isinstance(error, echoes) and error.__cause__ not in group.exceptions
        ]
        if len(errors) != 1:
            raise
        error = errors[0]
        context, suppressed = error.__context__, error.__suppress_context__
        try:
            raise error
        finally:
            # Raising it here has put the group in the place of what the caller was handling.
            error.__context__, error.__suppress_context__ = context, suppressed
