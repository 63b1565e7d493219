"""The queues of a node, with the names and signatures of those in the same process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

import anyio
import httpx
import msgspec
from attrs import define, field, frozen

from mpreg.client.calls import SIZE_BYTES_MAX, Calls, value_of
from mpreg.client.consumer import RemoteConsumer
from mpreg.client.keeper import Keeper
from mpreg.client.message import RemoteDeadLetter, RemoteMessage
from mpreg.client.names import as_name
from mpreg.codec import encode_value
from mpreg.errors import (
    InvalidArgumentError,
    QueueFullError,
    QueueNotFoundError,
    VersionConflictError,
    WriteInterruptedError,
)
from mpreg.queues import QueueConfiguration, QueueStatistics
from mpreg.queues.configuration import checked_seconds
from mpreg.queues.subscription import check_count

__all__ = ["RemoteQueue", "RemoteQueueManager", "RemoteSubscription"]

#: One wait; a longer one is several.
POLL_SECONDS: Final = 30.0

DEAD_LETTERS_MAX: Final = 1_000


@frozen
class _Parts:
    """Of one client."""

    calls: Calls
    keeper: Keeper


@define(eq=False)
class RemoteQueueManager:
    """The queues of a node: `mpreg.queues.MessageQueueManager`, asked over HTTP.

    Every method raises what its embedded form raises, what the node tells of itself
    (`mpreg.errors.NodeError`), and `NodeUnreachableError`.
    """

    _parts: _Parts

    @classmethod
    def of(cls, calls: Calls, keeper: Keeper) -> RemoteQueueManager:
        return cls(_Parts(calls, keeper))

    async def create_queue(
        self,
        name: str,
        configuration: QueueConfiguration | None = None,
        *,
        here: bool = False,
    ) -> RemoteQueue:
        """The queue of this name; made where there is none. Where there is one, ``configuration``
        becomes its own from now on; None leaves it.

        ``here``: the one of the node that is asked, whatever others have. Without it, none is made
        while a peer of the node may have it.

        Raises:
            PeersUnheardError: that could not be told in time; nothing was made.
            PeerUnreachableError: another node has it, and is away.
        """
        if configuration is not None and not isinstance(configuration, QueueConfiguration):
            raise InvalidArgumentError(f"not a QueueConfiguration: {configuration!r:.80}")
        body = None if configuration is None else configuration.encode()
        params = {"here": ""} if here else None
        answer = await self._parts.calls.write("PUT", _path_of(name), body=body, params=params)
        return self._queue(answer)

    async def get_queue(self, name: str) -> RemoteQueue:
        """Raises `QueueNotFoundError` where there is none."""
        return self._queue(await self._parts.calls.read(_path_of(name)))

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with everything in it.

        Raises:
            QueueNotFoundError: there is none.
            WriteInterruptedError: the node ended in its midst, and there is one now: that one, or
                another that was made since.
        """
        try:
            await self._parts.calls.write("DELETE", _path_of(name), made_if=QueueNotFoundError)
        except WriteInterruptedError:
            if not await self._is_gone(name):
                raise

    async def _is_gone(self, name: str) -> bool:
        try:
            await self.get_queue(name)
        except QueueNotFoundError:
            return True
        return False

    async def queue_names(self) -> list[str]:
        """The names of all queues, in order."""
        found = value_of(await self._parts.calls.read("/v1/queues"))
        return [one["name"] for one in found["queues"]]

    def _queue(self, answer: httpx.Response) -> RemoteQueue:
        found = value_of(answer)
        configuration = QueueConfiguration.from_mapping(found["configuration"])
        return RemoteQueue(self._parts, found["name"], configuration)


