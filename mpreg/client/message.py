"""A message of a node in the hands of its consumer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

import anyio
import attrs
import msgspec
from attrs import define, field, frozen

from mpreg.client.calls import Calls
from mpreg.errors import InvalidArgumentError

__all__ = ["RemoteDeadLetter", "RemoteMessage"]

#: A lease is made longer when this part of it is over, so that two attempts may fail.
EXTEND_AFTER: Final = 1 / 3


@define(eq=False, repr=False)
class RemoteMessage:
    """One delivery of one message, as `mpreg.queues.Message`. It stands for this delivery only:
    after its lease, and after a restart of the node, its methods raise `LeaseLostError`."""

    id: str
    payload: Any
    attempt: int
    topic: str
    priority: int
    headers: dict[str, str]
    sent_at: float
    subscription: str
    _token: str
    _lease_seconds: float
    _calls: Calls
    _path: str
    _settled: Callable[[RemoteMessage], None]
    _extend_at: float = 0.0
    _holds_until: float = 0.0
    """By this clock. From then on only the node can tell."""
    _failures: int = 0
    """Of the client, when it was last known that the lease holds."""
    _is_lost: bool = False
    _is_extending: bool = False
    _is_seen: bool = field(default=False)

    @classmethod
    def of(cls, found: dict[str, Any], taken_at: float, **given: Any) -> Self:
        seconds = found.pop("lease_seconds")
        token = found.pop("token")
        return cls(
            **found,
            **given,
            token=token,
            lease_seconds=seconds,
            extend_at=taken_at + seconds * EXTEND_AFTER,
            # From when it came: it may have been waited for much longer than a lease lasts.
            holds_until=anyio.current_time() + seconds,
        )

    async def ack(self) -> None:
        """Acknowledge it: it will not be handed out again. Returns when that is durable.

        Cancelled, it may still happen. Raises:
            LeaseLostError: it is not this delivery's any more; nothing was changed.
            NodeUnreachableError: no answer came in time.
        """
        await self._calls.write("POST", f"{self._path}/ack", body={"tokens": [self._token]})
        self._settled(self)

    async def nack(self, delay_seconds: float | None = None, reason: str = "") -> None:
        """Give it back, to be tried again after ``delay_seconds``; None: as the queue's
        configuration says. A message without attempts left becomes a dead letter.

        Cancellation and errors as for `ack`.
        """
        if not isinstance(reason, str):
            raise InvalidArgumentError(f"a reason is str, not {type(reason).__name__}")
        body = {"token": self._token, "delay_seconds": delay_seconds, "reason": reason}
        await self._calls.write("POST", f"{self._path}/nack", body=body)
        self._settled(self)

    async def extend(self, lease_seconds: float | None = None) -> None:
        """Have the lease end ``lease_seconds`` from now; None: the queue's own time.

        Raises:
            LeaseLostError: it is not this delivery's any more.
        """
        began, failures = anyio.current_time(), self._calls.failures
        seconds = self._lease_seconds if lease_seconds is None else lease_seconds
        body = {"token": self._token, "lease_seconds": seconds}
        await self._calls.ask("POST", f"{self._path}/extend", body=body)
        self._extend_at = began + seconds * EXTEND_AFTER
        self._holds_until = began + seconds
        self._failures = failures

    def __repr__(self) -> str:
        return f"<RemoteMessage {self.id}, attempt {self.attempt}>"


@frozen(kw_only=True)
class RemoteDeadLetter:
    """A message that is not handed out any more, with the reason: `mpreg.queues.DeadLetter`."""

    key: str
    id: str | None
    payload: Any
    topic: str
    priority: int
    headers: dict[str, str]
    sent_at: float | None
    died_at: float
    subscription: str
    attempts: int
    reason: str
    last_error: str

    @classmethod
    def of(cls, found: dict[str, Any]) -> Self:
        known = {one.name for one in attrs.fields(cls)}
        return msgspec.convert({name: found[name] for name in known}, cls)
