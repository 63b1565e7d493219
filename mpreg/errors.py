"""Every exception that mpreg raises for a condition of its own.

::

    MpregError
    ├── ActorError
    │   ├── MailboxFullError          a *_nowait call found no room           nothing was sent
    │   ├── MailboxClosedError        the actor has stopped for good          nothing was sent
    │   └── AckAlreadyResolvedError   a bug: an ack was answered twice
    ├── ConfigurationError            a setting is unknown, mistyped or impossible
    ├── WatchLaggedError              changes came faster than they were taken
    ├── NodeError                     of a node that is asked over HTTP         nothing was done
    │   ├── NotReadyError             it is starting or stopping
    │   │   └── PeersUnheardError     another node may have the queue, and was not heard of
    │   ├── UnauthorizedError         no token, or one that it does not know
    │   ├── ForbiddenError            a token that may not do this
    │   ├── TooManyRequestsError      faster, or more at once, than it allows
    │   ├── RequestRefusedError       the request itself makes no sense
    │   │   └── NotANodeError         something else answers at its address     not made, or unknown
    │   ├── NotFoundError             nothing is there under this address
    │   ├── IdempotencyKeyReusedError a key that came with another request before
    │   ├── WriteInterruptedError     an earlier attempt was cut short          unknown
    │   ├── UnexpectedError           a bug: its log has more                   unknown
    │   ├── ForwardingLoopError       nodes send the request to one another
    │   └── NodeUnreachableError      it gave no answer in time               unknown or not made
    │       └── PeerUnreachableError  the node that the one asked forwards it to
    ├── QueueError
    │   ├── QueueNotFoundError        no queue, or no subscription, of this name
    │   ├── QueueDeletedError         the queue was deleted while it was in use
    │   ├── QueueFullError            it holds as much as it may            not sent
    │   └── LeaseLostError            the delivery is not this holder's any more  nothing changed
    └── PersistenceError
        ├── InvalidArgumentError      wrong type or shape, told before anything is sent
        │   └── ValueTooLargeError    a key, value, name or batch is over its limit
        ├── TransactionStateError     a transaction used outside its block
        ├── WriterStoppedError        the writer is gone                      not written
        ├── ReaderStoppedError        the reader is gone                      nothing was read
        ├── ReadOnlyError             a write to what was opened to be read   not written
        ├── BatchRejectedError        one batch of a group was refused        not written
        │   ├── VersionConflictError  expected_version did not match
        │   └── OffsetOutOfRangeError an offset beyond the end of its log
        ├── CommitFailedError         the whole group was rolled back         not written
        │   └── StorageFullError      for want of room on the disk            not written
        ├── CommitUnknownError        the group's fate cannot be told         unknown
        ├── StorageIOError            the disk or its file system failed
        ├── CorruptDataError          stored bytes are not what was written
        ├── SnapshotNotFoundError     there is no snapshot, or not this version of it
        ├── AckedDataLostError        the store has not all that was acked    acked data is missing
        ├── DataDirectoryError        the directory cannot be used
        │   ├── DataDirectoryLockedError   another process holds it
        │   ├── DataDirectoryMissingError  there is none, or no store in it
        │   └── ForeignDatabaseError       the file there is not mpreg's
        ├── ParticipantFailedError    a subsystem could not be restored, or could not save itself
        ├── SchemaVersionError        of a newer mpreg; or of an older one, and only to be read
        └── MigrationFailedError      an older schema could not be migrated   one schema or the next

*Not written*, *rolled back* and *unknown* are three classes, because they ask three different
things of the caller. ``data_state`` says the same in words that fit in a log line.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

__all__ = [
    "AckAlreadyResolvedError",
    "AckedDataLostError",
    "ActorError",
    "BatchRejectedError",
    "CommitFailedError",
    "CommitUnknownError",
    "ConfigurationError",
    "CorruptDataError",
    "DataDirectoryError",
    "DataDirectoryLockedError",
    "DataDirectoryMissingError",
    "ForbiddenError",
    "ForeignDatabaseError",
    "ForwardingLoopError",
    "IdempotencyKeyReusedError",
    "InvalidArgumentError",
    "LeaseLostError",
    "MailboxClosedError",
    "MailboxFullError",
    "MigrationFailedError",
    "MpregError",
    "NodeError",
    "NodeUnreachableError",
    "NotANodeError",
    "NotFoundError",
    "NotReadyError",
    "OffsetOutOfRangeError",
    "ParticipantFailedError",
    "PeerUnreachableError",
    "PeersUnheardError",
    "PersistenceError",
    "QueueDeletedError",
    "QueueError",
    "QueueFullError",
    "QueueNotFoundError",
    "ReadOnlyError",
    "ReaderStoppedError",
    "RequestRefusedError",
    "SchemaVersionError",
    "SnapshotNotFoundError",
    "StorageFullError",
    "StorageIOError",
    "TooManyRequestsError",
    "TransactionStateError",
    "UnauthorizedError",
    "UnexpectedError",
    "ValueTooLargeError",
    "VersionConflictError",
    "WatchLaggedError",
    "WriteInterruptedError",
    "WriterStoppedError",
]


class MpregError(Exception):
    """Base of everything that mpreg raises for a condition of its own."""

    data_state: ClassVar[str] = "unchanged"
    """What is true of the data after this error, in a few words."""

    may_restart: ClassVar[bool] = True
    """Whether a supervisor may hope that a fresh start mends the cause."""

    passes: ClassVar[bool] = False
    """Whether the cause will pass by itself: no reason to give up, however often it comes."""

    @property
    def without_call(self) -> str:
        """The message, but for a call that only a program in Python has: for who asked over HTTP,
        or by a command."""
        return str(self)


class ActorError(MpregError):
    """A condition of mailboxes, acks and supervision."""


class MailboxFullError(ActorError):
    """A ``*_nowait`` call found the mailbox full, by count or by bytes. Nothing was sent.

    The awaiting form of the same call waits for room instead.
    """

    data_state = "not written"


class MailboxClosedError(ActorError):
    """The mailbox takes nothing any more. Nothing was sent."""


class AckAlreadyResolvedError(ActorError):
    """An ack was answered a second time. The first answer stands; this is a bug in the actor."""


class ConfigurationError(MpregError, ValueError):
    """A setting is unknown, of the wrong type, or impossible beside another one.

    ``setting`` is its name, where it is one alone. ``problems`` has one error for each thing that
    is wrong, where all settings were looked at together; else this one.
    """

    def __init__(
        self,
        message: str,
        setting: str | None = None,
        problems: Sequence[ConfigurationError] = (),
    ) -> None:
        self.setting = setting
        self._problems = tuple(problems)
        super().__init__(message, setting)

    @classmethod
    def of(cls, problems: Sequence[ConfigurationError]) -> ConfigurationError:
        """One that tells of all, each in a line of its own."""
        if len(problems) == 1:
            return problems[0]
        return cls("\n".join(map(str, problems)), None, problems)

    @property
    def problems(self) -> tuple[ConfigurationError, ...]:
        return self._problems or (self,)

    def __str__(self) -> str:
        return str(self.args[0])


class WatchLaggedError(MpregError):
    """Who watches did not take the changes as fast as they came, and missed some.

    Those that were told before are handed out first. What is watched lacks nothing: watch again,
    and read what matters anew.
    """


class NodeError(MpregError):
    """A condition of a node that is asked over HTTP. Unless its class says otherwise, nothing was
    done."""

    data_state = "not written"


class NotReadyError(NodeError):
    """The node is still restoring what it knows, or is stopping. Ask again in a moment."""

    passes = True


class PeersUnheardError(NotReadyError):
    """The queue is not at this node, and a peer that may have it was not heard of: for a moment it
    cannot be told whether there is such a queue. Ask again.

    It lasts at most ``peer_patience_seconds`` from the start of the node, or from when the peer was
    lost. Then it is given up, and the node answers by what it knows.
    """


class UnauthorizedError(NodeError):
    """The request has no token, or one that this node does not know."""


class ForbiddenError(NodeError):
    """The token may not do this, or the request comes from a page of another site."""


class TooManyRequestsError(NodeError):
    """More requests, or more that wait at the same time, than the node allows."""

    passes = True


class RequestRefusedError(NodeError):
    """The request cannot be understood or answered as it is. ``status`` is the one of HTTP."""

    def __init__(self, message: str, status: int = 400, allowed: str = "") -> None:
        self.status = status
        self.allowed = allowed
        """The methods that would be taken, where this one is not."""
        super().__init__(message, status, allowed)

    def __str__(self) -> str:
        return str(self.args[0])


class NotANodeError(RequestRefusedError):
    """What has answered is no node: another program on that port, or something on the way.

    A client tells it, by a header that all answers of a node have. ``data_state`` is "unknown"
    where it was told a success, or that something failed on the way: a proxy that drops the header
    may have passed the request on.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.args = (message, status)
        # 501: whoever said so knows no such request, and has passed on none.
        if status < 300 or (status >= 500 and status != 501):
            vars(self)["data_state"] = "unknown"


