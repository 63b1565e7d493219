"""What nodes tell one another, and what of it is kept on disk, as plain structures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mpreg.errors import InvalidArgumentError
from mpreg.fabric.announcement import HOPS_MAX, Announcement, Contents
from mpreg.fabric.belief import Belief, Route

__all__ = ["Kept", "Told", "from_disk", "heard", "read_told", "tell", "to_disk"]

FORMAT: Final = 1


class Told(msgspec.Struct, frozen=True):
    """One announcement, on its way. Names that are not known are those of a newer node."""

    node: str
    name: str
    url: str
    incarnation: int
    number: int
    ttl_seconds: float
    remaining_seconds: float
    """For how long it is still to be believed: no two nodes need the same time of day."""
    hops: int
    """From who tells to the node itself; 0: it is the node itself."""
    queues: list[str] = []
    caches: list[str] = []
    functions: list[str] = []
    left_out: int = 0

    @property
    def announcement(self) -> Announcement:
        """Raises `InvalidArgumentError` where it is none."""
        contents = Contents(
            queues=tuple(self.queues),
            caches=tuple(self.caches),
            functions=tuple(self.functions),
            left_out=self.left_out,
        )
        return Announcement(
            node=self.node,
            name=self.name,
            url=self.url,
            incarnation=self.incarnation,
            number=self.number,
            ttl_seconds=self.ttl_seconds,
            contents=contents,
        )


def tell(announcement: Announcement, *, remaining_seconds: float, hops: int) -> Told:
    contents = announcement.contents
    return Told(
        node=announcement.node,
        name=announcement.name,
        url=announcement.url,
        incarnation=announcement.incarnation,
        number=announcement.number,
        ttl_seconds=announcement.ttl_seconds,
        remaining_seconds=remaining_seconds,
        hops=hops,
        queues=list(contents.queues),
        caches=list(contents.caches),
        functions=list(contents.functions),
        left_out=contents.left_out,
    )


def read_told(value: object) -> Told:
    """Raises `InvalidArgumentError` where it has not that shape."""
    try:
        return msgspec.convert(value, Told, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"not an announcement: {error}") from error


def heard(told: Told, *, via: str, now: float) -> Belief:
    """What is to be believed after ``told`` came through a peer.

    Raises:
        InvalidArgumentError: it is impossible.
    """
    announcement, remaining = told.announcement, told.remaining_seconds
    if not (math.isfinite(remaining) and 0 < remaining <= announcement.ttl_seconds):
        raise InvalidArgumentError(
            f"remaining_seconds: above 0 and within the TTL, not {remaining!r}"
        )
    if not 0 <= told.hops < HOPS_MAX:
        raise InvalidArgumentError(f"hops: from 0 to {HOPS_MAX - 1}, not {told.hops!r:.80}")
    return Belief.heard(announcement, expires_at=now + remaining, via=via, hops=told.hops + 1)


# --- on disk ---


class Kept(msgspec.Struct, frozen=True, array_like=True):
    format: int
    told: dict[str, Any]
    """A `Told`; its times count from ``at``."""
    at: float
    """Wall clock."""
    routes: dict[str, tuple[int, float]]
    """By peer: hops, and the seconds that were left."""


def to_disk(belief: Belief, *, now: float, wall: float) -> bytes:
    left = belief.expires_at - now
    told = tell(belief.announcement, remaining_seconds=left, hops=0)
    routes = {
        via: (route.hops, route.expires_at - now)
        for via, route in belief.routes.items()
        if route.expires_at > now or route == belief.last_route
    }
    return msgspec.msgpack.encode(Kept(FORMAT, msgspec.to_builtins(told), wall, routes))


def from_disk(data: bytes, *, now: float, wall: float, peers: Mapping[str, Any]) -> Belief | None:
    """What is left of it now; None where no peer that is still one had told of it.

    By a clock that went backwards meanwhile it is not believed for longer than when it was kept.

    Raises:
        ValueError: it is not what `to_disk` returned.
    """
    kept = msgspec.msgpack.decode(data, type=Kept)
    if kept.format != FORMAT:
        raise ValueError(f"an entry of format {kept.format}; this mpreg knows {FORMAT}")
    told = read_told(kept.told)
    announcement, passed = told.announcement, max(0.0, wall - kept.at)
    routes = {
        via: Route(via=via, hops=hops, expires_at=now + left - passed, rank=announcement.rank)
        for via, (hops, left) in kept.routes.items()
        if via in peers
    }
    if not routes:
        return None
    expires_at = now + told.remaining_seconds - passed
    return Belief(announcement=announcement, expires_at=expires_at, routes=routes)