@define(eq=False)
class RemoteQueue:
    """A queue of a node: `mpreg.queues.MessageQueue`, asked over HTTP. What it sends is durable
    when it returns, and sent once, however often it was tried."""

    _parts: _Parts
    name: str
    configuration: QueueConfiguration
    """As it was when the queue was asked for."""
    _path: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._path = _path_of(self.name)

    # --- sending ---

    async def send(
        self,
        payload: Any,
        *,
        topic: str = "",
        priority: int = 0,
        delay_seconds: float = 0.0,
        ttl_seconds: float | None = None,
        deduplication_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float | None = 0.0,
    ) -> str:
        """Send a message and return its id, when it is durable. `mpreg.queues.MessageQueue.send`.

        Cancelled, it may still happen.

        Raises:
            QueueFullError: there was no room for ``wait_seconds``; nothing was sent.
            NodeUnreachableError: no answer came in time.
        """
        one = _message(payload, topic, priority, delay_seconds, ttl_seconds, headers)
        if deduplication_id is not None:
            one["deduplication_id"] = deduplication_id
        [id] = await self._send(one, wait_seconds)
        return id

    async def send_many(
        self,
        payloads: Iterable[Any],
        *,
        topic: str = "",
        priority: int = 0,
        delay_seconds: float = 0.0,
        ttl_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float | None = 0.0,
    ) -> list[str]:
        """Send messages side by side, all or none, and return their ids. As `send`."""
        messages = [
            _message(payload, topic, priority, delay_seconds, ttl_seconds, headers)
            for payload in payloads
        ]
        return await self._send({"messages": messages}, wait_seconds)

    async def _send(self, body: dict[str, Any], wait_seconds: float | None) -> list[str]:
        if wait_seconds is not None:
            checked_seconds("wait_seconds", wait_seconds)
        deadline = _deadline(wait_seconds)
        calls = self._parts.calls
        for pause in calls.new_pauses():
            try:
                answer = await calls.write("POST", f"{self._path}/messages", body=body)
            except QueueFullError:
                if anyio.current_time() + pause > deadline:
                    raise
                await anyio.sleep(pause)
            except VersionConflictError:
                # The same deduplication_id came in between: its message is there now.
                if "deduplication_id" not in body:
                    raise
            else:
                ids: list[str] = value_of(answer)["ids"]
                return ids
        raise AssertionError("pauses have no end")

    # --- receiving ---

    async def receive(self, wait_seconds: float | None = None) -> RemoteMessage | None:
        """`RemoteSubscription.receive` of the queue's own subscription."""
        return await self._default().receive(wait_seconds)

    async def receive_many(
        self,
        messages_max: int,
        wait_seconds: float | None = None,
        *,
        one_by_one: bool = False,
    ) -> list[RemoteMessage]:
        """`RemoteSubscription.receive_many` of the queue's own subscription."""
        return await self._default().receive_many(messages_max, wait_seconds, one_by_one=one_by_one)

    def consume(self, prefetch: int = 1) -> RemoteConsumer:
        """`RemoteSubscription.consume` of the queue's own subscription."""
        return self._default().consume(prefetch)

    async def ack(self, messages: Iterable[RemoteMessage]) -> None:
        """Acknowledge messages of this queue, all or none, in one write.

        Raises:
            LeaseLostError: one of them is not its delivery's any more; nothing was changed.
        """
        messages = list(messages)
        for message in messages:
            if message._path != self._path:
                raise InvalidArgumentError(f"{message!r} is not of queue {self.name!r}")
        if len(set(map(id, messages))) != len(messages):
            raise InvalidArgumentError("a message is named twice")
        if messages:
            body = {"tokens": [message._token for message in messages]}
            await self._parts.calls.write("POST", f"{self._path}/ack", body=body)
            for message in messages:
                self._parts.keeper.let_run(message)

    # --- subscriptions ---

    async def subscription(
        self, name: str, topic_pattern: str | None = None, *, start: str | int = "earliest"
    ) -> RemoteSubscription:
        """A cursor of this name; made where there is none. `mpreg.queues.MessageQueue`."""
        body = {"topic_pattern": topic_pattern, "start": start}
        await self._parts.calls.write("PUT", self._subscription_path(name), body=body)
        return RemoteSubscription(self, name)

    def get_subscription(self, name: str) -> RemoteSubscription:
        """The cursor of this name. Whether there is one is told when it is used."""
        as_name("subscription", name)
        return RemoteSubscription(self, name)

    async def delete_subscription(self, name: str) -> None:
        """Delete a cursor: what only it had not finished is finished.

        Raises:
            QueueNotFoundError: there is none of this name.
            WriteInterruptedError: the node ended in its midst, and there is one now: that one, or
                another that was made since.
        """
        path = self._subscription_path(name)
        try:
            await self._parts.calls.write("DELETE", path, made_if=QueueNotFoundError)
        except WriteInterruptedError:
            if name in (await self.statistics()).subscriptions:
                raise

    def _subscription_path(self, name: str) -> str:
        return f"{self._path}/subscriptions/{as_name('subscription', name)}"

    def _default(self) -> RemoteSubscription:
        return RemoteSubscription(self, None)

    # --- dead letters ---

    async def dead_letters(self, limit: int | None = None) -> list[RemoteDeadLetter]:
        """The messages that used up their attempts, by priority and age; at most ``limit``. They
        are asked for page by page."""
        letters: list[RemoteDeadLetter] = []
        page: dict[str, str] = {}
        while limit is None or len(letters) < limit:
            wanted = DEAD_LETTERS_MAX if limit is None else limit - len(letters)
            params = {"limit": str(wanted), **page}
            answer = await self._parts.calls.read(f"{self._path}/dead-letters", params=params)
            found = value_of(answer)
            letters += map(RemoteDeadLetter.of, found["dead_letters"])
            if (after := found.get("next")) is None:
                break
            page = {"after": after}
        return letters

    async def redrive(
        self,
        letters: Iterable[RemoteDeadLetter | str] | None = None,
        *,
        to: RemoteQueue | None = None,
    ) -> int:
        """Send dead letters again, all or these, to this queue or to another one of the node;
        return how many.

        Raises:
            WriteInterruptedError: the node ended in its midst; so with the two below.
        """
        body = {"keys": _keys_of(letters), "to": None if to is None else to.name}
        return await self._count("dead-letters/redrive", body, "redriven")

    async def purge_dead_letters(
        self, letters: Iterable[RemoteDeadLetter | str] | None = None
    ) -> int:
        """Remove dead letters, all or these, for good; return how many."""
        return await self._count("dead-letters/purge", {"keys": _keys_of(letters)}, "removed")

    async def purge(self, *, messages: bool = True, dead_letters: bool = True) -> int:
        """Empty the queue; return how many messages and dead letters it had."""
        body = {"messages": messages, "dead_letters": dead_letters}
        return await self._count("purge", body, "removed")

    async def _count(self, route: str, body: dict[str, Any], name: str) -> int:
        answer = await self._parts.calls.write("POST", f"{self._path}/{route}", body=body)
        count: int = value_of(answer)[name]
        return count

    # --- watching ---

    async def statistics(self) -> QueueStatistics:
        """Counts as they are now. It asks the node, so it is awaited here."""
        found = value_of(await self._parts.calls.read(self._path))["statistics"]
        return msgspec.convert(found, QueueStatistics)

    def __repr__(self) -> str:
        return f"<RemoteQueue {self.name!r}>"


