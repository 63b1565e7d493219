"""What commands that were killed have left beside a place, under other names than its own.

Whoever makes something for the same place again takes that over. But names may have a date in them,
and are never used again.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from mpreg.persistence.data_directory import sync_directory
from mpreg.persistence.maintenance.lines import FIRST_BYTES
from mpreg.persistence.maintenance.own_files import foreign_files

__all__ = ["remove_leftovers"]

_UNFINISHED: Final = re.compile(r"\..+\.mpreg-new", re.DOTALL)

#: An empty one may have been made this instant, by somebody who is just about to lock it.
EMPTY_SECONDS_MIN: Final = 60.0


def remove_leftovers(made: Path, lock: int) -> None:
    """Remove what is certainly mpreg's own, of this user, and locked by nobody, beside ``made``,
    which is ``lock``. What cannot be removed stays."""
    with suppress(OSError):
        now = os.fstat(lock).st_mtime
        for path in sorted(made.parent.iterdir()):
            if path != made and _UNFINISHED.fullmatch(path.name):
                with suppress(OSError):
                    _remove(path, now)


def _remove(path: Path, now: float) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            return
        # Raises where somebody is at work on it. Its name goes before the lock does.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_old = now - found.st_mtime > EMPTY_SECONDS_MIN
        if stat.S_ISDIR(found.st_mode) and _is_of_a_store(path, is_old=is_old):
            # It may have had the place until now: that it has not must survive a power cut first.
            sync_directory(path.parent)
            shutil.rmtree(path)
        elif stat.S_ISREG(found.st_mode) and _is_an_export(descriptor, is_old=is_old):
            path.unlink()
    finally:
        os.close(descriptor)


def _is_of_a_store(path: Path, *, is_old: bool) -> bool:
    if not any(path.iterdir()):
        return is_old
    of_none = set(foreign_files(path, of_a_backup=True))
    return of_none.isdisjoint(foreign_files(path, of_a_backup=False))


def _is_an_export(descriptor: int, *, is_old: bool) -> bool:
    first = os.pread(descriptor, len(FIRST_BYTES), 0)
    return first == FIRST_BYTES or (is_old and not first)
