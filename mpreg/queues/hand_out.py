"""Messages that were chosen for one receiver, until it has them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mpreg.queues.cursor import Delivery
from mpreg.queues.records import MessageRecord
from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["HandOut"]


class HandOut(msgspec.Struct, eq=False):
    """Messages whose delivery attempt is being written, or is. A msgspec struct, as `Delivery`."""

    subscription: SubscriptionState
    deliveries: list[tuple[Delivery, MessageRecord]]
    held: bool
    """Whether the leases last until they are told to end."""
    is_ahead: bool = False
    """Whether nobody has asked for it."""
    committed: bool = False
    abandoned: bool = False
    """Its receiver was cancelled: nobody will see these messages."""
    told: Callable[[bool], None] | None = None
    """Told whether the attempts are on disk."""
