"""What was taken ahead is looked at again when it is its turn: much may have happened since."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpreg.queues.core import QueueCore
    from mpreg.queues.records import MessageRecord
    from mpreg.queues.subscription_state import Lease

__all__ = ["is_still_wanted"]


def is_still_wanted(core: QueueCore, lease: Lease, record: MessageRecord) -> bool:
    """Whether a message that is held may still be handed out: nobody has seen it.

    Where not, it is nobody's any more: it was purged, its subscription was deleted, a quorum has it
    without this one, or it has expired.
    """
    if not lease.is_held:
        return False
    delivery, state = lease.delivery, core.state
    place = (delivery.lane, delivery.offset)
    if delivery.offset in state.lane(delivery.lane).finished:
        state.pass_over(lease.subscription, place, delivery.size)
    elif record.expires_at is not None and record.is_expired(core.wall()):
        state.expire(lease.subscription, place, delivery.size)
    else:
        return True
    core.contents.forget(place)
    core.room.admit()
    return False
