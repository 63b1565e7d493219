"""Message bodies in memory: what is kept, what makes room, and that the sum is right."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import CorruptDataError
from mpreg.queues import bodies as module
from mpreg.queues.bodies import OVERHEAD_BYTES, Bodies, Body
from mpreg.queues.records import MessageRecord, Place

QUEUES = ("a", "b")
DAMAGED = None
"""Instead of a size."""

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "pop", "get", "forget"]),
        st.sampled_from(QUEUES),
        st.tuples(st.integers(0, 1), st.integers(0, 5)),
        st.one_of(st.integers(0, 3_000), st.just(DAMAGED)),
    ),
    max_size=60,
)


def body(size: int | None) -> Body:
    if size is None:
        return CorruptDataError("damaged")
    return MessageRecord("", 0.0, "", 0.0, None, {}, b""), size


def counted(one: Body) -> int:
    return OVERHEAD_BYTES + (0 if isinstance(one, CorruptDataError) else one[1])


class Model(OrderedDict[tuple[str, Place], Body]):
    """In the order in which they were put; the oldest goes first, and one always stays."""

    def take_in(self, key: tuple[str, Place], one: Body, bytes_max: int) -> None:
        self.pop(key, None)
        self[key] = one
        while self.size > bytes_max and len(self) > 1:
            self.popitem(last=False)

    @property
    def size(self) -> int:
        return sum(map(counted, self.values()))


@given(STEPS, st.integers(0, 8_000))
def test_bodies_are_what_a_naive_model_says(
    steps: list[tuple[str, str, Place, int | None]], bytes_max: int
) -> None:
    bodies, model = Bodies(bytes_max), Model()
    for what, queue, place, size in steps:
        match what:
            case "put":
                one = body(size)
                bodies.put(queue, place, one)
                model.take_in((queue, place), one, bytes_max)
            case "pop":
                bodies.pop(queue, place)
                model.pop((queue, place), None)
            case "get":
                assert bodies.get(queue, place) is model.get((queue, place))
            case "forget":
                bodies.forget(queue)
                for key in [key for key in model if key[0] == queue]:
                    del model[key]
        assert list(bodies._bodies.items()) == list(model.items())
        assert bodies.bytes == model.size
        assert bodies._places == {
            queue: places
            for queue in QUEUES
            if (places := {place for name, place in model if name == queue})
        }
        assert bodies.bytes <= bytes_max or len(model) == 1


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=9), st.integers(0, 8_000))
def test_several_put_at_once_are_as_put_one_after_the_other(
    sizes: list[int], bytes_max: int
) -> None:
    together, apart = Bodies(bytes_max), Bodies(bytes_max)
    for bodies in (together, apart):
        bodies.put("b", (0, 0), body(10))
    together.put_all(
        "a", 1, 5, [(MessageRecord("", 0.0, "", 0.0, None, {}, b""), s) for s in sizes]
    )
    for offset, size in enumerate(sizes, 5):
        apart.put("a", (1, offset), body(size))
    assert list(together._bodies) == list(apart._bodies)
    assert (together._places, together.bytes) == (apart._places, apart.bytes)


def test_one_that_is_larger_than_all_the_room_is_there_all_the_same() -> None:
    bodies = Bodies(1_000)
    bodies.put("a", (0, 0), body(10))
    bodies.put("a", (0, 1), body(5_000))
    assert bodies.get("a", (0, 0)) is None
    assert bodies.get("a", (0, 1)) is not None


class Untouched(OrderedDict[tuple[str, Place], Body]):
    """Nobody looks through it."""

    def __iter__(self) -> Iterator[tuple[str, Place]]:
        raise AssertionError("looked through all bodies of all queues")


def test_a_queue_is_forgotten_without_looking_at_those_of_others() -> None:
    bodies = Bodies(module.BODIES_BYTES_MAX)
    for queue in range(100):
        for offset in range(10):
            bodies.put(str(queue), (0, offset), body(1))
    bodies._bodies = Untouched(bodies._bodies)
    for queue in range(99):
        bodies.forget(str(queue))
    bodies.forget("another")
    assert len(bodies._bodies) == 10
    assert bodies.bytes == 10 * counted(body(1))
    bodies.forget("99")
    assert bodies.bytes == 0


@pytest.mark.parametrize("queue", QUEUES)
def test_what_is_not_there_is_popped_and_forgotten_without_a_word(queue: str) -> None:
    bodies = Bodies()
    bodies.put("a", (0, 0), body(1))
    bodies.pop(queue, (0, 1))
    bodies.forget("b")
    assert bodies.get("a", (0, 0)) is not None