@define(eq=False)
class RemoteSubscription:
    """A cursor of a queue of a node: `mpreg.queues.Subscription`, asked over HTTP."""

    _queue: RemoteQueue
    _name: str | None
    """None: the queue's own."""

    @property
    def name(self) -> str:
        return "default" if self._name is None else self._name

    async def receive(self, wait_seconds: float | None = None) -> RemoteMessage | None:
        """The next message; None where there was none for ``wait_seconds``. None waits for ever,
        over as many long polls as that takes, and over restarts of the node.

        Cancelled, or where an answer was lost on the way, a message may have been taken: it is
        handed out again when its lease ends, or, where that was its last attempt, a dead letter.

        Raises:
            QueueNotFoundError, QueueDeletedError: the queue is not there, also while waiting.
            NodeUnreachableError: the node was away for longer than the client is patient.
        """
        messages = await self.receive_many(1, wait_seconds)
        return messages[0] if messages else None

    async def receive_many(
        self,
        messages_max: int,
        wait_seconds: float | None = None,
        *,
        one_by_one: bool = False,
    ) -> list[RemoteMessage]:
        """Up to ``messages_max`` messages, at least one; none only after ``wait_seconds``.

        ``one_by_one``: for who works on one after the other. One whose attempt would be its last
        comes only as the first of them: where a message kills its consumer, none dies with it that
        nobody has seen.
        """
        check_count("messages_max", messages_max)
        if wait_seconds is not None:
            checked_seconds("wait_seconds", wait_seconds)
        deadline = _deadline(wait_seconds)
        while True:
            left = max(0.0, deadline - anyio.current_time())
            messages = await self._poll(messages_max, min(left, POLL_SECONDS), one_by_one)
            if messages or anyio.current_time() >= deadline:
                return messages

    def consume(self, prefetch: int = 1) -> RemoteConsumer:
        """An async iterator over the messages, without end::

            async for message in jobs.consume(prefetch=16):
                await work(message.payload)
                await message.ack()

        It takes up to ``prefetch`` messages at a time, and none ahead whose attempt would be its
        last: where one kills its process again and again, those behind it do not die unseen. The
        client makes the leases longer of the one that is worked on and of those taken ahead, for
        as long as that takes. It goes on after a restart of the node: what was taken ahead before
        is dropped as soon as the restart is noticed, at the latest when its lease is made longer,
        for it comes again; and the ack of the one that was worked on raises `LeaseLostError`.

        Left by ``break`` or an error: those not yet handed out are given back, uncounted; the last
        one keeps its lease. Cancelled: that one is given back, too.
        """
        check_count("prefetch", prefetch)
        parts = self._queue._parts
        # What is not stored cannot be given back, so nothing of it is taken ahead.
        count = prefetch if self._queue.configuration.is_stored else 1
        take = partial(self.receive_many, count, one_by_one=True)
        return RemoteConsumer(parts.calls, parts.keeper, take)

    async def _poll(
        self, messages_max: int, wait_seconds: float, one_by_one: bool
    ) -> list[RemoteMessage]:
        calls, path, began = self._queue._parts.calls, self._queue._path, anyio.current_time()
        body = {
            "messages_max": messages_max,
            "wait_seconds": wait_seconds,
            "subscription": self._name,
        }
        answer = await calls.ask(
            "POST",
            f"{path}/receive",
            body=body,
            params={"one_by_one": ""} if one_by_one else None,
            wait_seconds=wait_seconds,
        )
        return [
            RemoteMessage.of(
                one,
                began,
                subscription=self.name,
                calls=calls,
                path=path,
                settled=self._queue._parts.keeper.let_run,
                failures=calls.failures,
            )
            for one in value_of(answer)["messages"]
        ]

    def __repr__(self) -> str:
        return f"<RemoteSubscription {self.name!r} of queue {self._queue.name!r}>"


def _path_of(name: str) -> str:
    return f"/v1/queues/{as_name('queue', name)}"


def _deadline(wait_seconds: float | None) -> float:
    return math.inf if wait_seconds is None else anyio.current_time() + wait_seconds


def _message(
    payload: Any,
    topic: str,
    priority: int,
    delay_seconds: float,
    ttl_seconds: float | None,
    headers: Mapping[str, str] | None,
) -> dict[str, Any]:
    return {
        "payload": msgspec.Raw(encode_value(payload, SIZE_BYTES_MAX)),
        "topic": topic,
        "priority": priority,
        "delay_seconds": delay_seconds,
        "ttl_seconds": ttl_seconds,
        "headers": {} if headers is None else dict(headers),
    }


def _keys_of(letters: Iterable[RemoteDeadLetter | str] | None) -> list[str] | None:
    if letters is None:
        return None
    return [one.key if isinstance(one, RemoteDeadLetter) else one for one in letters]
