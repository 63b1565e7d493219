"""An append-only journal of checksummed frames, one for each commit group; the state in memory."""

from mpreg.persistence.backends.file.backend import FileBackend, FileReader
from mpreg.persistence.backends.file.session import FileOptions

__all__ = ["FileBackend", "FileOptions", "FileReader"]
