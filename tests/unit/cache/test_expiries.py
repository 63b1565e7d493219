"""What expires first, beside a plain dict; and that no call goes through all of it."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache.expiries import DROPPED_PER_LOOK, HEAP_MIN, MOVED_PER_ADD, Expiries

KEYS = [b"%d" % number for number in range(200)]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(0, 20)),
        st.tuples(st.just("remove"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.just("look"), st.just(b""), st.integers(0, 20)),
        st.tuples(st.just("take"), st.just(b""), st.integers(0, 20)),
    ),
    max_size=400,
)


class Known:
    """Keys with their expiries, and how often it is asked about them."""

    def __init__(self) -> None:
        self.by_key: dict[bytes, float] = {}
        self.asked = 0
        self.expiries = Expiries(self.is_alive)

    def is_alive(self, expires_at: float, key: bytes) -> bool:
        self.asked += 1
        return self.by_key.get(key) == expires_at

    def put(self, key: bytes, expires_at: float) -> None:
        self.by_key[key] = expires_at
        self.expiries.add(expires_at, key, len(self.by_key))

    def expired(self, now: float) -> set[bytes]:
        return {key for key, expires_at in self.by_key.items() if expires_at <= now}

    def take(self, now: float, items_max: int) -> list[bytes]:
        taken: list[bytes] = []
        while self.expiries.next <= now:
            taken += self.expiries.take(now, items_max)
        return taken


@given(steps)
def test_what_has_expired_is_found_whatever_was_put_again_and_removed(
    chosen: list[tuple[str, bytes, int]],
) -> None:
    known = Known()
    # Enough that the heap is emptied into a new one in the middle of what follows.
    for number in range(HEAP_MIN + 5):
        known.put(KEYS[number % 3], float(number % 21))
    for step, key, number in chosen:
        if step == "put":
            known.put(key, float(number))
        elif step == "remove":
            known.by_key.pop(key, None)
        elif step == "look":
            first = known.expiries.first(number)
            expired = known.expired(number)
            assert (first in expired) if expired else (first is None)
            if first is not None:
                assert known.by_key[first] == min(known.by_key.values())
        else:
            taken = known.take(number, 7)
            assert set(taken) == known.expired(number)
            times = [known.by_key[one] for one in taken]
            assert times == sorted(times)
            for one in taken:
                known.by_key.pop(one, None)


def test_no_put_goes_through_many_items_and_the_heaps_stay_short() -> None:
    known, rng = Known(), random.Random(1)
    keys = [b"%d" % number for number in range(3_000)]
    for number in range(30_000):
        asked = known.asked
        known.put(rng.choice(keys), float(number + rng.randrange(1_000)))
        assert known.asked - asked <= MOVED_PER_ADD
        assert len(known.expiries) <= max(HEAP_MIN, 2.5 * len(known.by_key)) + 1


def test_no_look_and_no_taking_goes_through_all_that_is_dead() -> None:
    known = Known()
    for number in range(10_000):
        known.put(b"%d" % number, float(number))
    known.by_key = {b"9999": 9_999.0}
    known.asked = 0
    assert known.expiries.first(10_000.0) is None
    assert known.asked == DROPPED_PER_LOOK
    known.asked = 0
    assert known.expiries.take(10_000.0, 100) == []
    assert known.asked == 100
    assert known.take(10_000.0, 1_000) == [b"9999"]
    assert known.expiries.next == math.inf
