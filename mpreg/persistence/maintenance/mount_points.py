"""Whether a directory is where a file system is mounted: no other can then take its place."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from mpreg.errors import DataDirectoryError

__all__ = ["is_mount_point", "mounted_at", "no_place"]

#: What Linux has mounted, and where: https://www.kernel.org/doc/html/latest/filesystems/proc.html
_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


def is_mount_point(place: Path) -> bool:
    """To be asked before anything is copied, and beside it, where the device is another one."""
    return os.path.ismount(place) or Path(os.path.realpath(place)) in _mounts()


def no_place(place: Path) -> DataDirectoryError:
    return DataDirectoryError(
        place,
        "this is a mount point: what is made there is first made beside it, and then takes its "
        "place as a whole, which is not possible here; nothing was changed: name a directory "
        f"below it, {place / 'mpreg'} say",
    )


def _mounts() -> frozenset[Path]:
    """Also those that are no other device: a directory that is mounted once more."""
    try:
        return mounted_at(_MOUNTS.read_bytes())
    except OSError:
        return frozenset()


def mounted_at(mountinfo: bytes) -> frozenset[Path]:
    """The mount points in the lines of ``/proc/self/mountinfo``."""
    fields = (line.split(b" ") for line in mountinfo.splitlines())
    return frozenset(
        Path(os.fsdecode(_ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), one[4])))
        for one in fields
        if len(one) > 4
    )
