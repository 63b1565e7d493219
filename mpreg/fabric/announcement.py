"""What a node says of itself, and how much of it: looked at once, wherever it comes from."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from attrs import Attribute, field, frozen

from mpreg.errors import InvalidArgumentError

__all__ = [
    "HOPS_MAX",
    "NAMES_BYTES_MAX",
    "NAMES_MAX",
    "NAME_CHARACTERS_MAX",
    "NOTHING",
    "TTL_SECONDS_MAX",
    "Announcement",
    "Contents",
    "Rank",
    "can_be_announced",
    "contents_of",
]

#: Of one node: queues, caches and functions together, and the bytes of all of them.
NAMES_MAX: Final = 10_000
NAMES_BYTES_MAX: Final = 512 * 1024
#: As over HTTP.
NAME_CHARACTERS_MAX: Final = 200
URL_CHARACTERS_MAX: Final = 2_000
#: From node to node; what comes from farther away is not heard of.
HOPS_MAX: Final = 8
#: What has not been said again for a day is not believed, whatever a node asks for.
TTL_SECONDS_MAX: Final = 86_400.0
_NUMBER_MAX: Final = 2**63 - 1

Rank = tuple[Any, ...]
"""Of two announcements of one node the one with the higher rank is the newer."""


def can_be_announced(name: str) -> bool:
    """Whether a name can be asked for over HTTP: 1 to 200 characters that can be shown."""
    if not 0 < len(name) <= NAME_CHARACTERS_MAX:
        return False
    # Asked first, since it is quick and nearly always right: there are thousands of names.
    return name.isprintable() or not any(
        unicodedata.category(character) in ("Cc", "Cs") for character in name
    )


def _size(name: str) -> int:
    return len(name.encode())


def _names(_: object, attribute: Attribute[Any], names: tuple[str, ...]) -> None:
    if any(earlier >= later for earlier, later in itertools.pairwise(names)):
        raise InvalidArgumentError(f"{attribute.name}: each name stands there once, in order")
    for name in names:
        if not can_be_announced(name):
            raise InvalidArgumentError(f"{attribute.name}: {name!r:.80} cannot be announced")


def _count(_: object, attribute: Attribute[Any], value: int) -> None:
    if not 0 <= value <= _NUMBER_MAX:
        raise InvalidArgumentError(f"{attribute.name}: a whole number from 0, not {value!r:.80}")


def _node_name(_: object, attribute: Attribute[Any], value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise InvalidArgumentError(f"{attribute.name}: not the name of a node: {value!r:.80}")


def _url(_: object, attribute: Attribute[Any], value: str) -> None:
    is_short = len(value) <= URL_CHARACTERS_MAX
    if not is_short or not re.fullmatch(r"https?://\S+", value) or not value.isprintable():
        raise InvalidArgumentError(f"{attribute.name}: not a URL: {value!r:.80}")


def _ttl(_: object, attribute: Attribute[Any], value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= TTL_SECONDS_MAX):
        raise InvalidArgumentError(
            f"{attribute.name}: above 0 and at most {TTL_SECONDS_MAX:g} seconds, not {value!r:.80}"
        )


@frozen(kw_only=True)
class Contents:
    """What is at a node, by name.

    Raises:
        InvalidArgumentError: a name is impossible, or there are too many.
    """

    queues: tuple[str, ...] = field(default=(), validator=_names)
    caches: tuple[str, ...] = field(default=(), validator=_names)
    functions: tuple[str, ...] = field(default=(), validator=_names)
    left_out: int = field(default=0, validator=_count)
    """Names that found no room here."""

    def __attrs_post_init__(self) -> None:
        names = [*self.queues, *self.caches, *self.functions]
        if len(names) > NAMES_MAX or sum(map(_size, names)) > NAMES_BYTES_MAX:
            raise InvalidArgumentError(
                f"{len(names)} names of one node; at most {NAMES_MAX}, of {NAMES_BYTES_MAX} bytes"
            )


NOTHING: Final = Contents()


def contents_of(
    queues: Iterable[str], caches: Iterable[str] = (), functions: Iterable[str] = ()
) -> Contents:
    """What can be announced of these names: the first ones in order, where they are too many.
    Caches and functions, which are few, come before queues."""
    room, bytes_left, left_out = NAMES_MAX, NAMES_BYTES_MAX, 0
    kept: list[tuple[str, ...]] = []
    for names in (caches, functions, queues):
        taken: list[str] = []
        for name in sorted(set(names)):
            if not can_be_announced(name) or not room or _size(name) > bytes_left:
                left_out += 1
                continue
            taken.append(name)
            room, bytes_left = room - 1, bytes_left - _size(name)
        kept.append(tuple(taken))
    return Contents(caches=kept[0], functions=kept[1], queues=kept[2], left_out=left_out)


@frozen(kw_only=True)
class Announcement:
    """All that a node says of itself, at one moment. A later one takes its place as a whole: what
    is not in it is not there any more.

    Raises:
        InvalidArgumentError: a field is impossible.
    """

    node: str = field(validator=_node_name)
    """Its identity, made by chance when its directory was first opened."""
    name: str = field(validator=_node_name)
    """What people call it."""
    url: str = field(validator=_url)
    """Where it says that it is: to be shown, never to be followed."""
    incarnation: int = field(validator=_count)
    """Of its process: only grows, and is on its disk."""
    number: int = field(validator=_count)
    """Of the announcement in its incarnation."""
    ttl_seconds: float = field(validator=_ttl)
    """For how long it is to be believed, from when it was made."""
    contents: Contents = NOTHING

    @property
    def rank(self) -> Rank:
        """By incarnation and number. The rest decides only between two that claim to be the same,
        so that all who hear both end with the same one."""
        there = self.contents
        return (
            self.incarnation,
            self.number,
            (self.name, self.url, self.ttl_seconds),
            (there.queues, there.caches, there.functions, there.left_out),
        )
