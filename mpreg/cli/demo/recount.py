"""The proof: what is stored, held against the files as they are and the acks as they were told."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import msgspec
from attrs import frozen

from mpreg.cli.demo.facts import FileFacts
from mpreg.cli.demo.job import INDEX, read_completed, read_identity_version, read_paths
from mpreg.persistence import PersistenceRegistry

__all__ = ["IndexEntry", "Measured", "Stored", "Verdict", "measure", "read_stored", "recount"]

T = TypeVar("T")

_EXAMPLES = 3


@frozen
class Measured:
    """What a fresh look at a file finds. In other ways than the indexer does."""

    digest: str
    lines: int


@frozen
class IndexEntry:
    path: str
    version: int
    facts: FileFacts


@frozen(kw_only=True)
class Stored:
    """Everything that the registry holds of the job."""

    paths: Sequence[str]
    """The log of jobs."""
    completions: Sequence[int]
    entries: Sequence[IndexEntry]
    version_before: int
    """The last version given before the first entry was written."""
    commit_sequence: int


@frozen(kw_only=True)
class Verdict:
    lost: int
    """Jobs that were acked and are not, or not wholly, in the store."""
    duplicated: int
    """Jobs that were completed, or files that were written, more than once."""
    problems: tuple[str, ...]
    """Everything that is not as it must be, in words; empty: every file exactly once."""


def measure(path: str) -> Measured:
    """Raises nothing: a file that cannot be read has an empty digest, as in the index."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - thousands of them
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return Measured(digest, sum(1 for _ in file))
    except OSError:
        return Measured("", 0)


async def read_stored(registry: PersistenceRegistry) -> Stored:
    """Read all of it, as a program would that opens the registry for the first time."""
    entries = [
        IndexEntry(str(entry.key), entry.version, msgspec.json.decode(entry.value, type=FileFacts))
        async for entry in registry.key_value_store(INDEX).scan()
    ]
    return Stored(
        paths=await read_paths(registry),
        completions=await read_completed(registry),
        entries=entries,
        version_before=await read_identity_version(registry),
        commit_sequence=(await registry.stats()).commit_sequence,
    )


def recount(
    paths: Sequence[str],
    measured: Sequence[Measured],
    stored: Stored,
    acked: Collection[int],
) -> Verdict:
    """Hold what is stored against the files (``paths`` and, side by side, what a fresh look at each
    found) and against the jobs that were told to be acked."""
    times = Counter(stored.completions)
    by_path = {entry.path: entry for entry in stored.entries}
    jobs = range(len(paths))

    lost = [
        job for job in acked if job not in times or job not in jobs or paths[job] not in by_path
    ]
    twice = [job for job, count in times.items() if count > 1]
    absent = [job for job in jobs if paths[job] not in by_path]
    rewritten = count_rewritten(stored, sum(job in times for job in absent))

    def indexed_wrongly(job: int) -> bool:
        entry = by_path.get(paths[job])
        return entry is not None and (
            entry.facts.job != job
            or Measured(entry.facts.digest, entry.facts.lines) != measured[job]
        )

    def name(job: int) -> str:
        return paths[job] if job in jobs else f"job {job}"

    known = set(paths)
    findings = (
        [] if list(stored.paths) == list(paths) else ["the log of jobs is not what was put on it"],
        _finding("acked, but not stored", lost, name),
        _finding("completed more than once", twice, name),
        [f"{rewritten:,} writes of files that were written already"] if rewritten else [],
        _finding("never completed", [job for job in jobs if job not in times], name),
        _finding("not in the index", absent, name),
        _finding("completed, but never asked for", [j for j in times if j not in jobs], name),
        _finding("in the index, but never asked for", [p for p in by_path if p not in known], str),
        _finding(
            "indexed with other facts than the file has now (wrong, or changed since)",
            [job for job in jobs if indexed_wrongly(job)],
            name,
        ),
    )
    return Verdict(
        lost=len(lost),
        duplicated=len(twice) + rewritten,
        problems=tuple(problem for finding in findings for problem in finding),
    )


def count_rewritten(stored: Stored, missing_entries: int) -> int:
    """How many writes of a file came after an earlier one of the same file.

    Versions count every write of a key, over the whole store, and are never used again. So a file
    that was written twice leaves a gap where its first version was. One that is gone altogether
    leaves a gap too; those are ``missing_entries``.
    """
    if not stored.entries:
        return 0
    written = max(entry.version for entry in stored.entries) - stored.version_before
    return max(0, written - len(stored.entries) - missing_entries)


def _finding(what: str, items: Sequence[T], name: Callable[[T], str]) -> list[str]:
    """A line about all of them, or none."""
    if not items:
        return []
    shown = ", ".join(name(item) for item in items[:_EXAMPLES])
    more = ", …" if len(items) > _EXAMPLES else ""
    return [f"{len(items):,} {what}: {shown}{more}"]
