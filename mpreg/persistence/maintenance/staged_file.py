"""A file that is made beside its place and put there whole, or not at all.

``.NAME.mpreg-new`` is being made, and locked by who makes it. Left by a kill, it is written over
when the command is run again, and removed by one that makes another file beside it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mpreg.errors import DataDirectoryError
from mpreg.persistence.data_directory import sync_directory
from mpreg.persistence.maintenance.leftovers import remove_leftovers
from mpreg.persistence.maintenance.staging import (
    busy,
    file_errors,
    is_same,
    refuse_inside_store,
    resolved,
)

__all__ = ["staged_file"]


@contextmanager
def staged_file(place: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Make a file for ``place``, 0600. It gets its name, synced, when the block ends; where that
    raises, it is removed. What is no file (a device, a pipe) is written to as it is.

    Raises:
        DataDirectoryError: it is there already, without ``overwrite``; it is a directory, is in
            one that is not there or that has a store or a backup, may not be written, is a link
            that leads to itself, or somebody else writes to it.
        StorageFullError, StorageIOError: not made; what was there before still is.
    """
    place = resolved(place)
    if place.is_dir():
        raise DataDirectoryError(place, "this is a directory; nothing was written: name a file")
    with file_errors(place):
        if place.exists() and not place.is_file():
            with place.open("wb") as stream:
                yield stream
            return
        if not place.parent.exists():
            raise DataDirectoryError(
                place,
                f"there is no directory {place.parent}; nothing was written: make it, or name "
                "another place",
            )
        refuse_inside_store(place)
        if not overwrite:
            _refuse_what_is_there(place)
        with _locked(place) as stream:
            yield stream
            if not overwrite:
                # Made by somebody else meanwhile.
                _refuse_what_is_there(place)


def _refuse_what_is_there(place: Path) -> None:
    if place.exists():
        raise DataDirectoryError(
            place,
            "this file is there already; nothing was written: name another one, or replace it with "
            "--overwrite",
        )


@contextmanager
def _locked(place: Path) -> Iterator[BinaryIO]:
    path = place.with_name(f".{place.name}.mpreg-new")
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy(place) from error
        if not is_same(path, stream.fileno()):
            # Published or removed by somebody else between our two calls.
            raise busy(place)
        try:
            stream.truncate(0)
            remove_leftovers(path, stream.fileno())
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            path.rename(place)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    sync_directory(place.parent)
