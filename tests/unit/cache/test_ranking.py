"""The heap that is put right only where somebody looks: its order, its length, its steps."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache.eviction.ranking import Ranking

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
    return len(ranking._heap)


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
        assert heap_length(ranking) <= 2 * len(naive)


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


def test_after_all_have_risen_a_look_takes_but_a_few_comparisons_for_each() -> None:
    ranking = Ranking()
    keys = 1_000
    places = [ranking.set(key, Counted(key)) for key in range(keys)]
    for place in random.Random(1).sample(places, keys):
        ranking.rise(place, Counted(2_000))
    Counted.comparisons = 0
    first = ranking.first()
    assert first is not None
    assert Counted.comparisons < 8 * keys


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
