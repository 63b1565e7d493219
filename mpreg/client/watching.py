"""Changes at a node, told to somebody who takes them at their own pace."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.abc
from anyio.abc import TaskStatus
from attrs import define, field

from mpreg.actors import Feed
from mpreg.client.calls import Calls
from mpreg.client.streams import Event, Events
from mpreg.errors import NodeUnreachableError, WatchLaggedError
from mpreg.persistence.engine import collapsed_groups

__all__ = ["RemoteWatch"]

T = TypeVar("T")


@define(eq=False)
class RemoteWatch(Feed[T]):
    """A `Feed` of a stream of events. Where that ends, changes may be missing: so does the feed."""

    _calls: Calls = field(kw_only=True)
    _path: str = field(kw_only=True)
    _params: dict[str, str] = field(kw_only=True)
    _task_group: anyio.abc.TaskGroup | None = None
    _stack: AsyncExitStack = field(factory=AsyncExitStack)

    @abstractmethod
    def _change(self, kind: str, data: dict[str, Any]) -> T | None:
        """Of one event; None: it is none of a change."""

    async def _enter(self) -> None:
        """Raises what a read raises."""
        async with AsyncExitStack() as stack:
            stack.enter_context(collapsed_groups())
            task_group = await stack.enter_async_context(anyio.create_task_group())
            await task_group.start(self._read)
            self._task_group, self._stack = task_group, stack.pop_all()

    async def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task_group is not None
        self._task_group.cancel_scope.cancel()
        await self._stack.__aexit__(exc_type, exc, traceback)

    async def _read(self, *, task_status: TaskStatus[None]) -> None:
        """A task of its own, so that what comes is taken also while nobody asks for it."""
        events, event = await self._begin()
        try:
            task_status.started()
            while True:
                if event is not None:
                    self._tell_of(event.kind, event.data)
                if self.has_ended:
                    return
                event = await events.next()
        except NodeUnreachableError as lost:
            self.end(WatchLaggedError(str(lost.args[0])))
        finally:
            await events.stream.leave()

    async def _begin(self) -> tuple[Events, Event | None]:
        """When the first thing was heard, nothing is missed from then on."""
        tries = self._calls.new_tries()
        while True:
            events = Events(await self._calls.stream(self._path, self._params))
            try:
                return events, await events.next()
            except NodeUnreachableError as lost:
                await events.stream.leave()
                await tries.pause(lost)
            except BaseException:
                await events.stream.leave()
                raise

    def _tell_of(self, kind: str, data: dict[str, Any]) -> None:
        if (change := self._change(kind, data)) is not None:
            self.tell(change)
        else:
            self.end(WatchLaggedError(str(data.get("title", kind))))
