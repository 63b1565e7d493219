"""Keeps one actor running, and owns its mailbox across restarts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import anyio
from anyio.abc import TaskStatus
from attrs import frozen

from mpreg.actors.actor import (
    Actor,
    ActorState,
    BackingOff,
    NotStarted,
    Running,
    Starting,
    Stopped,
)
from mpreg.actors.mailbox import Mailbox, MailboxStatistics, Message
from mpreg.actors.restart import Failure, GiveUp, RestartPolicy

__all__ = ["PastFailure", "Supervisor", "SupervisorStatistics"]

M = TypeVar("M", bound=Message)

CLOSE_SECONDS_MIN: Final = 5.0
"""What closing may take at the end, also where the grace time is shorter."""


FAILURES_KEPT: Final = 16


@frozen
class PastFailure:
    """What is remembered of a failure. Not the error itself: it would keep alive all that its
    traceback knows."""

    at: float
    """Monotonic seconds."""
    error: str
    """The name of its class."""


@frozen(kw_only=True)
class SupervisorStatistics:
    state: ActorState
    restarts: int
    failures: tuple[PastFailure, ...]
    """The last ones, the oldest first."""
    mailbox: MailboxStatistics


class Supervisor(Generic[M]):
    """Runs an actor; starts it again when it fails; gives up when that does not help.

    The mailbox is the supervisor's: what waits in it while the actor is being restarted stays where
    it is and is served by the next incarnation, in order. Senders notice nothing but the delay.

    It ends in one of three ways. *Stopped*, by `stop` or by a cancelled nursery: the mailbox takes
    no more, the actor finishes what is inside, within ``grace_seconds``. *Cut short*: that time is
    over; what is left is answered with an error. *Given up*: so is everything, and the first cause
    is raised into the nursery. When it has ended, every message ever sent is answered.
    """

    def __init__(
        self,
        actor: Actor,
        mailbox: Mailbox[M],
        policy: RestartPolicy,
        *,
        grace_seconds: float,
        make_stopped_error: Callable[[], Exception],
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """``make_stopped_error`` makes what messages are answered with that came too late.

        ``on_failure`` is told of each failure before the restart; it must not raise.
        """
        self._actor = actor
        self._mailbox = mailbox
        self._policy = policy
        self._grace_seconds = grace_seconds
        self._make_stopped_error = make_stopped_error
        self._on_failure = on_failure
        self._state: ActorState = NotStarted()
        self._failures: tuple[Failure, ...] = ()
        self._past: deque[PastFailure] = deque(maxlen=FAILURES_KEPT)
        self._generation = 0
        self._ending = anyio.Event()
        self._ended = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the actor to its end. Started once it runs for the first time.

        Cancelled: the same as `stop`, then returns when it has ended.

        Raises:
            Exception: what the first start raised, at once; later the first cause, on giving up.
        """
        try:
            await self._start()
        except BaseException as error:
            self._finish(error if isinstance(error, Exception) else None)
            raise
        scope = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self._keep_running, scope)
            try:
                task_status.started()
                await self._ending.wait()
            finally:
                self.stop()
                with anyio.move_on_after(self._grace_seconds, shield=True):
                    await self._ended.wait()
                scope.cancel()
        if isinstance(self._state, Stopped) and self._state.cause is not None:
            raise self._state.cause

    async def _keep_running(self, scope: anyio.CancelScope) -> None:
        """The actor's own task. Nothing but the end of the grace time cancels it."""
        cause: Exception | None = None
        try:
            with scope:
                try:
                    while not await self._run_once():
                        await self._start_again()
                except Exception as error:
                    cause = error
        except BaseException:
            # On trio, Ctrl-C is raised in whichever task is running, and that may be this one.
            # Nobody may be left waiting for an actor that is gone.
            self._finish(None)
            raise
        self._finish(cause)

    def stop(self) -> None:
        """Close the mailbox: `run` ends when everything in it is answered. May be called twice."""
        self._mailbox.close(self._stopped_error)
        self._ending.set()

    def discard(self) -> None:
        """Instead of `run`, where it is never to come: answer what was sent, take no more.

        Does nothing once `run` was called.
        """
        if isinstance(self._state, NotStarted):
            self._finish(None)

    def statistics(self) -> SupervisorStatistics:
        return SupervisorStatistics(
            state=self._state,
            restarts=max(0, self._generation - 1),
            failures=tuple(self._past),
            mailbox=self._mailbox.statistics(),
        )

    async def _start(self) -> None:
        self._generation += 1
        self._state = Starting(self._generation)
        await self._actor.start()
        self._state = Running(self._generation)

    async def _run_once(self) -> bool:
        """Whether the actor came to its end; False where it failed and may be started again."""
        try:
            await self._actor.run()
        except Exception as error:
            await self._close_broken()
            await self._back_off(error)
            return False
        except BaseException:
            await self._close_broken()
            raise
        # Its work is done: closing is not cut short with it, or what the actor holds would still be
        # held a moment later. But a device that hangs must not keep it for ever.
        seconds = max(self._grace_seconds, CLOSE_SECONDS_MIN)
        with anyio.move_on_after(seconds, shield=True):
            await self._actor.close()
        return True

    async def _start_again(self) -> None:
        while True:
            try:
                await self._start()
            except Exception as error:
                await self._back_off(error)
            else:
                return

    async def _close_broken(self) -> None:
        # Shielded, or a cancelled supervisor would leave what the actor holds open for ever.
        # The failure is known already; a second one while closing would only hide it.
        with anyio.CancelScope(shield=True):
            try:
                await self._actor.close()
            except Exception as error:
                self._tell(error)

    async def _back_off(self, error: Exception) -> None:
        self._tell(error)
        now = anyio.current_time()
        self._past.append(PastFailure(now, type(error).__name__))
        recent = self._policy.within_window(self._failures, now)
        self._failures = (*recent, Failure(now, error))
        decision = self._policy.decide(self._failures, now)
        if isinstance(decision, GiveUp):
            raise decision.first_cause
        self._state = BackingOff(self._generation, error, now + decision.after_seconds)
        await anyio.sleep(decision.after_seconds)

    def _tell(self, error: Exception) -> None:
        if self._on_failure is not None:
            self._on_failure(error)

    def _finish(self, cause: Exception | None) -> None:
        self._state = Stopped(cause)
        self._mailbox.close(self._stopped_error)
        self._actor.abandon(cause)
        for message in self._mailbox.drain():
            message.fail(self._stopped_error())
        self._ending.set()
        self._ended.set()

    def _stopped_error(self) -> Exception:
        error = self._make_stopped_error()
        if isinstance(self._state, Stopped):
            error.__cause__ = self._state.cause
        return error
