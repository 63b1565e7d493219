"""What the operating system tells of another process."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_ticks", "open_files", "resident_bytes"]


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_ticks(pid: int) -> int:
    """Of its own and of the system's work for it, of all threads: so many that ``SC_CLK_TCK`` of
    them are a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
