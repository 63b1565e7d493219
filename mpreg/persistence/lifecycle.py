"""Runs the hooks of the participants: restore in order, snapshots, and the end in reverse."""

from __future__ import annotations

import enum
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.actors.elsewhere import failing_with_what_it_awaited
from mpreg.errors import ConfigurationError, ParticipantFailedError, WriterStoppedError
from mpreg.persistence.participant import (
    Participant,
    ParticipantState,
    ParticipantStatistics,
)

__all__ = ["PROGRESS_SECONDS", "Lifecycle"]

_log = logging.getLogger("mpreg.persistence")

PROGRESS_SECONDS: Final = 1.0
"""Between two lines of the log about the progress of one restore, at least."""


class _Phase(enum.Enum):
    NEW = "new"
    """Followed by OPEN, or ENDED."""
    OPEN = "open"
    """From the first restore on. Followed by ENDED."""
    ENDED = "ended"
    """From the last hooks on."""


@define(eq=False)
class _Member:
    """A participant, and how it fares."""

    participant: Participant
    state: ParticipantState = ParticipantState.REGISTERED
    done: int = 0
    total: int | None = None
    unit: str = ""
    restore_seconds: float | None = None
    snapshots: int = 0
    snapshot_seconds: float | None = None
    close_seconds: float | None = None
    failed_step: str | None = None
    error: Exception | None = None
    saving: anyio.Lock = field(factory=anyio.Lock)
    """Held while its state is saved."""
    _told_at: float = 0.0

    @property
    def name(self) -> str:
        return self.participant.name

    def report(self, done: int, total: int | None = None, unit: str = "") -> None:
        """See `ReportProgress`."""
        self.done, self.total, self.unit = done, total, unit
        now = anyio.current_time()
        if now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            of = "" if total is None else f" of {total:,}"
            _log.info("%s: restored %s%s %s", self.name, f"{done:,}", of, unit)

    async def restore(self) -> None:
        """Raises what its hook raises."""
        self.state = ParticipantState.RESTORING
        self._told_at = began = anyio.current_time()
        try:
            if self.participant.restore is not None:
                with failing_with_what_it_awaited():
                    await self.participant.restore(self.report)
        except Exception as error:
            self.state = ParticipantState.FAILED
            self.fail("restore", error)
            raise
        except BaseException:
            self.state = ParticipantState.REGISTERED
            raise
        finally:
            self.restore_seconds = anyio.current_time() - began
        self.state = ParticipantState.READY
        _log.info("%s: restored in %.3f s", self.name, self.restore_seconds)

    async def save(self) -> None:
        """Raises what its hook raises. Does nothing where it has none."""
        if self.participant.snapshot is None:
            return
        async with self.saving:
            began = anyio.current_time()
            with failing_with_what_it_awaited():
                await self.participant.snapshot()
            self.snapshots += 1
            self.snapshot_seconds = anyio.current_time() - began

    async def close(self) -> None:
        """Raises what its hook raises."""
        began = anyio.current_time()
        try:
            if self.participant.before_close is not None:
                with failing_with_what_it_awaited():
                    await self.participant.before_close()
        finally:
            self.close_seconds = anyio.current_time() - began
            self.state = ParticipantState.CLOSED

    def fail(self, step: str, error: Exception) -> None:
        self.failed_step, self.error = step, error

    def statistics(self) -> ParticipantStatistics:
        return ParticipantStatistics(
            name=self.name,
            order=self.participant.order,
            required=self.participant.required,
            state=self.state,
            done=self.done,
            total=self.total,
            unit=self.unit,
            restore_seconds=self.restore_seconds,
            snapshots=self.snapshots,
            snapshot_seconds=self.snapshot_seconds,
            close_seconds=self.close_seconds,
            failed_step=self.failed_step,
            error=self.error,
        )


