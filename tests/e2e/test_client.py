"""A client of a node that is killed and started again, in the middle of sends, of a consume, of
appends, and of who follows them."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from attrs import define, field

from mpreg.client import MPREGClient, RemoteLogStore, RemoteQueue
from mpreg.errors import LeaseLostError
from mpreg.persistence import LogRecord
from tests.e2e.support import GUARD_SECONDS, loops
from tests.e2e.test_serve import Served

#: On one loop; `make crash` sets more, on each.
KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "1"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))


@define(eq=False)
class Work:
    """Senders and consumers, and what they know. Nobody here knows of restarts, but for an ack that
    comes too late."""

    jobs: RemoteQueue
    log: RemoteLogStore
    numbers: itertools.count[int] = field(factory=itertools.count)
    ids: dict[int, str] = field(factory=dict)
    """Of each number that was sent, or has come."""
    sent: set[int] = field(factory=set)
    acked: set[int] = field(factory=set)
    late: int = 0
    appended: dict[int, bytes] = field(factory=dict)
    """By the offset that was told."""
    followed: list[LogRecord] = field(factory=list)
    stopping: bool = False
    ended: anyio.Event = field(factory=anyio.Event)

    async def run(self) -> None:
        async with anyio.create_task_group() as consuming:
            consuming.start_soon(self._consume)
            consuming.start_soon(self._consume)
            consuming.start_soon(self._follow)
            async with anyio.create_task_group() as sending:
                for _ in range(3):
                    sending.start_soon(self._send)
                    sending.start_soon(self._append)
            while len(self.acked) < len(self.sent) or len(self.followed) < len(self.appended):
                await anyio.sleep(0.01)
            consuming.cancel_scope.cancel()
        self.ended.set()

    async def _send(self) -> None:
        while not self.stopping:
            number = next(self.numbers)
            self._check(number, await self.jobs.send(number))
            self.sent.add(number)

    async def _append(self) -> None:
        while not self.stopping:
            record = b"%d" % next(self.numbers)
            offset = await self.log.append(record)
            assert offset not in self.appended, f"{offset} was told twice"
            self.appended[offset] = record

    async def _follow(self) -> None:
        async with self.log.follow(0) as records:
            async for record in records:
                self.followed.append(record)

    async def _consume(self) -> None:
        async for message in self.jobs.consume(prefetch=4):
            number = message.payload
            assert number not in self.acked, f"{number} was acknowledged and comes again"
            self._check(number, message.id)
            try:
                await message.ack()
            except LeaseLostError:
                self.late += 1
            else:
                self.acked.add(number)

    def _check(self, number: int, id: str) -> None:
        assert self.ids.setdefault(number, id) == id, f"{number} was sent twice"


@pytest.mark.parametrize("loop", loops("trio"))
def test_no_acked_send_is_lost_no_acked_message_comes_again_and_none_is_there_twice(
    tmp_path: Path, loop: str
) -> None:
    chance = random.Random(SEED)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    # Each life has a guard of its own: all those of a long run take longer than any one may.
    async def kill_some(work: Work, node: Served) -> None:
        with anyio.fail_after(GUARD_SECONDS):
            enough = len(work.acked) + chance.randint(5, 30)
            while len(work.acked) < enough:
                await anyio.sleep(0.001)
            node.send(signal.SIGKILL)
            await anyio.to_thread.run_sync(node.wait)

    async def end(work: Work, node: Served) -> None:
        with anyio.fail_after(GUARD_SECONDS):
            await anyio.to_thread.run_sync(node.url)
            work.stopping = True
            await work.ended.wait()
            assert work.acked == work.sent
            records = [one async for one in work.log.read_range()]
            assert work.followed == records
            assert work.appended == {one.offset: one.data for one in records}
            assert (await work.jobs.statistics()).size == 0
            node.send(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(node.wait) == 0

    async def story() -> None:
        url = f"http://127.0.0.1:{port}"
        async with MPREGClient(url, patience_seconds=None) as client:
            with Served(tmp_path, loop, "--port", port) as node:
                await anyio.to_thread.run_sync(node.url)
                with anyio.fail_after(GUARD_SECONDS):
                    jobs = await client.message_queues.get_queue("jobs")
                work = Work(jobs, client.log_store("audit"))
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(work.run)
                    await kill_some(work, node)
                    for _ in range(KILLS - 1):
                        with Served(tmp_path, loop, "--port", port) as again:
                            await kill_some(work, again)
                    with Served(tmp_path, loop, "--port", port) as last:
                        await end(work, last)

    anyio.run(story, backend=loop)
