"""The leases of a client's consumers: made longer while they last, given back when they end."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

import anyio
import anyio.abc
from attrs import define, field

from mpreg.client.calls import Calls
from mpreg.client.message import RemoteMessage
from mpreg.errors import LeaseLostError, MpregError, QueueDeletedError, QueueNotFoundError

__all__ = ["Keeper"]

log = logging.getLogger("mpreg.client")

#: How long what is left may take to be given back at the end. Its leases end by themselves.
CLOSE_SECONDS_MAX: Final = 2.0


@define(eq=False)
class Keeper:
    """Of one client; `run` is a task of it."""

    _calls: Calls
    _held: dict[RemoteMessage, None] = field(factory=dict)
    _left: deque[RemoteMessage] = field(factory=deque)
    """To be given back; those that a loop dropped come from wherever it was."""
    _wake: anyio.Event = field(factory=anyio.Event)
    _thread: int | None = None
    """In which `run` runs: only there may it be woken."""
    _has_ended: bool = False

    def hold(self, messages: Iterable[RemoteMessage]) -> None:
        self._held.update(dict.fromkeys(messages))
        self._wake.set()

    def __contains__(self, message: RemoteMessage) -> bool:
        """Whether it is out, as far as is known here."""
        return message in self._held

    def let_run(self, message: RemoteMessage) -> None:
        """It is settled, or its lease may end by itself."""
        self._held.pop(message, None)

    def give_back(self, messages: Iterable[RemoteMessage]) -> None:
        if not self._has_ended:
            self._left.extend(messages)
            if threading.get_ident() == self._thread:
                self._wake.set()

    async def run(self) -> None:
        self._thread = threading.get_ident()
        async with anyio.create_task_group() as task_group:
            while True:
                self._wake = anyio.Event()
                if self._left:
                    task_group.start_soon(self._give_back, self._take_left())
                until = self._extend(task_group)
                with anyio.move_on_after(until - anyio.current_time()):
                    await self._wake.wait()

    async def close(self, *, give_back_seen: bool) -> None:
        """Give back all that is held and was not handed out, perhaps also what was."""
        left = [one for one in self._held if give_back_seen or not one._is_seen]
        left += self._take_left()
        self._has_ended = True
        with anyio.move_on_after(CLOSE_SECONDS_MAX, shield=True):
            await self._give_back(left)

    def _extend(self, task_group: anyio.abc.TaskGroup) -> float:
        """Returns when the next one is due."""
        now, until = anyio.current_time(), math.inf
        for message in self._held:
            if message._is_extending:
                continue
            if message._extend_at <= now:
                message._is_extending = True
                task_group.start_soon(self._extend_one, message)
            else:
                until = min(until, message._extend_at)
        return until

    async def _extend_one(self, message: RemoteMessage) -> None:
        try:
            await message.extend()
        except (LeaseLostError, QueueDeletedError, QueueNotFoundError):
            message._is_lost = True
            self.let_run(message)
        except MpregError as error:
            log.warning("the lease of %r was not made longer: %s", message, error)
            message._extend_at = anyio.current_time() + 1.0
        finally:
            message._is_extending = False
            self._wake.set()

    def _take_left(self) -> list[RemoteMessage]:
        taken = [self._left.popleft() for _ in range(len(self._left))]
        for message in taken:
            self.let_run(message)
        return taken

    async def _give_back(self, messages: Iterable[RemoteMessage]) -> None:
        tokens: dict[tuple[str, bool], list[str]] = {}
        for message in messages:
            tokens.setdefault((message._path, message._is_seen), []).append(message._token)
        for (path, is_seen), some in tokens.items():
            try:
                body = {"tokens": some, "unseen": not is_seen}
                await self._calls.ask("POST", f"{path}/release", body=body)
            except MpregError as error:
                log.warning("%s messages were not given back: %s", len(some), error)