class NotFoundError(NodeError, LookupError):
    """Nothing is there under this address: no such key, or no such route."""

    data_state = "unchanged"


class IdempotencyKeyReusedError(NodeError):
    """The ``Idempotency-Key`` came with another request before. Each write takes a new one."""


class WriteInterruptedError(NodeError):
    """A write with this ``Idempotency-Key`` was begun before, and the node ended in its midst:
    nothing of it was done, or some, or all. It is not made again, because what has come since
    would be met as well. Look what is there, and ask anew with another key."""

    data_state = "unknown"


class UnexpectedError(NodeError):
    """Something that nobody thought of. The log of the node has it, under the id that is told."""

    data_state = "unknown"


class NodeUnreachableError(NodeError):
    """The node gave no answer for as long as the caller was patient; ``__cause__`` is what came
    last.

    Where ``may_have_been_made``, the request has perhaps reached it and was carried out, and
    ``data_state`` is "unknown". Else it has certainly not been carried out.
    """

    data_state = "unknown"
    passes = True

    def __init__(self, message: str, may_have_been_made: bool) -> None:
        self.may_have_been_made = may_have_been_made
        if not may_have_been_made:
            vars(self)["data_state"] = "not written"
        super().__init__(message, may_have_been_made)

    def __str__(self) -> str:
        made = "may have been" if self.may_have_been_made else "was certainly not"
        return f"{self.args[0]}; the request {made} carried out"


