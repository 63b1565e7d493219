"""One open queue: its state in memory, and the writes that change it.

Every change goes the same way. It is added to a transaction, the caller's or one of its own; what
it concerns is marked as *under way*, so that nobody else takes it; and when the writer tells what
became of the transaction, the state follows: all of it, or as if nothing had been asked. That
happens in the order of the commits, before any task runs, also where the caller was cancelled.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.actors.parking import loop_clock
from mpreg.errors import LeaseLostError, QueueDeletedError
from mpreg.persistence import PersistenceRegistry, Transaction
from mpreg.persistence.batch import Settled as SettledListener
from mpreg.queues.bodies import Bodies
from mpreg.queues.configuration import QueueConfiguration
from mpreg.queues.contents import Contents
from mpreg.queues.cursor import Delivery, DeliveryState
from mpreg.queues.deaths import Deaths
from mpreg.queues.hand_outs import HandOuts
from mpreg.queues.inbox import Inbox
from mpreg.queues.records import (
    DeadLetterRecord,
    DeadLettersRemoved,
    Died,
    Event,
    MessageRecord,
    Place,
    encode,
)
from mpreg.queues.room import Room
from mpreg.queues.selection import Choice, choose
from mpreg.queues.sending import Sending
from mpreg.queues.settling import Settling
from mpreg.queues.state import QueueState, dead_letter_key
from mpreg.queues.storage import QueueStorage, measure
from mpreg.queues.subscription_state import SubscriptionState

if TYPE_CHECKING:
    from mpreg.queues.line import Line

__all__ = ["QueueCore"]

#: Events and messages after which the state is saved: what a restart reads at most, beside it.
SNAPSHOT_AFTER_CHANGES: Final = 4_096

#: Messages of which one event tells that count as one more.
MESSAGES_PER_CHANGE: Final = 8

#: After a start everybody wants the first message, and upkeep may have to read all there are.
UPKEEP_AFTER_START_SECONDS: Final = 0.5

log: Final = logging.getLogger("mpreg.queues")


@define(eq=False)
class QueueCore:
    registry: PersistenceRegistry
    storage: QueueStorage
    state: QueueState
    bodies: Bodies
    make_id: Callable[[], str]
    alarm: Callable[[QueueCore], None]
    """Called when `next_due` may have come nearer, or `dirty` was set."""
    now: Callable[[], float] = field(factory=loop_clock)
    """Monotonic seconds, as `anyio.current_time`."""
    stored: bool = field(init=False)
    """Whether messages are written at all."""
    contents: Contents = field(init=False)
    armed: float = math.inf
    """When the keeper looks at the queue next."""
    room: Room = field(init=False)
    inbox: Inbox = field(init=False)
    deaths: Deaths = field(init=False)
    failure: Exception | None = None
    """Why nothing can be done with the queue any more."""
    deleting: bool = False
    """Whether its deletion is being written: what came after that would be in no queue."""
    dying: list[tuple[SubscriptionState, Delivery]] = field(factory=list)
    """To become dead letters."""
    released: dict[tuple[str, Place], None] = field(factory=dict)
    """Given back unseen, and not yet written so."""
    dirty: bool = False
    """Whether there is upkeep to be done."""
    sweep_due: float = math.inf
    """When the first message may expire (monotonic)."""
    sweeping: bool = False
    """Whether upkeep is to look for messages that have expired."""
    expiring: bool = False
    """Whether there are, or were, messages that expire."""
    upkeep_due: float = math.inf
    """When upkeep that was put off, or has failed, is to be done (monotonic)."""
    changes: int = 0
    """What a restart would have to read, since the last snapshot."""
    changes_min: int = 0
    """Changes before a large state is saved again."""
    events_end: int = 0
    """The offset after the last event that the state knows."""
    lines: dict[str, Line] = field(factory=dict)
    """By subscription, those who wait for messages."""
    _thread: int = field(factory=get_ident)
    """That of the event loop."""
    _moving: set[str] = field(factory=set)
    """Dead letters that are being sent again, or removed."""
    sending: Sending = field(init=False)
    hand_outs: HandOuts = field(init=False)
    settling: Settling = field(init=False)
    counting: anyio.Lock = field(factory=anyio.Lock)
    """Held while bytes are counted, and while a log is truncated."""

    def __attrs_post_init__(self) -> None:
        self.room = Room(self.name, self.state, self._refusal)
        self.deaths = Deaths(self.state.dead)
        self.stored = self.configuration.is_stored
        self.contents = Contents(
            self.storage, self.state, self.bodies, self.stored, self.ask_for_upkeep
        )
        self.sending = Sending(self)
        self.hand_outs = HandOuts(self)
        self.settling = Settling(self)
        self.inbox = Inbox(self.settling.take_back)

    @property
    def name(self) -> str:
        return self.storage.name

    @property
    def configuration(self) -> QueueConfiguration:
        return self.state.configuration

    def wall(self) -> float:
        return self.registry.clock.wall()

    def check_thread(self) -> None:
        """Raises `RuntimeError` in another thread than its event loop's."""
        self.registry.check_thread(f"queue {self.name!r}")

    def check_open(self) -> None:
        """Raises what the queue was closed with, and `RuntimeError` in another thread."""
        if get_ident() != self._thread:
            self.check_thread()
        if self.failure is None and not self.deleting:
            return
        if (refusal := self._refusal()) is not None:
            # Of its own for each caller: a traceback must not grow with every one.
            raise type(refusal)(*refusal.args) from refusal.__cause__

    def raise_failure(self) -> None:
        """`check_open` for who may wait until it is known whether a deletion happens."""
        if self.failure is not None or get_ident() != self._thread:
            self.check_open()

    def _refusal(self) -> Exception | None:
        if self.failure is None and self.deleting:
            return QueueDeletedError(f"queue {self.name!r} is being deleted; nothing was changed")
        return self.failure

    def _check_not_deleted(self) -> None:
        if isinstance(self._refusal(), QueueDeletedError):
            self.check_open()

    def _check_subscription(self, subscription: SubscriptionState) -> None:
        if subscription.deleting or not self.state.has(subscription):
            raise LeaseLostError(
                f"subscription {subscription.name!r} of queue {self.name!r} was deleted, and with "
                "it the leases of its messages; nothing was changed"
            )

    def close(self, failure: Exception) -> None:
        """Everybody who waits, and everybody who comes, gets this."""
        if self.failure is None:
            self.failure = failure
        for line in self.lines.values():
            line.call_all()
        self.room.wake_all()
        self.contents.forget_read()

    # --- waiting ---

    def wake(self, subscription: str) -> None:
        """There may be a message for it."""
        if (line := self.lines.get(subscription)) is not None:
            line.call_first()

    async def change(self, events: Sequence[Event], then: Callable[[bool], None]) -> None:
        """`write` events in a transaction of their own, or at once where nothing is stored.

        ``then`` is told exactly once, whatever happens.
        """
        try:
            for event in events:
                encode(event)
            if not self.stored:
                await anyio.lowlevel.checkpoint()
                self.check_open()
        except BaseException:
            then(False)
            raise
        if self.stored:
            *first, last = events
            async with self.registry.transaction() as transaction:
                for event in first:
                    self.write(event, transaction)
                self.write(last, transaction, then)
        else:
            for event in events:
                self.state.apply(event)
            then(True)

    def wake_all(self) -> None:
        """There may be a message for every subscription."""
        for line in self.lines.values():
            line.call_first()

    def forget_finished(self) -> None:
        """After much was finished at once."""
        self.room.admit()
        # For what is now to be measured, dropped and truncated.
        self.ask_for_upkeep()
        self.contents.forget_finished()

    async def measure(self) -> None:
        """Count the bytes of what is left, after much was finished at once."""
        if self.stored:
            async with self.counting:
                for lane in list(self.state.lanes.values()):
                    await measure(self.storage, lane)
        else:
            self.contents.measure()
        self.room.admit()

    def reconcile(self) -> None:
        """After a restart: what has no attempt left dies, and upkeep takes up where it was."""
        for subscription in self.state.subscriptions.values():
            for delivery in subscription.deliveries():
                if self.state.is_exhausted(delivery):
                    if delivery.state is not DeliveryState.WAITING:
                        delivery.reason = delivery.reason or "its process ended"
                    delivery.state = DeliveryState.DYING
                    self.dying.append((subscription, delivery))
        # Whether messages have a time of their own nobody knows before the first was looked at.
        self.sweeping = True
        self.upkeep_due = self.now() + UPKEEP_AFTER_START_SECONDS
        if self.dying:
            self.ask_for_upkeep()
        else:
            self.alarm(self)

    def configure(self, configuration: QueueConfiguration) -> None:
        """From now on. What is finished with other settings is still to be measured."""
        self.state.configuration = configuration
        if configuration.message_ttl_seconds is not None:
            self.sweeping = True
        if configuration.max_deliveries == 1:
            # What was counted would be the last attempt.
            self.hand_outs.forgive_ahead()
        self.room.admit()
        self.ask_for_upkeep()

    def ask_for_upkeep(self) -> None:
        self.dirty = True
        self.alarm(self)

    def changed(self, count: int = 1) -> None:
        self.changes += count
        if (
            self.changes >= max(SNAPSHOT_AFTER_CHANGES, self.changes_min)
            and not self.dirty
            and self.upkeep_due == math.inf
        ):
            self.ask_for_upkeep()

    # --- handing out ---

    def choose(
        self, subscription: SubscriptionState, count: int, bytes_max: float = math.inf
    ) -> Choice:
        self.inbox.empty()
        choice = choose(
            self.state,
            subscription,
            count,
            self.contents.look,
            wall=self.wall(),
            now=self.now(),
            bytes_max=bytes_max,
        )
        if choice.delayed:
            self.alarm(self)
        if choice.dying:
            self.dying.extend((subscription, delivery) for delivery in choice.dying)
            self.ask_for_upkeep()
        if choice.passed:
            for place in choice.passed:
                self.contents.forget(place)
            self.room.admit()
        return choice

    def has_more(self, subscription: SubscriptionState) -> bool:
        """Whether there may be another message to be handed out."""
        lanes = self.state.lanes.values()
        return any(subscription.cursor(one.number).candidate(one.end) is not None for one in lanes)

    # --- dead letters ---

    def let_die(
        self,
        subscription: SubscriptionState,
        delivery: Delivery,
        record: MessageRecord | None,
        reason: str,
        transaction: Transaction,
    ) -> Died:
        """Add a dead letter to a transaction. The event is still to be written."""
        place = (delivery.lane, delivery.offset)
        died_at = self.wall()
        letter = DeadLetterRecord(
            subscription=subscription.name,
            lane=delivery.lane,
            offset=delivery.offset,
            attempts=delivery.attempt - delivery.forgiven,
            reason=reason,
            last_error=delivery.reason,
            died_at=died_at,
            message=record,
        )
        key = dead_letter_key(place, subscription.name)
        self.storage.put_dead_letter(key, letter, transaction)
        return Died(subscription.name, place, died_at)

    def begin_moving(self, keys: Iterable[str]) -> set[str]:
        """Those of the dead letters that are there, and that nobody else is moving: you are."""
        mine = {key for key in keys if key in self.state.dead and key not in self._moving}
        self._moving |= mine
        return mine

    def remove_dead_letters(self, keys: set[str], transaction: Transaction) -> None:
        """Remove those that are being moved; they are moved when the transaction has ended."""
        for key in sorted(keys):
            self.storage.delete_dead_letter(key, transaction)
        event = DeadLettersRemoved(sorted(keys))
        self.write(event, transaction, lambda _: self.end_moving(keys))

    def end_moving(self, keys: set[str]) -> None:
        self._moving -= keys

    # --- time ---

    def tick(self, now: float) -> None:
        """It is time for something: leases and waits that are over, or upkeep."""
        for subscription in list(self.state.subscriptions.values()):
            ended = subscription.tick(now)
            for delivery in ended:
                if self.state.is_exhausted(delivery):
                    delivery.state = DeliveryState.DYING
                    self.dying.append((subscription, delivery))
            if ended:
                self.wake(subscription.name)
                # They may have expired meanwhile, and perhaps nobody receives.
                self.sweeping = self.sweeping or self.expiring
        if self.sweep_due <= now:
            self.sweep_due, self.sweeping = math.inf, True
        if self.upkeep_due <= now:
            self.upkeep_due = math.inf
        self.ask_for_upkeep()

    # --- writing ---

    def require_not_deleted(self, transaction: Transaction) -> None:
        """What is written must not come after the queue's deletion."""
        transaction.require(self._check_not_deleted)

    def require_subscription(
        self, subscription: SubscriptionState, transaction: Transaction
    ) -> None:
        """What is written of its messages must not reach another one of the same name."""
        transaction.require(self._check_subscription, subscription)

    def write(
        self,
        event: Event,
        transaction: Transaction,
        then: Callable[[bool], None] | None = None,
        *,
        is_known: bool = False,
    ) -> None:
        """Add an event, which the state takes in when the transaction is committed.

        ``then`` is told after that whether it was. ``is_known``: the state has it already.
        """
        self.require_not_deleted(transaction)
        ack = self.storage.events.append_nowait(encode(event), transaction=transaction)

        def settled(committed: bool) -> None:
            if committed:
                self.written(event, ack.value, is_known=is_known)
            if then is not None:
                then(committed)

        transaction.on_settled(settled)

    def write_alone(self, event: Event, settled: SettledListener) -> Awaitable[object]:
        """`write` in a write of its own; it is told also where that cannot be sent."""
        return self.storage.events.append_followed((encode(event),), settled)

    def written(
        self, event: Event, offset: object, messages: int = 0, *, is_known: bool = False
    ) -> None:
        assert isinstance(offset, int)
        self.events_end = offset + 1
        if not is_known:
            self.state.apply(event)
        if type(event) is Died:
            self._has_died(event)
        # One event is read faster than several that tell of as much, and yet takes its time.
        self.changed(1 + messages // MESSAGES_PER_CHANGE)

    def _has_died(self, event: Died) -> None:
        """There is one more dead letter: perhaps too many, perhaps the first that will be old."""
        self.deaths.note(dead_letter_key(event.place, event.subscription), event.died_at)
        if len(self.state.dead) > self.configuration.dead_letters_max:
            self.ask_for_upkeep()
        elif self.configuration.dead_letter_ttl_seconds is not None:
            self.alarm(self)
