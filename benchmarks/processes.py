"""Measurements in processes of their own, each in a directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
from attrs import frozen

from benchmarks.figures import console

Measurement = dict[str, Any]


class Rate(Protocol):
    """The result of a contender that does the same again and again."""

    @property
    def per_second(self) -> float: ...


R = TypeVar("R", bound=Rate)


@frozen
class Plan:
    """How much is measured, and where."""

    directory: Path
    rounds: int
    scale: float
    """Factor on everything that is counted: messages, requests, entries."""

    def count(self, full: int, *, least: int) -> int:
        return max(least, int(full * self.scale))

    def path(self, name: str) -> Path:
        return self.directory / name.replace(" ", "-").replace(",", "")


@frozen
class Measurer:
    """A module that makes measurements, each in a process of its own."""

    module: str

    def measure(self, *arguments: object) -> Measurement:
        """One measurement: the fields of its result."""
        result: Measurement = json.loads(self.run(*arguments))
        return result

    def run(self, *arguments: object) -> str:
        return _run([sys.executable, "-m", self.module, *map(str, arguments)])


def _run(command: list[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise click.ClickException(f"{' '.join(command[2:])} failed:\n{finished.stderr}")
    return finished.stdout


def measure_rounds(
    rounds: int, workers: int, contenders: Sequence[str], measure: Callable[[str], R]
) -> dict[str, list[R]]:
    """Each contender in turn, round after round; every figure is told as it comes."""
    results: dict[str, list[R]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in contenders:
            results[name].append(result := measure(name))
            console.print(
                f"  P = {workers}, round {number + 1}, {name}: {result.per_second:,.0f} a second"
            )
    return results


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
