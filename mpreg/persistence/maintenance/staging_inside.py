"""A store that is made inside its place, where nothing can take that place as a whole: in an empty
mount point.

::

    .here.mpreg-new       being made; locked by who makes it
    .here.mpreg-moving    complete and synced; what is in it is being moved out of it

`ACKED` is moved first: a directory that has it and no store is not opened, since what was
acknowledged is missing. The file by which a store is known is moved last. So a process that is
killed leaves an empty directory, one that nobody opens, or the whole store. What is half there is
removed by whoever stages for the same place next.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from mpreg.errors import DataDirectoryError
from mpreg.persistence.data_directory import STORES, sync_directory
from mpreg.persistence.maintenance.own_files import has_store
from mpreg.persistence.maintenance.quarantine import QUARANTINE_NAME
from mpreg.persistence.maintenance.staging import Staging
from mpreg.persistence.own_names import ACKED_NAME, LOCK_NAME, VALUES_NAME, is_of_a_store

__all__ = ["StagingInside"]

#: Not by the place's own name: what was left may be found at another one.
_MADE: Final = ".here.mpreg-new"
_MOVED: Final = ".here.mpreg-moving"

#: Of a file system, and not of anybody who uses it.
_LOST_AND_FOUND: Final = "lost+found"


class StagingInside(Staging):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.path = place / _MADE
        self._moving = place / _MOVED

    @property
    def beside(self) -> frozenset[str]:
        return frozenset((_MADE, _MOVED, _LOST_AND_FOUND))

    def check(self) -> None:
        if not self._moving.exists() and any(
            path.name != LOCK_NAME and path.name not in self.beside for path in self.place.iterdir()
        ):
            raise self.not_empty()

    def settle(self) -> None:
        """What is half moved is seen to when the place is held: `put_back`."""

    def not_empty(self) -> DataDirectoryError:
        return DataDirectoryError(
            self.place,
            "this is a mount point, and not empty: nothing can take the place of what is there as "
            f"a whole; nothing was changed: empty it, or name a directory below it, "
            f"{self.place / 'mpreg'} say",
        )

    def put_back(self) -> None:
        if not self._moving.exists():
            return
        # Without one in either, it was all moved, and is somebody's own since: there it was lost.
        if has_store(self._moving) and not has_store(self.place):
            self._remove_moved()
        shutil.rmtree(self._moving)

    def publish(self) -> None:
        self._sync()
        self.path.rename(self._moving)
        self.path = self._moving
        try:
            self._move_all()
        except BaseException:
            with suppress(OSError):
                self._remove_moved()
            raise

    def _move_all(self) -> None:
        # The lock of the place is the one that this command holds.
        names = {path.name for path in self.path.iterdir()} - {LOCK_NAME}
        first, last = names & {ACKED_NAME}, names & set(STORES.values())
        for some in (set[str](), first, names - first - last, last):
            for name in sorted(some):
                (self.path / name).rename(self.place / name)
            # So that a power cut leaves none of the next names without those before.
            sync_directory(self.place)

    def _remove_moved(self) -> None:
        """Of a store that is not whole: there was nothing in the place."""
        names = {path.name for path in self.place.iterdir() if is_of_a_store(path.name)}
        stores = names & set(STORES.values())
        for name in stores:
            # As long as it is there, `put_back` goes on with the rest.
            (self.place / name).rename(self._moving / name)
        for name in sorted(names - stores - {ACKED_NAME, LOCK_NAME}):
            (self.place / name).unlink()
        for name in (VALUES_NAME, QUARANTINE_NAME):
            shutil.rmtree(self.place / name, ignore_errors=True)
        (self.place / ACKED_NAME).unlink(missing_ok=True)
