"""What a node tells of the other ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

__all__ = ["FabricObserved", "NodeSeen"]


@frozen(kw_only=True)
class NodeSeen:
    """A node, as it is known here: this one, one that was heard of, or a peer that was never."""

    node: str | None
    """Its identity; None of a peer that was never heard of, as are its name and all that is in
    it."""
    name: str | None
    url: str
    """As it announces, or as the settings have it."""
    incarnation: int | None
    state: str
    """"self", "alive", "away", or "unknown"."""
    heard_at: float | None
    """When it said what is known of it (wall clock)."""
    queues: int | None
    """How many."""
    via: str | None
    """The peer that tells of it."""
    why: str
    """Why it is not alive, or what is wrong with it; else nothing."""


@frozen(kw_only=True)
class FabricObserved:
    """Of a node without peers, nothing."""

    peers: Mapping[str, int] = field(factory=dict)
    """By their state."""
    nodes: Mapping[str, int] = field(factory=dict)
    """Other nodes that are known, by their state."""
    announcements: Mapping[str, int] = field(factory=dict)
    """By what became of them."""
    forwarded: Mapping[str, int] = field(factory=dict)
    """Requests, by what became of them."""
    shared_queues: Mapping[str, Sequence[str]] = field(factory=dict)
    """By their names, the nodes that have one."""
    seen: Sequence[NodeSeen] = ()
    """This node, and all others that are known or to be known."""
