"""How old the oldest message is, told by a few of them."""

from __future__ import annotations

import random

from mpreg.queues.send_times import MARKS_MAX, SendTimes


def test_when_a_message_was_sent_is_known_to_a_fraction_of_the_time_that_all_span() -> None:
    order, times, sent = random.Random(7), SendTimes(), []
    now = 0.0
    for offset in range(5_000):
        now += order.choice((0.0, 0.01, 2.0, 30.0))
        sent.append(now)
        times.note(offset, now)
        assert len(times) <= MARKS_MAX
    for offset in range(0, 5_000, 7):
        told = times.of(offset)
        assert told is not None
        assert 0 <= sent[offset] - told <= 31.0 + now / 16


def test_one_that_is_looked_at_after_a_restart_is_known_from_then_on() -> None:
    times = SendTimes()
    assert times.of(3) is None
    times.note(100, 900.0)
    # It is at least as old as the first that is known.
    assert times.of(3) == 900.0
    times.note(3, 50.0)
    assert times.of(3) == 50.0
    assert times.of(100) == 900.0


def test_a_clock_that_was_set_back_does_no_harm() -> None:
    times = SendTimes()
    for offset in range(1_000):
        times.note(offset, float(-offset))
    assert len(times) == 1
