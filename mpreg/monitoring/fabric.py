"""What a node tells of the other ones, in counts."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

__all__ = ["FabricObserved"]


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
