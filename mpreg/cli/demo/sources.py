"""Which files to index."""

from __future__ import annotations

import itertools
import os
import random
import stat
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

__all__ = ["SITE_DIRECTORIES", "find_sources", "interpreter_roots", "sample_evenly"]

#: They may lie inside the standard library's directory, but are no part of it. Those of the running
#: interpreter are roots of their own; others (of the base of a virtual environment) are not its.
SITE_DIRECTORIES: Final = frozenset({"site-packages", "dist-packages"})


def interpreter_roots() -> tuple[Path, ...]:
    """The standard library and the site-packages of the running interpreter."""
    paths = sysconfig.get_paths()
    found = dict.fromkeys(Path(paths[name]) for name in ("stdlib", "purelib", "platlib"))
    return tuple(found)


def find_sources(
    roots: Iterable[Path], *, skipped_directories: frozenset[str] = frozenset()
) -> list[str]:
    """The Python files below the roots, each once, in order of their names.

    What cannot be looked at is listed as well: reading it will tell why.
    """
    return sorted({path for root in roots for path in _below(root, skipped_directories)})


def _below(root: Path, skipped_directories: frozenset[str]) -> Iterator[str]:
    if root.is_file():
        yield str(root.absolute())
        return
    for directory, names, files in os.walk(root.absolute()):
        names[:] = [name for name in names if name not in skipped_directories]
        for name in files:
            path = os.path.join(directory, name)  # noqa: PTH118 - thousands of them
            if name.endswith(".py") and _may_be_read(path):
                yield path


def _may_be_read(path: str) -> bool:
    """False for pipes and the like, where reading would wait for ever."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return True


def sample_evenly(items: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """``count`` of the items, in order: one at random out of each of ``count`` equal parts."""
    total = len(items)
    if total <= count:
        return list(items)
    bounds = [part * total // count for part in range(count + 1)]
    return [items[rng.randrange(start, stop)] for start, stop in itertools.pairwise(bounds)]
