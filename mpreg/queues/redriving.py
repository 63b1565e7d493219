"""Dead letters that are sent again, to their own queue or to another one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing

from mpreg.errors import InvalidArgumentError, QueueFullError
from mpreg.persistence import Transaction
from mpreg.queues.arguments import checked_list
from mpreg.queues.configuration import QueueType
from mpreg.queues.core import QueueCore
from mpreg.queues.dead_letters import (
    MOVED_PER_BATCH,
    DeadLetter,
    find_dead_letters,
    move_dead_letters,
    scan_dead_letters,
)
from mpreg.queues.outgoing import encoded_for
from mpreg.queues.records import MessageRecord, Place, encode
from mpreg.queues.sizes import OPERATION_BYTES, batches

__all__ = ["letter_names", "redrive"]


async def redrive(
    core: QueueCore, letters: Iterable[DeadLetter | str] | None, target: QueueCore
) -> int:
    """See `MessageQueue.redrive`."""
    names = None if letters is None else letter_names(letters)
    bytes_max, moved, size = core.storage.limits.batch, 0, 0
    some: list[list[DeadLetter]] = []
    async with aclosing(_whole_letters(core, names)) as found:
        async for letter in found:
            if some and _place(some[-1][0]) == _place(letter):
                # The same message: it died in several subscriptions.
                some[-1].append(letter)
                continue
            if some and (len(some) == MOVED_PER_BATCH or size > bytes_max):
                moved += await _redrive_some(core, some, target, moved)
                some, size = [], 0
            some.append([letter])
            size += letter.size_bytes
    return moved + await _redrive_some(core, some, target, moved)


async def _whole_letters(
    core: QueueCore, names: Collection[str] | None
) -> AsyncGenerator[DeadLetter, None]:
    """Those that are there now: what dies while others are moved is not met."""
    at_first = set(core.state.dead)
    letters = scan_dead_letters(core) if names is None else find_dead_letters(core, names)
    async with aclosing(letters) as found:
        async for letter in found:
            if letter.key in at_first and letter.record.message is not None:
                yield letter


async def _redrive_some(
    core: QueueCore, dead: list[list[DeadLetter]], target: QueueCore, moved_before: int
) -> int:
    moved, limits = 0, core.storage.limits
    for some in batches(dead, _dead_bytes, count_max=MOVED_PER_BATCH, bytes_max=limits.batch):
        for batch in batches(some, _keys_bytes, count_max=MOVED_PER_BATCH, bytes_max=limits.keys):
            moved += await _redrive_fitting(core, batch, target, moved_before + moved)
    return moved


async def _redrive_fitting(
    core: QueueCore, dead: list[list[DeadLetter]], target: QueueCore, moved_before: int
) -> int:
    """As many together as there is room for."""
    moved, count = 0, len(dead)
    while dead:
        try:
            moved += await _redrive(core, dead[:count], target)
        except QueueFullError as error:
            if count == 1:
                raise QueueFullError(
                    f"{moved_before + moved} dead letters were sent again; the next one has no "
                    f"room, and the others stay as they were: {error}"
                ) from error
            count //= 2
        else:
            dead = dead[count:]
            count = min(count, len(dead))
    return moved


async def _redrive(core: QueueCore, dead: list[list[DeadLetter]], target: QueueCore) -> int:
    # Those that somebody else is moving, or has moved meanwhile, are not sent twice.
    keys = core.begin_moving(letter.key for letters in dead for letter in letters)
    by_lane: dict[int, list[MessageRecord]] = {}
    is_priority = target.configuration.queue_type is QueueType.PRIORITY
    for letters in dead:
        letter = next((letter for letter in letters if letter.key in keys), None)
        if letter is None:
            continue
        lane = letter.priority if is_priority else 0
        by_lane.setdefault(lane, []).append(_renewed(letter, target))

    async def send_all(transaction: Transaction) -> None:
        for lane, records in by_lane.items():
            await target.sending.send(encoded_for(lane, records), 0.0, transaction)

    await move_dead_letters(core, keys, send_all)
    return len(keys)


def _renewed(letter: DeadLetter, target: QueueCore) -> MessageRecord:
    """A dead letter's message as it is sent to this queue: its time begins anew."""
    assert letter.record.message is not None
    ttl_seconds = target.configuration.message_ttl_seconds
    sent_at = target.wall()
    return MessageRecord(
        id=letter.record.message.id,
        sent_at=sent_at,
        topic=letter.topic,
        delay_seconds=0.0,
        expires_at=None if ttl_seconds is None else sent_at + ttl_seconds,
        headers=letter.headers,
        payload=letter.record.message.payload,
    )


def _place(letter: DeadLetter) -> Place:
    return letter.priority, letter.offset


def _dead_bytes(letters: list[DeadLetter]) -> int:
    """What it takes to send a message again and remove all its letters."""
    message = letters[0].record.message
    return 2 * _keys_bytes(letters) + (0 if message is None else len(encode(message)))


def _keys_bytes(letters: list[DeadLetter]) -> int:
    """Of keys in one event, each with what an operation counts for beside it."""
    return sum(OPERATION_BYTES + len(letter.key.encode()) for letter in letters)


def letter_names(letters: Iterable[DeadLetter | str]) -> set[str]:
    """Raises `InvalidArgumentError` where it is one, or no dead letter."""
    return {_letter_name(one) for one in checked_list("dead letters", letters)}


def _letter_name(letter: DeadLetter | str) -> str:
    if isinstance(letter, DeadLetter):
        return letter.key
    if isinstance(letter, str):
        return letter
    raise InvalidArgumentError(f"a dead letter, its key or its message's id, not {letter!r:.80}")
