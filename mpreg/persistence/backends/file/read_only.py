"""A reader for a journal that somebody else may hold, or nobody: it changes nothing there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import PAGE_BYTES_MAX, ReadQuery
from mpreg.persistence.backends.answers import answer_bytes
from mpreg.persistence.backends.catalog import CatalogQuery
from mpreg.persistence.backends.file.catalog import answer_catalog
from mpreg.persistence.backends.file.following import JournalFollower
from mpreg.persistence.backends.worker_thread import WorkerThread, start_worker

__all__ = ["FileReadOnlyReader"]


class FileReadOnlyReader:
    """A `StorageReader` that also answers a `CatalogQuery`. It has the whole state in memory, as
    the process has that writes it, and takes in what was written since before each read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread: WorkerThread | None = None
        self._follower: JournalFollower | None = None

    async def open(self) -> None:
        self._thread, self._follower = await start_worker(
            "mpreg-journal-reader", lambda: JournalFollower(self._directory)
        )

    async def read(
        self, queries: Sequence[ReadQuery | CatalogQuery]
    ) -> Sequence[Any | CorruptDataError]:
        assert self._thread is not None
        return await self._thread.run(self._read, queries)

    def _read(self, queries: Sequence[ReadQuery | CatalogQuery]) -> Sequence[Any]:
        follower = self._follower
        assert follower is not None
        follower.catch_up()
        answers: list[Any] = []
        size = 0
        for query in queries:
            if isinstance(query, CatalogQuery):
                numbers = (follower.generation, follower.sequence)
                answers.append(answer_catalog(follower.state, *numbers, query))
                continue
            answers.append(follower.state.read(query))
            size += answer_bytes(answers[-1])
            if size >= PAGE_BYTES_MAX:
                break
        return answers

    async def close(self) -> None:
        thread, follower = self._thread, self._follower
        if thread is None or follower is None:
            return
        self._thread = self._follower = None
        await thread.close(follower.close)
