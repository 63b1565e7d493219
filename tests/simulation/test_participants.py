"""Participants under seeded schedules and virtual time: progress, hooks that take long, crashes."""

from __future__ import annotations

import logging

import anyio
import pytest

from mpreg.persistence import (
    CommitUnknownError,
    Participant,
    ParticipantState,
    PersistenceRegistry,
    RegistryStatistics,
    ReportProgress,
    StorageIOError,
    WriterStoppedError,
)
from mpreg.testing import (
    Fault,
    FaultInjector,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
)
from tests.simulation.scenario import every_schedule, make_config

ITEMS = 20


def test_the_log_tells_of_a_long_restore_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mpreg.persistence")
    stats = Simulation(0).run(_restore_slowly)
    assert stats is not None
    said = [line for line in caplog.messages if line.startswith("slow: restored") and "of" in line]
    assert said == [f"slow: restored {number} of 40 things" for number in (8, 16, 24, 32)]
    assert stats.restore_seconds == pytest.approx(5.0)
    assert stats.participants[0].restore_seconds == pytest.approx(5.0)


async def _restore_slowly() -> RegistryStatistics:

    async def restore(report: ReportProgress) -> None:
        for number in range(40):
            report(number, 40, "things")
            await anyio.sleep(0.125)

    registry = PersistenceRegistry(make_config())
    registry.register(Participant(name="slow", restore=restore))
    async with registry:
        return await registry.stats()


@every_schedule
async def test_a_cancelled_nursery_waits_for_each_hook_for_its_time_and_no_longer(
    simulation: Simulation,
) -> None:
    async def take(seconds: float) -> None:
        await anyio.sleep(seconds)
        await store.put("done", b"")

    registry = PersistenceRegistry(make_config())
    store = registry.key_value_store("s")
    registry.register(
        Participant(name="slow", before_close=lambda: take(3.0), close_seconds_max=4.0)
    )
    registry.register(
        Participant(name="hangs", before_close=anyio.sleep_forever, close_seconds_max=2.0)
    )
    async with anyio.create_task_group() as server:
        await server.start(registry.serve)
        cancelled_at = anyio.current_time()
        server.cancel_scope.cancel()
    assert anyio.current_time() - cancelled_at == pytest.approx(5.0)
    slow, hangs = (await registry.stats()).participants
    assert (slow.state, slow.error) == (ParticipantState.CLOSED, None)
    assert slow.close_seconds == pytest.approx(3.0)
    assert isinstance(hangs.error, TimeoutError)


@every_schedule
async def test_where_the_writer_gives_up_the_last_hooks_are_told_and_the_first_cause_comes_out(
    simulation: Simulation,
) -> None:
    faults = FaultInjector()
    registry = PersistenceRegistry(
        make_config(restarts_max=0), backend=SimulatedBackend(SimulatedDisk(), faults)
    )
    store, met = registry.key_value_store("s"), []

    async def close() -> None:
        with pytest.raises(WriterStoppedError) as caught:
            await store.put("k", b"")
        met.append(caught.value)

    registry.register(Participant(name="one", before_close=close))
    with pytest.raises(StorageIOError):  # noqa: PT012
        async with registry:
            faults.order(Fault.COMMIT_LOST)
            with pytest.raises(CommitUnknownError):
                await store.put("k", b"")
            await anyio.sleep_forever()
    assert len(met) == 1


class Ledger:
    """A subsystem whose state is in memory, with a log of its changes and a snapshot of it all."""

    def __init__(self, registry: PersistenceRegistry) -> None:
        self.items: list[str] = []
        self._log = registry.log_store("changes")
        self._snapshots = registry.snapshot_store("ledger")
        registry.register(
            Participant(
                name="ledger",
                restore=self._restore,
                snapshot=self._save,
                before_close=self._close,
            )
        )
        self.closed = False

    async def add(self, item: str) -> None:
        await self._log.append(item.encode())
        self.items.append(item)

    async def _restore(self, report: ReportProgress) -> None:
        snapshot = await self._snapshots.load()
        if snapshot is not None:
            self.items = snapshot.data.decode().split()
        async for record in self._log.read_range(len(self.items)):
            self.items.append(record.data.decode())
            report(len(self.items), unit="items")

    async def _save(self) -> None:
        items = list(self.items)
        await self._snapshots.save(" ".join(items).encode())
        await self._log.truncate_before(len(items))

    async def _close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_moment_of_a_crash_what_was_acked_is_restored(seed: int) -> None:
    simulation = Simulation(seed)
    luck = simulation.stream("story")
    disk = SimulatedDisk(simulation.stream("disk"))
    acked: list[str] = []
    sent: list[str] = []

    async def live(life: int) -> None:
        registry = PersistenceRegistry(
            make_config(), backend=SimulatedBackend(disk), clock=simulation.clock
        )
        ledger = Ledger(registry)
        async with registry:
            check(ledger)
            for number in range(ITEMS):
                item = f"{life}/{number}"
                sent.append(item)
                await ledger.add(item)
                acked.append(item)
                if luck.random() < 0.2:
                    await registry.save_snapshots()
        assert ledger.closed

    def check(ledger: Ledger) -> None:
        found = ledger.items
        assert found[: len(acked)] == acked
        assert found == sent[: len(found)]
        acked[:], sent[:] = found, list(found)

    for life in range(6):
        crash = luck.randint(1, 1_500) if luck.random() < 0.8 else None
        simulation.run(live, life, crash_at_step=crash, on_crash=disk.cut_power)
