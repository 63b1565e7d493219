"""The index of L2 beside a plain dict of what is on the disk."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import NoReturn

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpreg.cache.index import PASSED_OVER_MAX, VICTIMS_MAX, DiskIndex, Stored
from mpreg.cache.records import Link
from tests.unit.examples import examples

ENTRIES_MAX = 5
BYTES_MAX = 100

keys = st.sampled_from([b"%d" % number for number in range(8)])
sizes = st.integers(1, 60)
links = st.sets(st.sampled_from(["x", b"x", "y"]), max_size=2).map(tuple)
expiries = st.sampled_from([math.inf, math.inf, 1.0, 2.0, 3.0])


@define(eq=False)
class Pending:
    """A put with what goes for it, or a deletion, on its way to the writer."""

    key: bytes
    stored: Stored | None
    victims: list[bytes]
    more: tuple[int, int] = (0, 0)
    """What `DiskIndex.expect_to_stay` counted."""


class IndexBesideDisk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = DiskIndex(ENTRIES_MAX, BYTES_MAX)
        self.index.complete()
        self.disk: dict[bytes, Stored] = {}
        self.pending: deque[Pending] = deque()
        self.held: set[bytes] = set()
        self.version = 0
        self.now = 0.0
        self.linked: set[Link] = set()
        """Whatever was a link at some time."""

    def is_written(self, key: bytes) -> bool:
        return any(one.key == key for one in self.pending)

    @rule(key=keys, size=sizes, expires_at=expiries, links=links)
    def put(self, key: bytes, size: int, expires_at: float, links: tuple[Link, ...]) -> None:
        if self.is_written(key) or self.index.is_leaving(key) or expires_at <= self.now:
            return
        self.version += 1
        stored = Stored(self.version, size, expires_at, links)
        coming = self.index.coming
        self.index.expect(key, size)
        taken = (self.index.coming[0] - coming[0], self.index.coming[1] - coming[1])
        one = Pending(key, stored, [])
        self.pending.append(one)
        before = set(self.index.stored)
        cold = [
            found
            for found, stored_before in self.index.stored.items()
            if found not in self.held and not stored_before.used and not self.is_written(found)
        ]
        one.victims = self.index.make_room(self.is_written, self.held.__contains__)
        assert not any(map(self.is_written, one.victims))
        assert set(self.index.stored) == before - set(one.victims)
        free = [found for found in self.index.stored if not self.is_written(found)]
        if self.index.is_over:
            assert not free, "there was something that could have gone"
            self.pending.pop()
            self.index.stay(one.victims)
            self.index.arrive(key, size)
            return
        # What is in L1, or was read, goes only where nothing else is there.
        assert one.victims[: len(cold)] == cold[: len(one.victims)]
        one.more = self.index.expect_to_stay(one.victims, taken)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        if not self.is_written(key):
            self.pending.append(Pending(key, None, []))

    @precondition(lambda self: self.pending)
    @rule(is_committed=st.booleans())
    def settle(self, is_committed: bool) -> None:
        one = self.pending.popleft()
        self.index.no_longer_expect(one.more)
        if one.stored is not None:
            self.index.arrive(one.key, one.stored.size_bytes)
        if not is_committed:
            self.index.stay(one.victims)
            return
        if one.stored is None:
            self.index.remove(one.key)
            self.disk.pop(one.key, None)
        else:
            self.index.put(one.key, one.stored)
            self.disk[one.key] = one.stored
        self.index.leave(one.victims)
        for victim in one.victims:
            self.index.remove(victim)
            self.disk.pop(victim, None)

    @rule(key=keys)
    def read(self, key: bytes) -> None:
        if (stored := self.index.stored.get(key)) is not None:
            stored.used = True

    @rule(key=keys)
    def held_or_not(self, key: bytes) -> None:
        self.held ^= {key}

    @rule()
    def time_goes_by(self) -> None:
        self.now += 1
        expired: list[bytes] = []
        while self.index.next_expiry <= self.now:
            expired += self.index.take_expired(self.now, 2)
        assert set(expired) == {
            key for key, stored in self.index.stored.items() if stored.expires_at <= self.now
        }
        for key in expired:
            if not self.is_written(key):
                self.index.remove(key)
                del self.disk[key]
        self.index.expect_again(expired)

    @invariant()
    def it_knows_what_is_there(self) -> None:
        leaving = {victim for one in self.pending for victim in one.victims}
        assert set(self.index.stored) | leaving == set(self.disk)
        assert not set(self.index.stored) & leaving
        assert len(self.index) == len(self.disk)
        for key, stored in self.index.stored.items():
            assert stored is self.disk[key]

    @invariant()
    def it_knows_the_sizes_and_they_are_within_bounds(self) -> None:
        stored = self.index.stored.values()
        assert self.index.size_bytes == sum(one.size_bytes for one in stored)
        assert len(self.disk) <= ENTRIES_MAX
        assert sum(one.size_bytes for one in self.disk.values()) <= BYTES_MAX

    @invariant()
    def it_knows_who_has_a_link(self) -> None:
        linked: dict[Link, set[bytes]] = {}
        for key, stored in self.disk.items():
            for link in stored.links:
                linked.setdefault(link, set()).add(key)
        assert {link: set(keys) for link, keys in self.index.by_link.items()} == linked
        for link, found in linked.items():
            assert set(self.index.linked(link)) == found
        self.linked.update(linked)
        deserted = {link for link in self.linked - set(linked) if isinstance(link, bytes)}
        assert deserted <= self.index.deserted.keys() <= self.linked


IndexBesideDisk.TestCase.settings = settings(max_examples=examples(30), stateful_step_count=40)
test_the_index_knows_what_is_on_the_disk_and_keeps_its_bounds = IndexBesideDisk.TestCase


def filled(count: int, entries_max: int = 1_000_000) -> DiskIndex:
    index = DiskIndex(entries_max, 10**9)
    for number in range(count):
        index.put(b"%03d" % number, Stored(number, 1, math.inf))
    return index


def never(_key: bytes) -> bool:
    return False


def victims_of(index: DiskIndex, count: int) -> list[bytes]:
    index.entries_max = len(index.stored) - count
    return index.make_room(never, never)


def test_what_was_written_first_goes_first_and_what_was_read_is_passed_over_once() -> None:
    index = filled(5)
    index.stored[b"000"].used = index.stored[b"002"].used = True
    assert victims_of(index, 2) == [b"001", b"003"]
    assert victims_of(index, 3) == [b"004", b"000", b"002"]


def test_what_is_put_again_begins_anew() -> None:
    index = filled(3)
    index.put(b"000", Stored(9, 1, math.inf))
    assert victims_of(index, 3) == [b"001", b"002", b"000"]


def test_what_is_in_memory_goes_last_and_the_search_for_something_else_is_bounded() -> None:
    index = filled(100)
    index.entries_max = 99
    asked: list[bytes] = []

    def is_held(key: bytes) -> bool:
        asked.append(key)
        return key != b"099"

    assert index.make_room(never, is_held) == [b"000"]
    assert len(asked) == PASSED_OVER_MAX


def test_what_could_not_be_removed_goes_first_the_next_time_in_the_same_order() -> None:
    index = filled(5)
    gone = victims_of(index, 3)
    index.stay(gone)
    assert list(index.stored) == [b"000", b"001", b"002", b"003", b"004"]
    assert index.size_bytes == 5


def test_more_than_fits_in_one_batch_is_left_to_the_next_one() -> None:
    index = filled(2 * VICTIMS_MAX)
    assert len(victims_of(index, VICTIMS_MAX + 5)) == VICTIMS_MAX
    assert index.is_over
    assert len(index.make_room(never, never)) == 5


def test_what_is_read_from_the_disk_is_older_than_what_is_known() -> None:
    index = DiskIndex(10, 1_000)
    index.put(b"a", Stored(7, 1, math.inf, ("new",)))
    index.remove(b"b")
    for key in (b"a", b"b", b"c"):
        index.found(key, Stored(1, 1, math.inf, ("old",)))
    index.complete()
    assert {key: stored.version for key, stored in index.stored.items()} == {b"a": 7, b"c": 1}
    assert index.by_link == {"new": {b"a": None}, "old": {b"c": None}}
    # Too late: it was removed since.
    index.found(b"d", Stored(1, 1, math.inf))
    assert b"d" not in index.stored


def test_what_was_evicted_while_it_was_counted_does_not_come_back() -> None:
    index = filled(3, entries_max=2)
    victims = index.make_room(never, never)
    index.found(victims[0], Stored(0, 1, math.inf))
    assert victims[0] not in index.stored
    index.leave(victims)
    index.found(victims[0], Stored(0, 1, math.inf))
    assert victims[0] not in index.stored


def test_an_eviction_that_is_under_way_may_fail_and_so_what_is_dead_is_still_there() -> None:
    index = filled(4)
    index.put(b"tagged", Stored(4, 1, math.inf, ("tag",)))
    assert len(victims_of(index, 5)) == 5
    killed = index.killed(index.keys(), lambda key, links, version: 0 < version < 3)
    assert sorted(killed) == [(b"001", 1), (b"002", 2)]
    tagged = index.killed(index.linked("tag"), lambda key, links, version: "tag" in links)
    assert tagged == [(b"tagged", 4)]


class InOrder(OrderedDict[bytes, Stored]):
    """One of a million keys that were moved often takes seconds to be gone through."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("nothing is to be gone through in its order")


