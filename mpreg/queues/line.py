"""Those who wait for messages of one subscription, the first come first.

When there may be messages, the first one is *called*: it looks, and takes for the others in line
what there is beyond its own, so that the attempts of all are one write. They are *served*, and
sleep until that is on disk. Who comes while others wait serves these first, and itself last.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import anyio
import msgspec
from attrs import define, field

from mpreg.actors.parking import Place, new_place
from mpreg.queues.hand_out import HandOut

__all__ = ["Demand", "Line", "Waiter"]


class Demand(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What somebody wants of a subscription. A msgspec struct, as `HandOut`."""

    count: int
    """How many messages it takes at most."""
    bytes_max: float = math.inf
    """The last one may go beyond."""
    held: bool = False
    """Whether their leases are to last until they are told to end."""
    one_by_one: bool = False
    """Whether it works on one after the other, and sees the others only then."""


@define(eq=False)
class Waiter:
    demand: Demand
    owner: object | None = None
    """For whose sake it waits, where that one may think better of it."""
    place: Place = field(factory=new_place)
    served: HandOut | None = None
    """What it gets, if the attempts come to be on disk."""
    committed: bool | None = None
    """Whether they did; None: not yet."""
    called: bool = False
    """Whether it is to look for messages itself."""

    @property
    def is_over(self) -> bool:
        """Whether nobody came to it in its time."""
        return not self.called and self.served is None

    def serve(self, hand_out: HandOut) -> None:
        self.served = hand_out
        hand_out.told = self._told

    def _told(self, committed: bool) -> None:
        assert self.served is not None
        # Else each keeps the other alive.
        self.served.told = None
        self.committed = committed
        self.wake()

    def wake(self) -> None:
        if not self.place.done():
            self.place.set_result(None)


@define(eq=False)
class Line:
    _abandon: Callable[[HandOut], None]
    """Told where one that was served will not take it."""
    _wanted: int = 0
    """How many messages all in ``_waiting`` take together."""
    _waiting: OrderedDict[Waiter, None] = field(factory=OrderedDict)
    _called: Waiter | None = None
    """The one that was called, until it runs: what comes meanwhile is for it to find, too."""

    @property
    def wanted(self) -> int:
        """How many messages all take together, with the one that was called."""
        return self._wanted + (0 if self._called is None else self._called.demand.count)

    async def wait(
        self,
        demand: Demand,
        deadline: float | None,
        *,
        front: bool = False,
        owner: object | None = None,
    ) -> Waiter:
        """Return when called or served, or (`Waiter.is_over`) at the deadline or when its owner is
        `end`ed.

        ``front``: it was the first one already. Cancelled: what it was called for is left to the
        next one, and what it was served is given back.
        """
        waiter = Waiter(demand, owner)
        self._waiting[waiter] = None
        self._wanted += demand.count
        if front:
            self._waiting.move_to_end(waiter, last=False)
        try:
            if deadline is None:
                await waiter.place
            else:
                with anyio.move_on_at(deadline):
                    await waiter.place
            if waiter.served is not None and waiter.committed is None:
                # It came in time; only its attempt is not on disk yet.
                waiter.place = new_place()
                await waiter.place
        except BaseException:
            self._leave(waiter)
            raise
        self._remove(waiter)
        if self._called is waiter:
            self._called = None
        return waiter

    def call_first(self) -> None:
        """There may be messages."""
        if self._called is None and self._waiting:
            waiter = self._called = next(iter(self._waiting))
            self._call(waiter)

    def call_all(self) -> None:
        """Whatever they wait for, they will not get it here."""
        for waiter in list(self._waiting):
            self._call(waiter)

    def end(self, owner: object) -> None:
        """Who waits for its sake waits no longer. One that was called, or served, is left."""
        for waiter in self._waiting:
            if waiter.owner is owner:
                self._remove(waiter)
                waiter.wake()
                return

    def pop(self) -> Waiter | None:
        """Take the first one out, to be served."""
        if (waiter := self._called) is not None:
            self._called = None
            waiter.called = False
        elif self._waiting:
            waiter = next(iter(self._waiting))
            self._remove(waiter)
        return waiter

    def _call(self, waiter: Waiter) -> None:
        self._remove(waiter)
        waiter.called = True
        waiter.wake()

    def _remove(self, waiter: Waiter) -> None:
        if waiter in self._waiting:
            del self._waiting[waiter]
            self._wanted -= waiter.demand.count

    def _leave(self, waiter: Waiter) -> None:
        self._remove(waiter)
        if waiter.served is not None:
            self._abandon(waiter.served)
        elif self._called is waiter:
            self._called = None
            self.call_first()
