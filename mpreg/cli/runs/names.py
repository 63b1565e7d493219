"""Names in a data directory, for the shell to complete."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mpreg.cli.options import Common
from mpreg.cli.settings import data_dir_of, source_of
from mpreg.errors import CorruptDataError
from mpreg.persistence import ReadOnlyRegistry, open_read_only
from mpreg.queues.view import QueueView, queue_names

__all__ = ["names_for_completion"]


async def names_for_completion(
    common: Common, what: str, place: str | None, beginning: str, names_max: int
) -> list[str]:
    """``place`` is what they are names in: the namespace of keys, the queue of subscriptions.

    Raises:
        MpregError: no store can be read there.
    """
    found: list[str] = []
    data_dir = data_dir_of(source_of(common))
    if data_dir is None:
        return found
    async with open_read_only(data_dir) as registry:
        async for name in _names(registry, what, place or "", beginning):
            if name.startswith(beginning) and name.isprintable():
                found.append(name)
            if len(found) == names_max:
                break
    return found


async def _names(
    registry: ReadOnlyRegistry, what: str, place: str, beginning: str
) -> AsyncIterator[str]:
    match what:
        case "keys":
            # A prefix that is a str leaves out keys that are bytes: these are given otherwise.
            async for entry in registry.scan(place, beginning, on_damaged=_pass_over):
                yield str(entry.key)
        case "subscriptions":
            for subscription in (await QueueView.open(registry, place)).patterns:
                yield subscription
        case "queues":
            for queue in await queue_names(registry):
                yield queue
        case "logs":
            async for log in registry.logs(on_damaged=_pass_over):
                if not log.name.is_reserved:
                    yield log.name.name
        case "namespaces":
            async for name in registry.namespaces(on_damaged=_pass_over):
                if not name.is_reserved:
                    yield name.name
        case _:
            async for name in registry.namespaces(on_damaged=_pass_over):
                if name.is_users_snapshot:
                    yield name.snapshot


def _pass_over(_: CorruptDataError) -> None:
    """Damage has no name to be completed."""
