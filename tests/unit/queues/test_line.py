"""Those who wait for messages: who is called, who is served, and what a cancellation leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from mpreg.queues.hand_out import HandOut
from mpreg.queues.line import Demand, Line, Waiter
from mpreg.queues.subscription_state import SubscriptionState
from mpreg.testing import Simulation

Seen = dict[str, Waiter]


def hand_out() -> HandOut:
    return HandOut(SubscriptionState("default"), [], held=False)


class Scene:
    """A line in virtual time, and who has come out of it."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.abandoned: list[HandOut] = []
        self.line = Line(self.abandoned.append)
        self.seen: Seen = {}
        self.scopes: dict[str, anyio.CancelScope] = {}
        self._tasks = tasks

    async def add(self, name: str, count: int = 1, seconds: float | None = None) -> None:
        self.scopes[name] = anyio.CancelScope()

        async def wait() -> None:
            deadline = None if seconds is None else anyio.current_time() + seconds
            with self.scopes[name]:
                self.seen[name] = await self.line.wait(Demand(count), deadline)

        self._tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            scene = Scene(tasks)
            await story(scene)
            tasks.cancel_scope.cancel()
            assert scene.line.wanted == sum(one.demand.count for one in scene.line._waiting)

    Simulation(0).run(run)


def test_the_first_is_called_and_no_other_until_it_runs() -> None:
    async def story(scene: Scene) -> None:
        for name in ("a", "b", "c"):
            await scene.add(name)
        assert scene.line.wanted == 3
        scene.line.call_first()
        scene.line.call_first()
        await anyio.wait_all_tasks_blocked()
        assert list(scene.seen) == ["a"]
        assert scene.seen["a"].called
        scene.line.call_first()
        await anyio.wait_all_tasks_blocked()
        assert list(scene.seen) == ["a", "b"]
        assert scene.line.wanted == 1

    play(story)


def test_at_the_deadline_nobody_has_come() -> None:
    async def story(scene: Scene) -> None:
        await scene.add("a", seconds=1.0)
        await scene.add("b", seconds=3.0)
        await anyio.sleep(2.0)
        assert scene.seen["a"].is_over
        scene.line.call_first()
        await anyio.wait_all_tasks_blocked()
        assert not scene.seen["b"].is_over

    play(story)


@pytest.mark.parametrize("committed", [True, False])
def test_what_was_served_in_time_is_waited_for(committed: bool) -> None:
    async def story(scene: Scene) -> None:
        await scene.add("a", seconds=1.0)
        waiter = scene.line.pop()
        assert waiter is not None
        served = hand_out()
        waiter.serve(served)
        await anyio.sleep(5.0)
        assert not scene.seen
        assert served.told is not None
        served.told(committed)
        await anyio.wait_all_tasks_blocked()
        assert scene.seen["a"].committed is committed
        assert not scene.seen["a"].is_over
        assert not scene.abandoned

    play(story)


def test_one_that_is_cancelled_abandons_what_it_was_served() -> None:
    async def story(scene: Scene) -> None:
        await scene.add("a", seconds=1.0)
        waiter = scene.line.pop()
        assert waiter is not None
        served = hand_out()
        waiter.serve(served)
        await anyio.sleep(5.0)
        scene.scopes["a"].cancel()
        await anyio.wait_all_tasks_blocked()
        assert scene.abandoned == [served]
        assert served.told is not None
        served.told(True)

    play(story)


def test_one_that_is_called_and_cancelled_leaves_the_call_to_the_next() -> None:
    async def story(scene: Scene) -> None:
        await scene.add("a")
        await scene.add("b")
        # Cancelled first: it is not woken by the call any more.
        scene.scopes["a"].cancel()
        scene.line.call_first()
        await anyio.wait_all_tasks_blocked()
        assert list(scene.seen) == ["b"]

    play(story)


def test_all_are_called_at_the_end() -> None:
    async def story(scene: Scene) -> None:
        for name in ("a", "b", "c"):
            await scene.add(name, 4)
        scene.line.call_all()
        await anyio.wait_all_tasks_blocked()
        assert [one.called for one in scene.seen.values()] == [True] * 3
        assert scene.line.wanted == sum(one.demand.count for one in scene.line._waiting)
        assert scene.line.pop() is None

    play(story)
