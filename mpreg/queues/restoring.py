"""Reading a queue's state back: the last snapshot, the events after it, and no message before."""

from __future__ import annotations

from functools import partial
from typing import Final

import anyio
from attrs import frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence import SnapshotStore
from mpreg.queues.configuration import PRIORITY_MAX, QueueConfiguration
from mpreg.queues.core import log as logger
from mpreg.queues.cursor_check import lost_messages
from mpreg.queues.records import decode_event
from mpreg.queues.snapshot import decode_snapshot
from mpreg.queues.state import QueueState
from mpreg.queues.storage import QueueStorage, measure
from mpreg.queues.together import both, together
from mpreg.queues.upkeep import Saved

__all__ = ["Restored", "replace_lost", "restore"]


#: Stands for a message that was lost. It is none, so whoever reads it is told of damage.
LOST: Final = b""
LOST_PER_BATCH: Final = 1_024


@frozen
class Restored:
    state: QueueState
    events_end: int
    """The offset after the last event."""
    changes: int
    """Events and messages that no snapshot knows."""
    saved: Saved


async def restore(
    storage: QueueStorage, configuration: QueueConfiguration, wall: float
) -> Restored:
    """The state as it was, but for leases: nobody holds a message.

    What is damaged is reported with queue and offset, and passed over: a message whose
    acknowledgment is lost with it comes again.
    """
    loaded, bounds = await both(
        partial(_load_snapshot, storage, configuration), storage.events.bounds
    )
    (state, start, saved), (first, end) = loaded, bounds
    if start < first:
        logger.error(
            "queue %r: events %d to %d are missing, and no snapshot has them: messages that were "
            "acknowledged may come again",
            storage.name,
            start,
            first - 1,
        )
    seen, start = start, max(start, first)
    is_damaged = start < end and await _replay(storage, state, start, end)
    if is_damaged or start > seen:
        await _find_lanes(storage, state)
        for number, offset in await storage.kept_places():
            state.lane(number).kept.add(offset)
        for lane in state.lanes.values():
            # What was lost may have told the sizes of messages that are finished.
            lane.forget_bytes()
    numbers = list(state.lanes)
    for number, places in zip(
        numbers, await together(storage.lane(number).bounds for number in numbers), strict=True
    ):
        state.place_lane(number, *places)
    unknown = sum(lane.end - max(lane.measured_to, lane.first) for lane in state.lanes.values())
    if configuration.max_bytes is not None:
        # Else upkeep does it: nobody has to wait for it.
        for lane in list(state.lanes.values()):
            await measure(storage, lane)
    state.lose_leases(wall, anyio.current_time())
    return Restored(state, end, end - start + unknown, saved)


async def replace_lost(storage: QueueStorage, state: QueueState) -> None:
    """Put something in the places of messages that were lost from the end of a log and of which it
    is known what became of them: those that are sent next must not get their offsets, and be taken
    for finished. To a subscription that had not come to them they are damaged messages.
    """
    for number, count in lost_messages(state).items():
        lane, log = state.lane(number), storage.lane(number)
        logger.error(
            "queue %r: of priority %d the messages from offset %d to %d are lost; their offsets "
            "are not given again",
            storage.name,
            number,
            lane.end,
            lane.end + count - 1,
        )
        for start in range(0, count, LOST_PER_BATCH):
            await log.append_many([LOST] * min(LOST_PER_BATCH, count - start))
        state.place_lane(number, *await log.bounds())


async def _load_snapshot(
    storage: QueueStorage, configuration: QueueConfiguration
) -> tuple[QueueState, int, Saved]:
    slots = storage.snapshots()
    found = await together(partial(_load_slot, storage, slot, configuration) for slot in slots)
    ends = [None if one is None else one[1] for one in found]
    ages = [(-1, 0) if one is None else (one[1], one[0].saves) for one in found]
    newest = ages.index(max(ages))
    if (best := found[newest]) is None:
        return QueueState(configuration), 0, Saved(slots, 0, ends)
    return *best, Saved(slots, newest, ends)


async def _load_slot(
    storage: QueueStorage, slot: SnapshotStore, configuration: QueueConfiguration
) -> tuple[QueueState, int] | None:
    try:
        snapshot = await slot.load()
        if snapshot is None:
            return None
        return decode_snapshot(snapshot.data, configuration, f"snapshot {slot.name!r}")
    except CorruptDataError as damage:
        logger.error(
            "queue %r: a snapshot is damaged; the one before it is used: %s", storage.name, damage
        )
        return None


async def _replay(storage: QueueStorage, state: QueueState, start: int, end: int) -> bool:
    """Whether events were damaged."""
    damaged: list[CorruptDataError] = []
    async for record in storage.events.read_range(start, end, on_damaged=damaged.append):
        where = f"queue {storage.name!r}, event {record.offset}"
        try:
            state.apply(decode_event(record.data, where))
        except CorruptDataError as error:
            damaged.append(error)
    for damage in damaged:
        logger.error(
            "queue %r: an event is damaged and passed over; messages that it acknowledged come "
            "again: %s",
            storage.name,
            damage,
        )
    return bool(damaged)


async def _find_lanes(storage: QueueStorage, state: QueueState) -> None:
    """What tells of a priority's first use may be lost, but its messages are there."""
    for number in range(1, PRIORITY_MAX + 1):
        if number not in state.lanes and await storage.lane(number).next_offset():
            state.lane(number)
