"""Subsystems that take part in the life of a registry: restored, saved, closed, and named."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import define, field

from mpreg.persistence import (
    ConfigurationError,
    DataDirectoryLockedError,
    Participant,
    ParticipantFailedError,
    ParticipantState,
    ParticipantStatistics,
    PersistenceRegistry,
    ReportProgress,
    RestoreOrder,
    WriterStoppedError,
)
from tests.integration.support import registry
from tests.loops import await_what_others_cancelled

pytestmark = pytest.mark.anyio


class BrokenError(Exception):
    """Raised by a hook."""


@define
class Diary:
    """What the hooks were called for, in order."""

    lines: list[str] = field(factory=list)

    def participant(
        self, name: str, *, order: int = RestoreOrder.LATER, **more: Any
    ) -> Participant:
        async def restore(_: ReportProgress) -> None:
            self.lines.append(f"{name} restored")

        hooks: dict[str, Any] = {
            "restore": restore,
            "snapshot": self.noting(f"{name} saved"),
            "before_close": self.noting(f"{name} closed"),
        }
        return Participant(name=name, order=order, **(hooks | more))

    def noting(self, line: str) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            await anyio.lowlevel.checkpoint()
            self.lines.append(line)

        return note


@pytest.fixture
def diary() -> Diary:
    return Diary()


async def fail(*_: object) -> None:
    await anyio.lowlevel.checkpoint()
    raise BrokenError("mine")


async def hang(*_: object) -> None:
    await anyio.sleep_forever()


async def told(opened: PersistenceRegistry, name: str) -> ParticipantStatistics:
    return next(one for one in (await opened.stats()).participants if one.name == name)


# --- in order ---


async def test_all_are_restored_in_their_order_before_the_block_and_closed_in_reverse(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("later"))
    opened.register(diary.participant("catalog", order=RestoreOrder.CATALOG))
    opened.register(diary.participant("queues", order=RestoreOrder.QUEUES))
    opened.register(diary.participant("cache", order=RestoreOrder.CACHE))
    opened.register(diary.participant("routes", order=RestoreOrder.ROUTES))
    opened.register(diary.participant("later still"))
    opened.register(diary.participant("first of all", order=-1))
    order = ["first of all", "queues", "cache", "routes", "catalog", "later", "later still"]
    async with opened:
        assert diary.lines == [f"{name} restored" for name in order]
        assert [one.name for one in (await opened.stats()).participants] == order
        diary.lines.clear()
    assert diary.lines == [
        *(f"{name} saved" for name in order),
        *(f"{name} closed" for name in reversed(order)),
    ]


async def test_in_a_nursery_all_are_restored_before_it_has_started(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("one"))
    async with anyio.create_task_group() as task_group:
        await task_group.start(opened.serve)
        assert diary.lines == ["one restored"]
        task_group.cancel_scope.cancel()
    assert diary.lines == ["one restored", "one saved", "one closed"]


async def test_the_stores_can_be_used_by_all_hooks_also_when_the_nursery_is_cancelled(
    data_dir: Path,
) -> None:
    opened = registry(data_dir)
    store = opened.key_value_store("s")

    async def restore(_: ReportProgress) -> None:
        assert await store.get("saved") is None
        await store.put("restored", b"")

    opened.register(
        Participant(
            name="one",
            restore=restore,
            snapshot=lambda: store.put("saved", b""),  # type: ignore[arg-type,return-value]
            before_close=lambda: store.put("closed", b""),  # type: ignore[arg-type,return-value]
        )
    )
    async with anyio.create_task_group() as task_group:
        await task_group.start(opened.serve)
        task_group.cancel_scope.cancel()
    async with registry(data_dir) as again:
        found = {entry.key async for entry in again.key_value_store("s").scan()}
        assert found == {"restored", "saved", "closed"}


async def test_hooks_that_are_not_there_are_not_missed(data_dir: Path) -> None:
    opened = registry(data_dir)
    opened.register(Participant(name="one"))
    async with opened:
        await opened.save_snapshots()
        assert (await told(opened, "one")).state is ParticipantState.READY
    assert (await told(opened, "one")).state is ParticipantState.CLOSED


# --- registering ---


async def test_a_name_is_there_once(data_dir: Path, diary: Diary) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("one"))
    with pytest.raises(ConfigurationError, match="'one' is registered already"):
        opened.register(diary.participant("one"))
    async with opened:
        with pytest.raises(ConfigurationError, match="'one' is registered already"):
            opened.register(Participant(name="one"))
    assert diary.lines == ["one restored", "one saved", "one closed"]


async def test_what_is_to_be_restored_cannot_be_registered_once_opening_has_begun(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    refused = []

    async def restore(_: ReportProgress) -> None:
        with pytest.raises(ConfigurationError, match="too late") as caught:
            opened.register(diary.participant("from a restore"))
        refused.append(caught.value)

    opened.register(Participant(name="one", restore=restore))
    before = opened.opening_has_begun
    async with opened:
        assert (before, opened.opening_has_begun) == (False, True)
        with pytest.raises(ConfigurationError, match="too late"):
            opened.register(diary.participant("two"))
        assert len(refused) == 1
    assert diary.lines == []


async def test_what_has_nothing_to_be_restored_may_come_later_and_is_closed_first(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)

    async def restore(_: ReportProgress) -> None:
        opened.register(diary.participant("from a restore", restore=None))

    opened.register(Participant(name="one", restore=restore, before_close=diary.noting("one")))
    async with opened:
        opened.register(diary.participant("later", restore=None, order=-1))
    assert diary.lines == [
        "from a restore saved",
        "later saved",
        "later closed",
        "one",
        "from a restore closed",
    ]


async def test_nothing_is_registered_with_a_registry_that_closes(data_dir: Path) -> None:
    opened = registry(data_dir)
    refused = []

    async def close() -> None:
        with pytest.raises(WriterStoppedError, match="'late' was not registered") as caught:
            opened.register(Participant(name="late"))
        refused.append(caught.value)

    opened.register(Participant(name="one", before_close=close))
    async with opened:
        pass
    assert len(refused) == 1
    with pytest.raises(WriterStoppedError):
        opened.register(Participant(name="later still"))
    with pytest.raises(WriterStoppedError):
        await opened.save_snapshots()


async def test_where_the_store_cannot_be_opened_no_hook_is_called(
    data_dir: Path, diary: Diary
) -> None:
    async with registry(data_dir):
        second = registry(data_dir)
        second.register(diary.participant("one"))
        with pytest.raises(DataDirectoryLockedError):
            async with second:
                pass
    assert diary.lines == []
    with pytest.raises(WriterStoppedError):
        second.register(Participant(name="two"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": 1},
        {"order": "first"},
        {"order": True},
        {"restore": "no function"},
        {"snapshot": 1},
        {"before_close": 1},
        {"required": None},
        {"close_seconds_max": 0},
        {"close_seconds_max": float("inf")},
    ],
    ids=repr,
)
def test_a_participant_of_the_wrong_shape_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Participant(**({"name": "one"} | wrong))


# --- a restore that fails ---


async def test_a_required_one_that_fails_is_named_and_those_before_it_are_closed(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("one", order=1))
    opened.register(diary.participant("two", order=2))
    opened.register(diary.participant("broken", order=3, restore=fail))
    opened.register(diary.participant("never", order=4))
    with pytest.raises(
        ParticipantFailedError, match="'broken' could not be restored: mine"
    ) as caught:
        async with opened:
            raise AssertionError("the block was entered")
    error = caught.value
    assert (error.step, error.participants) == ("restore", ("broken",))
    assert isinstance(error.__cause__, BrokenError)
    assert diary.lines == ["one restored", "two restored", "two closed", "one closed"]
    states = {one.name: one.state for one in (await opened.stats()).participants}
    assert states == {
        "one": ParticipantState.CLOSED,
        "two": ParticipantState.CLOSED,
        "broken": ParticipantState.FAILED,
        "never": ParticipantState.REGISTERED,
    }
    async with registry(data_dir) as again:
        await again.key_value_store("s").put("k", b"")


async def test_in_a_nursery_the_start_raises_it(data_dir: Path) -> None:
    opened = registry(data_dir)
    opened.register(Participant(name="broken", restore=fail))
    async with anyio.create_task_group() as task_group:
        with pytest.raises(ParticipantFailedError, match="'broken'"):
            await task_group.start(opened.serve)


async def test_without_one_that_is_not_required_the_registry_is_opened_and_says_so(
    data_dir: Path, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("broken", order=1, restore=fail, required=False))
    opened.register(diary.participant("two", order=2))
    async with opened:
        broken = await told(opened, "broken")
        assert (broken.state, broken.failed_step) == (ParticipantState.FAILED, "restore")
        assert isinstance(broken.error, BrokenError)
        assert broken.restore_seconds is not None
        await opened.save_snapshots()
    assert diary.lines == ["two restored", "two saved", "two saved", "two closed"]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert said == ["broken: could not be restored, and the registry is opened without it: mine"]


# --- cancelled ---


async def test_cancelled_in_a_restore_those_before_it_are_closed_and_nothing_stays_open(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    store = opened.key_value_store("s")
    cancelled: list[str] = []

    async def restore(_: ReportProgress) -> None:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append("two")

    async def close() -> None:
        # It may take its time, and can still write.
        await anyio.lowlevel.checkpoint()
        await store.put("noted", b"")

    opened.register(diary.participant("one", order=1, before_close=close))
    opened.register(diary.participant("two", order=2, restore=restore, required=False))
    opened.register(diary.participant("three", order=3))
    with anyio.CancelScope() as scope:
        async with opened:
            raise AssertionError("the block was entered")
    assert scope.cancelled_caught
    assert cancelled == ["two"]
    assert diary.lines == ["one restored"]
    assert (await told(opened, "two")).state is ParticipantState.REGISTERED
    async with registry(data_dir) as again:
        assert await again.key_value_store("s").get("noted") is not None


async def test_a_restore_that_fails_when_it_is_cancelled_keeps_nobody_from_being_cancelled(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)

    async def restore(_: ReportProgress) -> None:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            raise BrokenError("instead")

    opened.register(diary.participant("one", order=1, restore=restore, required=False))
    opened.register(diary.participant("two", order=2))
    with anyio.CancelScope() as scope:
        async with opened:
            raise AssertionError("the block was entered")
    assert scope.cancelled_caught
    assert diary.lines == []


async def test_cancelled_while_it_closes_all_hooks_are_called_to_their_ends(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)

    async def close() -> None:
        task_group.cancel_scope.cancel()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        diary.lines.append("two closed slowly")

    opened.register(diary.participant("one"))
    opened.register(diary.participant("two", before_close=close))
    async with anyio.create_task_group() as task_group, opened:
        diary.lines.clear()
    assert diary.lines == ["one saved", "two saved", "two closed slowly", "one closed"]


async def test_snapshots_that_are_cancelled_leave_the_later_ones_unasked(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)

    async def save() -> None:
        scope.cancel()
        await anyio.lowlevel.checkpoint()

    opened.register(diary.participant("one", order=1))
    opened.register(Participant(name="two", order=2, snapshot=save))
    opened.register(diary.participant("three", order=3))
    async with opened:
        diary.lines.clear()
        with anyio.CancelScope() as scope:
            await opened.save_snapshots()
        assert scope.cancelled_caught
        assert diary.lines == ["one saved"]


# --- saved and closed ---


async def test_snapshots_on_demand_are_saved_in_order_and_counted(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("one", order=1))
    opened.register(diary.participant("two", order=2))
    async with opened:
        diary.lines.clear()
        await opened.save_snapshots()
        assert diary.lines == ["one saved", "two saved"]
        one = await told(opened, "one")
        assert one.snapshots == 1
        assert one.snapshot_seconds is not None


async def test_a_snapshot_that_fails_is_named_and_the_others_are_saved(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("one", order=1, snapshot=fail))
    opened.register(diary.participant("two", order=2))
    opened.register(diary.participant("three", order=3, snapshot=fail))
    async with opened:
        with pytest.raises(ParticipantFailedError, match="no snapshot of 'one', 'three'") as caught:
            await opened.save_snapshots()
        assert (caught.value.step, caught.value.participants) == ("snapshot", ("one", "three"))
        assert "two saved" in diary.lines
        one = await told(opened, "one")
        assert (one.state, one.failed_step) == (ParticipantState.READY, "snapshot")


async def test_two_snapshots_of_one_participant_are_never_saved_at_the_same_time(
    data_dir: Path,
) -> None:
    opened = registry(data_dir)
    at_work, most = 0, 0

    async def save() -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await anyio.wait_all_tasks_blocked()
        at_work -= 1

    opened.register(Participant(name="one", snapshot=save))
    async with opened, anyio.create_task_group() as task_group:
        for _ in range(3):
            task_group.start_soon(opened.save_snapshots)
    assert most == 1
    assert (await told(opened, "one")).snapshots == 4


async def test_a_hook_that_fails_at_close_keeps_no_other_from_being_called_and_is_told(
    data_dir: Path, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("one", order=1))
    opened.register(diary.participant("two", order=2, before_close=fail))
    opened.register(diary.participant("three", order=3, snapshot=fail))
    async with opened:
        diary.lines.clear()
    assert diary.lines == ["one saved", "two saved", "three closed", "one closed"]
    two, three = await told(opened, "two"), await told(opened, "three")
    assert (two.state, two.failed_step) == (ParticipantState.CLOSED, "before_close")
    assert isinstance(two.error, BrokenError)
    assert (three.state, three.failed_step) == (ParticipantState.CLOSED, "snapshot")
    assert "two: its hook 'before_close' failed: mine" in caplog.messages


async def test_a_hook_whose_work_others_cancel_fails_as_others_do(
    data_dir: Path, diary: Diary
) -> None:
    async def restore(_: ReportProgress) -> None:
        await await_what_others_cancelled()

    opened = registry(data_dir)
    opened.register(diary.participant("one", order=1, restore=restore, required=False))
    opened.register(diary.participant("two", order=2, before_close=await_what_others_cancelled))
    opened.register(diary.participant("three", order=3, snapshot=await_what_others_cancelled))
    async with opened:
        with pytest.raises(ParticipantFailedError, match="what it waited for was cancelled"):
            await opened.save_snapshots()
        diary.lines.clear()
    assert diary.lines == ["two saved", "three closed"]
    for name, step in (("one", "restore"), ("two", "before_close"), ("three", "snapshot")):
        assert (await told(opened, name)).failed_step == step


async def test_a_hook_that_hangs_at_close_is_cut_short_and_told(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    hanging = diary.participant("two", snapshot=hang, before_close=hang, close_seconds_max=0.01)
    opened.register(diary.participant("one"))
    opened.register(hanging)
    async with opened:
        diary.lines.clear()
    assert diary.lines == ["one saved", "one closed"]
    two = await told(opened, "two")
    assert (two.failed_step, str(two.error)) == ("before_close", "not done after 0.01 s")


async def test_an_exception_of_the_block_comes_out_as_itself_after_all_hooks(
    data_dir: Path, diary: Diary
) -> None:
    opened = registry(data_dir)
    opened.register(diary.participant("one", before_close=fail))
    opened.register(diary.participant("two"))
    with pytest.raises(ZeroDivisionError):
        async with opened:
            raise ZeroDivisionError
    assert diary.lines[-1] == "two closed"


# --- progress and times ---


async def test_progress_is_told_in_the_statistics_and_times_in_the_log(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpreg.persistence")
    opened = registry(data_dir)
    seen = []

    async def restore(report: ReportProgress) -> None:
        report(1, 3, "entries")
        seen.append(await told(opened, "one"))
        report(3, 3, "entries")

    opened.register(Participant(name="one", restore=restore))
    async with opened:
        stats = await opened.stats()
    (during,) = seen
    assert during.state is ParticipantState.RESTORING
    assert (during.done, during.total, during.unit) == (1, 3, "entries")
    (after,) = stats.participants
    assert (after.done, after.state) == (3, ParticipantState.READY)
    assert after.restore_seconds is not None
    assert stats.restore_seconds >= after.restore_seconds >= 0.0
    assert stats.opening_seconds > 0.0
    times = [line.rpartition(" ")[0].rpartition(" ")[0] for line in caplog.messages]
    assert times[-2:] == ["the store was opened in", "one: restored in"]
