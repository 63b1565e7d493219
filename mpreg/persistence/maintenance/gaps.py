"""Where an export has a gap in a log: records that were missing from the store it was made of.

Nothing can be appended behind a gap. A database is given records in the place of those that are
missing, and they are removed when all is imported: the gap is where it was. A journal can have no
gap. As after a repair, it keeps the records behind, and those before go into quarantine.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import anyio.to_thread
from attrs import define, field

from mpreg.errors import InvalidArgumentError
from mpreg.persistence.backends.sqlite.failures import translate
from mpreg.persistence.log_store import LogStore
from mpreg.persistence.maintenance.checks import gap_in
from mpreg.persistence.maintenance.findings import Finding
from mpreg.persistence.maintenance.lines import parts_of_name
from mpreg.persistence.maintenance.quarantine import Quarantine
from mpreg.persistence.maintenance.staging import file_errors
from mpreg.persistence.operations import Append, TruncateBefore
from mpreg.persistence.own_names import DATABASE_NAME
from mpreg.persistence.registry import PersistenceRegistry

__all__ = ["Gaps", "gaps_in", "no_gaps"]

#: Written in one transaction.
BATCH_RECORDS: Final = 4_096

_DELETE: Final = (
    "DELETE FROM records WHERE log_id = (SELECT id FROM logs WHERE name = ?) "
    "AND offset >= ? AND offset < ?"
)


class Gaps(Protocol):
    async def leave(self, log: bytes, start: int, stop: int) -> Finding:
        """All records before ``start`` are written; the next one is to have offset ``stop``. Tells
        what was done."""
        ...

    def finish(self) -> None:
        """The registry is closed. Blocking."""
        ...


def gaps_in(directory: Path, backend: str, registry: PersistenceRegistry) -> Gaps:
    """For the store that is being made in a directory."""
    if backend == "sqlite":
        return _OfDatabase(directory, registry)
    return _OfJournal(directory, registry)


class _Refused:
    """Of a registry that somebody else has open."""

    async def leave(self, log: bytes, start: int, stop: int) -> Finding:
        raise InvalidArgumentError(
            f"{gap_in(log, start, stop)}, which only a new data directory can be made of: "
            "use import_lines"
        )

    def finish(self) -> None:
        """There is none."""


no_gaps: Final = _Refused()


@define
class _OfDatabase:
    directory: Path
    registry: PersistenceRegistry
    _left: list[tuple[bytes, int, int]] = field(factory=list)

    async def leave(self, log: bytes, start: int, stop: int) -> Finding:
        self._left.append((log, start, stop))
        for at in range(start, stop, BATCH_RECORDS):
            async with self.registry.transaction() as transaction:
                transaction.add(Append(log, [b""] * min(BATCH_RECORDS, stop - at)))
        return gap_in(log, start, stop, "records are missing; the gap is where it was")

    def finish(self) -> None:
        """First it is written down why they are missing: else it would be damage."""
        if not self._left:
            return
        with file_errors(self.directory), Quarantine(self.directory) as quarantine:
            for log, start, stop in self._left:
                for offset in range(start, stop):
                    quarantine.write(_item(log, offset, None))
            quarantine.sync()
        path = self.directory / DATABASE_NAME
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_DELETE, self._left)
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translate(error, path) from error


@define
class _OfJournal:
    directory: Path
    registry: PersistenceRegistry

    async def leave(self, log: bytes, start: int, stop: int) -> Finding:
        store = _log_store(self.registry, log)
        first = await store.first_offset()
        await self._set_aside(store, log, first, start)
        async with self.registry.transaction() as transaction:
            transaction.add(TruncateBefore(log, stop, beyond_end=True))
        told = f"records are missing; a journal has no gaps, so the log begins at offset {stop}"
        if first < start:
            told += f": its records {first} to {start - 1} are in quarantine"
        return gap_in(log, start, stop, told)

    async def _set_aside(self, store: LogStore, log: bytes, first: int, start: int) -> None:
        # A file for each gap, so that no more than a batch is ever in memory.
        with Quarantine(self.directory) as quarantine:
            for at in range(first, start, BATCH_RECORDS):
                read = store.read_range(at, min(at + BATCH_RECORDS, start))
                items = [_item(log, record.offset, record.data) async for record in read]
                with file_errors(self.directory):
                    await anyio.to_thread.run_sync(_write, quarantine, items)
            with file_errors(self.directory):
                await anyio.to_thread.run_sync(quarantine.sync)

    def finish(self) -> None:
        """Nothing was left to be done."""


def _write(quarantine: Quarantine, items: list[dict[str, Any]]) -> None:
    for item in items:
        quarantine.write(item)


def _item(log: bytes, offset: int, data: bytes | None) -> dict[str, Any]:
    """A record as a repair sets it aside; without data where the export had none."""
    return {"kind": "record", "log_name": log, "offset": offset, "data": data}


def _log_store(registry: PersistenceRegistry, name: bytes) -> LogStore:
    kind, rest = parts_of_name(name)
    return registry.log_store(rest) if kind is None else registry.reserved(kind).log_store(rest)
