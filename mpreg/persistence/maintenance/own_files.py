"""Which files of a directory are mpreg's own. Only these may go when something takes its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpreg.errors import DataDirectoryError
from mpreg.persistence.backends.sqlite.places import number_of
from mpreg.persistence.data_directory import STORES
from mpreg.persistence.maintenance.quarantine import QUARANTINE_NAME
from mpreg.persistence.own_names import VALUES_NAME, is_of_a_backup, is_of_a_store

__all__ = ["foreign_files", "has_store", "refuse_foreign_files"]

NAMES_TOLD_MAX: Final = 5

_SET_ASIDE: Final = re.compile(r"\d{6,}\.jsonl")
#: What may be in a directory of this name, by the names of the files.
_DIRECTORIES: Final[dict[str, Callable[[str], bool]]] = {
    QUARANTINE_NAME: lambda name: _SET_ASIDE.fullmatch(name) is not None,
    VALUES_NAME: lambda name: number_of(name) is not None,
}


def has_store(directory: Path) -> bool:
    return any((directory / name).is_file() for name in STORES.values())


def foreign_files(directory: Path, *, of_a_backup: bool) -> list[str]:
    """Names, in order, of what mpreg has not put there: also a link or directory with a name of its
    own.

    Raises:
        OSError: it cannot be read.
    """
    is_own = is_of_a_backup if of_a_backup else is_of_a_store
    foreign = []
    for path in sorted(directory.iterdir()):
        if path.name in _DIRECTORIES and _is_directory(path):
            foreign += [
                f"{path.name}/{one.name}"
                for one in sorted(path.iterdir())
                if not (_DIRECTORIES[path.name](one.name) and _is_file(one))
            ]
        elif not (is_own(path.name) and _is_file(path)):
            foreign.append(path.name)
    return foreign


def refuse_foreign_files(directory: Path, *, of_a_backup: bool) -> None:
    """Before something takes the place of a backup, or store, as a whole.

    Raises:
        DataDirectoryError: there is anything else as well.
        OSError: it cannot be read.
    """
    if foreign := foreign_files(directory, of_a_backup=of_a_backup):
        what = "backup" if of_a_backup else "store"
        raise DataDirectoryError(
            directory,
            f"there are files that are not of a {what}, and would be lost with it, since the new "
            f"one takes its place as a whole: {_told(foreign)}; nothing was changed: move them "
            "away, or name another place",
        )


def _told(names: list[str]) -> str:
    """The first few."""
    more = len(names) - NAMES_TOLD_MAX
    return ", ".join(names[:NAMES_TOLD_MAX]) + (f" and {more} more" if more > 0 else "")


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