class PeerUnreachableError(NodeUnreachableError):
    """The queue is at another node, which is away, or gave no answer to the node that was asked.

    You get it instead of `QueueNotFoundError` where it is known that the queue is elsewhere. Ask
    again: a write with the same ``Idempotency-Key``.
    """


class ForwardingLoopError(NodeError):
    """Each of some nodes takes another one of them for the one that has the queue, or the way to it
    is too long. It passes where a queue was just deleted or moved; else their peers are wrong."""


class QueueError(MpregError):
    """A condition of the message queues. A second argument is the call that helps."""

    @property
    def without_call(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))


class QueueNotFoundError(QueueError, LookupError):
    """There is no queue, or no subscription, of this name. Names are told with it."""


class QueueDeletedError(QueueError):
    """The queue was deleted. What was sent to it, and what it had handed out, is gone with it."""

    data_state = "deleted"


class QueueFullError(QueueError):
    """The queue holds as many messages, or bytes, as it may. Nothing was sent, nothing recorded.

    ``send(..., wait_seconds=…)`` waits for room instead.
    """

    data_state = "not written"


class LeaseLostError(QueueError):
    """The message is not this delivery's any more: an ack, nack or extend came too late, or twice.

    Its lease ran out, it was settled already, it was handed out again, or the queue was purged.
    Nothing was changed: whoever holds the message now keeps it.
    """


class PersistenceError(MpregError):
    """A condition of the stores, the writer or the data directory."""


class InvalidArgumentError(PersistenceError, ValueError):
    """An argument has the wrong type or shape. Told before anything was sent."""

    data_state = "not written"


class ValueTooLargeError(InvalidArgumentError):
    """A name, key, value or batch is over its limit. Told before anything was sent."""


class TransactionStateError(PersistenceError):
    """A transaction, or an ack of it, was used outside the time in which it means something."""

    data_state = "not written"


class WriterStoppedError(PersistenceError):
    """The writer is not running and will not run again: closed, or its supervisor gave up.

    The write was certainly not made. Where the supervisor gave up, ``__cause__`` is the first
    failure of the series that made it do so.
    """

    data_state = "not written"


class ReaderStoppedError(PersistenceError):
    """The reader is not running and will not run again: closed, or its supervisor gave up."""


class ReadOnlyError(PersistenceError):
    """A write to a directory that was opened to be read only. Nothing was written."""

    data_state = "not written"


class BatchRejectedError(PersistenceError):
    """One batch was refused for a reason of its own; the other batches of its group went on."""

    data_state = "not written"


class VersionConflictError(BatchRejectedError):
    """``expected_version`` did not match. Nothing of the batch was written.

    Read the entry again and decide anew. ``found_version`` is 0 where the key did not exist, and -1
    where what is stored there is damaged.
    """

    def __init__(
        self, namespace: str, key: str | bytes, expected_version: int, found_version: int
    ) -> None:
        self.namespace = namespace
        self.key = key
        self.expected_version = expected_version
        self.found_version = found_version
        super().__init__(namespace, key, expected_version, found_version)

    def __str__(self) -> str:
        return (
            f"key {self.key!r} in namespace {self.namespace!r} has version {self.found_version}, "
            f"expected was {self.expected_version} (0 means: does not exist); nothing was written"
        )


