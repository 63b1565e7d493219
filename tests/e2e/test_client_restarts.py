"""A client in the middle of everything that lasts, while its node is killed and started again."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any
from zlib import crc32

import anyio
import anyio.to_thread
import httpx
import pytest
from attrs import define, field

from mpreg.client import MPREGClient, RemoteQueue
from mpreg.errors import LeaseLostError, WatchLaggedError
from tests.e2e.support import GUARD_SECONDS, loops
from tests.e2e.test_serve import SETTINGS, Served

#: Larger than what sockets and their buffers hold.
PIECE = bytes(range(256)) * 4_096
PIECES = 24

#: What is cut short by a signal is cut soon.
TEXT = f"""{SETTINGS}
[mpreg.queues.slow]
lease_seconds = 86400.0
[mpreg.server]
grace_seconds = 0.3
"""


@define(eq=False)
class Lives:
    """All that goes on at one client; each sets its event when it is in the middle."""

    node: MPREGClient
    middle: dict[str, anyio.Event] = field(factory=dict)
    is_back: anyio.Event = field(factory=anyio.Event)
    """The node was killed, and is there again."""
    ended: anyio.Event = field(factory=anyio.Event)

    def __attrs_post_init__(self) -> None:
        self.middle = {one.__name__: anyio.Event() for one in self._all}

    @property
    def _all(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [self.poll, self.consume, self.save, self.load, self.follow, self.watch]

    def is_in_the_middle(self, name: str) -> None:
        self.middle[name].set()

    async def run(self) -> None:
        async with anyio.create_task_group() as task_group:
            for one in self._all:
                task_group.start_soon(one)
        self.ended.set()

    async def until_in_the_middle(self) -> None:
        for event in self.middle.values():
            await event.wait()
        async with httpx.AsyncClient() as http:
            # The poll, the one who follows, and the one who watches.
            while (await http.get(f"{self.node.url}/v1/node")).json()["long_polls"] < 3:
                await anyio.sleep(0.01)

    async def poll(self) -> None:
        """A long poll: what is sent after the restart comes to it, once."""
        queue = await self.node.message_queues.get_queue("slow")
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self._send_when_it_is_back, queue)
            self.is_in_the_middle("poll")
            message = await queue.receive()
        assert message is not None
        assert (message.payload, message.attempt) == ("late", 1)
        await message.ack()
        assert (await queue.statistics()).size == 0

    async def _send_when_it_is_back(self, queue: RemoteQueue) -> None:
        await self.is_back.wait()
        await queue.send("late")

    async def consume(self) -> None:
        """What was taken before comes again, all is acknowledged, and nothing after its ack."""
        jobs = await self.node.message_queues.get_queue("jobs")
        await jobs.send_many(range(10))
        acked: list[int] = []
        async for message in jobs.consume(prefetch=4):
            assert message.payload not in acked
            if len(acked) == 3 and not self.is_back.is_set():
                self.is_in_the_middle("consume")
                await self.is_back.wait()
                with pytest.raises(LeaseLostError):
                    await message.ack()
                continue
            await message.ack()
            acked.append(message.payload)
            if len(acked) == 10:
                break
        assert sorted(acked) == list(range(10))

    async def save(self) -> None:
        """One version, and all of it, of what was asked for once."""

        async def pieces() -> AsyncIterator[bytes]:
            for number in range(PIECES):
                yield PIECE
                if number == PIECES // 2:
                    self.is_in_the_middle("save")
                    await self.is_back.wait()

        images = self.node.snapshot_store("up")
        version = await images.save(pieces())
        assert [one.version for one in await images.versions()] == [version]
        assert await checksum_of(self.node, "up") == crc32(PIECE * PIECES)

    async def load(self) -> None:
        await self.node.snapshot_store("down").save(PIECE * PIECES)
        async with self.node.snapshot_store("down").open() as reader:
            parts = [await anext(reader)]
            self.is_in_the_middle("load")
            await self.is_back.wait()
            parts += [part async for part in reader]
        assert b"".join(parts) == PIECE * PIECES

    async def follow(self) -> None:
        """Each record once, in order."""
        log = self.node.log_store("audit")
        await log.append_many([b"0", b"1"])
        seen = []
        async with log.follow(0) as records, anyio.create_task_group() as task_group:
            async for record in records:
                seen.append((record.offset, record.data))
                if len(seen) == 2:
                    self.is_in_the_middle("follow")
                    task_group.start_soon(self._append_when_it_is_back)
                if len(seen) == 5:
                    break
        assert seen == [(number, b"%d" % number) for number in range(5)]

    async def _append_when_it_is_back(self) -> None:
        await self.is_back.wait()
        for number in range(2, 5):
            await self.node.log_store("audit").append(b"%d" % number)

    async def watch(self) -> None:
        """It is told that changes may be missing, watches again, and has all of them."""
        keys = self.node.key_value_store("watched")
        await keys.put("gone", b"")
        copy: dict[str | bytes, bytes] = {}
        lagged = 0
        while copy.get("last") != b"":
            try:
                async with keys.watch() as changes:
                    copy = {entry.key: entry.value async for entry in keys.scan()}
                    if not lagged:
                        await keys.put("before", b"1")
                    else:
                        await keys.put("last", b"")
                    async for change in changes:
                        if change.value is None:
                            del copy[change.key]
                        else:
                            copy[change.key] = change.value
                        if change.key == "last":
                            break
                        if change.key == "before":
                            # Nobody is told of this by an event.
                            self.is_in_the_middle("watch")
                            await self.is_back.wait()
                            await keys.delete("gone")
            except WatchLaggedError:
                lagged += 1
        assert lagged
        assert copy == {"before": b"1", "last": b""}


async def checksum_of(node: MPREGClient, name: str) -> int:
    checksum = 0
    async with node.snapshot_store(name).open() as reader:
        async for part in reader:
            checksum = crc32(part, checksum)
    return checksum


@pytest.mark.parametrize(
    ("loop", "number"),
    [
        (loop, number)
        for number, usual in ((signal.SIGKILL, "asyncio"), (signal.SIGTERM, "trio"))
        for loop in loops(usual)
    ],
)
def test_a_client_goes_on_in_the_middle_of_everything_when_its_node_was_started_again(
    tmp_path: Path, loop: str, number: signal.Signals
) -> None:
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def story() -> None:
        url = f"http://127.0.0.1:{port}"
        with Served(tmp_path, loop, "--port", port, text=TEXT) as first:
            await anyio.to_thread.run_sync(first.url)
            async with (
                MPREGClient(url, patience_seconds=GUARD_SECONDS) as node,
                anyio.create_task_group() as task_group,
            ):
                lives = Lives(node)
                task_group.start_soon(lives.run)
                await lives.until_in_the_middle()
                first.send(number)
                code = await anyio.to_thread.run_sync(first.wait)
                assert code == (0 if number == signal.SIGTERM else -number)
                with Served(tmp_path, loop, "--port", port, text=TEXT) as again:
                    await anyio.to_thread.run_sync(again.url)
                    lives.is_back.set()
                    await lives.ended.wait()

    async def guarded() -> None:
        with anyio.fail_after(GUARD_SECONDS):
            await story()

    anyio.run(guarded, backend=loop)
