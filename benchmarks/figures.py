"""What every part of the benchmark prints with, and how a figure is taken."""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

console = Console(width=max(100, Console().width))

MIB = 1 << 20


def print_machine() -> None:
    console.print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}"
    )


def percentile(values: list[float], percent: int) -> float | None:
    if len(values) < 2:
        return None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def median_ms(values: Iterable[float | None]) -> str:
    """The median of seconds as milliseconds; nothing where there are none."""
    known = [value for value in values if value is not None]
    return f"{statistics.median(known) * 1000:.2f}" if known else ""


def peak_mib() -> float:
    """The most memory that this process has had.

    Linux hands ``ru_maxrss`` on from a parent to a child that it starts, so a parent that has
    once been large would be measured in every child; the status file starts afresh.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)
