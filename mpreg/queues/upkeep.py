"""What a queue does beside its callers: bury, sweep, save its state, give space back.

Each step is a few small transactions, and may be left at any await: what was not done is done the
next time, or after the next start.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

import anyio
import anyio.lowlevel

from mpreg.errors import (
    CommitUnknownError,
    MpregError,
    QueueDeletedError,
    ReaderStoppedError,
    ValueTooLargeError,
    WriterStoppedError,
)
from mpreg.persistence import SnapshotStore
from mpreg.queues.core import SNAPSHOT_AFTER_CHANGES, QueueCore
from mpreg.queues.core import log as logger
from mpreg.queues.cursor import Delivery, DeliveryState
from mpreg.queues.lane import Lane
from mpreg.queues.passing import forget_passed, passed_by
from mpreg.queues.records import (
    DeadLettersRemoved,
    Kept,
    MessageRecord,
    PassedOver,
    Place,
    Released,
    encode,
)
from mpreg.queues.selection import UNREAD
from mpreg.queues.sizes import batches
from mpreg.queues.snapshot import encode_snapshot
from mpreg.queues.subscription_state import SubscriptionState
from mpreg.queues.truncation import Truncation, plan_truncation

__all__ = ["ENDING", "Saved", "keep_up", "next_due", "save", "write_passed", "write_released"]

#: Ids that are out of their window, removed in one step.
SWEPT_PER_UPKEEP = 1_024

#: Dead letters dropped in one transaction.
DROPPED_PER_BATCH = 256

#: Dead letters written in one transaction.
BURIED_PER_BATCH = 128

#: Events of what was passed over, written in one transaction.
PASSED_PER_BATCH = 128

#: Messages copied out of a log in one transaction; a single one may be larger.
COPIED_BYTES_MAX = 8 << 20

#: Messages that are in memory and dropped in one go: then others get their turn.
SWEPT_AT_ONCE_MAX = 256

#: Of a saved state, for each change before the next one: so a large state is not written (and the
#: event loop not held up by it) more often than what there is to be written.
SAVED_BYTES_PER_CHANGE = 64

#: The least time between two sweeps for messages that have expired.
SWEEP_SECONDS_MIN = 1.0


_Dying: TypeAlias = tuple[SubscriptionState, Delivery]
_Passed: TypeAlias = tuple[SubscriptionState, PassedOver]
_Letter: TypeAlias = tuple[SubscriptionState, Delivery, MessageRecord | None]

#: After these there is nothing more to be done, and nothing to be tried again.
ENDING: Final = (WriterStoppedError, ReaderStoppedError, CommitUnknownError, QueueDeletedError)


class Saved:
    """Where the last snapshots of a queue are, and what they make superfluous."""

    def __init__(self, slots: list[SnapshotStore], newest: int, ends: list[int | None]) -> None:
        self.slots = slots
        self.newest = newest
        """The slot of the newest one."""
        self.ends = ends
        """By slot: the offset of the first event that its snapshot does not know."""

    @property
    def oldest(self) -> int:
        return (self.newest + 1) % len(self.slots)

    @property
    def events_needed_from(self) -> int | None:
        """The first event that some snapshot needs; None while there are not yet two of them."""
        return None if None in self.ends else min(end for end in self.ends if end is not None)


async def keep_up(core: QueueCore, saved: Saved) -> list[MpregError]:
    """Do what there is to do; return what has failed, to be asked for again. One step that fails
    does not keep the others from being made.

    Raises:
        WriterStoppedError, ReaderStoppedError, CommitUnknownError: the registry is closing.
        QueueDeletedError: nothing is to be done any more.
    """
    core.dirty = False
    steps: list[Callable[[], Awaitable[None]]] = [partial(_sweep, core)]
    if core.stored:
        steps += [
            partial(write_released, core),
            partial(_bury, core),
            partial(_drop_dead_letters, core),
            partial(_drop_kept, core),
            partial(_measure, core),
            partial(_save_if_worth_it, core, saved),
            partial(_give_space_back, core),
        ]
    failures: list[MpregError] = []
    for step in steps:
        try:
            await step()
        except ENDING:
            raise
        except MpregError as error:
            failures.append(error)
    return failures


def next_due(core: QueueCore) -> float:
    """When there is something to do that nobody will ask for (monotonic)."""
    due = [one.next_due() for one in core.state.subscriptions.values()]
    due += [core.sweep_due, core.upkeep_due]
    limit = core.configuration.dead_letter_ttl_seconds
    if limit is not None and (oldest := core.deaths.oldest()) is not None:
        due.append(anyio.current_time() + max(oldest + limit - core.wall(), SWEEP_SECONDS_MIN))
    return min((one for one in due if one is not None), default=math.inf)


# --- deliveries ---


async def write_released(core: QueueCore) -> None:
    """Note what was given back unseen."""
    by_subscription: dict[str, list[Place]] = {}
    for name, place in core.released:
        by_subscription.setdefault(name, []).append(place)
    for name, places in by_subscription.items():
        for some in batches(
            places, lambda _: 0, count_max=core.storage.limits.places, bytes_max=1 << 30
        ):
            await _write_released_of(core, name, some)


async def _write_released_of(core: QueueCore, name: str, places: list[Place]) -> None:
    noted = [(name, place) for place in places if (name, place) in core.released]
    for one in noted:
        del core.released[one]
    subscription = core.state.subscriptions.get(name)
    if subscription is None or subscription.deleting:
        return
    forgiven = [
        (*place, delivery.forgiven)
        for _, place in noted
        if (delivery := subscription.find(place)) is not None
    ]
    if not forgiven:
        return

    def then(committed: bool) -> None:
        if not committed:
            core.released.update(dict.fromkeys(noted))

    async with core.registry.transaction() as transaction:
        core.write(Released(name, forgiven), transaction, then)


async def write_passed(core: QueueCore) -> None:
    """Note what subscriptions have passed over."""
    passed = [
        (one, event)
        for one in core.state.subscriptions.values()
        for event in passed_by(one, core.storage.limits.places)
    ]
    for some in batches(
        passed,
        lambda one: len(encode(one[1])),
        count_max=PASSED_PER_BATCH,
        bytes_max=core.storage.limits.batch,
    ):
        await _write_passed(core, some)


async def _write_passed(core: QueueCore, passed: list[_Passed]) -> None:
    # What was passed over must not reach another subscription of the same name.
    there = [one for one in passed if core.state.has(one[0]) and not one[0].deleting]

    def then(committed: bool) -> None:
        if committed:
            for subscription, event in there:
                forget_passed(subscription, event)

    async with core.registry.transaction() as transaction:
        transaction.on_settled(then)
        for _, event in there:
            # To take it in once more is to ask all subscriptions, for each of them.
            core.write(event, transaction, is_known=True)


async def _bury(core: QueueCore) -> None:
    """The first to die first; many in one transaction."""
    failed: list[_Dying] = []
    failure: MpregError | None = None
    try:
        while core.dying:
            some = core.dying[:BURIED_PER_BATCH]
            del core.dying[: len(some)]
            # Taken back where they are not known to be buried, also by a cancellation.
            before = len(failed)
            failed += some
            try:
                await _bury_some(core, some)
            except ENDING:
                raise
            except MpregError as error:
                failure = error
            else:
                # What is left of them waits until it is known whether their subscription is.
                failed[before:] = [one for one in some if _is_dying(*one)]
    finally:
        core.dying += failed
    if failure is not None:
        raise failure


async def _bury_some(core: QueueCore, some: list[_Dying]) -> None:
    letters: list[_Letter] = []
    size = 0
    failure: MpregError | None = None
    for subscription, delivery in some:
        if subscription.deleting or not _is_dying(subscription, delivery):
            continue
        record = await core.contents.find((delivery.lane, delivery.offset))
        record_bytes = 0 if record is None else len(encode(record))
        if letters and size + record_bytes > min(COPIED_BYTES_MAX, core.storage.limits.batch):
            failure = await _bury_all_there_is(core, letters) or failure
            letters, size = [], 0
        size += record_bytes
        letters.append((subscription, delivery, record))
    failure = await _bury_all_there_is(core, letters) or failure
    if failure is not None:
        raise failure


async def _bury_all_there_is(core: QueueCore, letters: list[_Letter]) -> MpregError | None:
    """Together; where that is refused for the sake of one, each by itself. What has failed."""
    failure: MpregError | None = None
    try:
        await _write_letters(core, letters)
    except ValueTooLargeError as error:
        if len(letters) == 1:
            return error
        for letter in letters:
            failure = await _bury_all_there_is(core, [letter]) or failure
    return failure


async def _write_letters(core: QueueCore, letters: list[_Letter]) -> None:
    told: list[tuple[str, str, str]] = []
    async with core.registry.transaction() as transaction:
        for subscription, delivery, record in letters:
            if subscription.deleting or not _is_dying(subscription, delivery):
                continue
            place = (delivery.lane, delivery.offset)
            if delivery.offset in core.state.lane(delivery.lane).finished:
                # A quorum has it without this one, or it has expired; and perhaps it is not there
                # any more.
                core.state.pass_over(subscription, place, 0)
                continue
            if record is None:
                reason = f"{core.storage.where(*place)} cannot be read"
            else:
                reason = f"used up its {core.configuration.max_deliveries} deliveries"
                delivery.reason = delivery.reason or "nobody said why"
            died = core.let_die(subscription, delivery, record, reason, transaction)
            core.write(died, transaction, lambda _: core.room.admit())
            told.append(("?" if record is None else record.id, reason, delivery.reason))
    for letter in told:
        logger.warning("queue %r: message %s became a dead letter: %s (%s)", core.name, *letter)


def _is_dying(subscription: SubscriptionState, delivery: Delivery) -> bool:
    return delivery.state is DeliveryState.DYING and subscription.holds(delivery)


# --- dead letters ---


async def _drop_dead_letters(core: QueueCore) -> None:
    while superfluous := _superfluous(core):
        bytes_max = core.storage.limits.keys
        drop = next(batches(superfluous, _size, count_max=DROPPED_PER_BATCH, bytes_max=bytes_max))
        async with core.registry.transaction() as transaction:
            for key in drop:
                core.storage.delete_dead_letter(key, transaction)
            core.write(DeadLettersRemoved(drop), transaction)
        logger.warning("queue %r: %d dead letters dropped", core.name, len(drop))


def _size(key: str) -> int:
    return len(key.encode())


def _superfluous(core: QueueCore) -> list[str]:
    """The dead letters over the limits of number and age, the oldest first, a few at a time."""
    limits, dead = core.configuration, core.state.dead
    over = min(max(len(dead) - limits.dead_letters_max, 0), DROPPED_PER_BATCH)
    drop = list(itertools.islice(dead, over))
    if (ttl := limits.dead_letter_ttl_seconds) is not None and not drop:
        drop = core.deaths.until(core.wall() - ttl, DROPPED_PER_BATCH)
    return drop


# --- expiry ---


async def _sweep(core: QueueCore) -> None:
    """Drop expired messages from the front, and ids whose window is over. Subscriptions pass over
    what they have no use for there: after a restart that may be all that is left of it."""
    if sent := core.sending.deduplicated:
        deduplication = core.storage.shared.deduplication
        while await deduplication.sweep_expired(SWEPT_PER_UPKEEP) == SWEPT_PER_UPKEEP:
            pass
        core.sending.deduplicated -= sent
    if core.sweeping:
        core.sweeping = False
        try:
            await _sweep_messages(core)
        except BaseException:
            core.sweeping = True
            raise


async def _sweep_messages(core: QueueCore) -> None:
    subscriptions: list[SubscriptionState | None] = list(core.state.subscriptions.values())
    if core.state.is_quorum or not subscriptions:
        # What no subscription will come to (again), and no quorum has agreed on.
        subscriptions.append(None)
    for subscription in subscriptions:
        for lane in list(core.state.lanes.values()):
            await _sweep_lane(core, subscription, lane)
    core.room.admit()
    core.alarm(core)


async def _sweep_lane(core: QueueCore, subscription: SubscriptionState | None, lane: Lane) -> None:
    for step in itertools.count(1):
        if step % SWEPT_AT_ONCE_MAX == 0:
            await anyio.lowlevel.checkpoint()
        if subscription is not None and (subscription.deleting or not core.state.has(subscription)):
            # What it passed over now would be in no event of its deletion.
            core.sweeping = True
            return
        if (offset := _first_unfinished(subscription, lane)) is None:
            return
        place = (lane.number, offset)
        if subscription is not None and offset in lane.finished:
            subscription.cursor(lane.number).skip(offset, lane.finished.first_missing(offset))
            continue
        found = core.contents.look(place)
        if found is UNREAD:
            await core.contents.read(place)
            continue
        if not isinstance(found, tuple):
            # Damaged or gone: whoever receives next deals with it.
            return
        record, size = found
        lane.send_times.note(offset, record.sent_at)
        core.expiring = core.expiring or record.expires_at is not None
        if not record.is_expired(core.wall()):
            if subscription is not None and subscription.has_no_use_for(place, record.topic):
                core.state.pass_over(subscription, place, size)
                core.contents.forget(place)
                continue
            if record.expires_at is not None:
                wait = max(record.expires_at - core.wall(), SWEEP_SECONDS_MIN)
                core.sweep_due = min(core.sweep_due, anyio.current_time() + wait)
            return
        core.state.expire(subscription, place, size)
        core.contents.forget(place)


def _first_unfinished(subscription: SubscriptionState | None, lane: Lane) -> int | None:
    if subscription is not None:
        return subscription.cursor(lane.number).candidate(lane.end)
    # From the very first on: what was copied out of the log is below its first offset.
    offset = lane.finished.first_missing()
    return offset if offset < lane.end else None


# --- space ---


async def _drop_kept(core: QueueCore) -> None:
    for lane in list(core.state.lanes.values()):
        finished = [offset for offset in lane.kept if offset in lane.finished]
        bytes_max = core.storage.limits.batch
        for dropped in batches(
            finished, lambda _: 0, count_max=DROPPED_PER_BATCH, bytes_max=bytes_max
        ):
            async with core.registry.transaction() as transaction:
                for offset in dropped:
                    core.storage.drop_kept((lane.number, offset), transaction)
            lane.kept.difference_update(dropped)


async def _measure(core: QueueCore) -> None:
    if not all(lane.is_measured for lane in core.state.lanes.values()):
        await core.measure()


async def _save_if_worth_it(core: QueueCore, saved: Saved) -> None:
    if core.changes >= max(SNAPSHOT_AFTER_CHANGES, core.changes_min):
        await save(core, saved)


async def _give_space_back(core: QueueCore) -> None:
    for lane in list(core.state.lanes.values()):
        while (truncation := plan_truncation(lane)) is not None:
            if not await _truncate(core, lane, truncation):
                break


async def save(core: QueueCore, saved: Saved) -> None:
    """Save the state, and drop the events that are not needed any more."""
    # The snapshot knows it, too, but it may turn out to be damaged: the events that the one before
    # it needs must tell of all.
    await write_passed(core)
    # The snapshot knows it.
    released, core.released = core.released, {}
    changes, end = core.changes, core.events_end
    core.state.saves += 1
    data = encode_snapshot(core.state, end)
    slot = saved.oldest
    # While it is being replaced it is nothing to rely on.
    saved.ends[slot] = None
    try:
        await saved.slots[slot].save(data)
    except BaseException:
        core.released |= released
        raise
    saved.ends[slot] = end
    saved.newest = slot
    core.changes -= changes
    core.changes_min = len(data) // SAVED_BYTES_PER_CHANGE
    needed_from = saved.events_needed_from
    if needed_from is not None:
        await _truncate_events(core, needed_from)


async def _truncate_events(core: QueueCore, before: int) -> None:
    first = await core.storage.events.first_offset()
    while first < before:
        first = await core.storage.events.truncate_before(min(before, first + 4_096))


async def _truncate(core: QueueCore, lane: Lane, truncation: Truncation) -> bool:
    """Whether there may be more to do."""
    keep: dict[int, MessageRecord] = {}
    before, size = truncation.before, 0
    for offset in truncation.keep:
        record = await core.contents.find((lane.number, offset))
        if record is None:
            if offset in lane.finished:
                continue
            # Damaged. It stays where it is until a consumer comes to it and it is set aside.
            before = offset
            break
        size += len(encode(record))
        if size > min(COPIED_BYTES_MAX, core.storage.limits.batch) and keep:
            before = offset
            break
        keep[offset] = record
    if before <= lane.first:
        return False
    keep = {offset: keep[offset] for offset in keep if offset not in lane.finished}
    log = core.storage.lane(lane.number)
    async with core.counting, core.contents.reading, core.registry.transaction() as transaction:
        for offset, record in keep.items():
            core.storage.keep((lane.number, offset), record, transaction)
        core.write(Kept(lane.number, list(keep), before), transaction)
        log.truncate_before_nowait(before, transaction=transaction)
    return True
