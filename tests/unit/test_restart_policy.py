"""Restart or give up: a pure function of the failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg.actors import Failure, GiveUp, Restart, RestartPolicy
from mpreg.errors import (
    CorruptDataError,
    DataDirectoryLockedError,
    ForeignDatabaseError,
    SchemaVersionError,
    StorageFullError,
    StorageIOError,
)
from tests.unit.examples import examples

TIMES = st.floats(0, 1_000).map(lambda at: round(at, 3))
POLICIES = st.builds(
    RestartPolicy,
    restarts_max=st.integers(0, 6),
    window_seconds=st.floats(0.1, 100),
    backoff_initial_seconds=st.floats(0, 2),
    backoff_max_seconds=st.floats(0, 5),
)


def failures(*times: float) -> tuple[Failure, ...]:
    return tuple(Failure(at, OSError(f"at {at}")) for at in times)


def test_the_first_failure_is_restarted_after_the_initial_delay() -> None:
    policy = RestartPolicy(backoff_initial_seconds=0.5)
    assert policy.decide(failures(10.0), 10.0) == Restart(0.5)


def test_the_delay_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy(backoff_initial_seconds=1.0, backoff_max_seconds=5.0, restarts_max=9)
    delays = [policy.decide(failures(*range(count)), count) for count in range(1, 6)]
    assert delays == [Restart(1.0), Restart(2.0), Restart(4.0), Restart(5.0), Restart(5.0)]


def test_one_failure_more_than_allowed_in_the_window_gives_up_with_the_first() -> None:
    policy = RestartPolicy(restarts_max=2, window_seconds=10.0)
    happened = failures(0.0, 1.0, 2.0)
    assert isinstance(policy.decide(happened[:2], 1.0), Restart)
    assert policy.decide(happened, 2.0) == GiveUp(happened[0].error)


def test_a_failure_that_left_the_window_counts_no_more() -> None:
    policy = RestartPolicy(restarts_max=2, window_seconds=10.0, backoff_initial_seconds=1.0)
    happened = failures(0.0, 5.0, 10.0)
    assert policy.decide(happened, 10.0) == Restart(2.0)
    assert policy.within_window(happened, 10.0) == happened[1:]


def test_no_restarts_allowed_gives_up_at_the_first_failure() -> None:
    (failure,) = happened = failures(3.0)
    assert RestartPolicy(restarts_max=0).decide(happened, 3.0) == GiveUp(failure.error)


@pytest.mark.parametrize(
    "error",
    [
        CorruptDataError("damaged"),
        ForeignDatabaseError(Path("x"), "not ours"),
        DataDirectoryLockedError(Path("x"), 1),
        SchemaVersionError(Path("x"), 9, 1),
    ],
)
def test_an_error_that_no_restart_can_mend_is_given_up_on_at_once(error: Exception) -> None:
    happened = (*failures(0.0), Failure(1.0, error))
    assert RestartPolicy(restarts_max=100).decide(happened, 1.0) == GiveUp(error)


def test_an_error_that_a_restart_may_mend_is_restarted() -> None:
    happened = (Failure(1.0, StorageIOError("the disk failed")),)
    assert isinstance(RestartPolicy().decide(happened, 1.0), Restart)


def test_a_decision_that_comes_late_still_sees_the_last_failure() -> None:
    policy = RestartPolicy(window_seconds=1.0, backoff_initial_seconds=0.25)
    assert policy.decide(failures(0.0), 1_000.0) == Restart(0.25)


@pytest.mark.parametrize("count", [1_000, 2_000])
def test_thousands_of_failures_do_not_overflow_the_delay(count: int) -> None:
    policy = RestartPolicy(restarts_max=10_000, backoff_max_seconds=7.0, window_seconds=1e9)
    assert policy.decide(failures(*range(count)), float(count)) == Restart(7.0)


@settings(max_examples=examples(150))
@given(POLICIES, st.lists(TIMES, min_size=1, max_size=10).map(sorted))
def test_it_restarts_exactly_while_the_window_holds_few_enough(
    policy: RestartPolicy, times: list[float]
) -> None:
    happened, now = failures(*times), times[-1]
    recent = [failure for failure in happened if now - failure.at < policy.window_seconds]
    decision = policy.decide(happened, now)
    if len(recent) > policy.restarts_max:
        assert decision == GiveUp(recent[0].error)
    else:
        assert isinstance(decision, Restart)
        assert 0 <= decision.after_seconds <= policy.backoff_max_seconds


@settings(max_examples=examples(150))
@given(POLICIES, st.lists(TIMES, min_size=2, max_size=10).map(sorted))
def test_what_fell_out_of_the_window_can_be_forgotten(
    policy: RestartPolicy, times: list[float]
) -> None:
    happened, now = failures(*times), times[-1]
    kept = policy.within_window(happened, now)
    assert policy.decide(kept, now) == policy.decide(happened, now)


@pytest.mark.parametrize(
    "settings_",
    [
        {"restarts_max": -1},
        {"window_seconds": 0.0},
        {"backoff_initial_seconds": -0.1},
        {"backoff_max_seconds": -0.1},
    ],
)
def test_an_impossible_policy_is_refused(settings_: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings_))):
        RestartPolicy(**settings_)  # type: ignore[arg-type]


def test_a_full_disk_is_waited_out_however_often_it_is_met() -> None:
    policy = RestartPolicy(restarts_max=0, backoff_initial_seconds=1.0, backoff_max_seconds=5.0)
    happened = tuple(Failure(float(at), StorageFullError("full")) for at in range(20))
    assert policy.decide(happened[:1], 0.0) == Restart(1.0)
    assert policy.decide(happened, 19.0) == Restart(5.0)


def test_a_full_disk_does_not_use_up_the_restarts_of_other_failures() -> None:
    policy = RestartPolicy(restarts_max=1, window_seconds=10.0)
    full = Failure(0.0, StorageFullError("full"))
    first, second = failures(1.0, 2.0)
    assert isinstance(policy.decide((full, full, first), 2.0), Restart)
    assert policy.decide((full, first, full, second), 2.0) == GiveUp(first.error)
