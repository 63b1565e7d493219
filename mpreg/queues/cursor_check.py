"""Whether the cursors of a queue and the logs of its messages fit together. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mpreg.queues.cursor import Cursor
from mpreg.queues.state import QueueState

__all__ = ["check_cursors", "lost_messages"]


def check_cursors(state: QueueState) -> Iterator[tuple[str, str]]:
    """(where, what is wrong) of each cursor that has come too far."""
    for subscription in state.subscriptions.values():
        for number, cursor in sorted(subscription.cursors.items()):
            end = state.lanes[number].end if number in state.lanes else 0
            reached = _reached(cursor)
            if reached > end:
                message = (
                    f"its cursor has come to offset {reached}, and the log of the messages ends at "
                    f"{end}: messages were lost, and of those that are sent next the first "
                    f"{reached - end} would not be handed out"
                )
                yield f"subscription {subscription.name!r}, priority {number}", message


def lost_messages(state: QueueState) -> dict[int, int]:
    """By lane, how many messages behind its end some cursor knows: they were lost."""
    lost: dict[int, int] = {}
    for subscription in state.subscriptions.values():
        for number, cursor in subscription.cursors.items():
            end = state.lanes[number].end if number in state.lanes else 0
            if (beyond := _reached(cursor) - end) > lost.get(number, 0):
                lost[number] = beyond
    return lost


def _reached(cursor: Cursor) -> int:
    """The offset after the last one that it knows anything of."""
    done = cursor.done.ranges()[-1][1] if len(cursor.done) else 0
    return max(done, max(cursor.open, default=-1) + 1)
