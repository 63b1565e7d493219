"""A story of three catalogs: what is exchanged gets lost, comes twice or out of order, wall clocks
jump, nodes are closed, killed and started again; then all is quiet, and they have to agree.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random
from typing import Final

import anyio
import msgspec
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field

from mpreg.errors import PersistenceError
from mpreg.fabric import Announcement, Fabric, Told
from mpreg.persistence import PersistenceRegistry
from mpreg.persistence.engine import collapsed_groups
from mpreg.testing import SimulatedBackend, SimulatedDisk, Simulation, VirtualClock
from tests.simulation.scenario import make_config

NAMES: Final = ("a", "b", "c")
QUEUES: Final = ("jobs", "mails", "orders", "prints")
TTL_SECONDS: Final = 15.0
TROUBLE_SECONDS: Final = 120.0


@define(eq=False)
class JumpingClock:
    """The wall clock of one node, some way off that of the others."""

    _clock: VirtualClock
    offset: float = 0.0

    def wall(self) -> float:
        return self._clock.wall() + self.offset


@define(eq=False)
class Process:
    """What ends it."""

    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    closing: anyio.Event = field(factory=anyio.Event)
    ended: anyio.Event = field(factory=anyio.Event)


@define(eq=False)
class SimulatedNode:
    """One directory, and the process that has it open: from time to time another one."""

    name: str
    disk: SimulatedDisk
    clock: JumpingClock
    queues: set[str] = field(factory=set)
    fabric: Fabric | None = None
    """None: there is no process that is ready."""
    incarnations: list[int] = field(factory=list)
    stop: anyio.Event = field(factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"http://{self.name}"


@define(eq=False)
class FabricStory:
    """Of one seed."""

    simulation: Simulation
    identities: Callable[[], str] = field(init=False)
    nodes: Mapping[str, SimulatedNode] = field(init=False)
    counts: Counter[str] = field(factory=Counter)
    is_quiet: bool = False

    @classmethod
    def of(cls, seed: int) -> FabricStory:
        return cls(Simulation(seed))

    def __attrs_post_init__(self) -> None:
        numbers = itertools.count()
        self.identities = lambda: f"identity-{next(numbers)}"
        self.nodes = {
            name: SimulatedNode(
                name,
                SimulatedDisk(self.simulation.stream(f"disk of {name}")),
                JumpingClock(self.simulation.clock),
            )
            for name in NAMES
        }

    def tell(self) -> FabricStory:
        self.simulation.run(self._run)
        return self

    async def _run(self) -> None:
        async with anyio.create_task_group() as task_group:
            for node in self.nodes.values():
                task_group.start_soon(self._live, node)
                for other in self.nodes.values():
                    if other is not node:
                        task_group.start_soon(self._exchange, node, other)
            await self._trouble()
            self.is_quiet = True
            # All that was said before is over, and everything was said anew.
            await anyio.sleep(3 * TTL_SECONDS)
            self._check_agreement()
            task_group.cancel_scope.cancel()

    # --- processes ---

    async def _live(self, node: SimulatedNode) -> None:
        chance = self.simulation.stream(f"life of {node.name}")
        async with anyio.create_task_group() as processes:
            while True:
                node.stop = anyio.Event()
                process = await processes.start(self._process, node)
                await node.stop.wait()
                node.fabric = None
                if chance.random() < 0.5:
                    # What it still does reaches no disk, and nobody waits for it.
                    self.counts["killed"] += 1
                    node.disk.kill_process()
                    process.scope.cancel()
                else:
                    self.counts["closed"] += 1
                    process.closing.set()
                    await process.ended.wait()
                if not self.is_quiet:
                    await anyio.sleep(chance.choice([0.0, 1.0, 10.0, 2 * TTL_SECONDS]))

    async def _process(
        self, node: SimulatedNode, *, task_status: TaskStatus[Process] = TASK_STATUS_IGNORED
    ) -> None:
        registry = PersistenceRegistry(
            make_config(), backend=SimulatedBackend(node.disk), clock=node.clock
        )
        fabric = Fabric(
            registry,
            node.name,
            TTL_SECONDS,
            [other.url for other in self.nodes.values() if other is not node],
            self.identities,
            lambda: (node.queues, ()),
            url=node.url,
        )
        process = Process()
        with process.scope:
            async with registry:
                generation = (await registry.stats()).generation
                assert all(generation > earlier for earlier in node.incarnations)
                node.incarnations.append(generation)
                node.fabric = fabric
                self.counts["remembered"] += len(fabric.catalog)
                task_status.started(process)
                await process.closing.wait()
        process.ended.set()

    # --- what goes between them ---

    async def _exchange(self, node: SimulatedNode, peer: SimulatedNode) -> None:
        """What ``node`` asks ``peer`` for, again and again."""
        chance = self.simulation.stream(f"from {peer.name} to {node.name}")
        late: list[list[object]] = []
        async with anyio.create_task_group() as task_group:
            while True:
                await anyio.sleep(chance.uniform(0.5, 1.0) * TTL_SECONDS / 3)
                if peer.fabric is None or node.fabric is None:
                    continue
                told = [msgspec.to_builtins(one) for one in peer.fabric.told()]
                if self.is_quiet or chance.random() < 0.5:
                    task_group.start_soon(self._bring, node, peer, told, 0.01)
                    continue
                what = chance.choice(["lost", "late", "twice", "old"])
                self.counts[what] += 1
                if what == "late":
                    seconds = chance.uniform(0.0, TTL_SECONDS / 3)
                    task_group.start_soon(self._bring, node, peer, told, seconds)
                elif what == "twice":
                    for seconds in (0.01, chance.uniform(0.0, 3.0)):
                        task_group.start_soon(self._bring, node, peer, told, seconds)
                elif what == "old" and late:
                    task_group.start_soon(self._bring, node, peer, chance.choice(late), 0.01)
                late[:] = [*late[-2:], told]

    async def _bring(
        self, node: SimulatedNode, peer: SimulatedNode, told: list[object], seconds: float
    ) -> None:
        await anyio.sleep(seconds)
        if (fabric := node.fabric) is None:
            return
        now = anyio.current_time()
        before = {one.announcement.node: one.announcement for one in fabric.catalog.alive(now)}
        heard = fabric.hear(told, peer.url)
        assert not heard.refused
        assert heard.teller is not None
        peer_identity = heard.teller.node
        self.counts.update(outcome.value for outcome in heard.outcomes)
        for node_of, earlier in before.items():
            later = fabric.catalog.get(node_of)
            assert later is not None
            assert _lived(later.announcement) >= _lived(earlier), "an earlier word won"
        known = fabric.catalog.get(peer_identity)
        assert known is not None
        assert _lived(known.announcement) >= _lived(heard.teller), "a later word did not win"
        with suppress(PersistenceError), collapsed_groups():
            await self._keep(node, fabric)

    async def _keep(self, node: SimulatedNode, fabric: Fabric) -> None:
        """A killed process takes nobody with it who still waits for its disk."""
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(_cancel_when, node.stop, task_group.cancel_scope)
            await fabric.keep()
            task_group.cancel_scope.cancel()

    # --- trouble ---

    async def _trouble(self) -> None:
        chance = self.simulation.stream("trouble")
        end = anyio.current_time() + TROUBLE_SECONDS
        while anyio.current_time() < end:
            await anyio.sleep(chance.uniform(0.0, 20.0))
            self._disturb(self.nodes[chance.choice(NAMES)], chance)

    def _disturb(self, node: SimulatedNode, chance: Random) -> None:
        what = chance.choice(["queue", "queue", "clock", "end"])
        if what == "queue":
            node.queues ^= {chance.choice(QUEUES)}
            self.counts["queues made or deleted"] += 1
            if node.fabric is not None and chance.random() < 0.5:
                node.fabric.look_again()
        elif what == "clock":
            node.clock.offset += chance.choice([-1e6, -5.0, 5.0, 1e6])
            self.counts["clock jumps"] += 1
        else:
            node.stop.set()

    # --- the end ---

    def _check_agreement(self) -> None:
        holders: dict[str, set[str]] = {queue: set() for queue in QUEUES}
        for node in self.nodes.values():
            assert node.fabric is not None
            known = {
                one.announcement.name: one
                for one in node.fabric.catalog.alive(anyio.current_time())
            }
            assert set(known) == set(NAMES) - {node.name}
            for name, one in known.items():
                other = self.nodes[name]
                assert other.fabric is not None
                assert one.announcement.node == other.fabric.identity
                assert one.announcement.incarnation == other.incarnations[-1]
                assert set(one.announcement.contents.queues) == other.queues
                route = one.route(anyio.current_time())
                assert route is not None
                assert (route.via, route.hops) == (other.url, 1)
            for queue in QUEUES:
                found = node.fabric.holder(queue)
                holders[queue].add(
                    node.name if queue in node.queues else found.announcement.name if found else ""
                )
        # Where all ask others, all ask the same one.
        for queue, chosen in holders.items():
            having = [name for name in NAMES if queue in self.nodes[name].queues]
            assert chosen == (set(having) | {min(having)} if having else {""})


def _lived(said: Announcement | Told) -> tuple[int, int]:
    return said.incarnation, said.number


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
