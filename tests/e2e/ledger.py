"""acked ⊆ restored ⊆ sent: what the writer told, held against what is found after it died.

A caller sends one write (a pipelining one `PIPELINE`) before it waits for the ack, and tells the
ack before it sends the next. So what it may have sent is known without being told: everything up
to its last told number, and at most that many after it.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import anyio
from attrs import define, field, frozen

from mpreg.persistence import Entry, PersistenceConfig, PersistenceRegistry
from tests.e2e.programs.writer import (
    AUDIT,
    CALLERS,
    COUNTS,
    HISTORY,
    PIPED,
    PIPELINE,
    SHARED,
    THINGS,
    number_in,
    value_of,
)

__all__ = ["Found", "Ledger", "read_found"]

Caller = tuple[str, int]


@frozen
class Found:
    """Everything in the directory."""

    things: dict[str | bytes, Entry]
    counts: dict[str | bytes, Entry]
    logs: dict[str, list[bytes]]


async def _read(data_dir: Path, backend: str) -> Found:
    config = PersistenceConfig(data_dir=data_dir, backend=backend)
    async with PersistenceRegistry(config) as registry:
        things = {entry.key: entry async for entry in registry.key_value_store(THINGS).scan()}
        counts = {entry.key: entry async for entry in registry.key_value_store(COUNTS).scan()}
        logs = {}
        for name in (AUDIT, HISTORY, PIPED):
            records = [record async for record in registry.log_store(name).read_range()]
            offsets = [record.offset for record in records]
            assert list(range(len(records))) == offsets, "a log has a gap"
            logs[name] = [record.data for record in records]
    return Found(things, counts, logs)


def read_found(loop: str, data_dir: Path, backend: str) -> Found:
    """Open the directory, read all of it, close it."""
    return anyio.run(_read, data_dir, backend, backend=loop)


@define
class Ledger:
    """What was told in all lives, and what each restore found."""

    numbers: dict[Caller, int] = field(factory=lambda: defaultdict(int))
    """The last number of each caller that is known to be committed: told, or found."""
    versions: dict[Caller, int] = field(factory=dict)
    """The version that went with it, where it was told or found."""
    records: dict[str, dict[int, bytes]] = field(factory=lambda: defaultdict(dict))
    """Records told to be at an offset, by log."""
    version_floor: int = 0
    """The highest version known before this life began."""
    version_told: int = 0
    told: int = 0
    conflicts_seen: set[int] = field(factory=set)
    """Numbers of the shared counter that were told: each may be won once."""

    def note(self, line: str) -> None:
        """An ack, as the writer told it."""
        if line == "starting":
            return
        kind, *rest = line.split(" ")
        caller, number, place = map(int, rest)
        who = (kind, 0 if kind == "compete" else caller)
        self.told += 1
        if kind == "compete":
            assert number not in self.conflicts_seen, f"two callers both won number {number}"
            self.conflicts_seen.add(number)
            # Told by several callers, so not always in the order of the commits.
            self._note_version(place)
            if number > self.numbers[who]:
                self.numbers[who] = number
                self.versions[who] = place
            return
        assert number == self.numbers[who] + 1, f"{line!r} does not follow {self.numbers[who]}"
        self.numbers[who] = number
        value = value_of(kind, caller, number)
        if kind == "tx":
            self._note_record(AUDIT, place, value)
            self._note_record(AUDIT, place + 1, value)
        elif kind == "pipe":
            self._note_record(PIPED, place, value)
        else:
            assert place > self.versions.get(who, 0), f"{line!r}: the version went back"
            self._note_version(place)
            self.versions[who] = place

    def _note_version(self, version: int) -> None:
        assert version > self.version_floor, f"version {version} was given before"
        self.version_told = max(self.version_told, version)

    def _note_record(self, log: str, offset: int, value: bytes) -> None:
        assert offset not in self.records[log], f"offset {offset} of {log} was given before"
        self.records[log][offset] = value

    def check(self, found: Found) -> None:
        """Hold a restored state against what was told, and go on from it."""
        for caller in range(CALLERS):
            self._check_key(("put", caller), found.things.get(f"put-{caller}"))
            self._check_key(("relaxed", caller), found.things.get(f"relaxed-{caller}"))
            self._check_flip(caller, found)
            self._check_transaction(caller, found)
            self._check_records(("pipe", caller), found.logs[PIPED], sent_ahead=PIPELINE)
        self._check_shared(found)
        self._check_told_records(found)
        self._check_versions(found)

    def _check_number(self, who: Caller, number: int, *, sent_ahead: int = 1) -> None:
        told = self.numbers[who]
        assert number >= told, f"{who}: {told} was acked, only {number} is there"
        assert number <= told + sent_ahead, f"{who}: {number} is there, it was never sent"
        if number > told:
            self.versions.pop(who, None)
        self.numbers[who] = number

    def _check_key(self, who: Caller, entry: Entry | None) -> None:
        kind, caller = who
        number = 0 if entry is None else number_in(entry.value)
        self._check_number(who, number)
        if entry is not None:
            assert value_of(kind, caller, number) == entry.value
            assert self.versions.get(who, entry.version) == entry.version
            self.versions[who] = entry.version

    def _check_flip(self, caller: int, found: Found) -> None:
        self._check_key(("flip", caller), found.counts.get(f"flip-{caller}"))
        number = self.numbers["flip", caller]
        entry = found.things.get(f"flip-{caller}")
        expected = value_of("flip", caller, number) if number % 2 else None
        assert expected == (None if entry is None else entry.value), "a batch is torn"

    def _check_transaction(self, caller: int, found: Found) -> None:
        one, other = found.things.get(f"tx-{caller}"), found.counts.get(f"tx-{caller}")
        assert (one and one.value) == (other and other.value), "a batch is torn"
        number = 0 if one is None else number_in(one.value)
        own = [
            (offset, data)
            for offset, data in enumerate(found.logs[AUDIT])
            if data.startswith(b"tx %d " % caller)
        ]
        expected = [value_of("tx", caller, n) for n in range(1, number + 1) for _ in range(2)]
        assert expected == [data for _, data in own], "a batch is torn, or out of order"
        assert all(b[0] == a[0] + 1 for a, b in zip(own[::2], own[1::2], strict=True))
        self._check_number(("tx", caller), number)

    def _check_records(self, who: Caller, log: list[bytes], *, sent_ahead: int) -> None:
        kind, caller = who
        own = [data for data in log if data.startswith(f"{kind} {caller} ".encode())]
        assert [value_of(kind, caller, n) for n in range(1, len(own) + 1)] == own, "out of order"
        self._check_number(who, len(own), sent_ahead=sent_ahead)

    def _check_shared(self, found: Found) -> None:
        entry = found.counts.get(SHARED)
        number = 0 if entry is None else number_in(entry.value)
        assert [value_of("compete", 0, n) for n in range(1, number + 1)] == found.logs[HISTORY]
        # Each caller may have won once without telling it.
        self._check_number(("compete", 0), number, sent_ahead=CALLERS)
        if entry is not None:
            assert self.versions.get(("compete", 0), entry.version) == entry.version

    def _check_told_records(self, found: Found) -> None:
        for log, told in self.records.items():
            data = found.logs[log]
            wrong = [at for at, value in told.items() if at >= len(data) or data[at] != value]
            assert wrong == [], f"acked records of {log} are not at their offsets"
        # What nobody told is committed all the same: its offset is taken, too.
        for log in (AUDIT, PIPED):
            self.records[log] = dict(enumerate(found.logs[log]))

    def _check_versions(self, found: Found) -> None:
        versions = [entry.version for entry in (*found.things.values(), *found.counts.values())]
        assert len(versions) == len(set(versions)), "two entries have one version"
        self.version_floor = max([self.version_floor, self.version_told, *versions])
