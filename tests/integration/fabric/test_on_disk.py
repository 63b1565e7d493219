"""What of the catalog is on disk, and what becomes of it when it is damaged or over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from mpreg.errors import ConfigurationError
from mpreg.fabric import NODES_MAX, Fabric, Told
from mpreg.persistence import Participant, PersistenceRegistry
from mpreg.server.state import NodeState
from tests.integration.fabric.support import settings_of, tokens
from tests.integration.support import TurnedClock, listed, registry, tamper

pytestmark = pytest.mark.anyio

PEER = "http://b"


def told(
    number: int = 0, *, ttl_seconds: float = 10.0, incarnation: int = 1, hops: int = 0
) -> Told:
    return Told(
        node=f"node-{number}",
        name=f"node-{number}",
        url="http://b",
        incarnation=incarnation,
        number=1,
        ttl_seconds=ttl_seconds,
        remaining_seconds=ttl_seconds,
        hops=hops,
        queues=[f"queue-{number}"],
    )


@asynccontextmanager
async def opened(
    data_dir: Path, clock: TurnedClock | None = None, peers: tuple[str, ...] = (PEER,)
) -> AsyncIterator[tuple[PersistenceRegistry, Fabric]]:
    here = registry(data_dir, clock=clock)
    fabric = Fabric(here, "a", 10.0, peers, tokens(), lambda: ((), ()), url="http://a")
    async with here:
        yield here, fabric


async def rows(here: PersistenceRegistry) -> list[str | bytes]:
    store = here.reserved("fabric").key_value_store("catalog")
    return [entry.key for entry in await listed(store.scan())]


async def test_a_node_is_itself_over_restarts_and_each_life_is_a_later_one(
    data_dir: Path,
) -> None:
    lives = []
    for _ in range(3):
        async with opened(data_dir) as (_, fabric):
            said = fabric.announcement()
            lives.append((said.node, said.incarnation))
    assert len({node for node, _ in lives}) == 1
    numbers = [incarnation for _, incarnation in lives]
    assert numbers == sorted(set(numbers))


async def test_what_was_known_has_aged_by_the_time_that_nobody_ran(data_dir: Path) -> None:
    clock = TurnedClock()
    async with opened(data_dir, clock) as (_, fabric):
        fabric.hear([told(0), told(1, hops=1)], PEER)
    for passed, is_alive, is_known in (
        (4.0, True, True),
        (7.0, False, True),
        (300.0, False, False),
        (1e6, False, False),
    ):
        clock.now += passed
        async with opened(data_dir, clock) as (_, fabric):
            await fabric.keep()
            # What is at a peer itself is not forgotten.
            peer, other = fabric.holder("queue-0"), fabric.holder("queue-1")
            assert peer is not None
            assert fabric.is_alive(peer) is is_alive
            assert (other is not None) is is_known
            assert other is None or fabric.is_alive(other) is is_alive


async def test_what_is_over_or_of_no_peer_any_more_is_removed_from_the_disk(
    data_dir: Path,
) -> None:
    clock = TurnedClock()
    async with opened(data_dir, clock) as (here, fabric):
        fabric.hear([told(0), told(1, ttl_seconds=10_000.0)], PEER)
        await fabric.keep()
        assert await rows(here) == ["node-0", "node-1"]
    clock.now += 1_000.0
    async with opened(data_dir, clock) as (here, fabric):
        await fabric.keep()
        assert await rows(here) == ["node-1"]
    async with opened(data_dir, clock, peers=()) as (here, fabric):
        await fabric.keep()
        assert await rows(here) == []


async def test_it_is_written_when_it_would_soon_be_out_of_date_and_not_for_every_word(
    data_dir: Path,
) -> None:
    async with opened(data_dir) as (here, fabric):
        for number in range(5):
            fabric.hear([told()], PEER)
            await fabric.keep()
            if number == 0:
                commits = (await here.stats()).commits
        assert (await here.stats()).commits == commits


async def test_more_than_there_may_be_are_not_brought_back(data_dir: Path) -> None:
    async with opened(data_dir) as (here, fabric):
        fabric.hear([told(number) for number in range(NODES_MAX)], PEER)
        await fabric.keep()
        store = here.reserved("fabric").key_value_store("catalog")
        first = await store.get("node-0")
        assert first is not None
        await store.put("one more", first.value)
    async with opened(data_dir) as (_, fabric):
        assert len(fabric.catalog) == NODES_MAX


async def test_a_damaged_entry_is_told_of_and_the_others_are_there(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(data_dir) as (here, fabric):
        fabric.hear([told(0), told(2)], PEER)
        await fabric.keep()
        store = here.reserved("fabric").key_value_store("catalog")
        await store.put("no node", b"\xc1")
        before = fabric.identity
    tamper(
        data_dir,
        "UPDATE entries SET value = x'00' WHERE CAST(key AS TEXT) LIKE '%node-2'",
    )
    async with opened(data_dir) as (_, fabric):
        assert [one.announcement.node for one in fabric.catalog] == ["node-0"]
        assert fabric.identity == before
    assert sum("is learned anew" in line for line in caplog.messages) == 2


async def test_a_damaged_identity_is_told_of_and_made_anew(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(data_dir) as (_, fabric):
        before = fabric.identity
    tamper(data_dir, "UPDATE entries SET value = x'00' WHERE CAST(key AS TEXT) LIKE '%identity'")
    async with opened(data_dir) as (_, fabric):
        assert fabric.identity != before
    assert any("identity" in line for line in caplog.messages)


async def test_it_comes_after_the_queues_and_the_cache(data_dir: Path) -> None:
    settings = settings_of("a", data_dir, {})
    state = NodeState.of(settings, clock=TurnedClock(), make_token=tokens())
    state.registry.register(Participant(name="later"))
    async with state.registry:
        names = [one.name for one in (await state.registry.stats()).participants]
    assert names[0] == "queues"
    assert names.index("queues") < names.index("catalog") < names.index("later")
    assert all(names.index(one) < names.index("catalog") for one in names if "cache" in one)


async def test_a_token_file_that_cannot_be_used_is_told_before_anything_is_opened(
    data_dir: Path, tmp_path: Path
) -> None:
    open_to_all = tmp_path / "token"
    open_to_all.write_text("t" * 16)
    open_to_all.chmod(0o644)
    for path, why in ((open_to_all, "chmod 600"), (tmp_path / "none", "cannot be read")):
        settings = settings_of("a", data_dir, {PEER: str(path)})
        with pytest.raises(ConfigurationError, match=why) as raised:
            NodeState.of(settings, clock=TurnedClock(), make_token=tokens())
        assert raised.value.setting == "mpreg.peers[0].token_file"
    assert not data_dir.exists()
    await anyio.lowlevel.checkpoint()
