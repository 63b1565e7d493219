"""The recount finds everything that can be wrong, and nothing where nothing is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from mpreg.cli.demo.facts import FileFacts, facts_of_source
from mpreg.cli.demo.recount import (
    DeadJob,
    IndexEntry,
    Measured,
    Stored,
    Verdict,
    measure,
    recount,
)
from mpreg.queues import QueueStatistics

PATHS = ["/a.py", "/b.py", "/c.py"]
MEASURED = [Measured(f"digest {path}", 10) for path in PATHS]
ENTRIES = [
    IndexEntry(path, FileFacts(job=job, digest=f"digest {path}", lines=10))
    for job, path in enumerate(PATHS)
]
ON_PURPOSE = DeadJob(job=3, path="/none.py", attempts=3, reason="used up", last_error="gone")
FILES = QueueStatistics(
    pending=0,
    in_flight=0,
    delayed=0,
    dead=1,
    size=0,
    bytes=0,
    sent=4,
    acknowledged=3,
    redelivered=2,
    expired=0,
    oldest_seconds=None,
    subscriptions={},
)
GOOD = Stored(completions=[1, 0, 2], entries=ENTRIES, dead=[ON_PURPOSE], files=FILES)

ALL = frozenset({0, 1, 2})


def verdict_of(acked: frozenset[int] = ALL, **changes: Any) -> Verdict:
    return recount(PATHS, MEASURED, attrs.evolve(GOOD, **changes), acked)


def other_facts(**changes: Any) -> list[IndexEntry]:
    """The entries, the middle one with other facts."""
    first, entry, last = ENTRIES
    facts = msgspec.structs.replace(entry.facts, **changes)
    return [first, attrs.evolve(entry, facts=facts), last]


def with_dead(job: int) -> list[DeadJob]:
    return [ON_PURPOSE, attrs.evolve(ON_PURPOSE, job=job)]


def counted(**changes: Any) -> QueueStatistics:
    return attrs.evolve(FILES, **changes)


def test_every_file_once_is_no_problem() -> None:
    assert verdict_of() == Verdict(lost=0, duplicated=0, problems=())
    assert verdict_of(acked=frozenset()) == Verdict(lost=0, duplicated=0, problems=())


def test_a_file_that_cannot_be_read_may_be_a_dead_letter() -> None:
    measured = [*MEASURED[:2], Measured("", 0)]
    stored = attrs.evolve(
        GOOD,
        completions=[1, 0],
        entries=ENTRIES[:2],
        dead=with_dead(2),
        files=counted(dead=2, acknowledged=2),
    )
    verdict = recount(PATHS, measured, stored, {0, 1})
    assert verdict == Verdict(lost=0, duplicated=0, problems=())


@pytest.mark.parametrize(
    ("changes", "lost", "duplicated", "told"),
    [
        ({"entries": ENTRIES[1:]}, 1, 0, "1 not in the index: /a.py"),
        ({"entries": []}, 3, 0, "3 not in the index: /a.py, /b.py, /c.py"),
        ({"completions": [0, 1]}, 1, 0, "1 neither completed nor a dead letter: /c.py"),
        ({"completions": [0, 1, 1, 2]}, 0, 1, "1 completed more than once: /b.py"),
        ({"completions": [0, 1, 2, 4]}, 0, 0, "1 completed, but never asked for: job 4"),
        (
            {"entries": [*ENTRIES, IndexEntry("/x.py", ENTRIES[0].facts)]},
            0,
            0,
            "1 in the index, but never asked for: /x.py",
        ),
        ({"entries": other_facts(digest="other")}, 0, 0, "1 indexed with other facts"),
        ({"entries": other_facts(lines=9)}, 0, 0, "1 indexed with other facts"),
        ({"entries": other_facts(job=2)}, 0, 0, "1 indexed with other facts"),
        ({"dead": []}, 0, 0, "the job that was there to fail is not among the dead letters"),
        ({"dead": with_dead(1)}, 0, 1, "1 completed, and a dead letter all the same: /b.py"),
        ({"dead": with_dead(1)}, 0, 1, "1 given up, but it can be read"),
        ({"dead": with_dead(-1)}, 0, 0, "1 a dead letter of no job: job -1"),
        ({"dead": [attrs.evolve(ON_PURPOSE, attempts=2)]}, 0, 0, "1 given up before attempt 3"),
        ({"files": counted(sent=5)}, 0, 0, "the queue counts 5 messages sent where there are 4"),
        ({"files": counted(size=1)}, 0, 0, "the queue counts 1 messages not finished where"),
        ({"files": counted(acknowledged=4)}, 0, 0, "the queue counts 4 acknowledgments where"),
        ({"files": counted(dead=0)}, 0, 0, "the queue counts 0 dead letters where there are 1"),
    ],
)
def test_whatever_is_wrong_is_found(
    changes: dict[str, Any], lost: int, duplicated: int, told: str
) -> None:
    verdict = verdict_of(**changes)
    assert (verdict.lost, verdict.duplicated) == (lost, duplicated)
    assert [problem for problem in verdict.problems if problem.startswith(told)], verdict


def test_many_are_told_by_a_few() -> None:
    paths = [f"/{number}.py" for number in range(100)]
    nothing = attrs.evolve(GOOD, completions=[], entries=[], dead=[])
    verdict = recount(paths, [Measured("", 0)] * 100, nothing, set())
    told = "100 neither completed nor a dead letter: /0.py, /1.py, /2.py, …"
    assert told in verdict.problems


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\r\nb\rc\n\n", b"\0\xff\n" * 5])
def test_a_fresh_look_agrees_with_the_indexer(data: bytes, tmp_path: Path) -> None:
    """They count in different ways, so that one mistake is not made twice."""
    path = tmp_path / "file.py"
    path.write_bytes(data)
    facts = facts_of_source(0, data)
    assert measure(str(path)) == Measured(facts.digest, facts.lines)
    assert measure(str(path)).is_readable
    assert facts.digest == hashlib.sha256(data).hexdigest()


def test_a_fresh_look_at_a_file_that_cannot_be_read_finds_nothing(tmp_path: Path) -> None:
    assert measure(str(tmp_path / "gone.py")) == Measured("", 0)
    assert not measure(str(tmp_path / "gone.py")).is_readable
