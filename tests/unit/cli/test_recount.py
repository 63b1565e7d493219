"""The recount finds everything that can be wrong, and nothing where nothing is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from mpreg.cli.demo.facts import FileFacts, facts_of_source
from mpreg.cli.demo.recount import IndexEntry, Measured, Stored, Verdict, measure, recount

PATHS = ["/a.py", "/b.py", "/c.py"]
MEASURED = [Measured(f"digest {path}", 10) for path in PATHS]
ENTRIES = [
    IndexEntry(path, 2 + job, FileFacts(job=job, digest=f"digest {path}", lines=10))
    for job, path in enumerate(PATHS)
]
GOOD = Stored(
    paths=PATHS, completions=[1, 0, 2], entries=ENTRIES, version_before=1, commit_sequence=4
)


ALL = frozenset({0, 1, 2})


def verdict_of(acked: frozenset[int] = ALL, **changes: Any) -> Verdict:
    return recount(PATHS, MEASURED, attrs.evolve(GOOD, **changes), acked)


def other_facts(**changes: Any) -> list[IndexEntry]:
    """The entries, the middle one with other facts."""
    first, entry, last = ENTRIES
    facts = msgspec.structs.replace(entry.facts, **changes)
    return [first, attrs.evolve(entry, facts=facts), last]


def test_every_file_once_is_no_problem() -> None:
    assert verdict_of() == Verdict(lost=0, duplicated=0, problems=())
    assert verdict_of(acked=frozenset()) == Verdict(lost=0, duplicated=0, problems=())


@pytest.mark.parametrize(
    ("changes", "lost", "duplicated", "told"),
    [
        ({"entries": ENTRIES[1:]}, 1, 0, "1 not in the index: /a.py"),
        ({"entries": []}, 3, 0, "3 not in the index: /a.py, /b.py, /c.py"),
        ({"completions": [0, 1]}, 1, 0, "1 never completed: /c.py"),
        ({"completions": [0, 1, 1, 2]}, 0, 1, "1 completed more than once: /b.py"),
        ({"completions": [0, 1, 2, 3]}, 0, 0, "1 completed, but never asked for: job 3"),
        ({"version_before": 0}, 0, 1, "1 writes of files that were written already"),
        (
            {"entries": [*ENTRIES, IndexEntry("/x.py", 5, ENTRIES[0].facts)]},
            0,
            0,
            "1 in the index, but never asked for: /x.py",
        ),
        ({"entries": other_facts(digest="other")}, 0, 0, "1 indexed with other facts"),
        ({"entries": other_facts(lines=9)}, 0, 0, "1 indexed with other facts"),
        ({"entries": other_facts(job=2)}, 0, 0, "1 indexed with other facts"),
        ({"paths": PATHS[:2]}, 0, 0, "the log of jobs is not what was put on it"),
    ],
)
def test_whatever_is_wrong_is_found(
    changes: dict[str, Any], lost: int, duplicated: int, told: str
) -> None:
    verdict = verdict_of(**changes)
    assert (verdict.lost, verdict.duplicated) == (lost, duplicated)
    assert [problem for problem in verdict.problems if problem.startswith(told)]


def test_a_deleted_entry_is_not_taken_for_a_rewritten_one() -> None:
    assert verdict_of(entries=ENTRIES[:1] + ENTRIES[2:]).duplicated == 0


def test_many_are_told_by_a_few() -> None:
    paths = [f"/{number}.py" for number in range(100)]
    nothing = Stored(paths=paths, completions=[], entries=[], version_before=1, commit_sequence=1)
    verdict = recount(paths, [Measured("", 0)] * 100, nothing, set())
    assert "100 never completed: /0.py, /1.py, /2.py, …" in verdict.problems


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\r\nb\rc\n\n", b"\0\xff\n" * 5])
def test_a_fresh_look_agrees_with_the_indexer(data: bytes, tmp_path: Path) -> None:
    """They count in different ways, so that one mistake is not made twice."""
    path = tmp_path / "file.py"
    path.write_bytes(data)
    facts = facts_of_source(0, data)
    assert measure(str(path)) == Measured(facts.digest, facts.lines)
    assert facts.digest == hashlib.sha256(data).hexdigest()


def test_a_file_that_cannot_be_read_agrees_as_well(tmp_path: Path) -> None:
    assert measure(str(tmp_path / "gone.py")) == Measured("", 0)
