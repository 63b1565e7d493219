"""Measurements in processes of their own, each in a directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from attrs import frozen

Measurement = dict[str, Any]


@frozen
class Plan:
    """How much is measured, and where."""

    directory: Path
    rounds: int
    scale: float
    """Factor on everything that is counted in messages."""

    def messages(self, full: int, *, least: int) -> int:
        return max(least, int(full * self.scale))

    def path(self, name: str) -> Path:
        return self.directory / "queues" / name.replace(" ", "-").replace(",", "")


def measure(*arguments: object) -> Measurement:
    """One measurement: the fields of its result."""
    result: Measurement = json.loads(run(*arguments))
    return result


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", "benchmarks.queues.measure", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise click.ClickException(f"{' '.join(command[2:])} failed:\n{finished.stderr}")
    return finished.stdout


@contextmanager
def fresh(directory: Path, copied_from: Path | None = None) -> Iterator[Path]:
    """An empty directory, or a copy; removed afterwards, so that nobody's files slow the next."""
    shutil.rmtree(directory, ignore_errors=True)
    if copied_from is None:
        directory.mkdir(parents=True, mode=0o700)
    else:
        shutil.copytree(copied_from, directory)
    os.sync()
    yield directory
    shutil.rmtree(directory)
