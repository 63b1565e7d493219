"""`Fabric`: one node's part in a fabric of several. The shell around the catalog.

On disk, in stores of its own::

    keys "self"       "identity" → the node's identity
    keys "catalog"    IDENTITY → what was last known of that other node

The identity is made once, and is durable before anything is announced under it. The rest is only
there so that a restart needs not wait for its peers: it is written without waiting for the disk.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import anyio
from attrs import define, field, frozen

from mpreg.errors import CorruptDataError, InvalidArgumentError
from mpreg.fabric.announcement import (
    HOPS_MAX,
    NOTHING,
    TTL_SECONDS_MAX,
    Announcement,
    Contents,
    can_be_announced,
    contents_of,
)
from mpreg.fabric.belief import Belief
from mpreg.fabric.catalog import NODES_MAX, Catalog, Outcome, is_alive
from mpreg.fabric.telling import Told, from_disk, heard, read_told, tell, to_disk
from mpreg.persistence import (
    Durability,
    KeyValueStore,
    Participant,
    PersistenceRegistry,
    ReportProgress,
    RestoreOrder,
)

__all__ = ["Fabric", "Heard"]

log = logging.getLogger("mpreg.fabric")

_IDENTITY: Final = "identity"

#: Of queues that several nodes have, those told of in the log at one time.
SHARED_LINES_MAX: Final = 10


@frozen(kw_only=True)
class Heard:
    """What became of all that one peer told at once."""

    teller: Told | None
    """What it told of itself."""
    outcomes: tuple[Outcome, ...]
    refused: tuple[InvalidArgumentError, ...]


@define(eq=False)
class Fabric:
    """Of one registry. To be made before it is opened, and after the queues and the cache: it takes
    part in the restore after them.

    ``peers`` are the URLs of the settings: what others have told is remembered over a restart only
    as far as they are still peers.
    """

    _registry: PersistenceRegistry
    name: str
    _ttl_seconds: float
    _peers: Collection[str]
    _make_identity: Callable[[], str]
    _names: Callable[[], tuple[Iterable[str], Iterable[str]]]
    """The queues and the caches that there are now."""
    url: str = ""
    """Where it is, as it says."""
    revision: int = 0
    """Grows whenever there is something new to tell."""
    _catalog: Catalog | None = None
    _incarnation: int = 0
    _number: int = 0
    _contents: Contents = NOTHING
    _functions: set[str] = field(factory=set)
    _changed: anyio.Event = field(factory=anyio.Event)
    _shared: frozenset[str] = frozenset()
    """Those of `shared_queues` that the log has."""
    _kept_until: dict[str, float] = field(factory=dict)
    """By node, when what is on disk of it expires; of all that have something there."""
    _self: KeyValueStore = field(init=False)
    _store: KeyValueStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ttl_seconds = min(self._ttl_seconds, TTL_SECONDS_MAX)
        stores = self._registry.reserved("fabric")
        self._self = stores.key_value_store("self")
        self._store = stores.key_value_store("catalog")
        self._registry.register(
            Participant(
                name="catalog",
                order=RestoreOrder.CATALOG,
                restore=self._restore,
                snapshot=self._save,
            )
        )

    # --- what is here ---

    @property
    def identity(self) -> str:
        return self.catalog.own

    @property
    def incarnation(self) -> int:
        """Of this process: only grows, and is on disk."""
        return self._incarnation

    @property
    def ttl_seconds(self) -> float:
        return self._ttl_seconds

    @property
    def is_open(self) -> bool:
        """Whether what was known of others was read back."""
        return self._catalog is not None

    @property
    def catalog(self) -> Catalog:
        assert self._catalog is not None, "the registry is not open yet"
        return self._catalog

    def register_function(self, name: str) -> None:
        """Have it announced that this node has a function of this name. Nobody can call it from
        elsewhere yet.

        Raises:
            InvalidArgumentError: the name is not 1 to 200 characters that can be shown.
        """
        if not can_be_announced(name):
            raise InvalidArgumentError(
                f"the name of a function is 1 to 200 characters that can be shown, not {name!r:.80}"
            )
        self._functions.add(name)
        self.look_again()

    def unregister_function(self, name: str) -> None:
        """It is not announced any more. Does nothing where it was not."""
        self._functions.discard(name)
        self.look_again()

    def look_again(self) -> None:
        """What is here may have changed: those who wait for news look whether there is any. Costs
        nothing where nobody waits."""
        self._changed.set()
        self._changed = anyio.Event()

    def _look(self) -> None:
        queues, caches = self._names()
        contents = contents_of(queues, caches, self._functions)
        if contents == self._contents:
            return
        if contents.left_out and not self._contents.left_out:
            log.warning("%d names are not announced: they are too many", contents.left_out)
        self._contents = contents
        self._tell_of_news()

    def announcement(self) -> Announcement:
        """A new one each time, of what is here now."""
        self._look()
        self._number += 1
        return Announcement(
            node=self.identity,
            name=self.name,
            url=self.url,
            incarnation=self._incarnation,
            number=self._number,
            ttl_seconds=self._ttl_seconds,
            contents=self._contents,
        )

    def told(self) -> list[Told]:
        """What is to be told to whoever asks: itself, and all that are alive."""
        now = anyio.current_time()
        found = [tell(self.announcement(), remaining_seconds=self._ttl_seconds, hops=0)]
        for belief in self.catalog.alive(now):
            route = belief.route(now)
            if route is not None and route.hops < HOPS_MAX:
                left = min(belief.expires_at, route.expires_at) - now
                found.append(tell(belief.announcement, remaining_seconds=left, hops=route.hops))
        return found

    async def wait_for_news(self, revision: int) -> None:
        """Until there is something that was not told with this revision. Cancelled: nothing."""
        while True:
            self._look()
            if self.revision != revision:
                return
            await self._changed.wait()

    # --- what is elsewhere ---

    def hear(self, told: Iterable[object], via: str) -> Heard:
        """Learn what a peer has told, just now. What is impossible is refused, and the rest of it
        is not."""
        now, is_news = anyio.current_time(), False
        teller: Told | None = None
        outcomes: list[Outcome] = []
        refused: list[InvalidArgumentError] = []
        for value in told:
            try:
                one = value if isinstance(value, Told) else read_told(value)
                belief = heard(one, via=via, now=now)
            except InvalidArgumentError as error:
                refused.append(error)
                continue
            teller = one if one.hops == 0 else teller
            outcomes.append(self.catalog.learn(belief, now))
            is_news |= outcomes[-1] is Outcome.NEWS
        if is_news:
            self._tell_of_news()
        self._tell_of_shared()
        return Heard(teller=teller, outcomes=tuple(outcomes), refused=tuple(refused))

    def holder(self, queue: str) -> Belief | None:
        """The other node that has a queue, alive or away: `Catalog.holder`."""
        return self.catalog.holder(queue, anyio.current_time())

    def shared_queues(self) -> dict[str, list[str]]:
        """Queues that several nodes have, of which each serves its own: by name, with the names of
        the nodes, this one first."""
        own = set(self._names()[0])
        return {
            queue: [self.name] * (queue in own)
            + [one.announcement.name for one in self.catalog.holders(queue)]
            for queue in self.catalog.shared(own)
        }

    def count_queues(self) -> int:
        """Those that are here."""
        return len(list(self._names()[0]))

    def count_nodes(self) -> dict[str, int]:
        """Others, by whether they are alive or away."""
        alive = len(self.catalog.alive(anyio.current_time()))
        return {"alive": alive, "away": len(self.catalog) - alive}

    def is_alive(self, belief: Belief) -> bool:
        return is_alive(belief, anyio.current_time())

    # --- on disk ---

    async def keep(self) -> None:
        """Write down what has changed since the last time, or would soon be out of date. It may be
        lost with the machine. Cancelled: some of it is written, or nothing.

        Raises:
            PersistenceError: it could not be written, which changes nothing else.
        """
        self.catalog.forget(anyio.current_time())
        for node in [one for one in self._kept_until if self.catalog.get(one) is None]:
            await self._store.delete(node, durability=Durability.RELAXED)
            self._kept_until.pop(node, None)
        for belief in list(self.catalog):
            node, ttl_seconds = belief.announcement.node, belief.announcement.ttl_seconds
            if belief.expires_at - self._kept_until.get(node, -math.inf) < ttl_seconds / 4:
                continue
            now, wall = anyio.current_time(), self._registry.clock.wall()
            data = to_disk(belief, now=now, wall=wall)
            await self._store.put(node, data, durability=Durability.RELAXED)
            self._kept_until[node] = belief.expires_at

    async def _save(self) -> None:
        self._kept_until = dict.fromkeys(self._kept_until, -math.inf)
        await self.keep()

    async def _restore(self, report: ReportProgress) -> None:
        catalog = Catalog(await self._read_identity())
        self._incarnation = (await self._registry.stats()).generation
        now, wall = anyio.current_time(), self._registry.clock.wall()
        peers = dict.fromkeys(self._peers)
        damaged: list[Any] = []
        async for entry in self._store.scan(on_damaged=damaged.append):
            assert isinstance(entry.key, str)
            self._kept_until[entry.key] = -math.inf
            try:
                belief = from_disk(entry.value, now=now, wall=wall, peers=peers)
            except (ValueError, InvalidArgumentError) as error:
                damaged.append(error)
                continue
            is_of_other = belief is not None and belief.announcement.node != catalog.own
            if belief is not None and is_of_other and len(catalog) < NODES_MAX:
                catalog.recall(belief)
                self._kept_until[entry.key] = belief.expires_at
                report(len(catalog), None, "nodes")
        for damage in damaged:
            log.error("what was known of another node is damaged, and is learned anew: %s", damage)
        catalog.forget(now)
        self._catalog = catalog

    async def _read_identity(self) -> str:
        try:
            entry = await self._self.get(_IDENTITY)
            if entry is not None:
                return entry.value.decode()
        except (CorruptDataError, UnicodeDecodeError) as damage:
            log.warning("the identity of this node is damaged, it takes a new one: %s", damage)
        identity = self._make_identity()
        await self._self.put(_IDENTITY, identity.encode())
        return identity

    def _tell_of_shared(self) -> None:
        """In the log, once each: there is nothing that a node could do about it."""
        shared = self.shared_queues()
        if shared.keys() == self._shared:
            return
        for queue in sorted(shared.keys() - self._shared)[:SHARED_LINES_MAX]:
            log.warning(
                "queue %r is at several nodes, %s: each has messages of its own; empty it at all "
                "of them but one, and delete it there",
                queue,
                ", ".join(map(repr, shared[queue])),
            )
        for queue in sorted(self._shared - shared.keys())[:SHARED_LINES_MAX]:
            log.info("queue %r is not at several nodes any more", queue)
        if len(shared) > SHARED_LINES_MAX:
            log.warning("%d queues are at several nodes: see /v1/fabric", len(shared))
        self._shared = frozenset(shared)

    def _tell_of_news(self) -> None:
        self.revision += 1
        self.look_again()
