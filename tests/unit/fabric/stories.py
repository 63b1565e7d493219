"""Announcements of a few nodes, as Hypothesis draws them."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from mpreg.fabric import Announcement, Belief, Contents

OWN: Final = "own"
NODES: Final = ("n1", "n2", "n3")
PEERS: Final = ("http://a", "http://b")
QUEUES: Final = ("jobs", "mails", "orders")


def announcement(
    node: str = "n1",
    incarnation: int = 1,
    number: int = 1,
    queues: tuple[str, ...] = (),
    *,
    ttl_seconds: float = 10.0,
    name: str | None = None,
) -> Announcement:
    return Announcement(
        node=node,
        name=name or node,
        url=f"http://{node}",
        incarnation=incarnation,
        number=number,
        ttl_seconds=ttl_seconds,
        contents=Contents(queues=queues),
    )


def belief(
    said: Announcement, expires_at: float = 10.0, via: str = PEERS[0], hops: int = 1
) -> Belief:
    return Belief.heard(said, expires_at=expires_at, via=via, hops=hops)


announcements = st.builds(
    announcement,
    st.sampled_from(NODES),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sets(st.sampled_from(QUEUES)).map(lambda names: tuple(sorted(names))),
)
beliefs = st.builds(
    belief,
    announcements,
    st.integers(1, 5).map(float),
    st.sampled_from(PEERS),
    st.integers(1, 3),
)