def test_all_keys_are_gone_through_without_their_order() -> None:
    index = DiskIndex(1_000, 10**9, stored=InOrder())
    for number in range(200):
        index.put(b"%d" % (number % 10), Stored(number, 1, float(number)))
    assert set(index.keys()) == {b"%d" % number for number in range(10)}


def test_what_has_expired_is_known_until_it_is_removed_and_goes_first() -> None:
    index = DiskIndex(100, 1_000)
    for number in range(10):
        index.put(b"%d" % number, Stored(number, 1, 10.0 - number))
    index.put(b"9", Stored(10, 1, 100.0))
    assert index.take_expired(3.0, 10) == [b"8", b"7"]
    assert len(index) == 10
    index.expect_again([b"8", b"7"])
    index.entries_max = 7
    assert index.make_room(never, never, 3.0) == [b"8", b"7", b"0"]


def test_the_list_of_expiries_does_not_grow_with_puts_of_the_same_keys() -> None:
    index = DiskIndex(100, 10_000)
    for number in range(10_000):
        index.put(b"%d" % (number % 10), Stored(number, 1, float(number)))
    assert len(index._expiries) <= 64


def test_what_an_entry_that_is_put_again_still_depends_on_is_not_looked_at_as_deserted() -> None:
    index = DiskIndex(ENTRIES_MAX, BYTES_MAX)
    index.complete()
    index.put(b"key", Stored(1, 1, math.inf, (b"stays", b"goes", "tag")))
    index.put(b"key", Stored(2, 1, math.inf, ("tag", b"stays", b"new")))
    assert index.by_link == {link: {b"key": None} for link in ("tag", b"stays", b"new")}
    assert index.deserted == {b"goes": None}


def test_what_was_not_sent_after_all_does_not_count_beside_others_of_its_key() -> None:
    """L2 seemed to be over its bounds, and took what is too much for it."""
    index = DiskIndex(100, 100)
    index.expect(b"a", 10)
    index.expect(b"a", 90)
    index.expect(b"b", 20)
    assert index.coming == (2, 110)
    index.arrive(b"a", 90)
    assert index.coming == (2, 30)
    assert not index.is_over
    index.arrive(b"a", 10)
    index.arrive(b"b", 20)
    assert index.coming == (0, 0)
