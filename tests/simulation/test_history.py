"""The checker finds each kind of lie: a test that cannot fail would prove nothing."""

from __future__ import annotations

import pytest

from mpreg.testing import History, InvariantError, Mark, Part, check_restored, find_violations


def _found(history: History, *parts: Part, power_cut: bool = False) -> list[str]:
    return find_violations(history, {"log": parts}, power_cut=power_cut)


def test_all_that_was_acked_and_in_order_is_fine() -> None:
    history = History()
    marks = [history.send(0), history.send(1), history.send(0)]
    for mark in marks:
        history.ack(mark)
    assert _found(history, *(Part(mark, 0) for mark in marks)) == []
    assert len(history) == history.acked == 3


def test_what_was_sent_and_not_answered_may_be_there_or_not() -> None:
    history = History()
    mark = history.send(0)
    assert _found(history) == []
    assert _found(history, Part(mark, 0)) == []


@pytest.mark.parametrize("power_cut", [True, False])
def test_a_lost_durable_ack_is_found(power_cut: bool) -> None:
    history = History()
    history.ack(mark := history.send(0))
    (violation,) = _found(history, power_cut=power_cut)
    assert violation == f"acked as durable, but lost: {mark}"


def test_a_lost_relaxed_ack_is_found_unless_the_power_was_cut() -> None:
    history = History()
    history.ack(mark := history.send(0), durable=False)
    assert _found(history) == [f"acked as relaxed, but lost: {mark}"]
    assert _found(history, power_cut=True) == []


def test_a_power_cut_takes_no_relaxed_batch_from_before_one_that_is_there() -> None:
    history = History()
    history.ack(relaxed := history.send(0), durable=False)
    later = history.send(1)
    assert _found(history, Part(later, 0), power_cut=True) == [
        f"acked as relaxed, but lost: {relaxed}"
    ]


def test_a_later_durable_ack_makes_earlier_relaxed_ones_durable() -> None:
    history = History()
    history.ack(relaxed := history.send(0), durable=False)
    history.ack(durable := history.send(1))
    assert _found(history, power_cut=True) == [
        f"acked as relaxed, but lost: {relaxed}",
        f"acked as durable, but lost: {durable}",
    ]


def test_a_batch_that_nobody_sent_is_found() -> None:
    (violation, *_) = _found(History(), Part(Mark(0, 0), 0))
    assert violation.startswith("restored, but never sent")


def test_a_refused_batch_that_is_there_all_the_same_is_found() -> None:
    history = History()
    history.refuse(mark := history.send(0))
    assert _found(history, Part(mark, 0)) == [f"restored, but refused or lost before: {mark}"]


@pytest.mark.parametrize("indexes", [[0], [1], [0, 2], [0, 1, 1], [0, 1, 0, 1]])
def test_a_torn_or_doubled_batch_is_found(indexes: list[int]) -> None:
    history = History()
    mark = history.send(0, parts=2)
    assert any(
        violation.startswith("torn or written twice")
        for violation in _found(history, *(Part(mark, index) for index in indexes))
    )


def test_a_batch_torn_between_two_stores_is_found() -> None:
    history = History()
    mark = history.send(0, parts=2)
    whole = {"log": [Part(mark, 0)], "keys": [Part(mark, 1)]}
    assert find_violations(history, whole, power_cut=False) == []
    (violation,) = find_violations(history, {"log": [Part(mark, 0)], "keys": []}, power_cut=False)
    assert violation == f"torn or written twice: {mark} has parts [0] of 2"


def test_a_caller_s_batches_out_of_order_are_found() -> None:
    history = History()
    first, second = history.send(0), history.send(0)
    (violation,) = _found(history, Part(second, 0), Part(first, 0))
    assert violation.startswith("out of its caller's order")


def test_the_parts_of_a_batch_out_of_order_are_found() -> None:
    history = History()
    mark = history.send(0, parts=2)
    (violation,) = _found(history, Part(mark, 1), Part(mark, 0))
    assert violation.startswith("out of its caller's order")


def test_a_batch_behind_one_that_was_sent_after_its_ack_is_found() -> None:
    history = History()
    history.ack(first := history.send(0))
    second = history.send(1)
    assert _found(history, Part(first, 0), Part(second, 0)) == []
    (violation,) = _found(history, Part(second, 0), Part(first, 0))
    assert violation.startswith("behind one that was sent after its ack")


def test_what_was_found_stays_and_what_was_lost_stays_lost() -> None:
    history = History()
    there, lost = history.send(0), history.send(1)
    history.ack(lost, durable=False)
    history.settle({"log": [Part(there, 0)]})
    assert _found(history, Part(there, 0)) == []
    assert _found(history, power_cut=True) == [f"acked as durable, but lost: {there}"]
    assert _found(history, Part(there, 0), Part(lost, 0)) != []


def test_check_restored_raises_with_every_violation() -> None:
    history = History()
    history.ack(history.send(0))
    history.ack(history.send(1))
    with pytest.raises(InvariantError) as caught:
        check_restored(history, {}, power_cut=True)
    assert str(caught.value).count("acked as durable, but lost") == 2
