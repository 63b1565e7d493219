"""The heap that is put right only where somebody looks: its order, its length, its steps."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache.eviction.ranking import MOVED_PER_CHANGE, STEPS_PER_LOOK, Ranking

KEYS = st.sampled_from("abcdef")
CHANGES = st.lists(
    st.one_of(
        st.tuples(KEYS, st.integers(0, 9)),
        st.tuples(KEYS, st.none()),
        st.tuples(st.just("first"), st.sampled_from([None, *"abcdef"])),
    ),
    max_size=60,
)


def heap_length(ranking: Ranking) -> int:
    return len(ranking._heap) + len(ranking._old)


@given(CHANGES)
def test_the_first_is_the_lowest_and_of_equals_the_oldest(
    changes: list[tuple[str, int | str | None]],
) -> None:
    ranking = Ranking()
    naive: dict[Hashable, tuple[int, int]] = {}
    for turn, (key, change) in enumerate(changes):
        if key == "first":
            others = [(rank, key) for key, rank in naive.items() if key != change]
            expected = min(others, default=None)
            found = ranking.pop_first(change)
            assert found == (None if expected is None else (expected[0][0], expected[1]))
            if expected is not None:
                del naive[expected[1]]
        elif isinstance(change, int):
            ranking.set(key, change)
            naive[key] = (change, turn)
        else:
            ranking.discard(key)
            naive.pop(key, None)
        assert list(ranking) == sorted(naive, key=naive.__getitem__)
        assert len(ranking) == len(naive)
        assert heap_length(ranking) <= 3 * len(naive) + 1


class Counted(float):
    """A number that counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return float.__eq__(self, other)

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float.__lt__(self, other)

    __hash__ = float.__hash__


def numbers(kind: str, count: int) -> Iterable[tuple[int, float]]:
    """Keys and what they are ranked, in the ways that are hardest for a heap."""
    rng = random.Random(count)
    keys = count // 20
    for step in range(count):
        match kind:
            case "rising":
                yield rng.randrange(keys), step
            case "falling":
                yield rng.randrange(keys), -step
            case "one key up and down":
                yield (0, step * (-1) ** step) if step > keys else (step, step)
            case _:
                yield rng.randrange(keys), rng.random() * count


@pytest.mark.parametrize("kind", ["rising", "falling", "one key up and down", "anyhow"])
@pytest.mark.parametrize("looks_every", [1, 50])
def test_a_step_takes_a_logarithm_of_comparisons_on_average(kind: str, looks_every: int) -> None:
    ranking = Ranking()
    count = 8_000
    Counted.comparisons = 0
    for step, (key, number) in enumerate(numbers(kind, count)):
        ranking.set(key, Counted(number))
        if step % looks_every == 0:
            ranking.pop_first(key)
    assert Counted.comparisons / count < 6 * math.log2(count // 20)


def steps(count: int) -> float:
    """Comparisons of so many steps in a heap of `MANY`, at most."""
    return 4 * count * math.log2(MANY)


MANY = 20_000


def test_a_look_after_all_have_risen_takes_a_bounded_number_of_steps() -> None:
    ranking = Ranking()
    places = [ranking.set(key, Counted(key)) for key in range(MANY)]
    for place in random.Random(1).sample(places, MANY):
        ranking.rise(place, Counted(place.rank[0] + MANY))
    found = []
    for _ in range(MANY // STEPS_PER_LOOK + 1):
        Counted.comparisons = 0
        first = ranking.pop_first(None)
        assert Counted.comparisons < steps(2 * STEPS_PER_LOOK)
        assert first is not None
        found.append(first[0] - MANY)
    # In their order all the same: who was lowest has risen by as much as the others.
    assert found == sorted(found)
    assert found[-1] < MANY // STEPS_PER_LOOK * 2


def test_what_a_look_gives_too_early_is_the_lowest_of_those_it_has_seen() -> None:
    ranking = Ranking()
    places = [ranking.set(key, Counted(key)) for key in range(MANY)]
    for place in places:
        ranking.rise(place, Counted(2 * MANY - place.rank[0]))
    seen = STEPS_PER_LOOK
    assert ranking.first() == (2 * MANY - seen + 1, seen - 1)
    left: dict[Hashable, float] = {key: place.rank[0] for key, place in enumerate(places)}
    popped = []
    while (first := ranking.pop_first(None)) is not None:
        assert left.pop(first[1]) == first[0]
        popped.append(first[0])
    assert not left
    exact = popped[MANY // STEPS_PER_LOOK + 1 :]
    assert exact == sorted(exact)


@pytest.mark.parametrize("discarded", ["lowest", "anyhow"])
def test_a_change_after_many_are_gone_takes_a_bounded_number_of_steps(discarded: str) -> None:
    ranking = Ranking()
    for key in range(MANY):
        ranking.set(key, Counted(key))
    keys = list(range(MANY))
    if discarded == "anyhow":
        random.Random(1).shuffle(keys)
    bound = steps(2 * STEPS_PER_LOOK)
    for number, key in enumerate(keys[:-1]):
        Counted.comparisons = 0
        ranking.discard(key)
        if number % 4_096 == 4_095:
            first = ranking.first()
            assert first is not None
            assert first[1] in keys[number + 1 :]
        assert Counted.comparisons < bound
        assert heap_length(ranking) <= 3 * len(ranking) + MOVED_PER_CHANGE
    assert ranking.pop_first(None) == (keys[-1], keys[-1])
    assert ranking.first() is None


def test_the_spared_key_keeps_its_place() -> None:
    ranking = Ranking()
    for key in range(MANY):
        ranking.set(key, Counted(key))
    assert ranking.pop_first(0) == (1, 1)
    for key in range(2, 1_000):
        ranking.discard(key)
    assert ranking.pop_first(0) is not None
    assert ranking.first() == (0, 0)


def test_items_of_a_key_that_fell_are_met_only_once() -> None:
    ranking = Ranking()
    for key in range(1_000):
        ranking.set(key, 1e9)
    for number in range(50):
        place = ranking.set("fell", Counted(-number))
    Counted.comparisons = 0
    for number in range(1_000):
        ranking.rise(place, Counted(number))
        ranking.first()
    assert Counted.comparisons < 100 * 1_000
