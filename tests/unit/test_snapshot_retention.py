"""How many versions are kept, and for how long: a function of times."""

from __future__ import annotations

import math

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import ConfigurationError
from mpreg.persistence import SnapshotRetention
from mpreg.persistence.snapshots.layout import Listed, VersionList
from mpreg.persistence.snapshots.retention import next_due, surplus


@frozen
class At:
    saved_at: float


RETENTIONS = st.builds(
    SnapshotRetention,
    versions_max=st.none() | st.integers(1, 6),
    seconds_max=st.none() | st.integers(1, 50),
)
VERSIONS = st.lists(st.builds(At, st.integers(0, 100)), max_size=8)


@given(RETENTIONS, VERSIONS, st.integers(0, 200))
def test_what_goes_is_beyond_a_limit_and_what_stays_is_not(
    retention: SnapshotRetention, versions: list[At], now: int
) -> None:
    going = {id(one) for one in surplus(retention, versions, now)}
    for place, version in enumerate(versions):
        newer = len(versions) - place - 1
        too_many = retention.versions_max is not None and newer >= retention.versions_max
        too_old = (
            retention.seconds_max is not None and now - version.saved_at >= retention.seconds_max
        )
        assert (id(version) in going) is (newer > 0 and (too_many or too_old))


@given(RETENTIONS, VERSIONS, st.integers(0, 200))
def test_nothing_becomes_too_old_before_it_is_due(
    retention: SnapshotRetention, versions: list[At], now: int
) -> None:
    gone = surplus(retention, versions, now)
    left = [one for one in versions if all(one is not other for other in gone)]
    due = next_due(retention, left)
    assert due > now
    assert surplus(retention, left, min(due, 1e9) - 0.5) == []
    if due < math.inf:
        assert surplus(retention, left, due) != []


@pytest.mark.parametrize(
    "limits",
    [
        {"versions_max": 0},
        {"versions_max": True},
        {"versions_max": 1.5},
        {"seconds_max": 0},
        {"seconds_max": -1},
        {"seconds_max": "1 day"},
        {"seconds_max": math.inf},
    ],
)
def test_an_impossible_retention_is_refused(limits: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(limits))):
        SnapshotRetention(**limits)  # type: ignore[arg-type]


def test_numbers_follow_one_another_and_the_first_is_that_of_its_save() -> None:
    listed = VersionList()
    assert listed.next_number(17) == 17
    one = Listed(17, 17, 1, 1, 0.0)
    assert listed.changed(17, (one,), SnapshotRetention()).next_number(99) == 18
    assert listed.changed(30, (), SnapshotRetention()).next_number(99) == 31
    # As a list is that was made anew: which number was the last is not known.
    assert listed.changed(0, (one,), SnapshotRetention()).next_number(99) == 99
    assert listed.changed(0, (one,), SnapshotRetention()).next_number(5) == 18
