"""How the demo's data lies in the registry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Final

import msgspec

from mpreg.persistence import PersistenceError, PersistenceRegistry

__all__ = [
    "COMPLETIONS",
    "INDEX",
    "JOBS",
    "OtherJobError",
    "enqueue",
    "read_completed",
    "read_identity_version",
    "read_paths",
]

JOBS: Final = "jobs"
"""Log: a record for each file, its path. The record's offset is the job's number."""
COMPLETIONS: Final = "completions"
"""Log: a record for each job done, its number."""
INDEX: Final = "index"
"""Namespace: path → `FileFacts`."""

_ABOUT: Final = "demo"
_IDENTITY: Final = "job"


class OtherJobError(PersistenceError):
    """The data directory holds something else than this job."""


async def enqueue(registry: PersistenceRegistry, paths: Sequence[str]) -> None:
    """Put the files on the log of jobs, unless they are there already. All of them or none.

    Raises:
        OtherJobError: the registry holds another job, or something else. Nothing was written.
    """
    about = registry.key_value_store(_ABOUT)
    identity = identity_of(paths)
    found = await about.get(_IDENTITY)
    if found is not None:
        if found.value != identity:
            raise OtherJobError(
                "it holds the index of other files; give the options of the run that made it, "
                "or another directory"
            )
        return
    if (await registry.stats()).commit_sequence > 0:
        raise OtherJobError("it holds data that is not the demo's; give another directory")
    async with registry.transaction() as transaction:
        about.put_nowait(_IDENTITY, identity, transaction=transaction)
        registry.log_store(JOBS).append_many_nowait(
            map(os.fsencode, paths), transaction=transaction
        )


def identity_of(paths: Sequence[str]) -> bytes:
    """Tells one job from another: the same files in the same order are the same job."""
    digest = hashlib.sha256(b"\0".join(map(os.fsencode, paths))).hexdigest()
    return msgspec.json.encode({"files": len(paths), "digest": digest})


async def read_paths(registry: PersistenceRegistry) -> list[str]:
    return [os.fsdecode(record.data) async for record in registry.log_store(JOBS).read_range()]


async def read_completed(registry: PersistenceRegistry) -> list[int]:
    """The jobs in the log of completions, as often as they are there, in its order."""
    completions = registry.log_store(COMPLETIONS)
    return [int(record.data) async for record in completions.read_range()]


async def read_identity_version(registry: PersistenceRegistry) -> int:
    """The version of the one key that is written before the index is begun."""
    found = await registry.key_value_store(_ABOUT).get(_IDENTITY)
    return 0 if found is None else found.version
