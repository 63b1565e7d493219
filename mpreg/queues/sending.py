"""Messages on their way into one open queue: room for them, the write, and the state after it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio.lowlevel
from attrs import define, field

from mpreg.persistence import Transaction
from mpreg.queues.configuration import checked_seconds
from mpreg.queues.joint import JointAppends
from mpreg.queues.outgoing import Outgoing, begun_anew
from mpreg.queues.records import LaneOpened, MessageRecord

if TYPE_CHECKING:
    from mpreg.queues.core import QueueCore

__all__ = ["Sending", "SentInTransactionError"]

#: Deduplicated sends after which ids that are out of their window are removed.
SWEEP_AFTER_SENDS: Final = 256


class SentInTransactionError(Exception):
    """The ``deduplication_id`` has come into the transaction meanwhile. Nothing was added."""


@define(eq=False)
class Sending:
    """Of one open queue."""

    _core: QueueCore
    _appends: JointAppends[Outgoing] = field(init=False)
    deduplicated: int = 0
    """Sends with a ``deduplication_id`` since ids that are out of their window were removed."""
    _deduplicating: dict[tuple[Transaction, bytes], str] = field(factory=dict)
    """By ``deduplication_id``, the ids of messages in transactions that are not settled yet."""

    def __attrs_post_init__(self) -> None:
        self._appends = JointAppends(self._sent)

    def send(
        self,
        outgoing: Outgoing,
        wait_seconds: float | None,
        transaction: Transaction | None,
        deduplication_id: bytes | None = None,
    ) -> Awaitable[object]:
        """Take room for messages, and send them. To be awaited at once.

        Not a coroutine itself, as `Settling.acknowledge`: it would be resumed once more for each
        message.
        """
        core = self._core
        if wait_seconds is not None and wait_seconds != 0:
            checked_seconds("wait_seconds", wait_seconds)
        if (
            transaction is None
            and deduplication_id is None
            and core.stored
            and core.room.take_nowait(len(outgoing.records), outgoing.size)
        ):
            return self._send(outgoing)
        return self._send_in_line(outgoing, wait_seconds, transaction, deduplication_id)

    async def _send_in_line(
        self,
        outgoing: Outgoing,
        wait_seconds: float | None,
        transaction: Transaction | None,
        deduplication_id: bytes | None,
    ) -> None:
        core = self._core
        if not core.stored:
            # Else nothing of it would be a checkpoint.
            await anyio.lowlevel.checkpoint()
        # There may have been a wait since it was asked for, and in the line nobody would be told.
        core.check_open()
        room = core.room
        if not room.take_nowait(len(outgoing.records), outgoing.size):
            await room.take(len(outgoing.records), outgoing.size, wait_seconds)
            outgoing = begun_anew(outgoing, core.wall())
        if transaction is not None:
            self._join(outgoing, transaction, deduplication_id)
        elif deduplication_id is None:
            await self._send(outgoing)
        else:
            async with core.registry.transaction() as own:
                self._join(outgoing, own, deduplication_id)

    # --- room for them was taken, and is given back from here ---

    def _send(self, outgoing: Outgoing) -> Awaitable[object]:
        core = self._core
        if not core.stored or outgoing.lane not in core.state.lanes:
            return self._send_in_transaction(outgoing)
        log = core.storage.lane(outgoing.lane)
        ack = self._appends.append(outgoing.lane, log, outgoing.encoded, outgoing.size, outgoing)
        if ack is not None:
            return ack.wait()
        return log.append_followed(outgoing.encoded, partial(self._sent, [outgoing]))

    async def _send_in_transaction(self, outgoing: Outgoing) -> None:
        async with self._core.registry.transaction() as transaction:
            self._add(outgoing, transaction)

    def _join(
        self, outgoing: Outgoing, transaction: Transaction, deduplication_id: bytes | None
    ) -> None:
        core = self._core
        try:
            if deduplication_id is not None:
                key = (transaction, deduplication_id)
                if key in self._deduplicating:
                    # The writer would not tell: it holds conditions against what was before a
                    # transaction.
                    raise SentInTransactionError
                core.storage.shared.deduplication.put_nowait(
                    core.storage.key(deduplication_id),
                    outgoing.records[0].id.encode(),
                    ttl_seconds=core.configuration.deduplication_window_seconds,
                    expected_version=0,
                    transaction=transaction,
                )
                self._deduplicating[key] = outgoing.records[0].id
                transaction.on_settled(lambda _: self._forget_deduplicating(key))
                self.deduplicated += 1
                if self.deduplicated >= SWEEP_AFTER_SENDS and not core.dirty:
                    core.ask_for_upkeep()
            self._add(outgoing, transaction)
        except BaseException:
            core.room.give_back(len(outgoing.records), outgoing.size)
            raise

    def _add(self, outgoing: Outgoing, transaction: Transaction) -> None:
        """Where it raises, the room is still to be given back."""
        core = self._core
        core.registry.check_transaction(transaction)
        core.require_not_deleted(transaction)
        if core.stored:
            if outgoing.lane not in core.state.lanes:
                core.write(LaneOpened(outgoing.lane), transaction)
            core.storage.lane(outgoing.lane).append_many_nowait(
                outgoing.encoded, transaction=transaction
            )
        transaction.on_settled(lambda committed: self._sent([outgoing], () if committed else None))

    def _sent(self, outgoings: Sequence[Outgoing], results: Sequence[object] | None) -> None:
        """What became of sends to one lane, in the order of its log."""
        count = sum([len(one.records) for one in outgoings])
        size = sum([one.size for one in outgoings])
        if results is not None:
            self._take_in(outgoings, count, size)
        self._core.room.give_back(count, size)

    def _take_in(self, outgoings: Sequence[Outgoing], count: int, size: int) -> None:
        core, number = self._core, outgoings[0].lane
        lane = core.state.lane(number)
        first = offset = lane.end
        # They come in one commit, and so at about the same time.
        lane.send_times.note(first, outgoings[0].records[-1].sent_at)
        core.state.sent(number, count, size)
        bodies: list[tuple[MessageRecord, int]] = []
        for outgoing in outgoings:
            own = list(zip(outgoing.records, map(len, outgoing.encoded), strict=True))
            # All of one send have the same times.
            if not outgoing.records[-1].is_plain:
                self._note_times(outgoing, offset, own)
            bodies += own
            offset += len(own)
        core.contents.put_all(number, first, bodies)
        core.wake_all()
        core.changed(count)

    def _note_times(
        self, outgoing: Outgoing, first: int, bodies: Sequence[tuple[MessageRecord, int]]
    ) -> None:
        core, last = self._core, outgoing.records[-1]
        now = core.now()
        core.state.note_delays(outgoing.lane, first, bodies, wall=core.wall(), now=now)
        if last.expires_at is not None:
            core.expiring = True
            core.sweep_due = min(core.sweep_due, now + last.expires_at - last.sent_at)
        core.alarm(core)

    # --- what was sent before ---

    async def sent_before(
        self, deduplication_id: bytes, transaction: Transaction | None = None
    ) -> str | None:
        """The id of the message that was sent with it, also earlier in this transaction."""
        if transaction is not None and (
            sent := self._deduplicating.get((transaction, deduplication_id))
        ):
            return sent
        storage = self._core.storage
        entry = await storage.shared.deduplication.get(storage.key(deduplication_id))
        return None if entry is None else entry.value.decode()

    def _forget_deduplicating(self, key: tuple[Transaction, bytes]) -> None:
        """What becomes of a transaction is known: from now on the stored ids tell."""
        self._deduplicating.pop(key, None)
