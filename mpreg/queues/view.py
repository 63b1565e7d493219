"""A queue looked at from outside: its state read back as at a restart, and nothing changed.

It works beside the process that holds the directory. What only that process knows is not seen: who
has a message now. A message that was handed out and is not settled counts as pending here, with the
attempts that it has had.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final, Self

from attrs import field, frozen

from mpreg.errors import CorruptDataError, QueueNotFoundError
from mpreg.persistence import ReadOnlyRegistry
from mpreg.queues.configuration import QueueConfiguration
from mpreg.queues.core import log as logger
from mpreg.queues.cursor_check import check_cursors
from mpreg.queues.dead_letters import DeadLetter
from mpreg.queues.lane import Lane
from mpreg.queues.records import MessageRecord
from mpreg.queues.restoring import restore
from mpreg.queues.state import QueueState
from mpreg.queues.statistics import QueueStatistics, count_queue
from mpreg.queues.storage import QueueStorage, SharedStores
from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["PendingMessage", "QueueView", "queue_names"]

#: A state is read anew where its process saved another one, and dropped events, meanwhile.
READS_MAX: Final = 5


@frozen
class PendingMessage:
    """A message that is not finished."""

    lane: int
    offset: int
    message: MessageRecord | CorruptDataError
    size_bytes: int
    attempts: int
    """That it has had, as far as the subscription looked at goes."""
    visible_at: float | None
    """Wall clock: when it may be handed out; None: now."""
    reason: str
    """What its last consumer said."""


async def queue_names(registry: ReadOnlyRegistry) -> list[str]:
    """The names of all queues, in order."""
    return await SharedStores(registry).names()


@frozen(eq=False)
class QueueView:
    """A queue as it was when this was made."""

    name: str
    configuration: QueueConfiguration
    damage: list[str]
    """What was met on the way and passed over, in words."""
    _storage: QueueStorage = field(repr=False)
    _state: QueueState = field(repr=False)
    _read_at: float = field(repr=False)

    @classmethod
    async def open(cls, registry: ReadOnlyRegistry, name: str) -> Self:
        """Read the state back.

        Raises:
            QueueNotFoundError: there is none of this name.
            CorruptDataError: its configuration is damaged.
        """
        shared = SharedStores(registry)
        for _ in range(READS_MAX):
            stored = await shared.find(name)
            if stored is None:
                raise QueueNotFoundError(f"there is no queue {name!r}")
            configuration = stored.settings(name)
            storage = QueueStorage(shared, name, stored.incarnation)
            first = await storage.events.first_offset()
            with _damage_told() as damage:
                restored = await restore(storage, configuration, registry.clock.wall())
            if not damage or await storage.events.first_offset() == first:
                break
        return cls(name, configuration, damage, storage, restored.state, registry.clock.wall())

    def statistics(self) -> QueueStatistics:
        """``in_flight`` is always 0: who holds a message is known to its process alone;
        ``oldest_seconds`` is None: no message is read for it."""
        return count_queue(self._state, self._read_at)

    def checked_cursors(self) -> list[tuple[str, str]]:
        """(where, what is wrong) of each cursor that has come further than its log reaches."""
        return list(check_cursors(self._state))

    @property
    def patterns(self) -> dict[str, str | None]:
        """The topic pattern of each subscription."""
        return {
            name: None if one.pattern is None else one.pattern.text
            for name, one in self._state.subscriptions.items()
        }

    async def messages(
        self, subscription: str | None = None
    ) -> AsyncGenerator[PendingMessage, None]:
        """What is not finished, in the order in which it is handed out: the highest priority first.

        With a subscription, what that one has not finished, also where a message's topic is none
        of its own; else what anybody has not.

        Raises:
            QueueNotFoundError: there is no such subscription.
        """
        cursor_of = None if subscription is None else self._subscription(subscription)
        for number in sorted(self._state.lanes, reverse=True):
            lane = self._state.lanes[number]
            offset = self._next(lane, cursor_of, 0)
            while offset < lane.end:
                for one in await self._read_some(lane, cursor_of, offset):
                    yield one
                    offset = one.offset
                offset = self._next(lane, cursor_of, offset + 1)

    async def dead_letters(self) -> AsyncGenerator[DeadLetter | CorruptDataError, None]:
        """By priority and age; a damaged one as what is wrong with it."""
        async for key, record in self._storage.dead_letters():
            if isinstance(record, CorruptDataError):
                yield record
            elif key in self._state.dead:
                yield DeadLetter(key, record)

    def _subscription(self, name: str) -> SubscriptionState:
        found = self._state.subscriptions.get(name)
        if found is None:
            known = ", ".join(map(repr, self._state.subscriptions)) or "none"
            raise QueueNotFoundError(
                f"queue {self.name!r} has no subscription {name!r} (there is: {known})"
            )
        return found

    def _next(self, lane: Lane, subscription: SubscriptionState | None, start: int) -> int:
        """The first offset, from this one on, that is not finished."""
        while start < lane.end:
            offset = lane.finished.first_missing(start)
            if subscription is not None:
                offset = subscription.cursor(lane.number).done.first_missing(offset)
            if offset != start:
                start = offset
            elif offset >= lane.first or offset in lane.kept:
                return offset
            else:
                start = min((kept for kept in lane.kept if kept > offset), default=lane.first)
        return lane.end

    async def _read_some(
        self, lane: Lane, subscription: SubscriptionState | None, start: int
    ) -> list[PendingMessage]:
        """From this offset on, as much as is read at once."""
        if start < lane.first:
            kept = await self._storage.read_kept(lane.number, start)
            if kept is None:
                return []
            message, size = kept if isinstance(kept, tuple) else (kept, 0)
            return [self._pending(lane, subscription, start, message, size)]
        found = []
        for offset, message, size in await self._storage.read_ahead(lane.number, start, lane.end):
            if self._next(lane, subscription, offset) == offset:
                found.append(self._pending(lane, subscription, offset, message, size))
        return found

    def _pending(
        self,
        lane: Lane,
        subscription: SubscriptionState | None,
        offset: int,
        message: MessageRecord | CorruptDataError,
        size: int,
    ) -> PendingMessage:
        delivery = None
        if subscription is not None:
            delivery = subscription.cursor(lane.number).open.get(offset)
        visible_at = None
        if delivery is not None and delivery.delay_seconds:
            visible_at = delivery.visible_at
        elif isinstance(message, MessageRecord) and message.delay_seconds:
            visible_at = message.sent_at + message.delay_seconds
        attempts = 0 if delivery is None else delivery.attempt - delivery.forgiven
        reason = "" if delivery is None else delivery.reason
        return PendingMessage(lane.number, offset, message, size, attempts, visible_at, reason)


@contextmanager
def _damage_told() -> Iterator[list[str]]:
    """What restoring logs, which it passes over: here it is an answer and not an event."""
    told: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        told.append(record.getMessage())
        return False

    logger.addFilter(take)
    try:
        yield told
    finally:
        logger.removeFilter(take)
