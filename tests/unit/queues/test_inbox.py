"""What is dropped anywhere is looked at in the event loop, in order, and once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest

from mpreg.actors.parking import call_soon_from_anywhere
from mpreg.queues.inbox import Dropped, Inbox

pytestmark = pytest.mark.anyio


def dropped() -> Dropped:
    return Dropped((), None, cancelled=False)


async def next_turn() -> None:
    """Return when what was asked for until now was called."""
    called = anyio.Event()
    call_soon_from_anywhere()(called.set)
    await called.wait()


async def test_nothing_is_done_where_something_is_put() -> None:
    taken: list[Dropped] = []
    inbox = Inbox(taken.append)
    one, two = dropped(), dropped()
    inbox.put(one)
    inbox.put(two)
    assert taken == []
    await next_turn()
    assert [id(each) for each in taken] == [id(one), id(two)]


async def test_what_is_put_in_another_thread_is_looked_at_in_the_event_loops() -> None:
    taken = anyio.Event()
    threads: list[int] = []

    def take(_: Dropped) -> None:
        threads.append(threading.get_ident())
        taken.set()

    inbox = Inbox(take)
    await anyio.to_thread.run_sync(inbox.put, dropped())
    with anyio.fail_after(60):
        await taken.wait()
    assert threads == [threading.get_ident()]


async def test_who_does_not_want_to_wait_empties_it_and_nothing_is_taken_twice() -> None:
    taken: list[Dropped] = []
    inbox = Inbox(taken.append)
    inbox.put(dropped())
    inbox.empty()
    assert len(taken) == 1
    await next_turn()
    assert len(taken) == 1


def test_what_comes_while_it_is_emptied_is_taken_too() -> None:
    calls: list[Callable[[], None]] = []
    taken: list[Dropped] = []

    def take(one: Dropped) -> None:
        taken.append(one)
        if len(taken) < 3:
            # The garbage collector runs in the middle of anything.
            inbox.put(dropped())

    inbox = Inbox(take, calls.append)
    inbox.put(dropped())
    inbox.empty()
    assert len(taken) == 3
    for call in calls:
        call()
    assert len(taken) == 3


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_after_the_event_loop_has_ended_nothing_is_taken(backend: str) -> None:
    taken: list[Dropped] = []

    async def main() -> Inbox:
        return Inbox(taken.append)

    inbox = anyio.run(main, backend=backend)
    inbox.put(dropped())
    assert taken == []
