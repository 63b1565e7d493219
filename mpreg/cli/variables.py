"""Environment variables that are nearly those of settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

__all__ = ["near_misses"]

#: Those of options.
_OF_OPTIONS: Final = ("MPREG_CONFIG", "MPREG_DATA_DIR")


def near_misses(environment: Mapping[str, str]) -> list[str]:
    """What is to be told of variables that would be of a setting if they had two underscores where
    they have one. Such a name may be there for other reasons, as in a cluster that has a service
    called ``mpreg-server``: so it is no error."""
    tried = [name for name in environment if re.match(r"MPREG_(?!_)", name)]
    tried = sorted(name for name in tried if name not in _OF_OPTIONS)
    if not tried:
        return []
    right = dict(_variables())
    return [
        f"the environment variable {name} was not read: that of the setting is {meant}, with two "
        "underscores"
        for name in tried
        if (meant := right.get(_squeezed(name)) or _of_a_queue(name)) is not None
    ]


def _squeezed(name: str) -> str:
    return re.sub("_+", "_", name)


def _variables() -> Iterator[tuple[str, str]]:
    # Not above: it imports all parts of a node, and hardly anybody has such a variable.
    from mpreg.persistence import PersistenceConfig
    from mpreg.settings import MPREGSettings
    from mpreg.settings_source import variable_of
    from mpreg.settings_writing import tables_in

    # The whole list has one.
    yield "MPREG_PEERS", variable_of(("peers",))
    settings = MPREGSettings(persistence=PersistenceConfig(backend="memory"))
    for table in tables_in(settings):
        for one in table.settings:
            variable = variable_of(one.keys)
            yield _squeezed(variable), variable


def _of_a_queue(name: str) -> str | None:
    import attrs

    from mpreg.queues import QueueConfiguration

    settings = "|".join(one.name.upper() for one in attrs.fields(QueueConfiguration))
    found = re.fullmatch(rf"MPREG_QUEUES_+(\w+?)_+({settings})", name)
    return None if found is None else f"MPREG__QUEUES__{found[1]}__{found[2]}"
