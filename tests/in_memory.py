"""Where tests keep their files: in memory, where the system has room for them there.

No test that uses this pulls a plug. Whether a store syncs what it promises is seen by simulated
disks and by calls that are counted; what a device then does with a sync is not ours, and waiting
for it was most of the time that these tests took.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

__all__ = ["tmp_path"]

_MEMORY: Final = Path("/dev/shm")
#: Several times what all workers of a run have there at once: in a small container it is the disk.
_ROOM_BYTES: Final = 1 << 30


def _has_room() -> bool:
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return False
    return os.access(_MEMORY, os.W_OK) and found.f_bavail * found.f_frsize >= _ROOM_BYTES


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory, or with ``MPREG_TESTS_ON_DISK=1`` on the disk, where it stays."""
    if os.environ.get("MPREG_TESTS_ON_DISK") or not _has_room():
        yield tmp_path_factory.mktemp("test")
        return
    # What somebody cancelled may still be at work there.
    with tempfile.TemporaryDirectory(
        prefix="mpreg-test-", dir=_MEMORY, ignore_cleanup_errors=True
    ) as made:
        yield Path(made).resolve()
