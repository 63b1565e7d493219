"""In which line of a TOML file each setting stands. Parsers do not tell."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any, TypeAlias

__all__ = ["Keys", "lines_of"]

#: From the outermost table inward; a number is a place in a list.
Keys: TypeAlias = tuple[str | int, ...]


def lines_of(text: str) -> dict[Keys, int]:
    """The line, from 1, in which each table begins and each key gets its value; of right TOML.

    A statement ends where what has come since the one before it is TOML by itself: a text or a
    list that goes on in the next line is not.
    """
    lines = text.split("\n")
    found: dict[Keys, int] = {}
    table: Keys = ()
    lengths: dict[Keys, int] = {}
    begin = 0
    for end in range(1, len(lines) + 1):
        try:
            statement = tomllib.loads("\n".join(lines[begin:end]) + "\n")
        except (ValueError, RecursionError):
            continue
        if lines[begin].lstrip().startswith("["):
            table = _entered(statement, lengths)
            below: Iterator[Keys] = iter([()])
        else:
            below = _keys_in(statement)
        for keys in below:
            whole = (*table, *keys)
            for length in range(1, len(whole) + 1):
                found.setdefault(whole[:length], begin + 1)
        begin = end
    return found


def _entered(header: dict[str, Any], lengths: dict[Keys, int]) -> Keys:
    """The table of a header; ``lengths`` counts those of each list of tables."""
    keys: Keys = ()
    inside: Any = header
    while inside:
        if isinstance(inside, list):
            lengths[keys] = lengths.get(keys, 0) + 1
            return (*keys, lengths[keys] - 1)
        ((name, inside),) = inside.items()
        keys = (*keys, name)
        # Of a list of tables that the header only passes through, the last one is meant.
        if keys in lengths and isinstance(inside, dict):
            keys = (*keys, lengths[keys] - 1)
    return keys


def _keys_in(statement: dict[str, Any]) -> Iterator[Keys]:
    waiting: list[tuple[Keys, Any]] = [((), statement)]
    while waiting:
        keys, value = waiting.pop()
        if keys:
            yield keys
        if isinstance(value, dict):
            waiting += [((*keys, name), one) for name, one in value.items()]
        elif isinstance(value, list):
            waiting += [((*keys, index), one) for index, one in enumerate(value)]
