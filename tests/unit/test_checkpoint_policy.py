"""When the WAL is moved into the database."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpreg.persistence.backend import Checkpoint
from mpreg.persistence.backends.sqlite.checkpoint_policy import (
    LOOKS,
    TRUNCATE_FACTOR,
    CheckpointPolicy,
)
from mpreg.persistence.backends.sqlite.wal_room import FRAME_BYTES


def test_the_file_is_looked_at_when_as_much_may_have_been_written() -> None:
    policy = CheckpointPolicy(80)
    assert [policy.wants_look(4) for _ in range(6)] == [False, False, True, False, False, True]
    assert policy.wants_look(1_000)


def test_a_file_no_longer_than_it_is_made_ahead_says_nothing() -> None:
    policy = CheckpointPolicy(100)
    assert policy.decide(0) is None
    assert policy.decide(policy.limit_bytes) is None


def test_a_file_that_is_longer_is_due() -> None:
    policy = CheckpointPolicy(100)
    assert policy.decide(policy.limit_bytes + FRAME_BYTES) == Checkpoint()


def test_one_that_outgrows_its_bound_since_readers_hold_it_up_is_to_be_truncated() -> None:
    policy = CheckpointPolicy(100)
    assert policy.decide(TRUNCATE_FACTOR * policy.limit_bytes + 1) == Checkpoint(truncate=True)


def test_what_was_done_in_vain_is_not_due_again_at_once() -> None:
    policy = CheckpointPolicy(100)
    size = policy.limit_bytes + FRAME_BYTES
    policy.failed(size)
    assert policy.decide(size + FRAME_BYTES) is None
    assert policy.decide(size + policy.limit_bytes // 4 + 1) == Checkpoint()


def test_where_the_file_was_begun_anew_the_next_one_is_due_at_the_same_size_as_ever() -> None:
    policy = CheckpointPolicy(100)
    policy.failed(2 * policy.limit_bytes)
    assert policy.decide(policy.limit_bytes) is None
    assert policy.decide(policy.limit_bytes + 1) == Checkpoint()


@given(
    st.integers(1, 2_000),
    st.lists(st.tuples(st.integers(1, 300), st.floats(0, 1)), max_size=200),
)
def test_without_readers_in_the_way_the_log_stays_within_its_bound(
    pages_max: int, commits: list[tuple[int, float]]
) -> None:
    """Of commits that write at most what they say; SQLite begins a log anew that was moved."""
    policy = CheckpointPolicy(pages_max)
    pages, file = 0, policy.limit_bytes
    for estimate, share in commits:
        pages += round(estimate * share)
        file = max(file, 32 + pages * FRAME_BYTES)
        bound = pages_max + max(1, pages_max // LOOKS) + 300
        assert pages <= bound
        if policy.wants_look(estimate) and policy.decide(file) is not None:
            policy.succeeded()
            pages, file = 0, policy.limit_bytes
