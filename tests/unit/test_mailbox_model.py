"""The mailbox against a model of a few lines, in thousands of random stories."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
from attrs import define, field, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpreg.actors import Mailbox
from mpreg.errors import MailboxClosedError, MailboxFullError
from tests.unit.examples import examples

T = TypeVar("T")
SIZES = st.integers(0, 12)


@frozen(eq=False)
class Parcel:
    number: int
    size_bytes: int

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


@define
class Model:
    """What a mailbox is: a list of what is inside, a list of who waits, and one rule for room."""

    messages_max: int
    bytes_max: int
    inside: list[Parcel] = field(factory=list)
    waiting: list[Parcel] = field(factory=list)

    def has_room(self, parcel: Parcel) -> bool:
        return not self.inside or (
            len(self.inside) < self.messages_max
            and sum(each.size_bytes for each in self.inside) + parcel.size_bytes <= self.bytes_max
        )

    def would_wait(self, parcel: Parcel) -> bool:
        return bool(self.waiting) or not self.has_room(parcel)

    def admit(self) -> None:
        while self.waiting and self.has_room(self.waiting[0]):
            self.inside.append(self.waiting.pop(0))

    def take(self) -> Parcel | None:
        parcel = self.inside.pop(0) if self.inside else None
        self.admit()
        return parcel


class MailboxStory(RuleBasedStateMachine):
    @initialize(messages_max=st.integers(1, 8), bytes_max=st.integers(1, 16))
    def open(self, messages_max: int, bytes_max: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.box: Mailbox[Parcel] = Mailbox(messages_max=messages_max, bytes_max=bytes_max)
        self.model = Model(messages_max, bytes_max)
        self.scopes: dict[Parcel, anyio.CancelScope] = {}
        self.refused: list[Parcel] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.number = 0
        self.closed = False

    def run(self, act: Callable[[], T]) -> T:
        """Do something inside the event loop, and let everyone run until nobody can."""

        async def settle() -> T:
            result = act()
            for _ in range(8):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(settle())

    def parcel(self, size: int) -> Parcel:
        self.number += 1
        return Parcel(self.number, size)

    @rule(size=SIZES)
    def send_nowait(self, size: int) -> None:
        parcel = self.parcel(size)
        try:
            self.run(lambda: self.box.send_nowait(parcel))
        except MailboxClosedError:
            assert self.closed
        except MailboxFullError:
            assert self.model.would_wait(parcel)
        else:
            assert not self.closed
            assert not self.model.would_wait(parcel)
            self.model.inside.append(parcel)

    @precondition(lambda self: not self.closed)
    @rule(size=SIZES)
    def send(self, size: int) -> None:
        parcel = self.parcel(size)

        async def send() -> None:
            with anyio.CancelScope() as self.scopes[parcel]:
                try:
                    await self.box.send(parcel)
                except MailboxClosedError:
                    self.refused.append(parcel)

        self.tasks.append(self.run(lambda: self.loop.create_task(send())))
        (self.model.waiting if self.model.would_wait(parcel) else self.model.inside).append(parcel)

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def cancel_one_that_waits(self, data: st.DataObject) -> None:
        parcel = data.draw(st.sampled_from(self.model.waiting))
        self.run(self.scopes[parcel].cancel)
        self.model.waiting.remove(parcel)
        self.model.admit()

    @rule()
    def receive_nowait(self) -> None:
        received = self.run(self.box.receive_nowait)
        assert received is self.model.take()

    @precondition(lambda self: self.model.inside)
    @rule(messages_max=st.integers(1, 4), bytes_max=st.integers(1, 20))
    def receive_many(self, messages_max: int, bytes_max: int) -> None:
        received = self.loop.run_until_complete(
            self.box.receive_many(messages_max=messages_max, bytes_max=bytes_max)
        )
        self.run(lambda: None)
        assert len(received) <= messages_max
        assert sum(parcel.size_bytes for parcel in received[:-1]) < bytes_max
        assert received == [self.model.take() for _ in received]

    @rule()
    def drain(self) -> None:
        drained = self.run(self.box.drain)
        assert drained == [self.model.take() for _ in drained]

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        self.run(self.box.close)
        self.closed = True
        assert self.refused == self.model.waiting
        self.model.waiting.clear()

    @invariant()
    def counts_are_those_of_the_model_and_within_bounds(self) -> None:
        if not hasattr(self, "box"):
            return
        statistics = self.box.statistics()
        inside = sum(parcel.size_bytes for parcel in self.model.inside)
        assert (statistics.depth, statistics.bytes) == (len(self.model.inside), inside)
        assert statistics.waiting_senders == len(self.model.waiting)
        assert statistics.depth <= self.box._messages_max
        assert statistics.bytes <= self.box._bytes_max or statistics.depth == 1

    def teardown(self) -> None:
        if not hasattr(self, "box"):
            return
        try:
            self.run(self.box.close)
            self.run(self.box.drain)
            for task in self.tasks:
                self.loop.run_until_complete(task)
        finally:
            self.loop.close()
        statistics = self.box.statistics()
        assert (statistics.depth, statistics.bytes, statistics.waiting_senders) == (0, 0, 0)


TestMailboxStory = MailboxStory.TestCase
TestMailboxStory.settings = settings(
    max_examples=examples(80), stateful_step_count=30, deadline=None
)
