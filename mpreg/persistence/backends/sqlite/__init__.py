"""SQLite in WAL mode, on aiosqlite under asyncio and on a thread of its own under trio."""

from mpreg.persistence.backends.sqlite.backend import SqliteBackend, SqliteOptions, SqliteReader
from mpreg.persistence.backends.sqlite.upgrade import Upgrade

__all__ = ["SqliteBackend", "SqliteOptions", "SqliteReader", "Upgrade"]
