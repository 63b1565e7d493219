"""The cache of a node: what is sent once, what is computed once, and what is not cached then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from attrs import define, field

from mpreg.cache import GlobalCacheKey
from mpreg.client import MPREGClient, RemoteCacheManager
from mpreg.errors import (
    InvalidArgumentError,
    NodeUnreachableError,
    VersionConflictError,
    WatchLaggedError,
)
from mpreg.persistence import Durability
from tests.integration.client.support import (
    LOST_ANSWER,
    NOBODY,
    Hasty,
    Way,
    client_at,
    client_of,
    open_client,
)
from tests.integration.client.test_snapshots import Cutting
from tests.integration.server.support import open_node
from tests.integration.server.test_connections import serving
from tests.loops import await_what_others_cancelled

pytestmark = pytest.mark.anyio

KEY = GlobalCacheKey("ns", "k")
OTHER = GlobalCacheKey("ns", "other")


# --- writes ---


async def test_a_write_whose_answer_is_lost_is_made_once(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, _):
        cache = node.cache
        lose = [LOST_ANSWER, NOBODY]
        way.troubles.extend(lose)
        version = await (await cache.put(KEY, 1))
        way.troubles.extend(lose)
        found = await cache.get(KEY)
        assert found is not None
        assert found.version == version
        way.troubles.extend(lose)
        version = await cache.compare_and_set(KEY, 2, expected_version=version)
        way.troubles.extend(lose)
        ack = await cache.put_many({KEY: 3, OTHER: 4})
        assert ack is not None
        way.troubles.extend(lose)
        assert (await cache.get_many([KEY]))[KEY].value == 3
        way.troubles.extend(lose)
        invalidated = await cache.invalidate(tag="t")
        assert invalidated > await ack
        way.troubles.extend(lose)
        assert await cache.delete(KEY)


async def test_an_increment_is_not_sent_again_where_it_may_have_been_made(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, _):
        way.troubles.extend([NOBODY, NOBODY])
        assert await node.cache.increment(KEY) == 1
        way.troubles.append(LOST_ANSWER)
        asked = len(way.asked)
        with pytest.raises(NodeUnreachableError) as raised:
            await node.cache.increment(KEY)
        assert raised.value.may_have_been_made
        assert len(way.asked) == asked + 1
        assert await node.cache.increment(KEY) == 3


async def test_an_increment_is_as_durable_as_is_asked(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, server):
        for durability in (Durability.RELAXED, Durability.DURABLE, None):
            await node.cache.increment(KEY, durability=durability)
            stats = await server.state.registry.stats()
            is_durable = stats.durable_sequence == stats.commit_sequence
            assert is_durable is (durability is not Durability.RELAXED)


async def test_a_condition_that_an_earlier_attempt_may_have_ended_is_not_told_as_one_of_others(
    data_dir: Path,
) -> None:
    async with open_node(data_dir, idempotency_window_seconds=0.001) as server:
        way = Way(server.app)
        async with client_of(way) as node:
            way.troubles.extend([LOST_ANSWER, NOBODY])
            with pytest.raises(NodeUnreachableError) as raised:
                await node.cache.compare_and_set(KEY, 1, expected_version=0)
            assert raised.value.may_have_been_made
            with pytest.raises(VersionConflictError):
                await node.cache.compare_and_set(KEY, 1, expected_version=0)


async def test_what_cannot_be_a_key_over_http_is_told_and_not_sent(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, _):
        for key in (
            GlobalCacheKey("a/b", 1),
            GlobalCacheKey("ns", "\ud800"),
            GlobalCacheKey("ns", "x" * 70_000),
        ):
            for call in (node.cache.get(key), node.cache.put(key, 1), node.cache.increment(key)):
                with pytest.raises(InvalidArgumentError):
                    await call
        with pytest.raises(InvalidArgumentError):
            node.cache.watch(namespace="ns", prefix=b"bytes")
        with pytest.raises(InvalidArgumentError):
            node.cache.watch(prefix="p")
        assert way.asked == []


@pytest.mark.parametrize("bytes_max", [1, 100, 4 << 20])
async def test_many_values_come_whole_though_an_answer_has_not_room_for_all(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, bytes_max: int
) -> None:
    monkeypatch.setattr("mpreg.server.routes.cache.ANSWER_BYTES_MAX", bytes_max)
    values: dict[GlobalCacheKey, object] = {
        GlobalCacheKey("ns", number): "x" * number for number in range(50)
    }
    async with open_client(data_dir) as (node, way, _):
        await node.cache.put_many(values)
        keys = [GlobalCacheKey("ns", number) for number in range(-5, 60)]
        found = await node.cache.get_many([*keys, *keys])
        assert {key: one.value for key, one in found.items()} == values
        asked = way.count("/get-many")
        assert asked > 10 if bytes_max < 1_000 else asked == 1


# --- computing ---


class Work:
    """A computation that waits until it is told to end."""

    def __init__(self) -> None:
        self.began, self.may_end = anyio.Event(), anyio.Event()
        self.count = self.ended = 0

    async def __call__(self) -> Any:
        self.count += 1
        try:
            self.began.set()
            await self.may_end.wait()
            return {"count": self.count}
        finally:
            self.ended += 1


async def test_one_computation_runs_for_all_who_ask_at_the_same_time(data_dir: Path) -> None:
    results: list[Any] = []
    work = Work()

    async def ask() -> None:
        results.append(await node.cache.get_or_compute(KEY, work))

    async with open_client(data_dir) as (node, way, _):
        async with anyio.create_task_group() as task_group:
            for _ in range(5):
                task_group.start_soon(ask)
            await work.began.wait()
            work.may_end.set()
        assert results == [{"count": 1}] * 5
        assert len({id(result) for result in results}) == 5
        assert [method for method, path in way.asked if "/cache/" in path] == ["GET", "PUT"]
        assert await node.cache.get_or_compute(KEY, work) == {"count": 1}


async def test_a_computation_goes_on_for_the_others_and_ends_with_the_last(data_dir: Path) -> None:
    results: list[Any] = []
    work = Work()

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            results.append(await node.cache.get_or_compute(KEY, work))

    async with open_client(data_dir) as (node, _, _):
        scopes = [anyio.CancelScope() for _ in range(2)]
        async with anyio.create_task_group() as task_group:
            for scope in scopes:
                task_group.start_soon(ask, scope)
            await work.began.wait()
            scopes[0].cancel()
            await anyio.wait_all_tasks_blocked()
            assert work.ended == 0
            work.may_end.set()
        assert results == [{"count": 1}]
        await node.cache.delete(KEY)
        work.began, work.may_end = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as task_group:
            scope = anyio.CancelScope()
            task_group.start_soon(ask, scope)
            await work.began.wait()
            scope.cancel()
        while work.ended < 2:
            await anyio.lowlevel.checkpoint()
        assert await node.cache.get(KEY) is None


async def change_key(cache: RemoteCacheManager) -> None:
    await cache.put(OTHER, 1)


async def invalidate_tag(cache: RemoteCacheManager) -> None:
    await cache.invalidate(tag="t")


async def invalidate_namespace(cache: RemoteCacheManager) -> None:
    await cache.invalidate(namespace="ns", prefix="k")


async def invalidate_dependency(cache: RemoteCacheManager) -> None:
    await cache.invalidate(dependency=OTHER)


async def count(cache: RemoteCacheManager) -> None:
    await cache.increment(OTHER)


@pytest.mark.parametrize(
    "change",
    [change_key, invalidate_tag, invalidate_namespace, invalidate_dependency, count],
    ids=lambda one: one.__name__,
)
async def test_what_this_client_changes_meanwhile_is_not_cached(
    data_dir: Path, change: Any
) -> None:
    results: list[Any] = []
    work = Work()

    async def ask() -> None:
        results.append(await node.cache.get_or_compute(KEY, work, tags=["t"], dependencies=[OTHER]))

    async with open_client(data_dir) as (node, _, _), anyio.create_task_group() as task_group:
        task_group.start_soon(ask)
        await work.began.wait()
        await change(node.cache)
        # Who comes now gets another one.
        task_group.start_soon(ask)
        while work.count < 2:
            await anyio.sleep(0)
        work.may_end.set()
        while len(results) < 2:
            await anyio.sleep(0)
        assert work.count == 2
        found = await node.cache.get(KEY)
        assert found is not None
        assert found.value == {"count": 2}


@define(eq=False)
class Holding(Way):
    """Requests whose path ends so do not come to the node until they may."""

    end: str = ""
    arrived: anyio.Event = field(factory=anyio.Event)
    may_go: anyio.Event = field(factory=anyio.Event)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "GET" and request.url.path.endswith(self.end):
            self.arrived.set()
            await self.may_go.wait()
        return await super().handle_async_request(request)


@pytest.mark.parametrize(
    "change",
    [change_key, invalidate_tag, invalidate_namespace, invalidate_dependency, count],
    ids=lambda one: one.__name__,
)
async def test_what_is_being_stored_does_not_come_behind_a_change(
    data_dir: Path, change: Any
) -> None:
    async def compute() -> str:
        return "old"

    async def ask() -> None:
        await node.cache.get_or_compute(KEY, compute, tags=["t"], dependencies=[OTHER])

    async with open_node(data_dir) as server:
        way = Holding(server.app, end="/v1/cache/ns/")
        async with client_of(way) as node, anyio.create_task_group() as task_group:
            task_group.start_soon(ask)
            await way.arrived.wait()
            way.end = "?"
            before = len(way.asked)
            task_group.start_soon(change, node.cache)
            await anyio.wait_all_tasks_blocked()
            assert len(way.asked) == before
            way.may_go.set()
        found = await server.state.cache.get(KEY)
        assert found is None or found.value != "old"


@define(eq=False)
class GoingOn(Holding):
    """A node answers also where nobody waits for that any more."""

    tasks: anyio.abc.TaskGroup = field(kw_only=True)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answers: list[httpx.Response] = []
        answered = anyio.Event()

        async def answer() -> None:
            answers.append(await super(GoingOn, self).handle_async_request(request))
            answered.set()

        self.tasks.start_soon(answer)
        await answered.wait()
        return answers[0]


async def test_what_is_being_stored_does_not_come_behind_a_change_though_nobody_waits_for_it(
    data_dir: Path,
) -> None:
    async def compute() -> str:
        return "old"

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            await node.cache.get_or_compute(KEY, compute, dependencies=[OTHER])

    scope = anyio.CancelScope()
    async with open_node(data_dir) as server, anyio.create_task_group() as tasks:
        way = GoingOn(server.app, end="/v1/cache/ns/", tasks=tasks)
        async with client_of(way) as node, anyio.create_task_group() as task_group:
            task_group.start_soon(ask, scope)
            await way.arrived.wait()
            way.end = "?"
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            before = len(way.asked)
            task_group.start_soon(change_key, node.cache)
            await anyio.wait_all_tasks_blocked()
            assert len(way.asked) == before
            way.may_go.set()
        assert await server.state.cache.get(KEY) is None


async def test_what_invalidates_that_which_it_depends_on_is_known_to_the_node_alone(
    data_dir: Path,
) -> None:
    async def compute() -> str:
        found = await node.cache.get(OTHER)
        assert found is not None
        await node.cache.invalidate(tag="of the other")
        return f"of {found.value}"

    async with open_client(data_dir) as (node, _, _):
        await node.cache.put(OTHER, "old", tags=["of the other"])
        assert await node.cache.get_or_compute(KEY, compute, dependencies=[OTHER]) == "of old"
        assert await node.cache.get(KEY) is None


async def test_while_a_change_is_on_its_way_what_it_concerns_is_not_stored(
    data_dir: Path,
) -> None:
    async def compute() -> str:
        return "old"

    async with open_node(data_dir) as server:
        way = Holding(server.app, end="/invalidate")
        async with client_of(way) as node, anyio.create_task_group() as task_group:
            task_group.start_soon(invalidate_tag, node.cache)
            await way.arrived.wait()
            assert await node.cache.get_or_compute(KEY, compute, tags=["t"]) == "old"
            assert await node.cache.get(KEY) is None
            await node.cache.get_or_compute(OTHER, compute)
            assert await node.cache.get(OTHER) is not None
            way.may_go.set()


async def test_what_somebody_else_has_put_meanwhile_stays(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, server):

        async def compute() -> str:
            await server.state.cache.put(KEY, "theirs")
            return "ours"

        assert await node.cache.get_or_compute(KEY, compute) == "ours"
        found = await node.cache.get(KEY)
        assert found is not None
        assert found.value == "theirs"


async def test_a_computation_that_fails_is_told_to_all_and_nothing_is_cached(
    data_dir: Path,
) -> None:
    async def fail() -> None:
        raise LookupError("mine")

    async with open_client(data_dir) as (node, _, _):
        with pytest.raises(LookupError, match="mine"):
            await node.cache.get_or_compute(KEY, fail)
        assert await node.cache.get(KEY) is None


async def test_what_is_given_is_what_is_cached_whoever_goes_on_changing_it(data_dir: Path) -> None:
    made: list[int] = [1]

    async def compute() -> list[int]:
        return made

    def before(request: httpx.Request) -> None:
        if request.method == "PUT":
            made.append(2)

    async with open_client(data_dir) as (node, way, _):
        way.before = before
        assert await node.cache.get_or_compute(KEY, compute) == [1]
        assert await node.cache.get_or_compute(KEY, compute) == [1]
        assert made == [1, 2]


@pytest.mark.parametrize("is_outdated", [False, True])
async def test_what_is_no_value_is_refused_whatever_happens_meanwhile(
    data_dir: Path, is_outdated: bool
) -> None:
    async def compute() -> object:
        if is_outdated:
            await node.cache.put(KEY, 1)
            await node.cache.delete(KEY)
        return {1, 2}

    async with open_client(data_dir) as (node, _, _):
        with pytest.raises(InvalidArgumentError, match="set"):
            await node.cache.get_or_compute(KEY, compute)
        assert await node.cache.get(KEY) is None


async def test_computations_that_would_wait_for_each_other_for_ever_are_told(
    data_dir: Path,
) -> None:
    async def of_itself() -> Any:
        return await node.cache.get_or_compute(KEY, of_itself)

    async def of_the_other() -> Any:
        return await node.cache.get_or_compute(OTHER, of_the_first)

    async def of_the_first() -> Any:
        return await node.cache.get_or_compute(KEY, of_the_other)

    async def one() -> int:
        return 1

    async def of_one() -> Any:
        return await node.cache.get_or_compute(OTHER, one)

    async with open_client(data_dir) as (node, _, _):
        with pytest.raises(RuntimeError, match="is computed from itself"):
            await node.cache.get_or_compute(KEY, of_itself)
        with pytest.raises(RuntimeError, match="they would wait for each other"):
            await node.cache.get_or_compute(KEY, of_the_other)
        assert await node.cache.get_or_compute(KEY, of_one) == 1
        assert node.cache._computations._tasks.by_task == {}
        assert node.cache._computations._tasks.waits_for == {}


async def test_a_computation_whose_work_others_cancel_fails_alone(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, _):
        with pytest.raises(RuntimeError, match="what it waited for was cancelled"):
            await node.cache.get_or_compute(KEY, await_what_others_cancelled)
        await node.cache.put(KEY, "the client goes on")


async def test_what_was_computed_is_given_also_where_it_cannot_be_stored(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client(data_dir) as (node, way, _):

        async def compute() -> int:
            # Not before: the node may take its time to say that it has nothing.
            node._calls._patience_seconds = 0.05
            way.app = None
            return 1

        assert await node.cache.get_or_compute(KEY, compute) == 1
        assert "is not cached" in caplog.text


async def test_who_waits_for_a_computation_is_told_where_the_client_ends(data_dir: Path) -> None:
    work = Work()

    async def ask() -> None:
        with pytest.raises(NodeUnreachableError, match="closed"):
            await node.cache.get_or_compute(KEY, work)

    async with anyio.create_task_group() as task_group, open_client(data_dir) as (node, _, _):
        task_group.start_soon(ask)
        await work.began.wait()
    assert work.ended == 1


# --- watching ---


async def test_who_watches_is_told_where_the_node_stops(data_dir: Path) -> None:
    async with (
        serving(data_dir) as server,
        client_at(server.state.url) as node,
        node.cache.watch() as changes,
    ):
        await node.cache.put(KEY, 1)
        assert (await anext(changes)).key == KEY
        server.stop.set()
        with pytest.raises(WatchLaggedError):
            await anext(changes)


async def test_statistics_are_those_of_the_node(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, server):
        await node.cache.put(KEY, 1)
        await node.cache.get(KEY)
        statistics = await node.cache.statistics()
        assert statistics == server.state.cache.statistics()
        assert statistics.namespaces["ns"].memory_hits == 1


async def test_a_watch_whose_connection_breaks_before_it_has_begun_begins_all_the_same(
    data_dir: Path,
) -> None:
    way = Cutting()
    async with (
        serving(data_dir) as server,
        MPREGClient(server.state.url, transport=way, randomness=Hasty(1)) as node,
    ):
        way.downs += [0, 3]
        async with node.cache.watch() as changes:
            assert not way.downs
            await node.cache.put(KEY, 1)
            assert (await anext(changes)).key == KEY


async def test_a_watch_that_the_node_ends_with_an_error_is_over(data_dir: Path) -> None:
    async with (
        serving(data_dir) as server,
        client_at(server.state.url) as node,
        node.key_value_store("ns").watch() as changes,
    ):
        followers = server.state.registry._gateway.followers.keys.values()
        [follower] = [one for found in followers for one in found]
        follower.end(WatchLaggedError("too fast"))
        with pytest.raises(WatchLaggedError, match="faster than they were taken"):
            await anext(changes)
