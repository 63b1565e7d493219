"""A reader for a database that somebody else may have open, or nobody: it changes nothing there."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from mpreg.errors import CorruptDataError, MpregError, PersistenceError, StorageIOError
from mpreg.persistence.backend import ReadQuery
from mpreg.persistence.backends.catalog import CatalogQuery
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.catalog import answer_catalog
from mpreg.persistence.backends.sqlite.connection import ConnectionThread, start_thread
from mpreg.persistence.backends.sqlite.failures import is_corrupt, translate
from mpreg.persistence.backends.sqlite.files import check_header, check_readable, read_meta
from mpreg.persistence.backends.sqlite.names_check import check_names
from mpreg.persistence.backends.sqlite.opening_read_only import (
    Still,
    Way,
    choose_way,
    connecting,
    copied,
    look_at,
    read_wal_header,
)
from mpreg.persistence.backends.sqlite.read_session import ReadSession
from mpreg.persistence.backends.sqlite.wal_match import match_log
from mpreg.persistence.backends.sqlite.write_session import SqliteOptions

__all__ = ["ReadOnlyReader", "ReadOnlySession"]

T = TypeVar("T")

#: How often it is opened anew for one read. Each time a process must have come, or gone, within the
#: few milliseconds that the read takes.
OPENINGS_MAX: Final = 8
_HEADER_BYTES: Final = 100


class ReadOnlyReader:
    """A `StorageReader` that also answers a `CatalogQuery`."""

    def __init__(self, path: Path, options: SqliteOptions, is_held: Callable[[], bool]) -> None:
        """``is_held`` tells whether a registry has the database open. Called on any thread."""
        self._path = path
        self._options = options
        self._is_held = is_held
        self._thread: ConnectionThread | None = None
        self._session: ReadOnlySession | None = None

    async def open(self) -> None:
        self._thread, self._session = await start_thread(
            lambda: ReadOnlySession(self._path, self._options, self._is_held)
        )

    async def read(
        self, queries: Sequence[ReadQuery | CatalogQuery]
    ) -> Sequence[Any | CorruptDataError]:
        assert self._thread is not None
        assert self._session is not None
        return await self._thread.run(self._session.read, queries)

    async def close(self) -> None:
        thread, session = self._thread, self._session
        if thread is None or session is None:
            return
        self._thread = self._session = None
        await thread.close(session.close)


class ReadOnlySession:
    """Used on its own thread. Opened anew where what it stands on has changed under a read."""

    def __init__(self, path: Path, options: SqliteOptions, is_held: Callable[[], bool]) -> None:
        """Open. Raises what opening a store raises, and `StorageIOError`; nothing stays open."""
        self.connection: sqlite3.Connection
        self._path = path
        self._options = options
        self._is_held = is_held
        self._session: ReadSession | None = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._still: Still | None = None
        self.way = Way.SHARED
        try:
            self._run(lambda session: None)
        except BaseException:
            self.close()
            raise

    def read(self, queries: Sequence[ReadQuery | CatalogQuery]) -> Sequence[Any | CorruptDataError]:
        """See `StorageReader.read`. Each `CatalogQuery` is a transaction of its own."""
        return self._run(lambda session: self._answer(session, queries))

    def close(self) -> None:
        """Twice does nothing."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.cleanup()

    # --- opening ---

    def _run(self, work: Callable[[ReadSession], T]) -> T:
        for _ in range(OPENINGS_MAX):
            try:
                session = self._session or self._open()
                result = work(session)
            # What was read while somebody wrote may look like anything.
            except MpregError:
                if self._is_still():
                    raise
            except (sqlite3.Error, OSError) as error:
                if self._is_still():
                    raise self._told(error) from error
            else:
                if self._is_still():
                    return result
            self.close()
        raise StorageIOError(
            "the files were changed each time they were read; try it again", self._path
        )

    def _is_still(self) -> bool:
        return self._still is None or look_at(self._path) == self._still

    def _told(self, error: sqlite3.Error | OSError) -> PersistenceError:
        if isinstance(error, OSError):
            return StorageIOError(f"cannot be read: {error.strerror}", self._path)
        return translate(error, self._path)

    def _open(self) -> ReadSession:
        held = self._is_held()
        self._still = look_at(self._path)
        # Not where somebody has it open: to close a file drops the locks that this process, were it
        # the one, holds on it. SQLite knows of that, and asks nothing of the file by itself.
        self.way = choose_way(self._still, b"" if held else self._look_inside(), held=held)
        file = self._path
        if self.way is Way.COPY:
            self._copy = copied(self._path)
            file = Path(self._copy.name, self._path.name)
        elif self.way in (Way.SHARED, Way.OWN_INDEX):
            # SQLite itself keeps apart what it reads and what is written meanwhile.
            self._still = None
        self._session = self._connect(file)
        return self._session

    def _look_inside(self) -> bytes:
        with self._path.open("rb") as file:
            check_header(file.read(_HEADER_BYTES), self._path)
        return read_wal_header(self._path)

    def _connect(self, file: Path) -> ReadSession:
        check_end = match_log(file) if self.way in (Way.OWN_INDEX, Way.COPY) else None
        with connecting(file, self.way) as connection:
            check_readable(connection, self._path)
            if check_end is not None:
                check_end(read_meta(connection, self._path)[1])
            self._options.prepare(connection)
            for pragma in schema.READER_PRAGMAS:
                connection.execute(pragma)
            check_names(connection, self._path)
        self.connection = connection
        return ReadSession(connection, self._path)

    # --- reading ---

    def _answer(
        self, session: ReadSession, queries: Sequence[ReadQuery | CatalogQuery]
    ) -> Sequence[Any]:
        if isinstance(queries[0], CatalogQuery):
            return [self._answer_catalog(session.connection, queries[0])]
        reads: list[ReadQuery] = []
        for query in queries:
            if isinstance(query, CatalogQuery):
                break
            reads.append(query)
        return session.read(reads)

    def _answer_catalog(self, connection: sqlite3.Connection, query: CatalogQuery) -> Any:
        connection.execute("BEGIN")
        try:
            return answer_catalog(connection, self._path, query)
        except CorruptDataError as damage:
            return damage
        except sqlite3.Error as error:
            if not is_corrupt(error):
                raise
            return self._told(error)
        finally:
            with closing(connection.cursor()) as cursor:
                cursor.execute("ROLLBACK")
