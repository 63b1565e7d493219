"""The names in the directory, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attrs import define, field

__all__ = ["UNFINISHED", "Names", "segment_name", "snapshot_name"]

UNFINISHED: Final = ".new"
"""Ends the name of a file that is being made. It is renamed when it is complete and synced."""

_NUMBERED: Final = re.compile(r"(journal|snapshot)-(\d{20})")


def segment_name(first_sequence: int) -> str:
    return f"journal-{first_sequence:020}"


def snapshot_name(last_sequence: int) -> str:
    return f"snapshot-{last_sequence:020}"


@define
class Names:
    """The journal's files in a directory. Names that are none of its own are left alone."""

    segments: list[int] = field(factory=list)
    """The first sequence of each, in order."""
    snapshots: list[int] = field(factory=list)
    """The last sequence in each, in order."""
    unfinished: list[str] = field(factory=list)
    has_control: bool = False

    @classmethod
    def of(cls, names: Iterable[str], control: str) -> Names:
        found = cls()
        for name in sorted(names):
            base = name.removesuffix(UNFINISHED)
            match = _NUMBERED.fullmatch(base)
            if match is None and base != control:
                continue
            if name != base:
                found.unfinished.append(name)
            elif match is None:
                found.has_control = True
            else:
                kinds = {"journal": found.segments, "snapshot": found.snapshots}
                kinds[match[1]].append(int(match[2]))
        return found

    @property
    def base(self) -> int:
        """The last sequence that the newest snapshot holds; 0 where there is none."""
        return self.snapshots[-1] if self.snapshots else 0

    @property
    def needed_segments(self) -> list[int]:
        """Those that go on from the newest snapshot."""
        return [first for first in self.segments if first > self.base]

    @property
    def obsolete(self) -> list[str]:
        """What the newest snapshot has made superfluous."""
        return [
            *(segment_name(first) for first in self.segments if first <= self.base),
            *(snapshot_name(last) for last in self.snapshots[:-1]),
        ]
