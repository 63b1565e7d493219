"""The figures of the closing table, and what the worker tells for them."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from mpreg.cli.demo.messages import (
    Acked,
    Finished,
    LineSplitter,
    Message,
    Progress,
    Reporter,
    Restored,
)
from mpreg.cli.demo.report import Life, Writes, count_writes, percentile

MESSAGES: list[Message] = [
    Restored(seconds=0.5, completed=(1, 2), returned=3, attempt_max=2, commit_sequence=3, fsyncs=1),
    Acked(job=4, seconds=0.001),
    Progress(commit_sequence=4, fsyncs=2),
    Finished(commit_sequence=5, fsyncs=3),
]


def life(start: int, latest: Progress | Finished | None = None) -> Life:
    restored = Restored(
        seconds=0.0, completed=(), returned=0, attempt_max=1, commit_sequence=start, fsyncs=1
    )
    return Life(pid=1, restored=restored, latest=latest or restored)


def test_groups_after_the_last_report_are_counted_from_the_sequence_on_disk() -> None:
    lives = [
        life(1, Progress(commit_sequence=5, fsyncs=5)),  # two more groups before it was killed
        Life(pid=2),  # killed before it said anything
        life(7),  # killed at once
        life(7, Finished(commit_sequence=9, fsyncs=3)),
    ]
    assert count_writes(lives) == Writes(commit_groups=8, fsyncs=(5 + 2) + 1 + 3)


def test_no_worker_has_written_nothing() -> None:
    assert count_writes([]) == count_writes([Life(pid=1)]) == Writes(0, 0)


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0, 1))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) <= share * len(values) + 1e-6


def test_percentiles_of_few() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([3.0], 0.5) == 3.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.99) == 99


@given(st.lists(st.integers(1, 40)))
def test_messages_are_read_as_they_were_told_however_the_pipe_cuts_them(cuts: list[int]) -> None:
    reading, writing = os.pipe()
    for message in MESSAGES:
        Reporter(writing).tell(message)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    splitter = LineSplitter()
    found: list[Message] = []
    for cut in cuts:
        found += splitter.feed(data[:cut])
        data = data[cut:]
    assert [*found, *splitter.feed(data)] == MESSAGES


def test_a_line_that_a_kill_cut_off_does_not_count() -> None:
    splitter = LineSplitter()
    assert list(splitter.feed(b'{"type":"Acked","job":1,"seconds":0.5}\n{"type":"Ack')) == [
        Acked(job=1, seconds=0.5)
    ]
