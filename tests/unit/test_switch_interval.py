"""The process's switch interval: lowered while someone asks for it, then put back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.persistence.switch_interval import lowered_switch_interval

BEFORE = 0.004


@pytest.fixture(autouse=True)
def _known_start() -> Iterator[None]:
    found = sys.getswitchinterval()
    sys.setswitchinterval(BEFORE)
    yield
    sys.setswitchinterval(found)


def now() -> float:
    return round(sys.getswitchinterval(), 6)


def test_it_is_lowered_inside_and_put_back_after() -> None:
    with lowered_switch_interval(0.0001):
        assert now() == 0.0001
    assert now() == BEFORE


def test_it_is_put_back_also_after_an_exception() -> None:
    with pytest.raises(KeyError), lowered_switch_interval(0.0001):
        raise KeyError
    assert now() == BEFORE


def test_it_is_never_raised() -> None:
    with lowered_switch_interval(0.5):
        assert now() == BEFORE


def test_none_leaves_it_alone() -> None:
    with lowered_switch_interval(None):
        sys.setswitchinterval(0.003)
    assert now() == 0.003


def test_the_lowest_of_several_wishes_holds() -> None:
    with lowered_switch_interval(0.001):
        with lowered_switch_interval(0.0001):
            assert now() == 0.0001
            with lowered_switch_interval(0.002):
                assert now() == 0.0001
        assert now() == 0.001
    assert now() == BEFORE


@given(st.permutations([0.001, 0.0005, 0.0005, 0.0001]), st.permutations(range(4)))
def test_they_may_end_in_any_order(wishes: list[float], order: list[int]) -> None:
    sys.setswitchinterval(BEFORE)
    stacks = [ExitStack() for _ in wishes]
    for stack, wish in zip(stacks, wishes, strict=True):
        stack.enter_context(lowered_switch_interval(wish))
    still_held = dict(enumerate(wishes))
    for index in order:
        assert now() == min(still_held.values())
        stacks[index].close()
        del still_held[index]
    assert now() == BEFORE
