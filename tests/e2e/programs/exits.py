"""Programs that end in the wrong way: ``exits SCENARIO LOOP DATA_DIR BACKEND``. Each must end."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from mpreg.persistence import KeyValueStore, PersistenceConfig, PersistenceRegistry
from tests.e2e.programs.shared import run, say


class UserError(Exception):
    """What the user's code raises."""


def make_registry(data_dir: Path) -> PersistenceRegistry:
    return PersistenceRegistry(
        PersistenceConfig(data_dir=data_dir, backend=sys.argv[4], grace_seconds=600.0)
    )


async def write_on(store: KeyValueStore) -> None:
    """Writes until cancelled, so that there is always one under way."""
    number = 0
    while True:
        number += 1
        await store.put("busy", b"%d" % number)


async def crash_in_block(data_dir: Path) -> None:
    async with make_registry(data_dir) as registry, anyio.create_task_group() as task_group:
        store = registry.key_value_store("things")
        task_group.start_soon(write_on, store)
        await store.put("kept", b"1")
        say("acked")
        raise UserError


async def crash_beside_served_registry(data_dir: Path) -> None:
    async with anyio.create_task_group() as task_group:
        registry = await task_group.start(make_registry(data_dir).serve)
        store = registry.key_value_store("things")
        task_group.start_soon(write_on, store)
        await store.put("kept", b"1")
        say("acked")
        raise UserError


async def never_closed(data_dir: Path) -> None:
    registry = make_registry(data_dir)
    await registry.__aenter__()
    await registry.key_value_store("things").put("kept", b"1")
    say("acked")


async def never_closed_and_crashed(data_dir: Path) -> None:
    await never_closed(data_dir)
    raise UserError


async def exit_in_block(data_dir: Path) -> None:
    async with make_registry(data_dir) as registry:
        await registry.key_value_store("things").put("kept", b"1")
        say("acked")
        sys.exit(3)


async def failed_open(data_dir: Path) -> None:
    data_dir.mkdir()
    name = {"sqlite": "mpreg.db", "file": "mpreg.journal"}[sys.argv[4]]
    (data_dir / name).write_bytes(b"somebody else's file " * 512)
    async with make_registry(data_dir):
        say("opened")


async def cancelled_before_open(data_dir: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with make_registry(data_dir):
            say("opened")
    assert scope.cancelled_caught


async def cancelled_while_opening(data_dir: Path) -> None:
    """Cancelled at an earlier and a later turn of the event loop, until opening is faster."""
    for turns in (*range(1, 12), *(2**power for power in range(4, 20))):
        opened = False
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cancel_after, turns, task_group.cancel_scope)
            async with make_registry(data_dir):
                opened = True
                task_group.cancel_scope.cancel()
        if opened:
            break
    # Nothing that was cancelled holds the directory, or anything in it.
    async with make_registry(data_dir) as registry:
        await registry.key_value_store("things").put("kept", b"1")
    say("acked")


async def cancel_after(turns: int, scope: anyio.CancelScope) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


SCENARIOS: dict[str, Callable[[Path], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        crash_in_block,
        crash_beside_served_registry,
        never_closed,
        never_closed_and_crashed,
        exit_in_block,
        failed_open,
        cancelled_before_open,
        cancelled_while_opening,
    )
}

if __name__ == "__main__":
    run(sys.argv[2], SCENARIOS[sys.argv[1]], Path(sys.argv[3]))
