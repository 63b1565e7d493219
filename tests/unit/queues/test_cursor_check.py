"""Cursors and logs fit together in every life of a queue, and it is told where they do not."""

from __future__ import annotations

from mpreg.queues.configuration import QueueConfiguration
from mpreg.queues.cursor_check import check_cursors
from mpreg.queues.records import HandedOut, Settled
from mpreg.queues.state import QueueState
from tests.unit.queues.test_state import lives, steps


def test_no_life_of_a_queue_brings_a_cursor_beyond_its_log() -> None:
    for number, life in enumerate(lives(plain=False, count=60)):
        for _ in life.live(steps(number)):
            assert list(check_cursors(life.state)) == [], number


def test_a_cursor_is_told_whose_messages_are_not_in_the_log_any_more() -> None:
    state = QueueState(QueueConfiguration())
    state.place_lane(0, 0, 5)
    state.apply(Settled("default", [(0, 4)]))
    assert list(check_cursors(state)) == []
    state.apply(HandedOut("default", [(7, 2, 1, 0, 10)]))
    state.place_lane(0, 0, 3)
    told = list(check_cursors(state))
    assert [where for where, _ in told] == [
        "subscription 'default', priority 0",
        "subscription 'default', priority 7",
    ]
    assert "come to offset 5, and the log of the messages ends at 3" in told[0][1]