@define(eq=False)
class Lifecycle:
    """The participants of one registry."""

    _members: dict[str, _Member] = field(factory=dict)
    _ready: list[_Member] = field(factory=list)
    """In the order in which they became so."""
    _phase: _Phase = _Phase.NEW
    restore_seconds: float = 0.0
    """What all restores took together."""

    @property
    def has_begun(self) -> bool:
        return self._phase is not _Phase.NEW

    def register(self, participant: Participant) -> None:
        """See `PersistenceRegistry.register`."""
        if self._phase is _Phase.ENDED:
            raise WriterStoppedError(
                f"the registry has closed; {participant.name!r} was not registered"
            )
        if participant.name in self._members:
            raise ConfigurationError(
                f"a participant {participant.name!r} is registered already; each name is there once"
            )
        if self.has_begun and participant.restore is not None:
            raise ConfigurationError(
                f"participant {participant.name!r} comes too late to be restored: register it "
                "before the registry is opened"
            )
        member = self._members[participant.name] = _Member(participant)
        if self.has_begun:
            member.state = ParticipantState.READY
            self._ready.append(member)

    def end(self) -> None:
        """Nothing is registered any more."""
        self._phase = _Phase.ENDED

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Restore all, run the block, and close those that were restored, in whatever way it ends.

        Cancelled: the restore under way is, and those before it are closed.

        Raises:
            ParticipantFailedError: one that is required could not be restored.
        """
        restored = False
        try:
            await self._restore_all()
            restored = True
            yield
        finally:
            self.end()
            await self._close_all(with_snapshots=restored)

    def statistics(self) -> tuple[ParticipantStatistics, ...]:
        """In the order of their restores."""
        return tuple(member.statistics() for member in self._in_order())

    def _in_order(self) -> list[_Member]:
        return sorted(self._members.values(), key=lambda one: one.participant.order)

    # --- restore ---

    async def _restore_all(self) -> None:
        began = anyio.current_time()
        self._phase = _Phase.OPEN
        try:
            # Those that are registered meanwhile have nothing to be restored.
            for member in self._in_order():
                await self._restore(member)
        finally:
            self.restore_seconds = anyio.current_time() - began

    async def _restore(self, member: _Member) -> None:
        try:
            await member.restore()
        except Exception as error:
            if member.participant.required:
                raise ParticipantFailedError("restore", (member.name,), str(error)) from error
            _log.error(
                "%s: could not be restored, and the registry is opened without it: %s",
                member.name,
                error,
                exc_info=error,
            )
            # What it raised may have been in the place of a cancellation.
            await anyio.lowlevel.checkpoint()
        else:
            self._ready.append(member)

    # --- snapshots ---

    async def save_snapshots(self) -> None:
        """See `PersistenceRegistry.save_snapshots`."""
        failed: dict[str, Exception] = {}
        for member in list(self._ready):
            try:
                await member.save()
            except Exception as error:
                self._tell(member, "snapshot", error)
                failed[member.name] = error
        if failed:
            first = next(iter(failed.values()))
            raise ParticipantFailedError("snapshot", tuple(failed), str(first)) from first

    # --- close ---

    async def _close_all(self, *, with_snapshots: bool) -> None:
        if with_snapshots:
            for member in self._ready:
                await self._run_in_time(member, "snapshot", member.save)
        for member in reversed(self._ready):
            await self._run_in_time(member, "before_close", member.close)

    async def _run_in_time(
        self, member: _Member, step: str, hook: Callable[[], Awaitable[None]]
    ) -> None:
        limit = member.participant.close_seconds_max
        try:
            with anyio.fail_after(limit, shield=True) as scope:
                await hook()
        except Exception as error:
            if isinstance(error, TimeoutError) and scope.cancelled_caught:
                error = TimeoutError(f"not done after {limit:g} s")
            self._tell(member, step, error)

    def _tell(self, member: _Member, step: str, error: Exception) -> None:
        """Keep it for the statistics; the others go on."""
        member.fail(step, error)
        _log.error("%s: its hook %r failed: %s", member.name, step, error, exc_info=error)