class OffsetOutOfRangeError(BatchRejectedError):
    """An offset lies beyond the end of its log: it cannot be truncated before it, nor followed from
    it. Nothing was written.

    Who follows has seen records that are not in this log: it was deleted, an older copy was put in
    its place, or they were relaxed and lost with the machine.
    """

    def __init__(self, log: str, offset: int, next_offset: int) -> None:
        self.log = log
        self.offset = offset
        self.next_offset = next_offset
        super().__init__(log, offset, next_offset)

    def __str__(self) -> str:
        return (
            f"log {self.log!r} ends at offset {self.next_offset}: offset {self.offset} is beyond "
            "it; nothing was written"
        )


class CommitFailedError(PersistenceError):
    """The commit group was rolled back: certainly not written. It may be sent again."""

    data_state = "rolled back"


class StorageFullError(CommitFailedError):
    """There is no room left on the device. Rolled back: certainly not written.

    Reads go on. Writes work again as soon as there is room; nothing has to be restarted.
    """

    passes = True


class CommitUnknownError(PersistenceError):
    """It cannot be told whether the write is on disk.

    Comes only where the store could not be opened again after a failed commit, or the grace time
    ended while the device still worked; and where the registry closed while an increment of a cache
    was being written. Open the store again and read to learn which it was.
    """

    data_state = "unknown"


class StorageIOError(PersistenceError):
    """The device or its file system failed, or the database could not be used.

    Callers of writes do not see it while the supervisor can still open the store again; they then
    get it as the ``__cause__`` of `WriterStoppedError` or `CommitUnknownError`.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        self.path = path
        super().__init__(message, path)

    def __str__(self) -> str:
        message = str(self.args[0])
        return message if self.path is None else f"{self.path}: {message}"


class CorruptDataError(PersistenceError):
    """Stored bytes are not what was written. They are never returned and never removed.

    ``where`` names the damaged item (namespace and key, log and offset) or is empty where the file
    as a whole is damaged. Restore it from a backup; the rest of the store can still be read.
    """

    may_restart = False

    def __init__(self, message: str, path: Path | None = None, where: str = "") -> None:
        self.message = message
        self.path = path
        self.where = where
        super().__init__(message, path, where)

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.path, self.where, self.message) if part)


class SnapshotNotFoundError(PersistenceError, LookupError):
    """There is no snapshot of this name, or not this version: never saved, dropped or deleted."""

    def __init__(self, name: str, version: int | None = None) -> None:
        self.name = name
        self.version = version
        """None where the newest was asked for, and there is none."""
        which = "has no version" if version is None else f"has no version {version}"
        super().__init__(f"snapshot {name!r} {which}: never saved, or not kept any more")


class AckedDataLostError(PersistenceError):
    """Commits that were acknowledged as durable are not in the store. It was not opened.

    ``first_sequence`` to ``last_sequence`` are missing at least; what was acknowledged in the last
    moment before a crash may be missing beside them. Nothing was changed: copy the directory
    ``path`` away before anything else, then restore it from a backup. To go on without what is
    missing, open it with ``accept_acked_data_loss`` set to ``acceptance``, which names this loss
    and no other one.
    """

    data_state = "acked data is missing"
    may_restart = False

    def __init__(
        self,
        path: Path,
        first_sequence: int,
        last_sequence: int,
        generation: int,
        found_sequence: int | None,
    ) -> None:
        self.path = path
        self.first_sequence = first_sequence
        self.last_sequence = last_sequence
        self.generation = generation
        """Of the writer that gave the last of the acks."""
        self.found_sequence = found_sequence
        """Where the store ends; None where there is none."""
        super().__init__(path, first_sequence, last_sequence, generation, found_sequence)

    @property
    def acceptance(self) -> str:
        return f"{self.generation}/{self.first_sequence}-{self.last_sequence}"

    def __str__(self) -> str:
        found = self.found_sequence
        if found is None:
            what = "there is no store: it was removed or moved away"
        elif found < self.first_sequence:
            what = (
                f"the store ends at commit {found}: its write-ahead log was damaged or left out, "
                "or an older copy was put in its place"
            )
        else:
            what = (
                f"the store, which ends at commit {found}, is another copy: its commits from "
                f"{self.first_sequence} on are not those that were acknowledged"
            )
        return (
            f"{self.path}: commits {self.first_sequence} to {self.last_sequence} were acknowledged "
            f"and are missing; {what}. Nothing was changed. Copy the directory away and restore it "
            f"from a backup, or open it without them by accept_acked_data_loss="
            f"{self.acceptance!r}"
        )


class DataDirectoryError(PersistenceError):
    """The data directory cannot be used as it is. Nothing in it was changed."""

    may_restart = False

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        self.message = message
        super().__init__(path, message)

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class DataDirectoryLockedError(DataDirectoryError):
    """Another registry holds the data directory.

    ``pid`` is its process and ``host`` that one's machine or container, or None where the lock file
    does not say; ``since`` is when it took the directory, in seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        pid: int | None,
        host: str | None = None,
        since: float | None = None,
    ) -> None:
        self.pid = pid
        self.host = host
        self.since = since
        holder = "a process that left no pid" if pid is None else f"the process with pid {pid}"
        holder += "" if host is None else f" on {host}"
        holder += "" if since is None else f" since {_moment(since)}"
        super().__init__(path, f"in use by {holder}; stop it, or use another data directory")

    def __reduce__(self) -> tuple[type[DataDirectoryLockedError], tuple[object, ...]]:
        return (type(self), (self.path, self.pid, self.host, self.since))


