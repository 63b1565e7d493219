"""One seed's story: several processes, one after the other, on one simulated disk.

Each process opens a registry, checks what it finds against everything ever promised, lets callers
write until they are done, and then ends: in peace, by a cancelled nursery, by a kill or by a power
cut at any step of any task. All the while the disk fails, the wall clock jumps, and callers are
cancelled wherever they happen to wait.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio
from attrs import define, field

from mpreg.errors import (
    BatchRejectedError,
    CommitFailedError,
    CommitUnknownError,
    MailboxFullError,
    ReaderStoppedError,
    StorageIOError,
    WriterStoppedError,
)
from mpreg.persistence import Ack, Durability, PersistenceConfig, PersistenceRegistry
from mpreg.testing import (
    Fault,
    FaultInjector,
    FaultPlan,
    History,
    Mark,
    Part,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
    check_restored,
)
from tests.simulation.marks import Change, decode_note, decode_part, encode_part, replay
from tests.simulation.scenario import cancellable

CALLERS = 7
WRITES_PER_CALLER = 8
PROCESSES_MAX = 4
SHARED_KEYS = ("red", "green", "blue")

FAULTS = FaultPlan(
    probabilities={
        Fault.COMMIT_LOST: 0.04,
        Fault.COMMIT_UNTOLD: 0.04,
        Fault.ROLLED_BACK: 0.03,
        Fault.DISK_FULL: 0.02,
        Fault.SLOW_COMMIT: 0.03,
        Fault.OPEN_FAILS: 0.1,
        Fault.READ_FAILS: 0.01,
        Fault.CLOSE_FAILS: 0.05,
    },
    commit_seconds_max=0.01,
)

BackendClass = type[SimulatedBackend]


@define(eq=False)
class Story:
    """Made for a seed, told once by `tell`."""

    seed: int
    backend_class: BackendClass = SimulatedBackend
    plan: FaultPlan = FAULTS
    trace_steps: bool = False
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(init=False)
    faults: FaultInjector = field(init=False)
    history: History = field(factory=History, init=False)
    counts: Counter[str] = field(factory=Counter, init=False)
    random: Random = field(init=False)
    power_cut: bool = field(default=False, init=False)
    """Since the last time that the store was checked."""
    answers: dict[Mark, int] = field(factory=dict, init=False)
    """Offset or version, as acked."""
    scopes: list[anyio.CancelScope] = field(factory=list, init=False)
    """Of the writes under way, for whoever cancels at random."""
    serving: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed, trace_steps=self.trace_steps)
        self.disk = SimulatedDisk(self.simulation.stream("disk"))
        self.faults = FaultInjector(
            self.plan, self.simulation.stream("faults"), self.simulation.record
        )
        self.random = self.simulation.stream("callers")

    def tell(self) -> Story:
        for _ in range(self.random.randint(1, PROCESSES_MAX)):
            self._live()
        self.faults.heal()
        self.simulation.record("the last process: everything works")
        self.simulation.run(self._process, False)
        assert not self.simulation.crashed
        assert self.disk.complaints == []
        return self

    def count(self, what: str) -> None:
        self.counts[what] += 1

    # --- processes ---

    def _live(self) -> None:
        crash_at_step = None
        on_crash = self.disk.kill_process
        if self.random.random() < 0.7:
            # As likely among the first steps as among the many later ones.
            crash_at_step = int(math.exp(self.random.uniform(0, math.log(1_000))))
            if self.random.random() < 0.7:
                on_crash = self._cut_power
        self.simulation.run(self._process, True, crash_at_step=crash_at_step, on_crash=on_crash)
        self.count("crashes" if self.simulation.crashed else "processes that ended by themselves")

    def _cut_power(self) -> None:
        self.disk.cut_power()
        self.power_cut = True
        self.count("power cuts")

    async def _process(self, with_callers: bool) -> None:
        self.serving = True
        registry = PersistenceRegistry(
            self._config(),
            backend=self.backend_class(self.disk, self.faults),
            clock=self.simulation.clock,
        )
        try:
            await (self._in_block if self.random.random() < 0.6 else self._in_nursery)(
                registry, with_callers
            )
        except* (StorageIOError, ReaderStoppedError) as group:
            # The disk failed at opening, at closing, or more often than the supervisor allows.
            assert with_callers, "it failed, though nothing is broken any more"
            self.simulation.record(f"process ended by {group.exceptions[0]!r}")
            self.count("processes ended by the disk")

    def _config(self) -> PersistenceConfig:
        pick = self.random.choice
        return PersistenceConfig(
            backend="memory",
            switch_interval_seconds=None,
            mailbox_batches_max=pick([1, 4, 16, 1_000]),
            mailbox_bytes_max=pick([1, 500, 1_000_000]),
            group_batches_max=pick([1, 3, 1_000]),
            group_bytes_max=pick([300, 1_000_000]),
            grace_seconds=pick([0.0, 0.02, 20.0]),
            restarts_max=pick([1, 6]),
        )

    async def _in_block(self, registry: PersistenceRegistry, with_callers: bool) -> None:
        async with registry:
            await self._check(registry)
            if with_callers:
                await self._let_write(registry)
        await self._note_end(registry)

    async def _in_nursery(self, registry: PersistenceRegistry, with_callers: bool) -> None:
        """The callers are outside the nursery that is cancelled: all must be answered."""
        async with anyio.create_task_group() as callers:
            async with anyio.create_task_group() as server:
                await server.start(registry.serve)
                await self._check(registry)
                if with_callers:
                    callers.start_soon(self._let_write, registry)
                    await anyio.sleep(self.random.expovariate(10))
                self.simulation.record("nursery cancelled")
                server.cancel_scope.cancel()
            self.serving = False
            await self._note_end(registry)

    async def _note_end(self, registry: PersistenceRegistry) -> None:
        stats = await registry.stats()
        assert stats.mailbox_depth == stats.mailbox_bytes == stats.waiting_senders == 0
        self.counts["writer restarts"] += stats.writer_restarts
        self.counts["reader restarts"] += stats.reader_restarts

    # --- what must be true ---

    async def _check(self, registry: PersistenceRegistry) -> None:
        """Compare what is found with all that was promised, and settle on it."""
        log = [item async for item in registry.log_store("log").read_range()]
        audit = [item async for item in registry.log_store("audit").read_range()]
        unique = [item async for item in registry.key_value_store("unique").scan()]
        shared = [item async for item in registry.key_value_store("shared").scan()]
        unique.sort(key=lambda entry: entry.version)
        stores = {
            "log": [decode_part(item.data) for item in log],
            "audit": [decode_part(item.data) for item in audit],
            "unique": [decode_part(entry.value) for entry in unique],
        }
        check_restored(self.history, stores, power_cut=self.power_cut)
        for items in (log, audit):
            assert [item.offset for item in items] == list(range(len(items)))
        changes = [Change.decode(decode_note(item.data)) for item in audit]
        assert {entry.key: entry.value.decode() for entry in shared} == replay(changes)
        found = {decode_part(item.data): item.offset for item in log}
        found |= {decode_part(entry.value): entry.version for entry in unique}
        for mark, answer in self.answers.items():
            place = found.get(Part(mark, 0))
            assert place is None or place == answer, f"{mark}: acked as {answer}, is at {place}"
        self.history.settle(stores)
        self.power_cut = False
        self.count("checks")
        self.simulation.record(f"checked: {len(self.history)} sent, {len(found)} found")

    # --- callers ---

    async def _let_write(self, registry: PersistenceRegistry) -> None:
        async with anyio.create_task_group() as upkeep:
            upkeep.start_soon(self._meddle)
            upkeep.start_soon(self._read, registry)
            async with anyio.create_task_group() as callers:
                for number in range(CALLERS):
                    callers.start_soon(_Caller(self, registry, number).write)
            upkeep.cancel_scope.cancel()

    async def _meddle(self) -> None:
        """Cancel a write that is under way, or set the clock wrong, every now and then.

        Not after the server's end: whoever waits then must be answered, and not be helped out.
        """
        while self.serving:
            await anyio.sleep(self.random.expovariate(60))
            if self.scopes and self.random.random() < 0.5:
                self.random.choice(self.scopes).cancel()
                self.count("cancellations")
            elif self.random.random() < 0.2:
                self.simulation.clock.jump(self.random.uniform(-100, 100))

    async def _read(self, registry: PersistenceRegistry) -> None:
        """Read while the others write: nothing expired is seen, nothing goes backwards."""
        clock = self.simulation.clock
        last_offset = 0
        try:
            while True:
                await anyio.sleep(self.random.expovariate(100))
                async for entry in registry.key_value_store("expiring").scan():
                    assert entry.expires_at is not None
                    assert entry.expires_at > clock.wall()
                next_offset = await registry.log_store("log").next_offset()
                assert next_offset >= last_offset
                last_offset = next_offset
        except ReaderStoppedError:
            return


@define(eq=False)
class _Caller:
    """Writes one batch after the other, of every kind that there is."""

    story: Story
    registry: PersistenceRegistry
    number: int

    async def write(self) -> None:
        story = self.story
        kinds = [
            self._append,
            self._append_many,
            self._put,
            self._transaction,
            self._change,
            self._change,
            self._nowait,
            self._rejected,
        ]
        for _ in range(WRITES_PER_CALLER):
            if story.random.random() < 0.3:
                await anyio.sleep(story.random.expovariate(100))
            try:
                await story.random.choice(kinds)()
            except (WriterStoppedError, ReaderStoppedError):
                story.count("writes to a stopped registry")
                return

    # --- kinds of writes ---

    async def _append(self) -> None:
        mark, durability = self._new(1)
        log = self.registry.log_store("log")
        await self._send(mark, durability, log.append, encode_part(mark, 0))

    async def _append_many(self) -> None:
        mark, durability = self._new(parts := self.story.random.randint(1, 5))
        log = self.registry.log_store("log")
        records = [encode_part(mark, index) for index in range(parts)]
        await self._send(mark, durability, log.append_many, records)

    async def _put(self) -> None:
        mark, durability = self._new(1)
        unique = self.registry.key_value_store("unique")
        await self._send(mark, durability, unique.put, f"{mark}", encode_part(mark, 0))

    async def _rejected(self) -> None:
        """A condition that cannot hold: certainly refused, and nobody else in its group is."""
        mark, durability = self._new(1)
        unique = self.registry.key_value_store("unique")
        impossible = 1 << 50
        await self._send(
            mark, durability, unique.put, "x", encode_part(mark, 0), expected_version=impossible
        )

    async def _nowait(self) -> None:
        """Send several at once; await their acks later, twice, or never."""
        acks: list[tuple[Mark, Durability, Ack[int]]] = []
        log = self.registry.log_store("log")
        for _ in range(self.story.random.randint(1, 4)):
            mark, durability = self._new(1)
            try:
                ack = log.append_nowait(encode_part(mark, 0), durability=durability)
            except MailboxFullError:
                self._refused(mark, "mailbox full")
            except WriterStoppedError:
                self._refused(mark, "writer stopped")
                raise
            else:
                acks.append((mark, durability, ack))
        for mark, durability, ack in acks:
            await self._hear(mark, durability, ack.wait)
            if ack.done and self.story.random.random() < 0.2:
                await self._hear(mark, durability, ack.wait)

    async def _transaction(self) -> None:
        mark, durability = self._new(4)
        log, unique, expiring = self._stores("log", "unique", "expiring")

        async def commit() -> None:
            async with self.registry.transaction(durability=durability) as tx:
                log.append_nowait(encode_part(mark, 0), transaction=tx)
                await anyio.sleep(0)
                unique.put_nowait(f"{mark} 1", encode_part(mark, 1), transaction=tx)
                seconds = self.story.random.expovariate(1)
                expiring.put_nowait(f"{mark}", b"", ttl_seconds=seconds, transaction=tx)
                log.append_many_nowait([encode_part(mark, 2), encode_part(mark, 3)], transaction=tx)

        await self._hear(mark, durability, commit)

    async def _change(self) -> None:
        """Change a shared key and write that into the audit log, often on a condition."""
        random = self.story.random
        shared, audit = self._stores("shared", "audit")
        key = random.choice(SHARED_KEYS)
        seen = await shared.get(key) if random.random() < 0.7 else None
        conditional = seen is not None or random.random() < 0.1
        mark, durability = self._new(1)
        change = Change(
            key,
            "" if random.random() < 0.3 else f"{mark.caller}-{mark.number}",
            None if not conditional else "" if seen is None else seen.value.decode(),
        )
        expected = None if not conditional else 0 if seen is None else seen.version

        async def commit() -> None:
            async with self.registry.transaction(durability=durability) as tx:
                audit.append_nowait(encode_part(mark, 0, change.encode()), transaction=tx)
                if change.value:
                    value = change.value.encode()
                    shared.put_nowait(key, value, expected_version=expected, transaction=tx)
                else:
                    shared.delete_nowait(key, expected_version=expected, transaction=tx)

        await self._hear(mark, durability, commit)

    # --- answers ---

    def _stores(self, *names: str) -> Any:
        logs = ("log", "audit")
        return [
            self.registry.log_store(name) if name in logs else self.registry.key_value_store(name)
            for name in names
        ]

    def _new(self, parts: int) -> tuple[Mark, Durability]:
        relaxed = self.story.random.random() < 0.4
        mark = self.story.history.send(self.number, parts)
        return mark, Durability.RELAXED if relaxed else Durability.DURABLE

    async def _send(
        self,
        mark: Mark,
        durability: Durability,
        write: Callable[..., Awaitable[int]],
        *arguments: Any,
        **options: Any,
    ) -> None:
        await self._hear(
            mark, durability, lambda: write(*arguments, durability=durability, **options)
        )

    async def _hear(
        self, mark: Mark, durability: Durability, answer: Callable[[], Awaitable[int | None]]
    ) -> None:
        """Await an answer and note what it says; perhaps be cancelled before."""
        try:
            with cancellable(self.story.scopes):
                answered = await answer()
                self._acked(mark, durability, answered)
        except BatchRejectedError:
            self._refused(mark, "rejected")
        except CommitFailedError as error:
            self._refused(mark, type(error).__name__)
        except CommitUnknownError:
            self.story.simulation.record(f"{mark} unknown")
            self.story.count("unknown")
        except WriterStoppedError:
            self._refused(mark, "writer stopped")
            raise

    def _acked(self, mark: Mark, durability: Durability, answer: int | None) -> None:
        story = self.story
        if story.simulation.crashed:
            return
        story.history.ack(mark, durable=durability is Durability.DURABLE)
        if answer is not None:
            story.answers[mark] = answer
        story.simulation.record(f"{mark} {durability.value} acked: {answer}")
        story.count(f"{durability.value} acks")

    def _refused(self, mark: Mark, why: str) -> None:
        if self.story.simulation.crashed:
            return
        self.story.history.refuse(mark)
        self.story.simulation.record(f"{mark} refused: {why}")
        self.story.count(why)
