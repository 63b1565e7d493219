"""A fabric: nodes that know of one another's queues, caches and functions.

This is its catalog: what each of them announces, for how long that is believed, and what becomes of
it over restarts. How they ask one another is the server's matter.
"""

from mpreg.fabric.announcement import (
    HOPS_MAX,
    NAME_CHARACTERS_MAX,
    NAMES_BYTES_MAX,
    NAMES_MAX,
    TTL_SECONDS_MAX,
    Announcement,
    Contents,
)
from mpreg.fabric.belief import Belief, Route, join
from mpreg.fabric.catalog import AWAY_TTLS, NODES_MAX, Catalog, Outcome
from mpreg.fabric.node import Fabric, Heard
from mpreg.fabric.telling import Told

__all__ = [
    "AWAY_TTLS",
    "HOPS_MAX",
    "NAMES_BYTES_MAX",
    "NAMES_MAX",
    "NAME_CHARACTERS_MAX",
    "NODES_MAX",
    "TTL_SECONDS_MAX",
    "Announcement",
    "Belief",
    "Catalog",
    "Contents",
    "Fabric",
    "Heard",
    "Outcome",
    "Route",
    "Told",
    "join",
]
