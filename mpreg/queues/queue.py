"""A durable message queue, as its users see it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.codec import encode_key
from mpreg.errors import (
    InvalidArgumentError,
    QueueFullError,
    ValueTooLargeError,
    VersionConflictError,
)
from mpreg.persistence import Transaction
from mpreg.queues.arguments import (
    check_after,
    check_limit,
    check_sending,
    check_transaction,
    checked_list,
)
from mpreg.queues.configuration import DeliveryGuarantee, QueueConfiguration
from mpreg.queues.consumer import Consumer
from mpreg.queues.core import QueueCore
from mpreg.queues.dead_letters import (
    DeadLetter,
    find_keys,
    list_dead_letters,
    remove_dead_letters,
    scan_dead_letters,
)
from mpreg.queues.message import Message, Receipt, settle_all
from mpreg.queues.outgoing import Outgoing, make_outgoing
from mpreg.queues.records import Purged
from mpreg.queues.redriving import letter_names, redrive
from mpreg.queues.sending import SentInTransactionError
from mpreg.queues.state import DEFAULT_SUBSCRIPTION
from mpreg.queues.statistics import QueueStatistics, count_queue
from mpreg.queues.subscribing import Subscriptions
from mpreg.queues.subscription import Subscription

__all__ = ["MessageQueue", "has_handed_out"]

DEDUPLICATION_ID_BYTES_MAX: Final = 1_024


@define(eq=False)
class MessageQueue:
    """Made by `MessageQueueManager.create_queue` and `get_queue`; all with one name are the same.

    Every method that writes returns when that is durable, and raises, beside what its own
    docstring says:

    - `InvalidArgumentError`, `ValueTooLargeError`: an argument; nothing was sent.
    - `QueueDeletedError`: the queue was deleted.
    - `StorageFullError`, `CommitFailedError`: rolled back; it may be tried again.
    - `CommitUnknownError`: it cannot be told, and the writer is gone.
    - `WriterStoppedError`: the registry is not open (any more); not written.
    - `RuntimeError`: it was called in another thread than its event loop's; nothing was done.

    Cancelled, it may still happen, as a whole. With ``transaction=`` it only adds to that: it
    happens when the transaction is committed, together with all else in it, or not at all.
    """

    _core: QueueCore
    _subscriptions: Subscriptions = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._subscriptions = Subscriptions(self._core)

    @property
    def name(self) -> str:
        return self._core.name

    @property
    def configuration(self) -> QueueConfiguration:
        return self._core.configuration

    # --- sending ---

    async def send(
        self,
        payload: Any,
        *,
        topic: str = "",
        priority: int = 0,
        delay_seconds: float = 0.0,
        ttl_seconds: float | None = None,
        deduplication_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float | None = 0.0,
        transaction: Transaction | None = None,
    ) -> str:
        """Send a message and return its id, when it is durable.

        ``payload`` is None, bool, int (64 bits), float, str, bytes, or lists and dicts (with str
        keys) of these: it comes back exactly so. ``priority`` (0 to 255, higher first) needs a
        queue of `QueueType.PRIORITY`. It is not visible before ``delay_seconds``, and dropped
        after ``ttl_seconds`` (None: the queue's ``message_ttl_seconds``), which must be more than
        the delay. Both count from when there was room for it.

        With a ``deduplication_id`` that was sent within the queue's window nothing is sent, and
        the id of that message is returned. In a transaction the check is made now: where another
        send with the same id comes in between, the transaction fails with `VersionConflictError`.

        Where the queue is full, it waits up to ``wait_seconds`` for room; None: for ever.

        Raises:
            QueueFullError: nothing was sent, and nothing remembered of it.
        """
        encoded_id = None if deduplication_id is None else self._checked_id(deduplication_id)
        outgoing = self._outgoing([payload], topic, priority, delay_seconds, ttl_seconds, headers)
        if transaction is not None or encoded_id is not None:
            check_sending(wait_seconds, transaction)
        record, sending = outgoing.records[0], self._core.sending
        if encoded_id is None:
            await sending.send(outgoing, wait_seconds, transaction)
            return record.id
        # What was sent before needs no room: nobody waits for some before that is known.
        wait: float | None = 0.0
        while True:
            # In a transaction the answer must be there before it ends; else the write is the check.
            if transaction is not None and (
                sent := await sending.sent_before(encoded_id, transaction)
            ):
                return sent
            try:
                await sending.send(outgoing, wait, transaction, encoded_id)
            except (VersionConflictError, QueueFullError, SentInTransactionError) as error:
                if sent := await sending.sent_before(encoded_id, transaction):
                    return sent
                if isinstance(error, QueueFullError):
                    if wait == wait_seconds:
                        raise
                    wait = wait_seconds
                # Else its window ended in between.
            else:
                return record.id

    async def send_many(
        self,
        payloads: Iterable[Any],
        *,
        topic: str = "",
        priority: int = 0,
        delay_seconds: float = 0.0,
        ttl_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float | None = 0.0,
        transaction: Transaction | None = None,
    ) -> list[str]:
        """Send messages side by side, all or none, and return their ids. As `send`."""
        payloads = checked_list("payloads", payloads)
        outgoing = self._outgoing(payloads, topic, priority, delay_seconds, ttl_seconds, headers)
        check_sending(wait_seconds, transaction)
        if not payloads:
            await anyio.lowlevel.checkpoint()
            return []
        await self._core.sending.send(outgoing, wait_seconds, transaction)
        return [record.id for record in outgoing.records]

    def _outgoing(
        self,
        payloads: list[Any],
        topic: str,
        priority: int,
        delay_seconds: float,
        ttl_seconds: float | None,
        headers: Mapping[str, str] | None,
    ) -> Outgoing:
        core = self._core
        core.check_open()
        return make_outgoing(
            payloads,
            topic,
            priority,
            delay_seconds,
            ttl_seconds,
            headers,
            configuration=core.configuration,
            make_id=core.make_id,
            sent_at=core.wall(),
            bytes_max=core.storage.limits.message,
        )

    def _checked_id(self, deduplication_id: str) -> bytes:
        if not isinstance(deduplication_id, str):
            raise InvalidArgumentError(f"a deduplication_id is str, not {deduplication_id!r:.80}")
        if not self._core.stored:
            raise InvalidArgumentError(
                f"deduplication_id: queue {self.name!r} stores nothing (fire_and_forget), so a "
                "message that was lost with the process would never be sent again"
            )
        encoded = encode_key(deduplication_id)
        size = len(encoded) - 1
        if size > DEDUPLICATION_ID_BYTES_MAX:
            raise ValueTooLargeError(
                f"a deduplication_id of {size} bytes; at most {DEDUPLICATION_ID_BYTES_MAX}"
            )
        return encoded

    # --- receiving ---

    async def receive(self, wait_seconds: float | None = None) -> Message | None:
        """`Subscription.receive` of the queue's own subscription, ``"default"``.

        Raises:
            QueueNotFoundError: the queue has none; messages are for named subscriptions.
        """
        return await self._default().receive(wait_seconds)

    async def receive_many(
        self,
        messages_max: int,
        wait_seconds: float | None = None,
        *,
        bytes_max: int | None = None,
        one_by_one: bool = False,
    ) -> list[Message]:
        """`Subscription.receive_many` of the queue's own subscription."""
        return await self._default().receive_many(
            messages_max, wait_seconds, bytes_max=bytes_max, one_by_one=one_by_one
        )

    def consume(self, prefetch: int = 1) -> Consumer:
        """`Subscription.consume` of the queue's own subscription."""
        return self._default().consume(prefetch)

    async def ack(
        self, messages: Iterable[Receipt], *, transaction: Transaction | None = None
    ) -> None:
        """Acknowledge messages of this queue, all or none, in one write.

        Raises:
            LeaseLostError: one of them is not its delivery's any more; nothing was changed.
        """
        messages = checked_list("messages", messages)
        check_transaction(transaction)
        for message in messages:
            if not isinstance(message, Receipt):
                raise InvalidArgumentError(f"a message that was received, not {message!r:.80}")
            if not has_handed_out(self, message):
                raise InvalidArgumentError(f"{message!r} is not of queue {self.name!r}")
        if len(messages) > 1 and len(set(map(id, messages))) != len(messages):
            raise InvalidArgumentError("a message is named twice")
        await settle_all(messages, transaction)

    # --- subscriptions ---

    async def subscription(
        self,
        name: str,
        topic_pattern: str | None = None,
        *,
        start: str | int = "earliest",
    ) -> Subscription:
        """A cursor of this name; made where there is none, and durable when it is returned.

        ``topic_pattern``: ``*`` stands for one segment, ``#`` for any number; None is every
        message. For one that is there another pattern counts from where it has come to.
        ``start``, for a new one: ``"earliest"`` (all that is not finished), ``"latest"`` (what is
        sent from now on) or an offset (only where there are no priorities).

        What a queue of `DeliveryGuarantee.BROADCAST` has held for its first subscription is
        finished where that one begins behind it.
        """
        return await self._subscriptions.make(name, topic_pattern, start)

    def get_subscription(self, name: str) -> Subscription:
        """The cursor of this name, which is made nowhere here.

        Raises:
            QueueNotFoundError: there is none.
        """
        self._core.check_open()
        return self._subscriptions.find(name)

    async def delete_subscription(self, name: str) -> None:
        """Delete a cursor: what only it had not finished is finished. Where it was the last one,
        that is held for the next one to come.

        Raises:
            QueueNotFoundError: there is none of this name.
        """
        await self._subscriptions.delete(name)

    def _default(self) -> Subscription:
        core = self._core
        if core.failure is not None or core.deleting:
            core.check_open()
        return self._subscriptions.find(DEFAULT_SUBSCRIPTION)

    # --- dead letters ---

    async def dead_letters(self, limit: int | None = None) -> list[DeadLetter]:
        """The messages that used up their attempts, by priority and age; at most ``limit``."""
        self._core.check_open()
        check_limit(limit)
        return await list_dead_letters(self._core, limit)

    def scan_dead_letters(self, after: str | None = None) -> AsyncGenerator[DeadLetter, None]:
        """`dead_letters` one by one, as they are read; with ``after``, those behind the one with
        this key. To be closed (`contextlib.aclosing`) where it is left early."""
        self._core.check_open()
        check_after(after)
        return scan_dead_letters(self._core, after)

    async def redrive(
        self,
        letters: Iterable[DeadLetter | str] | None = None,
        *,
        to: MessageQueue | None = None,
    ) -> int:
        """Send dead letters again, with fresh attempts; return how many. A message that is named
        by several, because it died in several subscriptions, is sent once.

        ``letters``: these (or their keys, or the ids of their messages); None: all that there are
        when it begins. ``to`` another queue, or this one. Each is sent and removed in one
        transaction; a message keeps its id. One whose message was damaged stays. However many there
        are, some are read at a time, and moved together, all or none of them, before the next.

        Raises:
            QueueFullError: the target has no room for the next one; as many as it had room for were
                sent, and it says how many.
            InvalidArgumentError: ``to`` is a queue of `DeliveryGuarantee.FIRE_AND_FORGET`, where
                they would be in memory only; nothing was sent.
        """
        target = self if to is None else to
        if not isinstance(target, MessageQueue):
            raise InvalidArgumentError(f"to is another queue, not its name or {to!r:.80}")
        self._core.check_open()
        target._core.check_open()
        if target is not self and not target._core.stored:
            raise InvalidArgumentError(
                f"to: queue {target.name!r} stores nothing (fire_and_forget), so dead letters that "
                "were sent there would be lost with the process; nothing was sent, and they stay: "
                "name a queue that stores its messages"
            )

        return await redrive(self._core, letters, target._core)

    async def purge_dead_letters(self, letters: Iterable[DeadLetter | str] | None = None) -> int:
        """Remove dead letters, all or these, for good; return how many."""
        core = self._core
        core.check_open()
        if letters is None:
            return await remove_dead_letters(core, list(core.state.dead))
        return await remove_dead_letters(core, await find_keys(core, letter_names(letters)))

    async def purge(self, *, messages: bool = True, dead_letters: bool = True) -> int:
        """Empty the queue; return how many messages and dead letters it had.

        Everything that was sent before is gone when it returns, also what consumers are working
        on: their acknowledgments get `LeaseLostError`. Its subscriptions stay.
        """
        core = self._core
        core.check_open()
        removed = await self._purge_messages() if messages else 0
        if dead_letters and core.configuration.is_stored:
            removed += await remove_dead_letters(core, list(core.state.dead))
        return removed

    async def _purge_messages(self) -> int:
        core = self._core
        ends = {number: lane.end for number, lane in core.state.lanes.items()}
        size = core.state.size

        def then(committed: bool) -> None:
            if committed:
                core.forget_finished()

        await core.change([Purged(ends)], then)
        await core.measure()
        return size

    # --- watching ---

    def statistics(self) -> QueueStatistics:
        """Counts as they are now; cheap."""
        self._core.check_thread()
        self._core.inbox.empty()
        return count_queue(self._core.state, self._core.wall())

    def __repr__(self) -> str:
        guarantee: DeliveryGuarantee = self.configuration.delivery_guarantee
        return f"<MessageQueue {self.name!r}, {guarantee.value}, {self._core.state.size} messages>"


def has_handed_out(queue: MessageQueue, message: Receipt) -> bool:
    """Whether it is a delivery of this queue, and not of one that had its name before."""
    return message._core is queue._core
