"""A blocking function on a thread of its own, whatever becomes of the task that waits for it."""

from __future__ import annotations

import gc
import threading
import weakref

import anyio
import anyio.to_thread
import pytest

from mpreg.persistence.own_thread import run_in_own_thread
from tests.loops import on_all_loops

pytestmark = pytest.mark.anyio

anyio_backend = on_all_loops


class Large:
    """A result that is told apart from others."""


async def test_it_gives_what_the_function_gives_from_a_daemon_that_ends_with_it() -> None:
    threads: list[threading.Thread] = []

    def work() -> Large:
        threads.append(threading.current_thread())
        return Large()

    result = await run_in_own_thread(work)
    assert type(result) is Large
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon
    threads[0].join(60)
    assert not threads[0].is_alive()


async def test_it_raises_what_the_function_raises() -> None:
    def work() -> None:
        raise OSError("no device")

    with pytest.raises(OSError, match="no device"):
        await run_in_own_thread(work)


async def test_cancelled_it_waits_for_nothing_and_the_function_goes_on() -> None:
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        go_on.wait(60)
        ended.set()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(run_in_own_thread, work)
        assert await anyio.to_thread.run_sync(began.wait, 60)
        task_group.cancel_scope.cancel()
    assert not ended.is_set()
    go_on.set()
    assert await anyio.to_thread.run_sync(ended.wait, 60)


async def test_nothing_keeps_a_result_that_was_taken() -> None:
    found = weakref.ref(await run_in_own_thread(Large))
    gc.collect()
    assert found() is None
