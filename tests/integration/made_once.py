"""A store that many tests begin with is made by the first of them; the others get a copy of it.

Made of a hundred commits, it takes a hundred times as long as its copy.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen

__all__ = ["made_once"]

Make = TypeVar("Make", bound=Callable[..., Any])


@frozen
class _Kept:
    """Of each directory and file, by its place: its mode, and what is in a file."""

    places: dict[Path, tuple[int, bytes | None]]

    @classmethod
    def of(cls, directory: Path) -> _Kept:
        found = [directory, *sorted(directory.rglob("*"))]
        return cls(
            {
                path.relative_to(directory): (
                    path.stat().st_mode & 0o777,
                    path.read_bytes() if path.is_file() else None,
                )
                for path in found
            }
        )

    def put_in(self, directory: Path) -> None:
        for place, (mode, data) in self.places.items():
            path = directory / place
            if data is None:
                path.mkdir()
            else:
                path.write_bytes(data)
            path.chmod(mode)


def made_once(make: Make) -> Make:
    """For a function that makes one and the same store, closed, in a directory that is not there.

    The directory is its first argument; the others, if there are any, tell one store from another.
    """
    kept: dict[object, _Kept] = {}

    def has_put(data_dir: Path, which: object) -> bool:
        if which in kept:
            kept[which].put_in(data_dir)
        return which in kept

    if inspect.iscoroutinefunction(make):

        @functools.wraps(make)
        async def put(data_dir: Path, *args: Any, **options: Any) -> None:
            which = (args, tuple(options.items()))
            if not has_put(data_dir, which):
                await make(data_dir, *args, **options)
                kept[which] = _Kept.of(data_dir)

    else:

        @functools.wraps(make)
        def put(data_dir: Path, *args: Any, **options: Any) -> None:
            which = (args, tuple(options.items()))
            if not has_put(data_dir, which):
                make(data_dir, *args, **options)
                kept[which] = _Kept.of(data_dir)

    return put  # type: ignore[return-value]
