"""Messages that used up their attempts, kept with the reason until somebody decides."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from typing import Any, Final

from attrs import frozen

from mpreg.codec import decode_value
from mpreg.errors import CorruptDataError
from mpreg.persistence import Transaction
from mpreg.queues.core import QueueCore
from mpreg.queues.core import log as logger
from mpreg.queues.records import DeadLetterRecord, encode
from mpreg.queues.sizes import batches

__all__ = [
    "MOVED_PER_BATCH",
    "DeadLetter",
    "find_dead_letters",
    "find_keys",
    "list_dead_letters",
    "move_dead_letters",
    "remove_dead_letters",
    "scan_dead_letters",
]

#: Dead letters sent on, or removed, in one transaction.
MOVED_PER_BATCH: Final = 128


@frozen
class DeadLetter:
    """A message that is not handed out any more, with the reason."""

    key: str
    """Names it for `MessageQueue.redrive` and `MessageQueue.purge_dead_letters`."""
    record: DeadLetterRecord

    @property
    def id(self) -> str | None:
        """The message's id; None where the message was damaged."""
        return None if self.record.message is None else self.record.message.id

    @property
    def payload(self) -> Any:
        """What was sent; None where the message was damaged."""
        return None if self.record.message is None else decode_value(self.record.message.payload)

    @property
    def topic(self) -> str:
        return "" if self.record.message is None else self.record.message.topic

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.record.message is None else dict(self.record.message.headers)

    @property
    def sent_at(self) -> float | None:
        """Wall clock, in seconds since 1970."""
        return None if self.record.message is None else self.record.message.sent_at

    @property
    def died_at(self) -> float:
        """Wall clock, in seconds since 1970."""
        return self.record.died_at

    @property
    def priority(self) -> int:
        return self.record.lane

    @property
    def offset(self) -> int:
        """Its place among the messages of its priority."""
        return self.record.offset

    @property
    def subscription(self) -> str:
        return self.record.subscription

    @property
    def attempts(self) -> int:
        return self.record.attempts

    @property
    def reason(self) -> str:
        """Why it is here."""
        return self.record.reason

    @property
    def last_error(self) -> str:
        """What its last consumer said."""
        return self.record.last_error

    @property
    def size_bytes(self) -> int:
        """Of the message with its topic and headers; 0 where it was damaged."""
        return 0 if self.record.message is None else len(encode(self.record.message))


async def list_dead_letters(core: QueueCore, limit: int | None = None) -> list[DeadLetter]:
    letters: list[DeadLetter] = []
    async with aclosing(scan_dead_letters(core)) as found:
        async for letter in found:
            if limit is not None and len(letters) >= limit:
                break
            letters.append(letter)
    return letters


async def find_dead_letters(
    core: QueueCore, names: Collection[str]
) -> AsyncGenerator[DeadLetter, None]:
    """Those named by key or by their message's id, as `scan_dead_letters` gives them. Where all are
    named by key, no more is read than from the first to the last."""
    if not names:
        return
    are_keys = _are_keys(core, names)
    # Sorts before the first, and behind hardly any other.
    after, last = (min(names)[:-1], max(names)) if are_keys else (None, None)
    async with aclosing(scan_dead_letters(core, after)) as found:
        async for letter in found:
            if letter.key in names or letter.id in names:
                yield letter
            if last is not None and letter.key >= last:
                break


async def find_keys(core: QueueCore, names: Collection[str]) -> list[str]:
    """The keys of those that `find_dead_letters` gives; where all are named by key, nothing is
    read, and damaged ones are among them."""
    if _are_keys(core, names):
        return sorted(names)
    async with aclosing(find_dead_letters(core, names)) as found:
        return [letter.key async for letter in found]


def _are_keys(core: QueueCore, names: Collection[str]) -> bool:
    return all(name in core.state.dead for name in names)


async def scan_dead_letters(
    core: QueueCore, after: str | None = None
) -> AsyncGenerator[DeadLetter, None]:
    """The dead letters by priority and age. A damaged one is reported and passed over."""
    async with aclosing(core.storage.dead_letters(after)) as found:
        async for key, record in found:
            if isinstance(record, CorruptDataError):
                logger.error("queue %r: a dead letter is damaged: %s", core.name, record)
            elif key in core.state.dead:
                yield DeadLetter(key, record)


async def remove_dead_letters(core: QueueCore, keys: Iterable[str]) -> int:
    """Remove them for good; how many there were."""
    removed = 0
    bytes_max = core.storage.limits.keys
    for some in batches(keys, _size, count_max=MOVED_PER_BATCH, bytes_max=bytes_max):
        batch = core.begin_moving(some)
        await move_dead_letters(core, batch)
        removed += len(batch)
    return removed


def _size(key: str) -> int:
    return len(key.encode())


async def move_dead_letters(
    core: QueueCore,
    keys: set[str],
    send: Callable[[Transaction], Awaitable[None]] | None = None,
) -> None:
    """Remove dead letters that are being moved, and with them, or not at all, ``send`` others."""
    added = not keys
    try:
        if keys:
            async with core.registry.transaction() as transaction:
                if send is not None:
                    await send(transaction)
                core.remove_dead_letters(keys, transaction)
                # From here on the transaction says when they are moved, also where it is still
                # on its way when this task is cancelled.
                added = True
    finally:
        if not added:
            core.end_moving(keys)
