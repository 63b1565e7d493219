"""Work that something is done beside."""

from __future__ import annotations

import anyio
import pytest

from mpreg.actors import run_beside
from tests.loops import on_all_loops

pytestmark = pytest.mark.anyio

anyio_backend = on_all_loops


async def test_the_result_of_the_work_ends_what_is_beside_it() -> None:
    ended = anyio.Event()

    async def watch() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def work() -> int:
        await anyio.wait_all_tasks_blocked()
        return 7

    assert await run_beside(watch, work) == 7
    assert ended.is_set()


async def test_an_error_of_the_work_comes_by_itself() -> None:
    async def work() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await run_beside(anyio.sleep_forever, work)


async def test_an_error_of_what_is_beside_it_comes_by_itself_and_cancels_the_work() -> None:
    cancelled = anyio.Event()

    async def watch() -> None:
        raise OSError("no")

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    with pytest.raises(OSError, match="no"):
        await run_beside(watch, work)
    assert cancelled.is_set()


async def test_work_goes_on_where_nothing_is_left_to_be_done_beside_it() -> None:
    async def work() -> int:
        await anyio.wait_all_tasks_blocked()
        return 7

    assert await run_beside(anyio.lowlevel.checkpoint, work) == 7


async def test_cancelled_both_are() -> None:
    ended: list[str] = []

    async def forever(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    async def run() -> None:
        await run_beside(lambda: forever("watch"), lambda: forever("work"))

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()
    assert sorted(ended) == ["watch", "work"]
