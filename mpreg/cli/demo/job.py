"""How the demo's data lies in the registry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from attrs import evolve

from mpreg.persistence import PersistenceError, PersistenceRegistry
from mpreg.queues import MessageQueue, MessageQueueManager, QueueConfiguration

__all__ = [
    "COMPLETIONS",
    "DELIVERIES_MIN",
    "FILES",
    "INDEX",
    "OtherJobError",
    "enqueue",
    "job_of",
    "open_files",
    "read_completed",
]

FILES: Final = "files"
"""Queue: a message for each file, its job's number and its path."""
COMPLETIONS: Final = "completions"
"""Log: a record for each job done, its number."""
INDEX: Final = "index"
"""Namespace: path → `FileFacts`."""

#: So often a file that cannot be read is tried at least, before it is given up.
DELIVERIES_MIN: Final = 3

_CONFIGURATION: Final = QueueConfiguration(
    max_deliveries=DELIVERIES_MIN,
    # A chunk that takes longer, on whatever machine, goes to another lane.
    lease_seconds=60.0,
    retry_delay_seconds=0.1,
    retry_delay_seconds_max=0.5,
)

_ABOUT: Final = "demo"
_IDENTITY: Final = "job"


class OtherJobError(PersistenceError):
    """The data directory holds something else than this job."""


async def enqueue(
    registry: PersistenceRegistry, paths: Sequence[str], unreadable: str, kills: int
) -> None:
    """Send the files to the queue, unless they are there already. All of them or none.

    ``unreadable`` goes first, as the job after the last: the one that is there to fail.

    Raises:
        OtherJobError: the registry holds another job, or something else. Nothing was written.
    """
    await _claim(registry, identity_of(paths))
    files = await MessageQueueManager(registry).create_queue(FILES)
    is_new = files.statistics().sent == 0
    await _allow_for_kills(registry, files, kills, is_new=is_new)
    if is_new:
        jobs = [(len(paths), unreadable), *enumerate(paths)]
        await files.send_many({"job": job, "path": os.fsencode(path)} for job, path in jobs)


async def _claim(registry: PersistenceRegistry, identity: bytes) -> None:
    about = registry.key_value_store(_ABOUT)
    found = await about.get(_IDENTITY)
    if found is None:
        if (await registry.stats()).commit_sequence > 0:
            raise OtherJobError("it holds data that is not the demo's; give another directory")
        await about.put(_IDENTITY, identity, expected_version=0)
    elif found.value != identity:
        raise OtherJobError(
            "it holds the index of other files; give the options of the run that made it, "
            "or another directory"
        )


async def _allow_for_kills(
    registry: PersistenceRegistry, files: MessageQueue, kills: int, *, is_new: bool
) -> None:
    """Each kill costs the messages in flight one of their attempts, and so does what ends a run
    before its time. No file that can be read may be given up for that, however often it is met."""
    before = _CONFIGURATION if is_new else files.configuration
    if is_new or files.statistics().size:
        more = evolve(before, max_deliveries=before.max_deliveries + kills + 1)
        await MessageQueueManager(registry).create_queue(FILES, more)


async def open_files(registry: PersistenceRegistry) -> MessageQueue:
    return await MessageQueueManager(registry).get_queue(FILES)


def job_of(payload: Any) -> tuple[int, str]:
    """The number of a message's job, and its path."""
    return payload["job"], os.fsdecode(payload["path"])


def identity_of(paths: Sequence[str]) -> bytes:
    """Tells one job from another: the same files in the same order are the same job."""
    digest = hashlib.sha256(b"\0".join(map(os.fsencode, paths))).hexdigest()
    return msgspec.json.encode({"queue": FILES, "files": len(paths), "digest": digest})


async def read_completed(registry: PersistenceRegistry) -> list[int]:
    """The jobs in the log of completions, as often as they are there, in its order."""
    completions = registry.log_store(COMPLETIONS)
    return [int(record.data) async for record in completions.read_range()]
