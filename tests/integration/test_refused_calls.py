"""A disk that is full, or fails a sync, at any call of a store's whole life: real files, and the
registry with all that is in it.

A life opens, writes, reads, saves snapshots, lets entries expire, compacts and closes. Each time
another call is refused. `make faults` refuses every one of them, `make test` some.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import DataDirectoryError, StorageFullError, StorageIOError
from tests.integration.life import Life
from tests.integration.refusing_system import RefusingSystem, refusing

#: Each so many calls one is refused.
STRIDE = int(os.environ.get("MPREG_FAULT_STRIDE", "17"))

on_both_backends = pytest.mark.parametrize("backend", ["sqlite", "file"])


async def until_opened(live: Callable[[], Awaitable[None]], tries: int) -> None:
    """What an opening that finds no room says, it says as such."""
    for _ in range(tries):
        try:
            await live()
        except (StorageFullError, DataDirectoryError):
            continue
        return
    raise AssertionError("it does not open")


def calls_of_a_life(tmp_path: Path, backend: str, asks_for: str) -> int:
    life = Life(tmp_path / "whole", backend)
    system = RefusingSystem(life.data_dir, asks_for, first=1 << 30)
    with refusing(system):
        anyio.run(life.live)
    assert life.refusals == 0
    return len(system.asked)


def lives(
    tmp_path: Path, backend: str, asks_for: str, *, lasts: bool = False
) -> Iterator[tuple[Life, RefusingSystem, Callable[..., Any]]]:
    """A life for each call that is to be refused, and what runs it."""
    for first in range(0, calls_of_a_life(tmp_path, backend, asks_for), STRIDE):
        life = Life(tmp_path / str(first), backend)
        system = RefusingSystem(life.data_dir, asks_for, first, lasts)
        loop = ["asyncio", "trio"][first % 2]
        with refusing(system):
            yield life, system, partial(anyio.run, backend=loop)
        if not system.refused:
            # How often it is written down what was acked depends on time.
            return
        anyio.run(life.open_again, backend=loop)


@on_both_backends
def test_a_disk_that_is_full_for_one_call_costs_only_what_it_says(
    backend: str, tmp_path: Path
) -> None:
    refusals = 0
    for life, _, run in lives(tmp_path, backend, "room"):
        run(until_opened, life.live, 2)
        refusals += life.refusals
    assert refusals > 0


@on_both_backends
def test_a_disk_that_is_full_from_some_call_on_is_waited_out(backend: str, tmp_path: Path) -> None:
    for life, system, run in lives(tmp_path, backend, "room", lasts=True):
        try:
            run(life.live)
        except (StorageFullError, DataDirectoryError):
            assert not life.entries, "once it is open it stays so"
        system.mended = True
        run(life.open_again)


@on_both_backends
def test_a_sync_that_fails_once_costs_no_caller_more_than_time(
    backend: str, tmp_path: Path
) -> None:
    for life, _, run in lives(tmp_path, backend, "sync"):
        try:
            run(life.live)
        except StorageIOError:
            # At its beginning, or at its end.
            run(life.open_again)
