"""The stores of a directory, to be read beside whoever holds it, or where nobody does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import anyio
from attrs import frozen

from mpreg.actors import RestartPolicy, Supervisor
from mpreg.clock import Clock, SystemClock
from mpreg.codec import encode_name
from mpreg.errors import ConfigurationError, ReaderStoppedError, StorageIOError
from mpreg.persistence.acked_file import AckedFile, DamagedFileError
from mpreg.persistence.backend import StorageReader
from mpreg.persistence.backends.catalog import (
    Counted,
    CountEntries,
    ListLogs,
    ListNamespaces,
    LogFound,
    NamesPage,
    ReadNumbers,
    StoreNumbers,
)
from mpreg.persistence.backends.file.read_only import FileReadOnlyReader
from mpreg.persistence.backends.sqlite import SqliteOptions
from mpreg.persistence.backends.sqlite.read_only import ReadOnlyReader
from mpreg.persistence.batch import Durability
from mpreg.persistence.config import PersistenceConfig
from mpreg.persistence.engine import collapsed_groups
from mpreg.persistence.found_directory import FoundDirectory, Holder
from mpreg.persistence.kv_store import Entry, KeyValueStore
from mpreg.persistence.log_store import LogStore
from mpreg.persistence.own_names import ACKED_NAME, VALUES_NAME
from mpreg.persistence.paging import OnDamaged, Page, Paged
from mpreg.persistence.read_only.gateway import ReadOnlyGateway
from mpreg.persistence.read_only.names import StoredName
from mpreg.persistence.reader import Reader, ReadRequest
from mpreg.persistence.registry import ReservedStores
from mpreg.persistence.snapshots import SnapshotSharing, SnapshotStore

__all__ = ["DirectoryStatistics", "KeyCount", "ReadOnlyRegistry", "StoredLog", "open_read_only"]

#: A look at single pages: a cache as large as a server's would hardly be used twice.
CACHE_BYTES: Final = 8 << 20

#: Entries counted in one transaction, so that no checkpoint waits long for it.
COUNTED_PER_STEP: Final = 10_000


@frozen(kw_only=True)
class DirectoryStatistics:
    """What a directory says of itself, from outside."""

    path: Path
    backend: str
    holder: Holder | None
    """Who holds the directory now; None: nobody."""
    generation: int
    """How often a writer has opened the store."""
    commit_sequence: int
    """Of the last commit group."""
    acked_sequence: int | None
    """Of the last commit that is known to be acknowledged as durable, a little behind while the
    directory is held; None: nothing is known."""
    is_acked_damaged: bool
    """Whether the file that tells is damaged."""
    last_version: int
    """Given by the last write of a key."""
    files: dict[str, int]
    """The size in bytes of every file in the directory, by name; of the files of values together,
    as ``values/``."""


@frozen(kw_only=True)
class KeyCount:
    keys: int
    """Stored keys, expired ones among them."""
    size_bytes: int
    """Of these keys and their values."""
    is_exact: bool
    """False: there are more, and the counting was ended."""


@frozen
class StoredLog:
    name: StoredName
    first_offset: int
    next_offset: int

    @property
    def records(self) -> int:
        return self.next_offset - self.first_offset


class ReadOnlyRegistry:
    """What is in a data directory: the same stores as those of a registry, to be read.

    ``async with ReadOnlyRegistry("data") as registry``, or `open_read_only`. It works beside a
    process that holds the directory, and sees what that has committed; and where nobody does, also
    after a crash. It makes, changes and checkpoints nothing: every write raises `ReadOnlyError`.
    Each page that is read is a short transaction, so that it keeps nobody from checkpointing,
    however slowly the pages are asked for.

    Entering it raises:

    - `DataDirectoryMissingError`: there is no directory, or no store in it.
    - `DataDirectoryError`: it is no directory, or may not be read.
    - `ForeignDatabaseError`, `SchemaVersionError`, `CorruptDataError`: what is there cannot be
      read by this mpreg.
    - `StorageIOError`: the disk failed, or SQLite may not open the files.

    One whose directory nobody holds, and whose write-ahead log lacks its index (a copy of a
    directory, say), is read from a copy in the system's directory for temporary files. A store of
    the file backend is read into memory as a whole, and followed as it grows.
    """

    def __init__(self, data_dir: str | PathLike[str], *, clock: Clock | None = None) -> None:
        self.config = PersistenceConfig(data_dir=Path(data_dir), cache_bytes=CACHE_BYTES)
        self.clock = SystemClock() if clock is None else clock
        self._data_dir = Path(data_dir)
        self._gateway = ReadOnlyGateway(self.config, self.clock)
        self._snapshots = SnapshotSharing()
        self._directory: FoundDirectory | None = None
        self._was_entered = False
        self._block: AbstractAsyncContextManager[None] | None = None

    # --- stores ---

    def key_value_store(self, namespace: str | StoredName) -> KeyValueStore:
        if isinstance(namespace, StoredName):
            return KeyValueStore(self._gateway, namespace.shown, namespace.encoded)
        return KeyValueStore(self._gateway, namespace)

    def log_store(self, name: str | StoredName) -> LogStore:
        if isinstance(name, StoredName):
            return LogStore(self._gateway, name.shown, name.encoded)
        return LogStore(self._gateway, name)

    def snapshot_store(self, name: str | StoredName) -> SnapshotStore:
        if isinstance(name, StoredName):
            return SnapshotStore(self._gateway, self._snapshots, name.snapshot, name.encoded)
        return SnapshotStore(self._gateway, self._snapshots, name)

    def reserved(self, kind: str) -> ReservedStores:
        """See `PersistenceRegistry.reserved`."""
        return ReservedStores(self._gateway, self._snapshots, kind)

    def transaction(self, *, durability: Durability = Durability.DURABLE) -> NoReturn:
        """Raises `ReadOnlyError`."""
        self._gateway.refuse()

    # --- what there is ---

    def namespaces(self, *, on_damaged: OnDamaged | None = None) -> AsyncIterator[StoredName]:
        """The names of all namespaces, in order, those of mpreg's own parts last.

        Also of those in which there is no key any more. A damaged name raises `CorruptDataError`,
        or is given to ``on_damaged`` and passed over.
        """

        async def read_page(after: bytes) -> Page[bytes, bytes]:
            page: NamesPage = await self._gateway.ask(ListNamespaces(after))
            return page.found, page.next_after  # type: ignore[return-value]

        return Paged(read_page, b"", StoredName, on_damaged)

    def logs(self, *, on_damaged: OnDamaged | None = None) -> AsyncIterator[StoredLog]:
        """All logs, as `namespaces`."""

        async def read_page(after: bytes) -> Page[LogFound, bytes]:
            page: NamesPage = await self._gateway.ask(ListLogs(after))
            return page.found, page.next_after  # type: ignore[return-value]

        return Paged(read_page, b"", _stored_log, on_damaged)

    def scan(
        self,
        namespace: str | StoredName,
        prefix: str | bytes | None = None,
        *,
        after: str | bytes | None = None,
        on_damaged: OnDamaged | None = None,
    ) -> AsyncIterator[Entry]:
        """`KeyValueStore.scan`, going on after a key that one was left at."""
        store = self.key_value_store(namespace)
        return store.scan(prefix, after=after, on_damaged=on_damaged)

    async def describe_snapshot(self, name: str | StoredName) -> tuple[int, int] | None:
        """(version, size in bytes) of a snapshot's newest version, without reading it; None where
        there is none.

        Raises:
            CorruptDataError: its list of versions is damaged.
        """
        versions = await self.snapshot_store(name).versions()
        return (versions[-1].version, versions[-1].size_bytes) if versions else None

    async def count_keys(self, namespace: str | StoredName, up_to: int | None = None) -> KeyCount:
        """Count the keys of a namespace, in small steps; with ``up_to`` not more than these.

        Every key is visited: a million take about a second.
        """
        name = namespace.encoded if isinstance(namespace, StoredName) else encode_name(namespace)
        keys = size = 0
        after: bytes | None = b""
        while after is not None and (up_to is None or keys < up_to):
            step = COUNTED_PER_STEP if up_to is None else min(COUNTED_PER_STEP, up_to - keys)
            found: Counted = await self._gateway.ask(CountEntries(name, after, step))
            keys, size, after = keys + found.entries, size + found.size_bytes, found.next_after
        return KeyCount(keys=keys, size_bytes=size, is_exact=after is None)

    async def stats(self) -> DirectoryStatistics:
        """Sizes and numbers as they are now.

        Raises:
            CorruptDataError: the store's own numbers are damaged.
            SchemaVersionError: the file ``ACKED`` was written by a newer mpreg.
            StorageIOError: it cannot be read.
            ReaderStoppedError: not open (any more).
        """
        assert self._directory is not None
        acked, is_acked_damaged = _read_acked(self._directory.path)
        numbers: StoreNumbers = await self._gateway.ask(ReadNumbers())
        return DirectoryStatistics(
            path=self._directory.path,
            backend=self._directory.backend,
            holder=self._directory.holder(),
            generation=numbers.generation,
            commit_sequence=numbers.commit_sequence,
            acked_sequence=acked,
            is_acked_damaged=is_acked_damaged,
            last_version=numbers.last_version,
            files=_sizes(self._directory.path),
        )

    # --- life ---

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise ConfigurationError("this was opened already; make a new one to open it again")
        self._was_entered = True
        block = self._run_block()
        await block.__aenter__()
        self._block = block
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        return await self._block.__aexit__(exc_type, exc, traceback)

    @asynccontextmanager
    async def _run_block(self) -> AsyncGenerator[None, None]:
        directory = self._directory = FoundDirectory.at(self._data_dir)
        self._gateway.open_reads()
        reads = self._supervisor(directory)
        with collapsed_groups():
            try:
                async with anyio.create_task_group() as task_group:
                    await task_group.start(reads.run)
                    yield
                    reads.stop()
            finally:
                reads.discard()

    def _supervisor(self, directory: FoundDirectory) -> Supervisor[ReadRequest]:
        return Supervisor(
            Reader(self._gateway.reads, _reader(directory, self.config)),
            self._gateway.reads,
            # Whoever looks is told at once, and looks again.
            RestartPolicy(restarts_max=0),
            grace_seconds=self.config.grace_seconds,
            make_stopped_error=_stopped,
        )


def _reader(directory: FoundDirectory, config: PersistenceConfig) -> StorageReader:
    if directory.backend == "file":
        return FileReadOnlyReader(directory.path)
    options = SqliteOptions(
        cache_bytes=config.cache_bytes,
        wal_checkpoint_pages=config.wal_checkpoint_pages,
        busy_timeout_seconds=config.busy_timeout_seconds,
    )
    return ReadOnlyReader(directory.database, options, lambda: directory.holder() is not None)


def open_read_only(
    data_dir: str | PathLike[str], *, clock: Clock | None = None
) -> ReadOnlyRegistry:
    """``async with open_read_only("data") as registry``: see `ReadOnlyRegistry`."""
    return ReadOnlyRegistry(data_dir, clock=clock)


def _stopped() -> Exception:
    return ReaderStoppedError("the directory is not open (any more)")


def _stored_log(found: LogFound) -> StoredLog:
    return StoredLog(StoredName(found.name), found.first_offset, found.next_offset)


def _read_acked(path: Path) -> tuple[int | None, bool]:
    """(sequence, whether the file is damaged)."""
    try:
        record = AckedFile(path / ACKED_NAME).read()
    except DamagedFileError:
        return None, True
    except OSError as error:
        raise StorageIOError(f"cannot be read: {error.strerror}", path / ACKED_NAME) from error
    return None if record is None else record.sequence, False


def _sizes(path: Path) -> dict[str, int]:
    sizes = {}
    for file in sorted(path.iterdir()):
        try:
            if file.name == VALUES_NAME and file.is_dir():
                sizes[f"{file.name}/"] = sum(_sizes(file).values())
            else:
                sizes[file.name] = file.stat().st_size
        except OSError:
            # Gone meanwhile, or a link that leads nowhere.
            continue
    return sizes
