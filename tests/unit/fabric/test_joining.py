"""What is believed does not depend on the order in which it was heard, nor on how often."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from mpreg.fabric import Belief, Catalog, Outcome, join
from tests.unit.fabric.stories import (
    NODES,
    OWN,
    PEERS,
    QUEUES,
    announcement,
    belief,
    beliefs,
)

several = st.lists(beliefs, max_size=8)
of_one_node = st.lists(beliefs, min_size=3, max_size=3).map(
    lambda found: [one for one in found if one.announcement.node == found[0].announcement.node]
)


@given(of_one_node)
def test_joining_is_idempotent_commutative_and_associative(found: list[Belief]) -> None:
    one, other, third = (found * 3)[:3]
    assert join(one, one) == one
    assert join(one, other) == join(other, one)
    assert join(join(one, other), third) == join(one, join(other, third))
    assert join(join(one, other), other) == join(one, other)


@given(several, st.data())
def test_catalogs_that_heard_the_same_are_the_same(
    heard: list[Belief], data: st.DataObject
) -> None:
    """Reordered, and some of it twice or more."""
    again = data.draw(st.lists(st.sampled_from(heard))) if heard else []
    other_order = data.draw(st.permutations([*heard, *again]))
    one, other = Catalog(OWN), Catalog(OWN)
    for each in heard:
        one.learn(each, now=0.0)
    for each in other_order:
        other.learn(each, now=0.0)
    assert list(one) == list(other)
    for queue in QUEUES:
        assert one.holder(queue, 0.0) == other.holder(queue, 0.0)
    # And it is what joining all of them gives.
    for node in NODES:
        mine = [each for each in heard if each.announcement.node == node]
        assert one.get(node) == (reduce(join, mine) if mine else None)


@given(several, several)
def test_catalogs_that_tell_one_another_all_they_believe_end_the_same(
    heard_by_one: list[Belief], heard_by_other: list[Belief]
) -> None:
    one, other = Catalog(OWN), Catalog(OWN)
    for catalog, heard in ((one, heard_by_one), (other, heard_by_other)):
        for each in heard:
            catalog.learn(each, now=0.0)
    for each in list(one):
        other.learn(each, now=0.0)
    for each in list(other):
        one.learn(each, now=0.0)
    assert list(one) == list(other)


@given(several)
def test_the_newest_that_was_heard_is_believed(heard: list[Belief]) -> None:
    """Of the later life, then of the higher number: no earlier word takes its place."""
    catalog = Catalog(OWN)
    for each in heard:
        catalog.learn(each, now=0.0)
    for found in catalog:
        said = [one.announcement for one in heard]
        mine = [one for one in said if one.node == found.announcement.node]
        newest = max((one.incarnation, one.number) for one in mine)
        assert (found.announcement.incarnation, found.announcement.number) == newest
        assert found.announcement in mine


@given(several)
def test_who_has_a_queue_is_found_as_by_looking_at_everything(heard: list[Belief]) -> None:
    catalog = Catalog(OWN)
    for each in heard:
        catalog.learn(each, now=0.0)
    for now in (0.0, 2.0, 4.0):
        for queue in QUEUES:
            having = [one for one in catalog if queue in one.announcement.contents.queues]
            alive = [one for one in having if one.expires_at > now]
            expected = next(iter(alive or having), None)
            assert catalog.holder(queue, now) == expected


def test_a_queue_that_was_deleted_is_gone_whoever_still_tells_of_it() -> None:
    catalog = Catalog(OWN)
    with_it, without = announcement(number=1, queues=("jobs",)), announcement(number=2)
    assert catalog.learn(belief(with_it), 0.0) is Outcome.NEWS
    assert catalog.learn(belief(without), 0.0) is Outcome.NEWS
    assert catalog.learn(belief(with_it, via=PEERS[1], hops=2), 0.0) is Outcome.OLD
    assert catalog.holder("jobs", 0.0) is None


def test_an_earlier_life_never_wins_however_high_its_number_was() -> None:
    catalog = Catalog(OWN)
    catalog.learn(belief(announcement(incarnation=2, number=1)), 0.0)
    earlier = belief(announcement(incarnation=1, number=99, queues=("jobs",)), 20.0)
    assert catalog.learn(earlier, 0.0) is Outcome.OLD
    # Also when the later one is away: it may still be on its way for one TTL more.
    assert catalog.learn(earlier, 19.0) is Outcome.OLD
    assert catalog.holder("jobs", 19.0) is None


def test_a_directory_that_was_put_back_is_believed_when_nothing_of_before_can_come() -> None:
    catalog = Catalog(OWN)
    catalog.learn(belief(announcement(incarnation=50)), 0.0)
    put_back = announcement(incarnation=40, queues=("jobs",))
    assert catalog.learn(belief(put_back, 29.0), 19.0) is Outcome.OLD
    assert catalog.learn(belief(put_back, 30.0), 20.0) is Outcome.NEWS
    assert catalog.holder("jobs", 20.0) is not None


def test_the_same_word_told_around_does_not_last_longer() -> None:
    catalog = Catalog(OWN)
    said = announcement()
    catalog.learn(belief(said, 10.0), 0.0)
    assert catalog.learn(belief(said, 12.0, PEERS[1], hops=2), 5.0) is Outcome.OLD
    found = catalog.get("n1")
    assert found is not None
    assert found.expires_at == 10.0
    # Nor is it heard of anew once it is over.
    assert catalog.learn(belief(said, 12.0), 11.0) is Outcome.OLD
    assert catalog.alive(11.0) == []
