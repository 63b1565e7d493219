"""Every backend passes the same tests, on every event loop."""

from __future__ import annotations

from pathlib import Path

from mpreg.persistence.backend import StorageBackend
from mpreg.persistence.backends.file import FileBackend, FileOptions
from mpreg.persistence.backends.memory import MemoryBackend
from mpreg.persistence.backends.sqlite import SqliteBackend, SqliteOptions
from mpreg.testing import SimulatedBackend, SimulatedDisk
from mpreg.testing.contract import StorageBackendContract


class TestMemoryBackend(StorageBackendContract):
    def make_backend(self, directory: Path) -> StorageBackend:
        return MemoryBackend()


class TestSqliteBackend(StorageBackendContract):
    def make_backend(self, directory: Path) -> StorageBackend:
        options = SqliteOptions(
            cache_bytes=1 << 20, wal_checkpoint_pages=100, busy_timeout_seconds=0.1
        )
        return SqliteBackend(directory / "mpreg.sqlite", options)

    def make_another(self, backend: StorageBackend, directory: Path) -> StorageBackend:
        return self.make_backend(directory)


class TestFileBackend(StorageBackendContract):
    journal_segment_bytes = 1 << 20

    def make_backend(self, directory: Path) -> StorageBackend:
        options = FileOptions(
            journal_segment_bytes=self.journal_segment_bytes, busy_timeout_seconds=0.1
        )
        return FileBackend(directory, options)

    def make_another(self, backend: StorageBackend, directory: Path) -> StorageBackend:
        return self.make_backend(directory)


class TestFileBackendThatIsAlwaysCompacting(TestFileBackend):
    """A segment for every few commits, and a snapshot after every few segments."""

    journal_segment_bytes = 300


class TestSimulatedBackend(StorageBackendContract):
    def make_backend(self, directory: Path) -> StorageBackend:
        return SimulatedBackend(SimulatedDisk())

    def make_another(self, backend: StorageBackend, directory: Path) -> StorageBackend:
        assert isinstance(backend, SimulatedBackend)
        return SimulatedBackend(backend.disk)
