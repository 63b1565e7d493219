"""What is believed of one other node, and how two of such beliefs become one."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from mpreg.fabric.announcement import Announcement, Rank

__all__ = ["Belief", "Route", "join"]


@frozen(kw_only=True)
class Route:
    """One way to a node: through a peer that tells of it."""

    via: str
    """The URL of the peer, as it stands in the settings."""
    hops: int
    """1: the peer is the node itself."""
    expires_at: float
    rank: Rank
    """Of the announcement that the peer told last: a newer one says anew how far it is."""


@frozen(kw_only=True)
class Belief:
    """Times are of the monotonic clock of the one who believes."""

    announcement: Announcement
    """The newest that was heard."""
    expires_at: float
    """From then on the node counts as away."""
    routes: Mapping[str, Route] = field(factory=dict)
    """By their peers."""

    @classmethod
    def heard(cls, announcement: Announcement, *, expires_at: float, via: str, hops: int) -> Belief:
        route = Route(via=via, hops=hops, expires_at=expires_at, rank=announcement.rank)
        return cls(announcement=announcement, expires_at=expires_at, routes={via: route})

    def route(self, now: float) -> Route | None:
        """The shortest that is still told of; of several the first by URL."""
        told = [route for route in self.routes.values() if route.expires_at > now]
        return min(told, key=lambda route: (route.hops, route.via), default=None)

    @property
    def last_route(self) -> Route:
        """The shortest of those that were told of last: of a node that is away."""
        return min(self.routes.values(), key=lambda one: (-one.expires_at, one.hops, one.via))


def join(one: Belief, other: Belief) -> Belief:
    """What is believed of a node after both were heard, in whichever order and however often."""
    rank, rank_of_other = one.announcement.rank, other.announcement.rank
    newer = one if rank >= rank_of_other else other
    expires_at = newer.expires_at
    if rank == rank_of_other:
        # The same was told twice: what is said again by others does not make it last longer.
        expires_at = min(one.expires_at, other.expires_at)
    routes = dict(one.routes)
    for via, route in other.routes.items():
        routes[via] = _newer_route(routes[via], route) if via in routes else route
    return Belief(announcement=newer.announcement, expires_at=expires_at, routes=routes)


def _newer_route(one: Route, other: Route) -> Route:
    if one.rank != other.rank:
        return one if one.rank > other.rank else other
    return Route(
        via=one.via,
        hops=min(one.hops, other.hops),
        expires_at=min(one.expires_at, other.expires_at),
        rank=one.rank,
    )
