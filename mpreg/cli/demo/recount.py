"""The proof: what is stored, held against the files as they are and the acks as they were told."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import msgspec
from attrs import frozen

from mpreg.cli.demo.facts import FileFacts
from mpreg.cli.demo.job import DELIVERIES_MIN, INDEX, job_of, open_files, read_completed
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import DeadLetter, QueueStatistics

__all__ = [
    "DeadJob",
    "IndexEntry",
    "Measured",
    "Stored",
    "Verdict",
    "measure",
    "read_stored",
    "recount",
]

T = TypeVar("T")

_EXAMPLES = 3


@frozen
class Measured:
    """What a fresh look at a file finds. In other ways than the indexer does."""

    digest: str
    lines: int

    @property
    def is_readable(self) -> bool:
        return bool(self.digest)


@frozen
class IndexEntry:
    path: str
    facts: FileFacts


@frozen(kw_only=True)
class DeadJob:
    """A dead letter of the queue of files."""

    job: int
    path: str
    attempts: int
    reason: str
    last_error: str


@frozen(kw_only=True)
class Stored:
    """Everything that the registry holds of the job."""

    completions: Sequence[int]
    entries: Sequence[IndexEntry]
    dead: Sequence[DeadJob]
    files: QueueStatistics


@frozen(kw_only=True)
class Verdict:
    lost: int
    """Jobs that were acked and are not, or not wholly, in the store."""
    duplicated: int
    """Jobs that were completed more than once, or completed and given up."""
    problems: tuple[str, ...]
    """Everything that is not as it must be, in words; empty: every file exactly once."""


def measure(path: str) -> Measured:
    """Raises nothing: a file that cannot be read has an empty digest."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - thousands of them
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return Measured(digest, sum(1 for _ in file))
    except OSError:
        return Measured("", 0)


async def read_stored(registry: PersistenceRegistry) -> Stored:
    """Read all of it, as a program would that opens the registry for the first time."""
    files = await open_files(registry)
    entries = [
        IndexEntry(str(entry.key), msgspec.json.decode(entry.value, type=FileFacts))
        async for entry in registry.key_value_store(INDEX).scan()
    ]
    return Stored(
        completions=await read_completed(registry),
        entries=entries,
        dead=[_dead_job(letter) for letter in await files.dead_letters()],
        files=files.statistics(),
    )


def _dead_job(letter: DeadLetter) -> DeadJob:
    # A message that was damaged is of no known job.
    job, path = (-1, "?") if letter.payload is None else job_of(letter.payload)
    return DeadJob(
        job=job,
        path=path,
        attempts=letter.attempts,
        reason=letter.reason,
        last_error=letter.last_error,
    )


def recount(
    paths: Sequence[str],
    measured: Sequence[Measured],
    stored: Stored,
    acked: Collection[int],
) -> Verdict:
    """Hold what is stored against the files (``paths`` and, side by side, what a fresh look at each
    found) and against the jobs that were told to be acked.

    The job after the last is the one that was there to fail.
    """
    times = Counter(stored.completions)
    by_path = {entry.path: entry for entry in stored.entries}
    dead = {one.job: one for one in stored.dead}
    jobs = range(len(paths))
    known = set(paths)

    lost = [
        job for job in acked if job not in times or job not in jobs or paths[job] not in by_path
    ]
    twice = [job for job, count in times.items() if count > 1]
    both = [job for job in times if job in dead]

    def indexed_wrongly(job: int) -> bool:
        entry = by_path.get(paths[job])
        return entry is not None and (
            entry.facts.job != job
            or Measured(entry.facts.digest, entry.facts.lines) != measured[job]
        )

    def name(job: int) -> str:
        return paths[job] if job in jobs else f"job {job}"

    findings = (
        _finding("acked, but not stored", lost, name),
        _finding("completed more than once", twice, name),
        _finding("completed, and a dead letter all the same", both, name),
        _finding(
            "neither completed nor a dead letter",
            [job for job in jobs if job not in times and job not in dead],
            name,
        ),
        _finding(
            "not in the index",
            [job for job in jobs if paths[job] not in by_path and job not in dead],
            name,
        ),
        _finding("completed, but never asked for", [j for j in times if j not in jobs], name),
        _finding("in the index, but never asked for", [p for p in by_path if p not in known], str),
        _finding(
            "indexed with other facts than the file has now (wrong, or changed since)",
            [job for job in jobs if indexed_wrongly(job)],
            name,
        ),
        _find_in_dead(dead, measured, name),
        _find_in_counts(stored, len(paths) + 1),
    )
    return Verdict(
        lost=len(lost),
        duplicated=len(twice) + len(both),
        problems=tuple(problem for finding in findings for problem in finding),
    )


def _find_in_dead(
    dead: Mapping[int, DeadJob], measured: Sequence[Measured], name: Callable[[int], str]
) -> list[str]:
    on_purpose = len(measured)
    missing = "the job that was there to fail is not among the dead letters"
    asked_for = range(on_purpose + 1)
    readable = [job for job in dead if job in range(on_purpose) and measured[job].is_readable]
    too_soon = [job for job, one in dead.items() if one.attempts < DELIVERIES_MIN]
    return [
        *([] if on_purpose in dead else [missing]),
        *_finding("given up, but it can be read (wrong, or changed since)", readable, name),
        *_finding(f"given up before attempt {DELIVERIES_MIN}", too_soon, name),
        *_finding("a dead letter of no job", [job for job in dead if job not in asked_for], name),
    ]


def _find_in_counts(stored: Stored, messages: int) -> list[str]:
    """What the queue counts has to agree with what is there."""
    files = stored.files
    counts = (
        ("messages sent", files.sent, messages),
        ("messages not finished", files.size, 0),
        ("acknowledgments", files.acknowledged, len(stored.completions)),
        ("dead letters", files.dead, len(stored.dead)),
    )
    return [
        f"the queue counts {count:,} {what} where there are {there:,}"
        for what, count, there in counts
        if count != there
    ]


def _finding(what: str, items: Sequence[T], name: Callable[[T], str]) -> list[str]:
    """A line about all of them, or none."""
    if not items:
        return []
    shown = ", ".join(name(item) for item in items[:_EXAMPLES])
    more = ", …" if len(items) > _EXAMPLES else ""
    return [f"{len(items):,} {what}: {shown}{more}"]
