"""What is dropped from a log, and what is copied out of it first."""

from __future__ import annotations

from random import Random

import pytest

from mpreg.queues import truncation
from mpreg.queues.configuration import QueueConfiguration
from mpreg.queues.intervals import IntervalSet
from mpreg.queues.lane import Lane
from mpreg.queues.truncation import plan_truncation


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a log of a few dozen messages is a long one."""
    monkeypatch.setattr(truncation, "FINISHED_MIN", 8)
    monkeypatch.setattr(truncation, "REMOVED_MAX", 64)
    monkeypatch.setattr(truncation, "FINISHED_PER_COPY", 4)


def carry_out(lane: Lane) -> list[tuple[int, int]]:
    """All there is to do: how many messages each step removed and copied."""
    steps = []
    while (plan := plan_truncation(lane)) is not None:
        unfinished = [
            offset for offset in range(lane.first, plan.before) if offset not in lane.finished
        ]
        assert list(plan.keep) == unfinished
        assert lane.first < plan.before <= lane.end
        steps.append((plan.before - lane.first, len(plan.keep)))
        lane.kept.update(plan.keep)
        lane.first = plan.before
    return steps


@pytest.mark.usefixtures("_small")
def test_nothing_unfinished_is_dropped_and_each_copy_pays_for_itself() -> None:
    for seed in range(1_000):
        random = Random(seed)
        share = random.choice([0.3, 0.8, 0.9, 0.97, 1.0])
        end = random.randint(0, 300)
        finished = [offset for offset in range(end) if random.random() < share]
        lane = Lane(0, end=end, finished=IntervalSet((each, each + 1) for each in finished))
        for removed, copied in carry_out(lane):
            assert removed - copied >= max(truncation.FINISHED_MIN, 4 * copied)
            assert removed <= truncation.REMOVED_MAX
        alive = set(range(end)) - set(finished)
        assert alive <= lane.kept | set(range(lane.first, end))
        assert lane.kept <= alive


@pytest.mark.usefixtures("_small")
def test_one_old_message_keeps_nothing_behind_it() -> None:
    for seed in range(300):
        random = Random(seed)
        end = random.randint(20, 300)
        old = random.randrange(end)
        lane = Lane(0, end=end, finished=IntervalSet([(0, old), (old + 1, end)]))
        carry_out(lane)
        assert end - lane.first <= truncation.FINISHED_MIN + 4


def test_a_million_finished_messages_are_given_back_in_small_steps() -> None:
    lane = Lane(0, end=1_000_000, finished=IntervalSet([(1, 1_000_000)]))
    steps = carry_out(lane)
    assert lane.kept == {0}
    assert lane.end - lane.first < truncation.FINISHED_MIN
    assert max(removed for removed, _ in steps) <= truncation.REMOVED_MAX
    assert len(steps) <= 1_000_000 // truncation.REMOVED_MAX + 1


def test_where_most_are_unfinished_nothing_is_copied() -> None:
    lane = Lane(0, end=100_000, finished=IntervalSet((n, n + 1) for n in range(0, 100_000, 2)))
    assert plan_truncation(lane) is None


@pytest.mark.parametrize("factor", [1.0, 2.0, 1e300])
def test_the_retry_delay_grows_up_to_its_limit(factor: float) -> None:
    limits = QueueConfiguration(
        retry_delay_seconds=0.5, retry_delay_factor=factor, retry_delay_seconds_max=60.0
    )
    delays = [limits.retry_delay(attempt) for attempt in (1, 2, 3, 10, 10_000, 10**9)]
    assert delays == sorted(delays)
    assert delays[0] == 0.5
    assert delays[-1] == (0.5 if factor == 1.0 else 60.0)
