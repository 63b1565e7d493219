"""One of the nodes that the settings name, and what became of asking it. Nothing here waits."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import httpx
from attrs import define, field, frozen

from mpreg.settings import PeerSettings

__all__ = ["Peer", "PeerState", "Troubles", "Unheard", "unheard"]

#: In an answer.
PEERS_NAMED_MAX: Final = 5


class PeerState:
    """In the words of metrics and answers."""

    UNKNOWN: Final = "unknown"
    """It has not answered yet."""
    ALIVE: Final = "alive"
    AWAY: Final = "away"
    ALL: Final = (UNKNOWN, ALIVE, AWAY)


@define(eq=False)
class Peer:
    """One of the settings, and what became of asking it."""

    settings: PeerSettings
    _token: str | None = field(repr=False)
    state: str = PeerState.UNKNOWN
    since: float | None = None
    """Wall clock, of the last change of its state."""
    name: str | None = None
    """As it calls itself."""
    error: str = "it was not asked yet"
    """Why it is not alive, or what it tells that cannot be."""
    quiet_since: float = math.inf
    """By the monotonic clock: when it was asked first, or was lost last."""
    is_self: bool = False
    """Whether it is this node."""

    @property
    def url(self) -> str:
        """Names it among the peers."""
        return self.settings.url

    @property
    def authorization(self) -> list[tuple[bytes, bytes]]:
        """The header for its token, if it has one."""
        if self._token is None:
            return []
        return [(b"authorization", f"Bearer {self._token}".encode())]

    @property
    def may_have_more(self) -> bool:
        """Whether it has perhaps a queue that is not known here."""
        return self.state != PeerState.ALIVE and not self.is_self

    def target(self, path: str, query: str = "") -> httpx.URL:
        url = self.settings.url.rstrip("/") + path
        return httpx.URL(f"{url}?{query}" if query else url)


@frozen
class Unheard:
    """Peers that may have queues that are not known here."""

    told: str
    """How many and which they are, and why."""
    is_given_up: bool
    """Whether none of them is waited for any more."""


@define(eq=False)
class Troubles:
    """Of requests for the queues of other nodes, by node: told when they begin and when they end,
    whatever comes in between is counted."""

    _failed: dict[str, int] = field(factory=dict)

    def failed(self, node: str) -> bool:
        """Whether it is the first one."""
        self._failed[node] = self._failed.get(node, 0) + 1
        return self._failed[node] == 1

    def ended(self, node: str) -> int:
        """How many there were."""
        return self._failed.pop(node, 0)


def unheard(peers: Collection[Peer], patience_seconds: float, now: float) -> Unheard | None:
    """Those that perhaps have queues that are not known here; None where there is none."""
    quiet = [peer for peer in peers if peer.may_have_more]
    if not quiet:
        return None
    why = ", ".join(f"{peer.url} ({peer.error})" for peer in quiet[:PEERS_NAMED_MAX])
    left_out = len(quiet) - PEERS_NAMED_MAX
    more = f", and {left_out} more" if left_out > 0 else ""
    verb = "is" if len(quiet) == 1 else "are"
    return Unheard(
        f"{len(quiet)} of {len(peers)} peers {verb} not heard of: {why}{more}",
        all(now >= peer.quiet_since + patience_seconds for peer in quiet),
    )