def _moment(wall: float) -> str:
    try:
        return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{wall} seconds after 1970"


class DataDirectoryMissingError(DataDirectoryError):
    """There is no such directory, or no store in it, and it was to be read: nothing was made."""


class ForeignDatabaseError(DataDirectoryError):
    """The file at the database's place was not made by mpreg. It was left untouched."""


class ParticipantFailedError(PersistenceError):
    """A hook of a registered subsystem failed; ``__cause__`` is what it raised.

    ``step`` is ``"restore"``: the subsystem is required, as all of mpreg's own are that matter, and
    the registry was not opened; or ``"snapshot"``: it could not save its state when that was asked
    for, and is as it was.
    ``participants`` names it; of snapshots, all that failed.
    """

    may_restart = False

    def __init__(self, step: str, participants: tuple[str, ...], reason: str) -> None:
        self.step = step
        self.participants = participants
        self.reason = reason
        super().__init__(step, participants, reason)

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.participants))
        if self.step == "restore":
            return (
                f"{names} could not be restored: {self.reason}; the store was not opened: mend the "
                "cause, or put back a backup, and open it again"
            )
        return f"no snapshot of {names}: {self.reason}; what was saved before is still there"


class SchemaVersionError(PersistenceError):
    """The data has another schema version than this mpreg can read here. It was left untouched.

    Written by a newer mpreg: upgrade mpreg to open it. Written by an older one, and told by what
    only reads: opening the store to write migrates it.
    """

    may_restart = False

    def __init__(self, path: Path, found_version: int, supported_version: int) -> None:
        self.path = path
        self.found_version = found_version
        self.supported_version = supported_version
        super().__init__(path, found_version, supported_version)

    def __str__(self) -> str:
        found, supported = self.found_version, self.supported_version
        if found < supported:
            return (
                f"{self.path}: schema version {found} is older than version {supported}, which "
                "this mpreg reads; nothing was changed: opening the store to write, as a server "
                f"does, migrates it, and keeps a copy as {self.path.name}.schema-{found}"
            )
        return (
            f"{self.path}: schema version {found} is newer than version {supported}, the newest "
            "this mpreg can read; upgrade mpreg to open it"
        )


class MigrationFailedError(PersistenceError):
    """A database of an older schema could not be migrated to the next version.

    That migration was rolled back, and the store not opened. Where the disk failed while it was
    being committed, it may have been made all the same: one or the other, as a whole. Opening the
    store again goes on from there. ``copy`` is the database as it was before the first migration.
    """

    data_state = "the older schema, or the newer one, as a whole"
    may_restart = False

    def __init__(
        self, path: Path, from_version: int, to_version: int, copy: Path, reason: str
    ) -> None:
        self.path = path
        self.from_version = from_version
        self.to_version = to_version
        self.copy = copy
        self.reason = reason
        super().__init__(path, from_version, to_version, copy, reason)

    def __str__(self) -> str:
        return (
            f"{self.path}: could not be migrated from schema version {self.from_version} to "
            f"{self.to_version}: {self.reason}; that migration was rolled back, and a copy from "
            f"before the first one is kept as {self.copy.name}: mend the cause and open the store "
            "again, or go back to the mpreg before with the copy"
        )
