"""The one writer: takes what is waiting, commits it as one group, acks each batch."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, cast

import anyio
from attrs import define, field, frozen

from mpreg.actors import Mailbox
from mpreg.clock import Clock
from mpreg.errors import (
    CommitFailedError,
    CommitUnknownError,
    CorruptDataError,
    StorageFullError,
    WriterStoppedError,
)
from mpreg.persistence.accounting import Accounting
from mpreg.persistence.activity import Activity
from mpreg.persistence.backend import (
    Checkpoint,
    CommitInDoubtError,
    StorageBackend,
    UpkeepResult,
    UpkeepStep,
)
from mpreg.persistence.batch import AppendBatch, AwaitedWrite, Durability, WriteBatch
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from mpreg.persistence.following import CommitObserved, Followers
from mpreg.persistence.upkeep_command import UpkeepCommand, WriterMessage
from mpreg.persistence.upkeep_policy import CheckpointWatch

_log = logging.getLogger("mpreg.persistence")

# Not a loop of their own in Python: it would be gone through for every write.
_CALLERS: Final = attrgetter("callers")
_OPERATIONS: Final = attrgetter("operations")

__all__ = ["GroupLimits", "Writer", "WriterCounters", "is_committed"]


@frozen(kw_only=True)
class GroupLimits:
    """How much is joined into one commit group."""

    batches_max: int
    bytes_max: int
    """The last batch taken may go over it."""


@define
class WriterCounters:
    """Counted since the writer was made; only the writer changes them."""

    commit_sequence: int = 0
    durable_sequence: int = 0
    """Everything up to this commit sequence would survive a power cut."""
    generation: int = 0
    commits: int = 0
    batches: int = 0
    operations: int = 0
    rejected: int = 0
    """Batches refused for a condition of their own."""
    failed: int = 0
    """Batches whose group was rolled back."""
    largest_group: int = 0
    checkpoints: int = 0
    checkpointed_at: float | None = None
    """Wall clock."""
    checkpoint_seconds: float = 0.0
    wal_pages_left: int = 0
    """That the last checkpoint could not move."""


@frozen
class _InDoubt:
    """A group handed to the backend and not answered."""

    group: CommitGroup
    outcomes: Sequence[BatchOutcome] | None = None
    """What to answer where it turns out to be committed; None: it certainly is not."""
    told: bool = False
    """Whether the backend has said how far it came: without that, nothing is certain."""


@define(eq=False)
class Writer:
    """An `mpreg.actors.Actor`: what arrives while a commit is out belongs to the next group.

    There is no timer and no waiting for more: under load a commit takes as long as it takes, and
    what has come meanwhile is the next group. One caller alone waits for one fsync.

    A failed commit is one of two things. *Rolled back* (the disk is full): its callers are told,
    the writer goes on. *In doubt* (the disk failed): the writer keeps the group and breaks; started
    again, it compares the commit sequence on disk with the group's, and acks it or commits it
    again, before anything that waits in the mailbox. Nobody waiting notices but by the delay.
    """

    _mailbox: Mailbox[WriterMessage]
    _backend: StorageBackend
    _clock: Clock
    _limits: GroupLimits
    _accounting: Accounting = field(factory=Accounting)
    _activity: Activity = field(factory=Activity)
    _watch: CheckpointWatch = field(factory=lambda: CheckpointWatch(sys.maxsize))
    _followers: Followers = field(factory=Followers)
    counters: WriterCounters = field(factory=WriterCounters)
    _in_doubt: _InDoubt | None = None
    _commands: deque[UpkeepCommand] = field(factory=deque)
    """Taken from the mailbox and not begun."""
    _interrupted: tuple[UpkeepCommand, CommitFailedError] | None = None
    """Cut off by a failure, and what to answer once the store is open again."""
    _started: bool = False

    async def start(self) -> None:
        try:
            opened = await self._backend.open(self._accounting.check)
        except StorageFullError as error:
            # It may last: what waits is told now. The group in doubt has to wait all the same.
            self._fail(self._mailbox.drain(), error)
            raise
        self.counters.generation = opened.generation
        if opened.has_left_log:
            self._activity.note()
        try:
            self._settle(opened.commit_sequence)
            await self._accounting.opened(opened)
        except BaseException:
            await self._backend.close()
            raise

    async def run(self) -> None:
        if self._interrupted is not None:
            command, error = self._interrupted
            self._interrupted = None
            command.fail(error)
        if self._in_doubt is not None:
            await self._commit(self._in_doubt.group)
        while True:
            await self._keep_up()
            try:
                messages = await self._mailbox.receive_many(
                    messages_max=self._limits.batches_max,
                    bytes_max=self._limits.bytes_max,
                )
            except anyio.EndOfStream:
                return
            batches = self._taken(messages)
            if batches:
                await self._commit(
                    CommitGroup(self.counters.commit_sequence + 1, self._clock.wall(), batches)
                )
            # They may be large, and the next ones may be long in coming.
            del batches, messages

    def _taken(self, messages: Sequence[WriterMessage]) -> tuple[WriteBatch, ...]:
        """The batches among them, as they are to be committed; the commands are kept for later."""
        kinds = set(map(type, messages))
        if kinds == {AwaitedWrite}:
            return cast(tuple[WriteBatch, ...], tuple(messages))
        batches = tuple([one for one in messages if isinstance(one, WriteBatch)])
        if len(batches) < len(messages):
            self._commands.extend(one for one in messages if isinstance(one, UpkeepCommand))
        if AppendBatch in kinds:
            for batch in batches:
                if type(batch) is AppendBatch:
                    batch.make_records()
        return batches

    async def _keep_up(self) -> None:
        """Between two groups, when all callers of the first one have their answers."""
        while True:
            if (step := self._backend.upkeep_due()) is not None:
                try:
                    await self._take_step(step)
                except CommitFailedError as error:
                    _log.warning("%s", error)
            elif self._commands:
                await self._carry_out(self._commands.popleft())
            else:
                return

    async def _carry_out(self, command: UpkeepCommand) -> None:
        try:
            result = await self._take_step(command.step)
        except CommitFailedError as error:
            command.fail(error)
        except Exception as error:
            # Not again by itself after the restart: it may be the cause. But not answered before
            # it either: where there is none, all who wait are told the same, the first cause.
            failed = CommitFailedError(f"a step of upkeep was interrupted: {error}")
            failed.__cause__ = error
            self._interrupted = command, failed
            raise
        except BaseException as error:
            command.fail(_not_kept_up(error))
            raise
        else:
            command.ack.resolve(result)

    async def _take_step(self, step: UpkeepStep) -> UpkeepResult:
        began = anyio.current_time()
        result = await self._backend.upkeep(step)
        if isinstance(step, Checkpoint):
            self.counters.checkpoint_seconds += anyio.current_time() - began
        if result.checkpoints:
            self.counters.checkpoints += result.checkpoints
            self.counters.checkpointed_at = self._clock.wall()
            self.counters.wal_pages_left = result.log_pages_left
            self._accounting.checkpointed()
            if (said := self._watch.note(result.log_pages_left)) is not None:
                _log.warning("%s", said)
        return result

    async def close(self) -> None:
        await self._backend.close()

    def abandon(self, cause: Exception | None) -> None:
        if self._interrupted is not None:
            self._interrupted[0].fail(_not_kept_up(cause))
            self._interrupted = None
        while self._commands:
            self._commands.popleft().fail(_not_kept_up(cause))
        if (in_doubt := self._in_doubt) is None:
            return
        self._in_doubt = None
        certain = in_doubt.told and in_doubt.outcomes is None
        for batch in in_doubt.group.batches:
            error = _not_written() if certain else _unknown()
            error.__cause__ = cause
            if not batch.is_answered:
                batch.fail(error)

    async def _commit(self, group: CommitGroup) -> None:
        self._in_doubt = _InDoubt(group)
        observers = self._followers.observers
        since, began = (
            (self._mailbox.take_waiting_since(), anyio.current_time()) if observers else (None, 0.0)
        )
        try:
            outcomes = await self._backend.commit(group)
        except CommitFailedError as error:
            self._in_doubt = None
            self._fail(group.batches, error)
        except CommitInDoubtError as error:
            self._in_doubt = _InDoubt(group, error.outcomes, told=True)
            raise error.reason from error
        else:
            took = anyio.current_time() - began if observers else 0.0
            self._answer(group, outcomes)
            self._in_doubt = None
            if observers and self.counters.commit_sequence == group.sequence:
                self._observe(group, outcomes, took, began if since is None else since)

    def _observe(
        self, group: CommitGroup, outcomes: Sequence[BatchOutcome], took: float, since: float
    ) -> None:
        committed = _committed(group, outcomes)
        batches, operations = _asked(committed)
        commit = CommitObserved(
            sequence=group.sequence,
            batches=batches,
            operations=operations,
            size_bytes=sum(batch.filled_bytes for batch in committed),
            durability=group.durability,
            commit_seconds=took,
            ack_seconds=anyio.current_time() - since,
        )
        for observer in self._followers.observers:
            observer.committed(commit)

    def _settle(self, on_disk: int) -> None:
        """Decide, from the commit sequence on disk, about the group that was in flight."""
        in_doubt = self._in_doubt
        known = self.counters.commit_sequence if self._started else None
        if is_committed(on_disk, known, in_flight=in_doubt is not None) and in_doubt is not None:
            if in_doubt.outcomes is None:
                raise CorruptDataError(
                    f"commit {on_disk} is on disk, but its transaction never came to its commit"
                )
            self._answer(in_doubt.group, in_doubt.outcomes)
            self._in_doubt = None
        self._started = True
        # What a backend reports at opening is durable, whatever its commits asked for.
        self.counters.commit_sequence = self.counters.durable_sequence = on_disk

    def _answer(self, group: CommitGroup, outcomes: Sequence[BatchOutcome]) -> None:
        counters = self.counters
        committed = _committed(group, outcomes)
        batches, operations = _asked(committed)
        if len(committed) < len(outcomes):
            counters.rejected += _asked(group.batches)[0] - batches
        if batches:
            counters.commits += 1
            self._activity.note()
            counters.batches += batches
            counters.operations += operations
            counters.largest_group = max(counters.largest_group, batches)
            counters.commit_sequence = group.sequence
            if group.durability is Durability.DURABLE:
                counters.durable_sequence = group.sequence
                self._accounting.acked(group.sequence)
        group.resolve(outcomes)
        self._followers.tell(group, outcomes)

    def _fail(self, messages: Sequence[WriterMessage], error: CommitFailedError) -> None:
        for message in messages:
            if isinstance(message, WriteBatch):
                self.counters.failed += message.callers
            # One for each: tasks that raise the same exception would share its traceback.
            own = type(error)(*error.args)
            own.__cause__ = error.__cause__
            message.fail(own)


def _committed(group: CommitGroup, outcomes: Sequence[BatchOutcome]) -> Sequence[WriteBatch]:
    """The batches that were not refused for a condition of their own."""
    if set(map(type, outcomes)) == {tuple}:
        return group.batches
    return [
        batch
        for batch, outcome in zip(group.batches, outcomes, strict=True)
        if isinstance(outcome, tuple)
    ]


def _asked(batches: Sequence[WriteBatch]) -> tuple[int, int]:
    """How many callers have asked for them, and for how many operations.

    What several have asked for together is one operation, and counts as one for each of them.
    """
    callers = sum(map(_CALLERS, batches))
    return callers, callers - len(batches) + sum(map(len, map(_OPERATIONS, batches)))


def is_committed(on_disk: int, known: int | None, *, in_flight: bool) -> bool:
    """Whether the group in flight is on disk, told by the commit sequence found there.

    ``known`` is the sequence of the last group answered; None where this is the first start.

    Raises:
        CorruptDataError: groups that were acked are missing, or there are some of another writer.
    """
    if known is None or on_disk == known:
        return False
    if in_flight and on_disk == known + 1:
        return True
    if on_disk < known:
        raise CorruptDataError(
            f"the store ends at commit {on_disk}, but commits up to {known} were acknowledged: "
            "acknowledged data is missing"
        )
    raise CorruptDataError(
        f"the store ends at commit {on_disk}, but this writer only came to {known}: "
        "another writer has used it"
    )


def _not_written() -> Exception:
    return WriterStoppedError("the writer stopped before it could commit this; not written")


def _not_kept_up(cause: BaseException | None) -> Exception:
    error = WriterStoppedError("the writer stopped before this step of upkeep was done")
    error.__cause__ = cause
    return error


def _unknown() -> Exception:
    return CommitUnknownError(
        "the writer stopped while the commit was under way; open the store again to learn "
        "whether it is on disk"
    )
