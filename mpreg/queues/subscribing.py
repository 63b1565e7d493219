"""The subscriptions of one open queue: found, made, changed and deleted, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import anyio
from attrs import define, field

from mpreg.errors import InvalidArgumentError, QueueNotFoundError, ValueTooLargeError
from mpreg.queues.arguments import check_start
from mpreg.queues.configuration import QueueType
from mpreg.queues.core import QueueCore
from mpreg.queues.passing import declined, inherited, put_back, take_passed_of
from mpreg.queues.records import Event, SubscriptionChanged, SubscriptionDeleted
from mpreg.queues.state import DEFAULT_SUBSCRIPTION
from mpreg.queues.subscription import Subscription
from mpreg.queues.topics import TopicPattern

__all__ = ["Subscriptions"]

NAME_CHARACTERS_MAX: Final = 256


@define(eq=False)
class Subscriptions:
    """As their users hold them: all with one name are the same."""

    _core: QueueCore
    _held: dict[str, Subscription] = field(factory=dict)
    _changing: anyio.Lock = field(factory=anyio.Lock)
    """Held while one is made, changed or deleted."""
    _decided: anyio.Event = field(factory=anyio.Event)
    """Set while no such change is under way."""

    def __attrs_post_init__(self) -> None:
        self._decided.set()

    def find(self, name: str) -> Subscription:
        """Raises `QueueNotFoundError` where there is none."""
        state = self._core.state.subscriptions.get(name)
        if state is None:
            known = ", ".join(map(repr, self._core.state.subscriptions)) or "none"
            raise QueueNotFoundError(
                f"queue {self._core.name!r} has no subscription {name!r} (there is: {known})",
                f"make it with `await queue.subscription({name!r})`",
            )
        if (subscription := self._held.get(name)) is None:
            subscription = self._held[name] = Subscription(self._core, name, state)
        return subscription

    async def make(self, name: str, topic_pattern: str | None, start: str | int) -> Subscription:
        """See `MessageQueue.subscription`."""
        core = self._core
        core.check_thread()
        _check_name(name, core.storage.limits.subscription_name)
        check_start(start)
        pattern = None if topic_pattern is None else TopicPattern(topic_pattern)
        async with self._changing:
            await self._decided.wait()
            core.check_open()
            state = core.state.subscriptions.get(name)
            if state is None:
                starts = self._starts(start)
            elif state.pattern == pattern or topic_pattern is None:
                return self.find(name)
            else:
                starts = None
            ranges_max = core.storage.limits.places
            text = None if pattern is None else pattern.text
            changed = SubscriptionChanged(name, text, starts)
            if state is None:
                # What was finished must not come back for it after a restart.
                events: list[Event] = [changed, *inherited(core.state, name, ranges_max)]
                if refused := declined(core.state, name, starts):
                    await self._change([*events, refused], self._finished_by_it)
                    await core.measure()
                else:
                    await self._change(events, lambda _: None)
            else:
                # With another pattern they would count again after a restart.
                passed = take_passed_of(state, ranges_max)
                await self._change(
                    [*passed, changed],
                    lambda committed: None if committed else put_back(core.state, passed),
                )
            return self.find(name)

    def _finished_by_it(self, committed: bool) -> None:
        if committed:
            self._core.forget_finished()

    async def delete(self, name: str) -> None:
        """See `MessageQueue.delete_subscription`."""
        core = self._core
        core.check_thread()
        async with self._changing:
            await self._decided.wait()
            core.check_open()
            subscription = self.find(name)
            if name == DEFAULT_SUBSCRIPTION:
                raise InvalidArgumentError("the queue's own subscription cannot be deleted")
            state = core.state.subscriptions[name]
            state.deleting = True

            # That may have finished a message, which must not come back for one made later.
            passed = take_passed_of(state, core.storage.limits.places)

            def then(committed: bool) -> None:
                state.deleting = False
                if committed:
                    self._held.pop(name, None)
                    subscription._end()
                    core.forget_finished()
                else:
                    put_back(core.state, passed)
                    core.wake(name)
                    # For those of its messages that were to be buried meanwhile.
                    core.ask_for_upkeep()

            await self._change([*passed, SubscriptionDeleted(name)], then)
            await core.measure()

    async def _change(self, events: Sequence[Event], then: Callable[[bool], None]) -> None:
        """Write what becomes of a subscription. Cancelled while that is under way, the next change
        waits until it is known whether this one has happened."""
        decided = self._decided = anyio.Event()

        def settled(committed: bool) -> None:
            decided.set()
            then(committed)

        await self._core.change(events, settled)

    def _starts(self, start: str | int) -> dict[int, int] | None:
        lanes = self._core.state.lanes
        if start == "earliest":
            return None
        if start == "latest":
            return {number: lane.end for number, lane in lanes.items()}
        assert isinstance(start, int), "it was checked"
        if self._core.configuration.queue_type is QueueType.PRIORITY:
            raise InvalidArgumentError(
                "start: an offset means nothing in a queue with priorities; "
                "use 'earliest' or 'latest'"
            )
        if start > (end := lanes[0].end):
            raise InvalidArgumentError(
                f"start: offset {start} is beyond the next message's, {end}; use 'latest' for "
                "what is sent from now on"
            )
        return {0: start}


def _check_name(name: object, bytes_max: int) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise InvalidArgumentError(
            f"a subscription's name is a str of 1 to {NAME_CHARACTERS_MAX} "
            f"characters, not {name!r:.80}"
        )
    if (size := len(name.encode(errors="replace"))) > bytes_max:
        raise ValueTooLargeError(f"a subscription's name of {size} bytes; at most {bytes_max}")
