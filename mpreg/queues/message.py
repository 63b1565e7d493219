"""A message in the hands of its consumer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from mpreg.codec import decode_value
from mpreg.errors import InvalidArgumentError
from mpreg.persistence import Transaction
from mpreg.queues.arguments import check_transaction
from mpreg.queues.configuration import checked_seconds
from mpreg.queues.core import QueueCore
from mpreg.queues.records import Event, MessageRecord, Settled
from mpreg.queues.subscription_state import Lease

__all__ = ["Message", "Receipt", "release_all", "settle_all"]

REASON_CHARACTERS_MAX: Final = 4_096


class Receipt(msgspec.Struct, eq=False):
    """The right to settle one delivery of one message, without what was sent: `Message` has that,
    and a node that waits for somebody else's acknowledgment does not need it. Both are msgspec
    structs, because one is made for every message."""

    _core: QueueCore
    _lease: Lease | None
    attempt: int
    """1 for the first delivery; counted on disk before the message is handed out. Deliveries that
    were given back before anybody saw them do not count, unless the process was killed before that
    was noted."""

    async def ack(self, *, transaction: Transaction | None = None) -> None:
        """Acknowledge it: it will not be handed out again. Returns when that is durable.

        With ``transaction`` it is acknowledged when that is committed, together with all else in
        it, and not at all where it is not; until then nobody else gets the message.

        Cancelled, it may still happen. Raises, beside what every durable write raises:
            LeaseLostError: it is not this delivery's any more; nothing was changed.
        """
        if (lease := self._lease) is None:
            return
        core = self._core
        core.check_open()
        core.settling.check_lease(lease)
        if transaction is None:
            await core.settling.acknowledge([lease])
        else:
            check_transaction(transaction)
            core.settling.settle([lease], _acknowledged([lease]), transaction)

    async def nack(
        self,
        delay_seconds: float | None = None,
        reason: str = "",
        *,
        transaction: Transaction | None = None,
    ) -> None:
        """Give it back, to be tried again after ``delay_seconds``; None: as the queue's
        configuration says. A message without attempts left becomes a dead letter.

        ``reason`` is kept and shown with a dead letter. Cancellation and errors as for `ack`.
        """
        if not isinstance(reason, str):
            raise InvalidArgumentError(f"a reason is str, not {type(reason).__name__}")
        if delay_seconds is not None:
            checked_seconds("delay_seconds", delay_seconds)
        check_transaction(transaction)
        if (lease := self._lease) is None:
            return
        core = self._core
        core.check_open()
        core.settling.check_lease(lease)
        record: MessageRecord | None = None
        if dies := _dies(core, lease):
            record = await self._find_record(lease)
            # It may have been read from the disk, and much have happened meanwhile.
            core.check_open()
            core.settling.check_lease(lease)
            dies = _dies(core, lease)
        if transaction is not None:
            self._nack(lease, delay_seconds, reason, transaction, record, dies=dies)
            return
        async with core.registry.transaction() as own:
            self._nack(lease, delay_seconds, reason, own, record, dies=dies)

    def _nack(
        self,
        lease: Lease,
        delay_seconds: float | None,
        reason: str,
        transaction: Transaction,
        record: MessageRecord | None,
        *,
        dies: bool,
    ) -> None:
        core, delivery = self._core, lease.delivery
        reason = reason[:REASON_CHARACTERS_MAX].encode(errors="replace").decode()
        event: Event
        if dies:
            delivery.reason = reason
            cause = f"used up its {core.configuration.max_deliveries} deliveries"
            if record is None:
                cause = f"{core.storage.where(delivery.lane, delivery.offset)} cannot be read"
            event = core.let_die(lease.subscription, delivery, record, cause, transaction)
        else:
            if delay_seconds is None:
                delay_seconds = core.configuration.retry_delay(self.attempt)
            event = core.settling.returned(lease, delay_seconds, reason)
        core.settling.settle([lease], event, transaction)

    async def extend(self, lease_seconds: float | None = None) -> None:
        """Have the lease end ``lease_seconds`` from now; None: the queue's own time.

        Not a checkpoint. Nothing is written: after a crash nobody holds a lease.

        Raises:
            LeaseLostError: it is not this delivery's any more.
        """
        if lease_seconds is not None:
            checked_seconds("lease_seconds", lease_seconds)
        if self._lease is None:
            return
        self._core.check_open()
        self._core.settling.check_lease(self._lease)
        seconds = self._core.configuration.lease_seconds if lease_seconds is None else lease_seconds
        self._core.settling.extend(self._lease, seconds)

    async def _find_record(self, lease: Lease) -> MessageRecord | None:
        """None where it is damaged."""
        return await self._core.contents.find((lease.delivery.lane, lease.delivery.offset))

    def __repr__(self) -> str:
        return f"<Receipt of {self._core.name!r}, attempt {self.attempt}>"


class Message(Receipt):
    """One delivery of one message, to be acknowledged or given back before its lease ends.

    It stands for this delivery only: when the message was settled, or its lease ran out, `ack`,
    `nack` and `extend` raise `LeaseLostError` and change nothing, whoever has the message now.
    What a queue of `DeliveryGuarantee.FIRE_AND_FORGET` hands out is done with: there they do
    nothing.
    """

    _record: MessageRecord
    priority: int
    subscription: str

    @property
    def id(self) -> str:
        """As `MessageQueue.send` returned it."""
        return self._record.id

    @property
    def payload(self) -> Any:
        """What was sent; a new copy each time."""
        return decode_value(self._record.payload)

    @property
    def topic(self) -> str:
        return self._record.topic

    @property
    def headers(self) -> dict[str, str]:
        return dict(self._record.headers)

    @property
    def sent_at(self) -> float:
        """Wall clock, in seconds since 1970."""
        return self._record.sent_at

    def receipt(self) -> Receipt:
        """To settle it by, when it is not needed itself any more."""
        return Receipt(self._core, self._lease, self.attempt)

    async def _find_record(self, lease: Lease) -> MessageRecord | None:
        return self._record

    def __repr__(self) -> str:
        return f"<Message {self.id} of {self._core.name!r}, attempt {self.attempt}>"


async def settle_all(messages: Sequence[Receipt], transaction: Transaction | None) -> None:
    """Acknowledge messages of one queue, all or none."""
    leases = [message._lease for message in messages if message._lease is not None]
    if not leases:
        return
    core = messages[0]._core
    core.check_open()
    for lease in leases:
        core.settling.check_lease(lease)
    places_max = core.storage.limits.places
    subscription = leases[0].subscription
    if (
        transaction is None
        and len(leases) <= places_max
        and all(lease.subscription is subscription for lease in leases)
    ):
        await core.settling.acknowledge(leases)
        return
    by_subscription: dict[str, list[Lease]] = {}
    for lease in leases:
        by_subscription.setdefault(lease.subscription.name, []).append(lease)
    groups = [
        group[start : start + places_max]
        for group in by_subscription.values()
        for start in range(0, len(group), places_max)
    ]
    if transaction is not None:
        for group in groups:
            core.settling.settle(group, _acknowledged(group), transaction)
    else:
        async with core.registry.transaction() as own:
            for group in groups:
                core.settling.settle(group, _acknowledged(group), own)


def release_all(messages: Iterable[Receipt], *, unseen: bool) -> None:
    """Let others have them at once; deliveries that are over are left as they are. ``unseen``:
    their attempts do not count."""
    for message in messages:
        if message._lease is not None:
            message._core.settling.release([message._lease], unseen=unseen)


def _dies(core: QueueCore, lease: Lease) -> bool:
    """Whether a message that is not done becomes a dead letter. Not one that is finished without
    this subscription, because a quorum has it, say: it is passed over."""
    delivery = lease.delivery
    if delivery.offset in core.state.lane(delivery.lane).finished:
        return False
    return core.state.is_exhausted(delivery)


def _acknowledged(leases: list[Lease]) -> Settled:
    places = [(lease.delivery.lane, lease.delivery.offset) for lease in leases]
    return Settled(leases[0].subscription.name, places)
