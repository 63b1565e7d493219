"""Groups of random operations through a session of the file backend, and the state after each."""

from __future__ import annotations

import contextlib
import pickle
import random
from pathlib import Path

from attrs import define, field

from mpreg.actors import Ack
from mpreg.errors import PersistenceError
from mpreg.persistence import Durability
from mpreg.persistence.backend import ReadRecords, RecordsPage, ScanEntries, ScanPage
from mpreg.persistence.backends.file import FileOptions
from mpreg.persistence.backends.file.files import FileSystem, OperatingSystem
from mpreg.persistence.backends.file.session import FileSession
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.batch import WriteBatch
from mpreg.persistence.commit_group import CommitGroup, plan_group
from mpreg.persistence.operations import (
    Append,
    Delete,
    DeleteLog,
    Operation,
    Put,
    SweepExpired,
    TruncateBefore,
)

__all__ = ["DURABLE", "OPTIONS", "RELAXED", "SOMEWHERE", "State", "Story", "options", "state_of"]

DURABLE, RELAXED = Durability.DURABLE, Durability.RELAXED
NAMESPACES = (b"m", b"n")
LOGS = (b"k", b"l")


def options(segment_bytes: int) -> FileOptions:
    return FileOptions(journal_segment_bytes=segment_bytes, busy_timeout_seconds=0.0)


#: Segments and snapshots come every few commits, so that cuts fall into them too.
OPTIONS = options(700)
SOMEWHERE = Path("/simulated")

State = tuple[object, ...]


def state_of(state: MemoryState) -> State:
    """Everything in it, as a reader sees it, and what it will give next."""
    found: list[object] = [state.last_version]
    for namespace in NAMESPACES:
        page = state.read(ScanEntries(namespace, b"", None))
        assert isinstance(page, ScanPage)
        assert page.next_start is None
        found.append(page.entries)
        found.append(state.expired_entries(namespace, 1e9, 1_000, without=()))
    for log in LOGS:
        records = state.read(ReadRecords(log, 0, None))
        assert isinstance(records, RecordsPage)
        assert records.next_start is None
        found += (records.records, state.log_bounds(log))
    return tuple(found)


@define
class Story:
    """What was sent, and what was acked, over the lives of several processes."""

    luck: random.Random
    states: list[State] = field(factory=lambda: [state_of(MemoryState())])
    """After each commit. The last one may not have been acked."""
    durable: int = 0
    """Up to where commits were acked as durable, or reported by an opening."""
    acked: int = 0
    values: tuple[int, ...] = (0, 10, 300)

    def open(
        self,
        files: FileSystem | None = None,
        directory: Path = SOMEWHERE,
        options: FileOptions = OPTIONS,
    ) -> FileSession:
        """Open what is there, and hold it against what was told."""
        session = FileSession.open(directory, options, files or OperatingSystem())
        sequence = session.opened.commit_sequence
        assert self.durable <= sequence < len(self.states)
        assert state_of(session.state) == self.states[sequence]
        del self.states[sequence + 1 :]
        self.durable = self.acked = sequence
        return session

    def commit(self, session: FileSession, durability: Durability | None = None) -> None:
        """One group; the state after it is noted before it is acked."""
        if durability is None:
            durability = self.luck.choice([DURABLE, DURABLE, RELAXED])
        operations = self._operations(session.state)
        batch = WriteBatch.of(operations, tuple(Ack[object]() for _ in operations), durability)
        number = session.opened.commit_sequence + 1
        assert number == self.acked + 1
        group = CommitGroup(number, 1_000.0, (batch,))
        self.states[number:] = [_state_after(group, session.state)]
        plan = session.commit(group)
        assert plan.accepted
        session.apply(plan)
        assert state_of(session.state) == self.states[number]
        self.acked = number
        if durability is DURABLE:
            self.durable = number
        self.keep_up(session)

    def keep_up(self, session: FileSession) -> None:
        """What the writer does between two groups. Of a failure the next commit tells."""
        if (step := session.upkeep_due) is not None:
            with contextlib.suppress(PersistenceError):
                session.upkeep(step)

    def _operations(self, state: MemoryState) -> tuple[Operation, ...]:
        return tuple(self._operation(state) for _ in range(self.luck.randint(1, 4)))

    def _operation(self, state: MemoryState) -> Operation:
        luck = self.luck
        namespace, log = luck.choice(NAMESPACES), luck.choice(LOGS)
        key = b"\x01key%d" % luck.randrange(12)
        value = luck.randbytes(luck.choice(self.values))
        kinds = ["put"] * 4 + ["delete", "sweep", "append", "append", "append", "truncate", "drop"]
        match luck.choice(kinds):
            case "put":
                return Put(namespace, key, value, luck.choice([None, None, 500.0, 2_000.0]))
            case "delete":
                return Delete(namespace, key)
            case "sweep":
                return SweepExpired(namespace, 3)
            case "append":
                return Append(log, (value, value[:1]))
            case "truncate":
                return TruncateBefore(log, luck.randint(*state.log_bounds(log)))
            case _:
                return DeleteLog(log)


def _state_after(group: CommitGroup, state: MemoryState) -> State:
    """What a group will make of a state: worked out on a copy of it."""
    # Ten times as fast as `copy.deepcopy`, which was half of the time of all stories.
    copied: MemoryState = pickle.loads(pickle.dumps(state))
    copied.thaw()
    copied.carry_out(plan_group(group, copied))
    return state_of(copied)
