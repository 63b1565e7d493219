"""A data directory as it is found: what is in it, and who holds it. Nothing is made or changed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from attrs import frozen

from mpreg.errors import DataDirectoryError, DataDirectoryMissingError
from mpreg.persistence.data_directory import STORES, Holder, holder_of
from mpreg.persistence.own_names import (
    DATABASE_NAME,
    LOCK_NAME,
    is_never_finished,
    refuse_what_is_no_file,
)

__all__ = ["FoundDirectory", "Holder", "find_holder"]

#: Names told where there is no store, so that a mistyped path is recognized.
NAMES_TOLD_MAX: Final = 5


@frozen
class FoundDirectory:
    """A directory with a store in it, found but not opened."""

    path: Path
    backend: str
    """Whose store it is, one of `STORES`."""

    @classmethod
    def at(cls, path: Path) -> FoundDirectory:
        """Raises `DataDirectoryMissingError` or `DataDirectoryError`, with what is there."""
        try:
            found = path.resolve()
            names = sorted(one.name for one in found.iterdir())
            refuse_what_is_no_file(found)
        except FileNotFoundError as error:
            raise DataDirectoryMissingError(path, _missing(path)) from error
        except NotADirectoryError as error:
            raise DataDirectoryError(path, _not_a_directory(path)) from error
        except (OSError, ValueError, RuntimeError) as error:
            # ValueError is Python's own, for a path with a NUL in it.
            said = error.strerror if isinstance(error, OSError) else error
            raise DataDirectoryError(path, f"the directory cannot be read: {said}") from error
        backends = [backend for backend, name in STORES.items() if name in names]
        if not backends:
            raise DataDirectoryMissingError(found, _no_store(names))
        if len(backends) > 1:
            raise DataDirectoryError(
                found, f"there are two stores here, {' and '.join(STORES.values())}: move one away"
            )
        directory = cls(found, backends[0])
        if directory.database.is_symlink():
            raise DataDirectoryError(
                directory.database, "this is a link; look at the directory that it leads to"
            )
        return directory

    @property
    def database(self) -> Path:
        return self.path / DATABASE_NAME

    def holder(self) -> Holder | None:
        return find_holder(self.path)


def find_holder(path: Path) -> Holder | None:
    """Who holds a data directory; None where nobody does, or where there is no lock file.

    It is found out by taking a shared lock for an instant, without waiting. Two who look do not
    meet, and a registry that is opened in that very instant waits for its end.

    Raises:
        DataDirectoryError: the lock file is there and may not be read.
    """
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataDirectoryError(
            path / LOCK_NAME, f"it cannot be told who holds the directory: {error.strerror}"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder_of(lock)
    except OSError:
        # A file system without locks: no registry can hold anything there either.
        return None
    finally:
        os.close(lock)
    return None


def _missing(path: Path) -> str:
    above = next((one for one in path.absolute().parents if one.exists()), None)
    return f"there is no such directory; the last of the path that exists is {above}"


def _not_a_directory(path: Path) -> str:
    if path.name.startswith(tuple(STORES.values())):
        return "this is a file of a data directory; give the directory that it is in"
    return "this is a file, not a data directory"


def _no_store(names: list[str]) -> str:
    told = ", ".join(names[:NAMES_TOLD_MAX]) or "nothing"
    if len(names) > NAMES_TOLD_MAX:
        told += f" and {len(names) - NAMES_TOLD_MAX} more"
    found = f"there is no store here: no {' and no '.join(STORES.values())}, but {told}"
    if not is_never_finished(names):
        return found
    return (
        f"{found}; one was begun and never finished, as on a full disk: nothing was ever "
        "acknowledged in it, unless its files were removed since. The next start makes it"
    )
