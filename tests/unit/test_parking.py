"""Where a task waits for its ack: the same on every event loop, cancelled at whatever moment."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import sniffio
import trio
import trio.testing

from mpreg.actors import Ack
from mpreg.actors.parking import (
    NewPlace,
    call_soon_from_anywhere,
    is_being_cancelled,
    new_place,
    place_maker,
)
from mpreg.testing import Simulation
from tests.loops import on_all_loops

pytestmark = pytest.mark.anyio

anyio_backend = on_all_loops

MAKERS = [
    pytest.param(lambda: new_place, id="looked up each time"),
    pytest.param(place_maker, id="chosen once"),
]


class Waiter:
    """A task that awaits one ack in a scope of its own, and what became of it."""

    def __init__(self, ack: Ack[int], *, shield: bool = False) -> None:
        self.ack = ack
        self.scope = anyio.CancelScope(shield=shield)
        self.answer: int | None = None
        self.ended = False

    async def run(self) -> None:
        try:
            with self.scope:
                self.answer = await self.ack
        finally:
            self.ended = True


def waits_on(ack: Ack[int]) -> int:
    return (ack._place is not None) + len(ack._later or ())


@pytest.mark.parametrize("make", MAKERS)
async def test_a_place_is_left_when_it_is_woken(make: Callable[[], NewPlace]) -> None:
    places = []

    async def wait() -> None:
        places.append(make()())
        await places[0]

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not places[0].done()
        places[0].set_result(None)
        assert places[0].done()


@pytest.mark.parametrize("make", MAKERS)
async def test_a_cancelled_place_is_done_and_need_not_be_woken(
    make: Callable[[], NewPlace],
) -> None:
    place = make()()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await place
    assert scope.cancelled_caught
    assert place.done()


@pytest.mark.parametrize("error", [None, OSError("no")])
async def test_an_answer_to_a_place_where_nobody_waits_yet_wakes_nobody_and_is_kept(
    error: OSError | None,
) -> None:
    """As where Ctrl-C takes the task elsewhere between the two, and where it never waits there."""
    place, elsewhere = new_place(), anyio.Event()
    async with anyio.create_task_group() as task_group:

        async def answer() -> None:
            if error is None:
                place.set_result(3)
            else:
                place.set_exception(error)
            assert place.done()
            await anyio.wait_all_tasks_blocked()
            elsewhere.set()

        task_group.start_soon(answer)
        await elsewhere.wait()
        assert elsewhere.is_set()
    if error is None:
        assert await place == 3
    else:
        with pytest.raises(OSError, match="no"):
            await place


async def test_a_place_may_be_made_by_another_task_than_waits_in_it() -> None:
    place, found = new_place(), list[int]()

    async def wait() -> None:
        found.append(await place)

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        place.set_result(5)
    assert found == [5]


async def test_the_event_loop_that_runs_gives_the_place() -> None:
    on_trio = sniffio.current_async_library() == "trio"
    assert isinstance(new_place(), asyncio.Future) is not on_trio
    assert isinstance(place_maker()(), asyncio.Future) is not on_trio


def test_without_an_event_loop_the_choice_is_put_off() -> None:
    assert place_maker() is new_place


def test_an_ack_made_before_the_event_loop_can_be_awaited_in_it() -> None:
    for backend in ("asyncio", "trio"):
        ack: Ack[int] = Ack(place_maker())

        async def main(ack: Ack[int] = ack) -> int:
            async with anyio.create_task_group() as task_group:
                waiter = Waiter(ack)
                task_group.start_soon(waiter.run)
                await anyio.wait_all_tasks_blocked()
                ack.resolve(4)
            assert waiter.answer is not None
            return waiter.answer

        assert anyio.run(main, backend=backend) == 4


async def test_in_a_cancelled_scope_the_wait_ends_though_nobody_answers() -> None:
    ack: Ack[int] = Ack()
    with anyio.fail_after(60), anyio.CancelScope() as scope:
        scope.cancel()
        await ack
    assert scope.cancelled_caught
    assert waits_on(ack) == 0


async def test_a_cancelled_scope_cancels_every_wait_in_it_and_not_only_the_first() -> None:
    ack: Ack[int] = Ack()
    cancelled = 0
    with anyio.fail_after(60), anyio.CancelScope() as scope:
        scope.cancel()
        for _ in range(3):
            try:
                await ack
            except anyio.get_cancelled_exc_class():
                cancelled += 1
        await anyio.lowlevel.checkpoint()
    assert cancelled == 3
    assert waits_on(ack) == 0


async def test_an_answer_before_the_cancellation_reaches_its_waiter() -> None:
    async with anyio.create_task_group() as task_group:
        waiter = Waiter(Ack())
        task_group.start_soon(waiter.run)
        await anyio.wait_all_tasks_blocked()
        waiter.ack.resolve(8)
        waiter.scope.cancel()
    assert waiter.answer == 8
    assert not waiter.scope.cancelled_caught


async def test_an_answer_after_the_cancellation_stays_in_the_ack() -> None:
    async with anyio.create_task_group() as task_group:
        waiter = Waiter(Ack())
        task_group.start_soon(waiter.run)
        await anyio.wait_all_tasks_blocked()
        waiter.scope.cancel()
        waiter.ack.resolve(8)
    # anyio delivers a cancellation on the spot or a turn later; the other one of the two is kept.
    assert waiter.answer == (None if waiter.scope.cancelled_caught else 8)
    assert await waiter.ack == 8


async def test_an_answer_to_an_ack_whose_waiter_is_being_cancelled_wakes_the_others() -> None:
    ack: Ack[int] = Ack()
    waiters = [Waiter(ack) for _ in range(5)]
    async with anyio.create_task_group() as task_group:
        for waiter in waiters:
            task_group.start_soon(waiter.run)
        await anyio.wait_all_tasks_blocked()
        for waiter in waiters[::2]:
            waiter.scope.cancel()
        await anyio.lowlevel.checkpoint()
        ack.resolve(6)
    assert [waiter.answer for waiter in waiters[1::2]] == [6, 6]
    assert all(waiter.ended for waiter in waiters)


async def test_a_cancelled_waiter_leaves_nothing_behind_and_may_wait_again() -> None:
    ack: Ack[int] = Ack()
    async with anyio.create_task_group() as task_group:
        patient, hasty, again = Waiter(ack), Waiter(ack), Waiter(ack)
        task_group.start_soon(patient.run)
        task_group.start_soon(hasty.run)
        await anyio.wait_all_tasks_blocked()
        assert waits_on(ack) == 2
        hasty.scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert (hasty.ended, hasty.answer, waits_on(ack)) == (True, None, 1)
        task_group.start_soon(again.run)
        await anyio.wait_all_tasks_blocked()
        assert waits_on(ack) == 2
        ack.resolve(2)
    assert [patient.answer, again.answer] == [2, 2]


async def test_a_shield_keeps_the_wait_until_it_is_answered() -> None:
    waiter = Waiter(Ack(), shield=True)
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(waiter.run)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert not waiter.ended
            waiter.ack.resolve(1)
    assert waiter.answer == 1


async def test_a_wait_that_is_too_long_times_out() -> None:
    ack: Ack[int] = Ack()
    with pytest.raises(TimeoutError), anyio.fail_after(0.01):
        await ack
    assert waits_on(ack) == 0


async def test_a_task_woken_with_an_error_raises_it() -> None:
    ack: Ack[int] = Ack()
    async with anyio.create_task_group() as task_group:

        async def expect_it() -> None:
            with pytest.raises(OSError, match="no"):
                await ack

        for _ in range(2):
            task_group.start_soon(expect_it)
        await anyio.wait_all_tasks_blocked()
        ack.reject(OSError("no"))


@pytest.mark.parametrize("answered", [False, True])
def test_asyncio_may_cancel_by_itself(answered: bool) -> None:
    async def main() -> None:
        ack: Ack[int] = Ack()
        task = asyncio.ensure_future(ack.wait())
        await asyncio.sleep(0)
        if answered:
            ack.resolve(3)
        task.cancel()
        if not answered:
            ack.resolve(3)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waits_on(ack) == 0
        assert await ack == 3

    asyncio.run(main())


def test_trio_may_run_without_anyio() -> None:
    async def main() -> int:
        ack: Ack[int] = Ack()
        async with trio.open_nursery() as nursery:
            waiter = Waiter(ack)
            nursery.start_soon(waiter.run)
            await trio.testing.wait_all_tasks_blocked()
            ack.resolve(5)
        return await ack

    assert trio.run(main) == 5


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_schedule_nobody_is_left_waiting(seed: int) -> None:
    simulation = Simulation(seed)
    draw = simulation.stream("test")

    async def main() -> list[Waiter]:
        acks: list[Ack[int]] = [Ack() for _ in range(4)]
        waiters = [Waiter(acks[number % 4], shield=number % 5 == 0) for number in range(40)]
        deeds: list[Callable[[], None]] = [waiter.scope.cancel for waiter in waiters[::3]]
        deeds += [partial(ack.resolve, 1) for ack in acks]
        draw.shuffle(deeds)
        async with anyio.create_task_group() as task_group:
            for waiter in waiters:
                task_group.start_soon(waiter.run)
            for deed in deeds:
                if draw.random() < 0.5:
                    await anyio.lowlevel.checkpoint()
                deed()
        return waiters

    waiters = simulation.run(main)
    assert waiters is not None
    assert all(waiter.ended for waiter in waiters)
    assert all(waiter.answer == 1 or waiter.scope.cancelled_caught for waiter in waiters)


def test_a_crash_ends_whoever_waits() -> None:
    simulation = Simulation(1)
    waiters: list[Waiter] = []

    async def main() -> None:
        waiters.append(Waiter(Ack(), shield=False))
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(waiters[0].run)
            await anyio.sleep(1e5)

    simulation.run(main, crash_at_step=3)
    assert simulation.crashed
    assert waiters[0].ended
    assert waits_on(waiters[0].ack) == 0


# --- calls from anywhere ---


async def test_what_is_called_from_anywhere_is_called_in_the_event_loop_and_in_order() -> None:
    call_soon = call_soon_from_anywhere()
    called: list[tuple[int, int]] = []
    done = anyio.Event()

    def ask(number: int) -> None:
        call_soon(lambda: called.append((number, threading.get_ident())))

    ask(0)
    assert called == [], "in the next turn, not at once"
    await anyio.to_thread.run_sync(ask, 1)
    await anyio.to_thread.run_sync(call_soon, done.set)
    with anyio.fail_after(60):
        await done.wait()
    here = threading.get_ident()
    assert called == [(0, here), (1, here)]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_when_the_event_loop_has_ended_nothing_is_called_any_more(backend: str) -> None:
    called: list[int] = []

    async def main() -> Callable[[Callable[[], None]], None]:
        return call_soon_from_anywhere()

    call_soon = anyio.run(main, backend=backend)
    call_soon(lambda: called.append(1))
    thread = threading.Thread(target=call_soon, args=(lambda: called.append(2),))
    thread.start()
    thread.join()
    assert called == []


def test_an_event_loop_that_ends_between_two_looks_at_it_is_no_error() -> None:
    class Closing(asyncio.SelectorEventLoop):
        """It says that it is open, and then is not."""

        lies = False

        def is_closed(self) -> bool:
            return super().is_closed() and not self.lies

    async def main() -> Callable[[Callable[[], None]], None]:
        return call_soon_from_anywhere()

    loop = Closing()
    call_soon = loop.run_until_complete(main())
    loop.close()
    loop.lies = True
    call_soon(lambda: None)
    loop.lies = False


# --- who is being cancelled ---


async def test_a_task_whose_scope_is_cancelled_is_being_cancelled() -> None:
    assert not is_being_cancelled()
    with anyio.CancelScope() as scope:
        assert not is_being_cancelled()
        scope.cancel()
        assert is_being_cancelled()
        with anyio.CancelScope(shield=True):
            assert not is_being_cancelled()
        with pytest.raises(anyio.get_cancelled_exc_class()):
            await anyio.lowlevel.checkpoint()
        assert is_being_cancelled()
    assert not is_being_cancelled()


async def test_a_deadline_is_not_yet_a_cancellation() -> None:
    with anyio.move_on_after(1_000.0):
        assert not is_being_cancelled()


def test_a_task_that_asyncio_cancels_by_itself_is_being_cancelled() -> None:
    found: list[bool] = []

    async def work() -> None:
        found.append(is_being_cancelled())
        try:
            await asyncio.sleep(1_000)
        finally:
            found.append(is_being_cancelled())

    async def main() -> None:
        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found.append(is_being_cancelled())

    asyncio.run(main())
    assert found == [False, True, False]


async def test_where_no_task_runs_nobody_is_being_cancelled() -> None:
    found: list[bool] = []
    done = anyio.Event()

    def look() -> None:
        found.append(is_being_cancelled())
        done.set()

    with anyio.CancelScope() as scope:
        scope.cancel()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        call_soon_from_anywhere()(look)
    await done.wait()
    with anyio.fail_after(60):
        while len(found) < 2:
            await anyio.lowlevel.checkpoint()
    assert found == [False, False]


def test_without_an_event_loop_nobody_is_being_cancelled() -> None:
    assert not is_being_cancelled()


def test_a_program_on_asyncio_does_not_load_trio(tmp_path: Path) -> None:
    code = (
        "import sys, anyio, mpreg.cache, mpreg.queues, mpreg.persistence as p\n"
        "async def main():\n"
        "    async with p.PersistenceRegistry(p.PersistenceConfig(data_dir=sys.argv[1])) as r:\n"
        "        await r.key_value_store('s').put('k', b'v')\n"
        "        assert await r.key_value_store('s').get('k')\n"
        "anyio.run(main)\n"
        "assert 'trio' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "data")], check=True)
