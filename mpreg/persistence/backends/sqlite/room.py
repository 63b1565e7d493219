"""The room of large files that have lost their names, given back a piece at a time.

Where a file system tells the device of the blocks that it frees (``discard``), to free those of one
GiB takes it a second, and whoever syncs anything meanwhile waits for that. So it is done beside
the thread that commits, and in pieces between which others get their turn.

Such a file is nobody's: a crash leaves it to the file system, which frees it with its last handle.
Who had it open before it lost its name reads less of it from then on.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Final

from mpreg.persistence.backends.aside import Aside
from mpreg.persistence.backends.file.files import FileSystem

__all__ = ["RoomGivenBack"]

#: It takes such a device ten milliseconds.
PIECE_BYTES: Final = 8 << 20
#: After each piece, for others.
REST_SECONDS: Final = 0.01
#: Files at a time. More of them are made faster than they are freed: then it has to be waited for.
FILES_MAX: Final = 8


class RoomGivenBack:
    """Used on the thread of a session, but for what it does on its own."""

    def __init__(self, system: FileSystem) -> None:
        self._system = system
        self._files: list[Aside] = []
        """One waits for the other."""
        self._hurry = threading.Event()

    def is_worth_while(self, size: int) -> bool:
        return size > PIECE_BYTES

    def take(self, file: int) -> None:
        """Free a file and close it, some time later."""
        self._files = [one for one in self._files if not one.has_ended]
        before = self._files[-1] if self._files else None
        if len(self._files) < FILES_MAX:
            with contextlib.suppress(OSError):
                self._files.append(Aside("mpreg-room", lambda: self._free(file, before)))
                return
        self._system.close(file)

    def _free(self, file: int, before: Aside | None) -> None:
        if before is not None:
            before.wait()
        try:
            # Another name, which only somebody else can have given it, makes it theirs.
            size = 0 if self._system.links(file) else self._system.size(file)
            while size > PIECE_BYTES and not self._hurry.is_set():
                size -= PIECE_BYTES
                self._system.truncate(file, size)
                self._hurry.wait(REST_SECONDS)
        except OSError:
            # It is all given back with the handle.
            pass
        finally:
            self._system.close(file)

    def finish(self) -> None:
        """All of it is given back when this returns: now the rest is not spread."""
        self._hurry.set()
        for one in self._files:
            one.wait()
        self._files = []
        self._hurry.clear()
