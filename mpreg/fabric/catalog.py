"""`Catalog`: what a node believes of all others. No clock, no I/O: `now` is always passed in.

A belief goes through three states as time passes::

    alive      until its announcement's TTL is over
    away       then: what was there is remembered for `AWAY_TTLS` times as long, so that who asks
               for it is told that its node is away, and not that there is no such thing
    forgotten  after that; a node that is a peer itself only when that peer is another node

One TTL after it has expired, no earlier word of the node can still be on its way, and whatever it
says next is believed, also where its directory was put back to an earlier state.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import define, field

from mpreg.fabric.announcement import HOPS_MAX
from mpreg.fabric.belief import Belief, join

__all__ = ["AWAY_TTLS", "NODES_MAX", "Catalog", "Outcome"]

#: Beyond these, a node that is alive takes the place of the one that is away longest.
NODES_MAX: Final = 128
AWAY_TTLS: Final = 20.0


class Outcome(enum.Enum):
    """What became of something heard."""

    NEWS = "news"
    """There is something in it that was not known."""
    KNOWN = "known"
    """It says again what is known: the node is believed for longer."""
    OLD = "old"
    """Something newer is known, or its time is over."""
    OWN = "own"
    """It is of this node itself."""
    NO_ROOM = "no room"
    """There are as many nodes as there may be."""


@define(eq=False)
class Catalog:
    """Of the node whose identity is ``own``."""

    own: str
    _beliefs: dict[str, Belief] = field(factory=dict)
    _holders: dict[str, set[str]] = field(factory=dict)
    """By the names of queues, the nodes that have, or had, one."""
    _shared: set[str] = field(factory=set)
    """The names that several of them have."""
    _of_peers: dict[str, str] = field(factory=dict)
    """By the URL of a peer, the node that it is."""

    def __len__(self) -> int:
        return len(self._beliefs)

    def __iter__(self) -> Iterator[Belief]:
        """In the order of their names."""
        return iter(sorted(self._beliefs.values(), key=_order))

    def get(self, node: str) -> Belief | None:
        return self._beliefs.get(node)

    # --- what is heard ---

    def learn(self, heard: Belief, now: float) -> Outcome:
        """In whichever order, and however often, several are heard: the result is the same."""
        node = heard.announcement.node
        if node == self.own:
            return Outcome.OWN
        if not is_alive(heard, now) or min(one.hops for one in heard.routes.values()) > HOPS_MAX:
            return Outcome.OLD
        self._of_peers |= {via: node for via, one in heard.routes.items() if one.hops == 1}
        known = self._beliefs.get(node)
        if known is None and not self._make_room(now):
            return Outcome.NO_ROOM
        if known is None or _is_settled(known, now):
            self._believe(heard)
            return Outcome.NEWS
        joined = join(known, heard)
        if joined == known:
            return Outcome.OLD
        was_alive = is_alive(known, now)
        self._believe(joined)
        if _is_same(joined, known) and was_alive:
            return Outcome.KNOWN if joined.expires_at != known.expires_at else Outcome.OLD
        return Outcome.NEWS

    def recall(self, belief: Belief) -> None:
        """One from before a restart: of its own, or of a time that is over."""
        node = belief.announcement.node
        for via, route in belief.routes.items():
            if route.hops == 1 and self._is_later(belief, self.node_of(via)):
                self._of_peers[via] = node
        self._believe(belief)

    def forget(self, now: float) -> list[str]:
        """Those whose time is over for good, which are dropped by this."""
        over = [node for node, one in self._beliefs.items() if self._is_over(one, now)]
        for node in over:
            self._drop(node)
        return over

    # --- what is asked ---

    def holder(self, queue: str, now: float) -> Belief | None:
        """The node that has the queue. Of several, one that is alive, then the first by name and
        identity: all who know of the same nodes choose the same."""
        found = [self._beliefs[node] for node in self._holders.get(queue, ())]
        found = [one for one in found if not self._is_over(one, now)]
        return min(found, key=lambda one: (not is_alive(one, now), _order(one)), default=None)

    def alive(self, now: float) -> list[Belief]:
        return [one for one in self if is_alive(one, now)]

    def node_of(self, peer: str) -> Belief | None:
        """What is known of the node that a peer is."""
        return self._beliefs.get(self._of_peers.get(peer, ""))

    def holders(self, queue: str) -> list[Belief]:
        """All that have, or had, a queue, in the order of their names."""
        return sorted((self._beliefs[one] for one in self._holders.get(queue, ())), key=_order)

    def shared(self, own: Iterable[str]) -> list[str]:
        """The names of queues, in order, that several nodes have: those that know of one another
        here, and this one, which has ``own``."""
        return sorted(self._shared | {one for one in own if one in self._holders})

    # --- parts ---

    def _is_over(self, belief: Belief, now: float) -> bool:
        """What a peer has is not forgotten: a queue of the same name would be made a second time
        then, however long its node is away."""
        if belief.announcement.node in self._of_peers.values():
            return False
        return now >= belief.expires_at + AWAY_TTLS * belief.announcement.ttl_seconds

    @staticmethod
    def _is_later(belief: Belief, other: Belief | None) -> bool:
        return other is None or other.expires_at <= belief.expires_at

    def _make_room(self, now: float) -> bool:
        if len(self._beliefs) < NODES_MAX:
            return True
        first = min(self._beliefs.values(), key=lambda one: (one.expires_at, _order(one)))
        if is_alive(first, now):
            return False
        self._drop(first.announcement.node)
        return True

    def _believe(self, belief: Belief) -> None:
        node = belief.announcement.node
        known = self._beliefs.get(node)
        self._beliefs[node] = belief
        queues = belief.announcement.contents.queues
        if known is not None:
            if known.announcement.contents.queues == queues:
                return
            self._unlist(known)
        for queue in queues:
            holders = self._holders.setdefault(queue, set())
            holders.add(node)
            if len(holders) > 1:
                self._shared.add(queue)

    def _drop(self, node: str) -> None:
        self._unlist(self._beliefs.pop(node))

    def _unlist(self, belief: Belief) -> None:
        for queue in belief.announcement.contents.queues:
            holders = self._holders[queue]
            holders.discard(belief.announcement.node)
            if len(holders) < 2:
                self._shared.discard(queue)
            if not holders:
                del self._holders[queue]


def is_alive(belief: Belief, now: float) -> bool:
    return now < belief.expires_at


def _order(belief: Belief) -> tuple[str, str]:
    return belief.announcement.name, belief.announcement.node


def _is_settled(belief: Belief, now: float) -> bool:
    """Whether nothing that was said before it can still be on its way."""
    return now >= belief.expires_at + belief.announcement.ttl_seconds


def _is_same(one: Belief, other: Belief) -> bool:
    """Whether they differ in times and numbers only."""
    a, b = one.announcement, other.announcement
    return (a.name, a.url, a.contents, a.incarnation) == (b.name, b.url, b.contents, b.incarnation)
