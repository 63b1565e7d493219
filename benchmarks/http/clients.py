"""Connections to each contender, and what a worker does with its own.

Each client is given what speaks for it: a connection of its own for each worker, redis its parser
in C, and the calls that answer for the most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import frozen

from benchmarks.http.plain import PlainConnection
from benchmarks.http.workload import (
    BODY,
    CYCLES,
    EMBEDDED,
    NATS,
    PHASES,
    REDIS,
    kind_of,
)

#: For a message that is there: only a message that was lost would take as long.
WAIT_SECONDS: Final = 30.0

GROUP: Final = "workers"


@frozen
class Worker:
    """The calls of one connection. Each returns when the server has answered."""

    send: Callable[[str], Awaitable[object]]
    """To the queue of this name."""
    receive: Callable[[], Awaitable[Any]]
    """From the queue of life cycles; what it returns is given to ``acknowledge``."""
    acknowledge: Callable[[Any], Awaitable[object]]


Workers = AbstractAsyncContextManager[list[Worker]]


def open_workers(contender: str, place: str, count: int) -> Workers:
    """``place``: a port, or for an embedded queue a directory."""
    if contender == REDIS:
        return _redis(int(place), count)
    if contender == NATS:
        return _nats(int(place), count)
    if contender in EMBEDDED:
        return _embedded(Path(place), count)
    if kind_of(contender) == "mpreg client":
        return _client(int(place), count)
    return _plain(int(place), count, is_keyed=kind_of(contender) == "mpreg plain, key")


async def prepare(contender: str, port: int) -> None:
    """Make both queues of a server."""
    if contender == REDIS:
        await _prepare_redis(port)
    elif contender == NATS:
        await _prepare_nats(port)
    else:
        await _prepare_node(port)


# --- redis ---


async def _prepare_redis(port: int) -> None:
    from redis.asyncio import Redis

    async with Redis(host="127.0.0.1", port=port) as redis:
        for queue in PHASES:
            await redis.xgroup_create(queue, GROUP, id="0", mkstream=True)
        found = await redis.config_get("append*")
        assert (found["appendonly"], found["appendfsync"]) == ("yes", "always"), found


@asynccontextmanager
async def _redis(port: int, count: int) -> AsyncIterator[list[Worker]]:
    from redis.asyncio import Redis

    def worker(redis: Any, number: int) -> Worker:
        async def receive() -> Any:
            [[_stream, [(id, _fields)]]] = await redis.xreadgroup(
                GROUP, f"c{number}", {CYCLES: ">"}, count=1, block=int(WAIT_SECONDS * 1_000)
            )
            return id

        async def acknowledge(id: Any) -> None:
            async with redis.pipeline(transaction=True) as pipeline:
                pipeline.xack(CYCLES, GROUP, id)
                pipeline.xdel(CYCLES, id)
                assert await pipeline.execute() == [1, 1]

        return Worker(lambda queue: redis.xadd(queue, {"body": BODY}), receive, acknowledge)

    async with AsyncExitStack() as stack:
        workers: list[Worker] = []
        for number in range(count):
            redis = Redis(
                host="127.0.0.1",
                port=port,
                single_connection_client=True,
                socket_timeout=2 * WAIT_SECONDS,
            )
            workers.append(worker(await stack.enter_async_context(redis), number))
        yield workers


# --- nats ---


async def _prepare_nats(port: int) -> None:
    import nats
    from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

    connection = await nats.connect(f"nats://127.0.0.1:{port}")
    jetstream = connection.jetstream()
    for queue in PHASES:
        stream = StreamConfig(
            name=queue,
            subjects=[queue],
            storage=StorageType.FILE,
            retention=RetentionPolicy.WORK_QUEUE,
        )
        await jetstream.add_stream(stream)
        consumer = ConsumerConfig(
            durable_name=GROUP, ack_policy=AckPolicy.EXPLICIT, max_waiting=4_096
        )
        await jetstream.add_consumer(queue, consumer)
    await connection.close()


@asynccontextmanager
async def _nats(port: int, count: int) -> AsyncIterator[list[Worker]]:
    import nats

    async def worker(connection: Any) -> Worker:
        jetstream = connection.jetstream()
        consumer = await jetstream.pull_subscribe_bind(durable=GROUP, stream=CYCLES)

        async def receive() -> Any:
            [message] = await consumer.fetch(1, timeout=WAIT_SECONDS)
            return message

        return Worker(
            send=lambda queue: jetstream.publish(queue, BODY, timeout=WAIT_SECONDS),
            receive=receive,
            acknowledge=lambda message: message.ack_sync(timeout=WAIT_SECONDS),
        )

    connections = [await nats.connect(f"nats://127.0.0.1:{port}") for _ in range(count)]
    yield [await worker(connection) for connection in connections]
    for connection in connections:
        await connection.close()


# --- mpreg ---


@asynccontextmanager
async def _embedded(directory: Path, count: int) -> AsyncIterator[list[Worker]]:
    from mpreg.persistence import PersistenceConfig, PersistenceRegistry
    from mpreg.queues import MessageQueueManager

    async with PersistenceRegistry(PersistenceConfig(data_dir=directory)) as registry:
        manager = MessageQueueManager(registry)
        queues = {name: await manager.create_queue(name) for name in PHASES}
        worker = Worker(
            send=lambda queue: queues[queue].send(BODY),
            receive=queues[CYCLES].receive,
            acknowledge=lambda message: message.ack(),
        )
        yield [worker] * count


async def _prepare_node(port: int) -> None:
    from mpreg.client import MPREGClient

    async with MPREGClient(f"http://127.0.0.1:{port}") as node:
        for queue in PHASES:
            await node.message_queues.create_queue(queue)


@asynccontextmanager
async def _client(port: int, count: int) -> AsyncIterator[list[Worker]]:
    """One client for all workers, as its users have it: it opens as many connections."""
    from mpreg.client import MPREGClient

    async with MPREGClient(f"http://127.0.0.1:{port}") as node:
        queues = {name: await node.message_queues.get_queue(name) for name in PHASES}
        worker = Worker(
            send=lambda queue: queues[queue].send(BODY),
            receive=lambda: queues[CYCLES].receive(WAIT_SECONDS),
            acknowledge=lambda message: message.ack(),
        )
        yield [worker] * count


@asynccontextmanager
async def _plain(port: int, count: int, *, is_keyed: bool) -> AsyncIterator[list[Worker]]:
    encode = msgspec.msgpack.encode
    message = encode({"payload": BODY})
    one = encode({"messages_max": 1, "wait_seconds": WAIT_SECONDS})

    def worker(connection: PlainConnection) -> Worker:
        async def receive() -> str:
            answer = await connection.post(f"/v1/queues/{CYCLES}/receive", one)
            [found] = answer["messages"]
            token: str = found["token"]
            return token

        async def acknowledge(token: str) -> None:
            body = encode({"tokens": [token]})
            await connection.post(f"/v1/queues/{CYCLES}/ack", body, is_keyed=is_keyed)

        def send(queue: str) -> Awaitable[object]:
            return connection.post(f"/v1/queues/{queue}/messages", message, is_keyed=is_keyed)

        return Worker(send, receive, acknowledge)

    async with AsyncExitStack() as stack:
        opened = partial(PlainConnection.open, port)
        yield [worker(await stack.enter_async_context(opened())) for _ in range(count)]
