"""Stores kept of every released schema version, and what is in them, as plain data.

::

    schema-N/closed/            as a clean close leaves it
    schema-N/*/values/          what the database has in files, from version 2 on
    schema-N/killed/            as a killed process leaves it: the last writes are in the WAL alone
    schema-N/contents.json      what either must give back, by mpreg's own calls
    journal-N/                  the same of the file backend, by the version of its format
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Final

from mpreg.persistence import PersistenceRegistry
from mpreg.persistence.backends.file.format import FORMAT_VERSION
from mpreg.persistence.backends.sqlite.schema import SCHEMA_VERSION
from mpreg.queues import MessageQueueManager

__all__ = [
    "CONTENTS",
    "DIRECTORY",
    "NEWEST",
    "STATES",
    "kept_versions",
    "directory_of",
    "read_contents",
    "receive_messages",
]

DIRECTORY: Final = Path(__file__).parent
CONTENTS: Final = "contents.json"
STATES: Final = ("closed", "killed")

NAMESPACES: Final = ("things", "häuser", "only in the WAL")
LOGS: Final = ("audit", "truncated", "deleted")
SNAPSHOTS: Final = ("image", "none")
QUEUE: Final = "jobs"


#: The newest version of each backend.
NEWEST: Final = {"sqlite": SCHEMA_VERSION, "file": FORMAT_VERSION}
_KINDS: Final = {"sqlite": "schema", "file": "journal"}


def directory_of(backend: str, version: int) -> Path:
    return DIRECTORY / f"{_KINDS[backend]}-{version}"


def kept_versions(backend: str) -> list[int]:
    pattern = rf"{_KINDS[backend]}-(\d+)"
    found = [re.fullmatch(pattern, one.name) for one in DIRECTORY.iterdir()]
    return sorted(int(one[1]) for one in found if one is not None)


async def read_contents(registry: PersistenceRegistry) -> dict[str, Any]:
    """All that can be read of the store, in a form that JSON takes."""
    return {
        "namespaces": {name: await _entries(registry, name) for name in NAMESPACES},
        "logs": {name: await _log(registry, name) for name in LOGS},
        "snapshots": {name: await _snapshot(registry, name) for name in SNAPSHOTS},
        "queues": await _queues(registry),
    }


async def _entries(registry: PersistenceRegistry, name: str) -> list[Any]:
    return [
        [_said(entry.key), entry.version, entry.expires_at, entry.value.hex()]
        async for entry in registry.key_value_store(name).scan()
    ]


def _said(key: str | bytes) -> Any:
    return key if isinstance(key, str) else {"bytes": key.hex()}


async def _log(registry: PersistenceRegistry, name: str) -> dict[str, Any]:
    log = registry.log_store(name)
    return {
        "first": await log.first_offset(),
        "next": await log.next_offset(),
        "records": [[one.offset, one.data.hex()] async for one in log.read_range()],
    }


async def _snapshot(registry: PersistenceRegistry, name: str) -> Any:
    found = await registry.snapshot_store(name).load()
    if found is None:
        return None
    return [found.version, len(found.data), hashlib.sha256(found.data).hexdigest()]


async def _queues(registry: PersistenceRegistry) -> dict[str, Any]:
    queues = MessageQueueManager(registry)
    jobs = await queues.get_queue(QUEUE)
    statistics = jobs.statistics()
    letters = await jobs.dead_letters()
    return {
        "names": await queues.queue_names(),
        "max_deliveries": jobs.configuration.max_deliveries,
        "pending": statistics.pending,
        "delayed": statistics.delayed,
        "dead": [[letter.id, letter.payload, letter.reason] for letter in letters],
    }


async def receive_messages(registry: PersistenceRegistry) -> list[Any]:
    """Those that can be received now. They count as delivered."""
    jobs = await MessageQueueManager(registry).get_queue(QUEUE)
    found = []
    while (message := await jobs.receive(0.0)) is not None:
        found.append([message.id, repr(message.payload), message.headers])
    return found
