"""The thread of a connection: where its event loop is gone before it is done, and what it keeps."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from mpreg.persistence.backends.sqlite.connection import start_thread
from mpreg.persistence.backends.worker_thread import start_worker


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What nobody refers to goes at once; what keeps itself alive stays."""
    gc.disable()
    yield
    gc.enable()


LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


class Session:
    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)
        self.thread = threading.current_thread()
        self.entered = threading.Event()
        self.may_go_on = threading.Event()
        self.closed = 0

    def work(self) -> None:
        self.entered.set()
        self.may_go_on.wait(timeout=60)

    def close(self) -> None:
        self.closed += 1
        self.connection.close()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_thread_whose_event_loop_is_gone_closes_quietly(
    new_loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was cancelled goes on; its result finds nobody, and that is nobody's error."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    loop = new_loop()

    async def leave_at_work() -> Session:
        thread, session = await start_thread(Session)
        task = asyncio.create_task(thread.run(session.work))
        await asyncio.to_thread(session.entered.wait, 60)
        task.cancel()
        await asyncio.wait([task])
        await thread.close(session.close)
        return session

    session = loop.run_until_complete(leave_at_work())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert session.closed == 0
    session.may_go_on.set()
    session.thread.join(timeout=60)
    assert not session.thread.is_alive()
    assert told == []
    assert session.closed == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        session.connection.execute("SELECT 1")


@pytest.mark.anyio
@pytest.mark.usefixtures("no_collector")
async def test_a_thread_without_work_keeps_nothing_of_the_last_call() -> None:
    """A value, or what was written, may be large, and the next call may be hours away."""

    class Large:
        """Can be referred to weakly."""

    def fail(_: Large) -> None:
        raise ValueError("torn")

    thread, _ = await start_worker("test", lambda: None)
    given = Large()
    result = await thread.run(lambda _: Large(), given)
    left: list[weakref.ref[Large]] = [weakref.ref(given), weakref.ref(result)]
    del given, result
    assert [one() for one in left] == [None, None]
    given = Large()
    left = [weakref.ref(given)]
    with pytest.raises(ValueError, match="torn") as caught:
        await thread.run(fail, given)
    del given, caught
    assert [one() for one in left] == [None]
    await thread.close(lambda: None)
