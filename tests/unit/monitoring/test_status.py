"""What the status page is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from mpreg.actors import BackingOff, Stopped
from mpreg.errors import StorageIOError
from mpreg.monitoring.commits import Commits
from mpreg.monitoring.history import HISTORY_SECONDS, SAMPLES_MAX, Depths, History, Sample
from mpreg.monitoring.openings import Opening
from mpreg.monitoring.persistence_report import persistence_report
from mpreg.monitoring.status import EVENTS_MAX, QUEUES_SHOWN_MAX, build_status
from mpreg.persistence import ParticipantState
from tests.unit.monitoring.snapshots import PARTICIPANT, QUEUE, REGISTRY, commit, snapshot

OPENINGS = [
    Opening(3, 900.0, 0.125, 0.25),
    Opening(2, 800.0, 0.1, 0.2),
    Opening(1, 700.0, 0.1, 0.2, closed_at=790.0),
]


def sample(now: float, commits: Commits, depths: Depths | None = None) -> Sample:
    return Sample(
        now=now, wall=900.0 + now, commits=commits.observed(), mailbox_depth=0, depths=depths
    )


def test_rates_are_those_between_two_samples() -> None:
    history, commits = History(), Commits()
    history.add(sample(0.0, commits))
    for sequence, batches in enumerate((1, 3)):
        commits.committed(commit(sequence, batches, ack_seconds=0.1))
    history.add(sample(2.0, commits, Depths(pending=1, in_flight=2, delayed=3, dead=4)))
    history.add(sample(4.0, commits))
    busy, idle = history.points()
    assert (busy.operations_per_second, busy.commits_per_second, busy.group_size) == (4.0, 1.0, 2.0)
    assert busy.ack_p50_seconds == pytest.approx(0.1, rel=0.5)
    assert busy.depths is not None
    assert (idle.operations_per_second, idle.group_size, idle.ack_p99_seconds) == (0.0, None, None)


def test_history_is_bounded_by_number_and_age_and_has_no_two_samples_at_once() -> None:
    history, commits = History(), Commits()
    for number in range(SAMPLES_MAX * 2):
        history.add(sample(number * 1.0, commits))
        history.add(sample(number * 1.0 + 0.1, commits))
    assert len(history) == SAMPLES_MAX
    history.add(sample(1e6, commits))
    history.add(sample(1e6 + HISTORY_SECONDS, commits))
    assert len(history) == 2


def test_the_status_is_json_and_tells_of_everything_that_is_on_the_page() -> None:
    told = json.loads(json.dumps(build_status(snapshot(), [], OPENINGS), allow_nan=False))
    assert told["node"] == {
        "name": "a", "version": "0.1.0", "loop": "trio", "state": "ready", "up_seconds": 100.0,
    }  # fmt: skip
    assert told["depths"] == {"pending": 10, "in_flight": 2, "delayed": 3, "dead": 1}
    assert told["caches"][0]["hit_share"] == 0.8
    assert told["writes"]["operations_per_fsync"] == 42 / 8
    assert [(event["kind"], event["text"]) for event in told["events"]] == [
        # Failed 10 s before the snapshot of the monotonic second 50.
        ("restart", "writer failed: StorageIOError"),
        ("restore", "queues: 3 queues"),
        ("start", "generation 3, after one that was cut short"),
        ("start", "generation 2"),
        ("start", "generation 1"),
    ]


def test_of_many_queues_those_with_the_most_in_them_are_shown() -> None:
    queues = {f"q{number}": attrs.evolve(QUEUE, size=number) for number in range(500)}
    told = build_status(snapshot(queues=queues), [], OPENINGS * EVENTS_MAX)
    assert (told["queues_in_all"], len(told["queues"])) == (500, QUEUES_SHOWN_MAX)
    assert told["queues"][0]["name"] == "q499"
    assert len(told["events"]) == EVENTS_MAX


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"writer": BackingOff(2, OSError(), 1.0)}, "restarting"),
        ({"reader": Stopped(None)}, "stopped"),
        (
            {"participants": (attrs.evolve(PARTICIPANT, state=ParticipantState.RESTORING),)},
            "restoring",
        ),
    ],
)
def test_the_state_of_a_node_is_one_word(changes: dict[str, Any], state: str) -> None:
    registry = attrs.evolve(REGISTRY, **changes)
    assert build_status(snapshot(registry=registry), [], [])["node"]["state"] == state


def test_an_error_is_told_without_its_text_which_may_name_a_path() -> None:
    failed = attrs.evolve(
        PARTICIPANT,
        state=ParticipantState.FAILED,
        failed_step="restore",
        error=StorageIOError("cannot be read", Path("/secret/place")),
    )
    registry = attrs.evolve(REGISTRY, participants=(failed,))
    told = build_status(snapshot(registry=registry), [], OPENINGS)
    assert "/secret" not in json.dumps(told)
    report = told["persistence"]
    assert report["participants"][0]["error"] == "StorageIOError"
    assert report["integrity"]["failed_restores"] == ["queues"]


def test_the_report_on_persistence_tells_mode_sequences_and_what_was_last_done() -> None:
    report = persistence_report(snapshot(), OPENINGS)
    assert report["mode"]["backend"] == "sqlite"
    assert report["sequences"] == {
        "committed": 12, "durable": 10, "acked_on_record": 10, "durable_lag": 2,
    }  # fmt: skip
    assert report["last_checkpoint"]["at"] == 990.0
    assert report["last_compaction"] == {"at": 995.0, "count": 4, "seconds_in_all": 0.75}
    assert report["integrity"]["damaged_items_met"] == 1
    assert report["openings"][1]["closed_at"] is None
