"""The thread of a connection, where its event loop is gone before it is done."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from mpreg.persistence.backends.sqlite.connection import start_thread

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
