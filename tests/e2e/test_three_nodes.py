"""Three nodes in processes of their own, killed and started again in turn, while programs send and
consume through any of them: the right one or a wrong one.

Nothing is timed. What is checked follows from what the programs were told: a send that was
acknowledged is not lost, and a message whose ack was told does not come again.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import httpx
import pytest
from attrs import define, field

from mpreg.client import MPREGClient, RemoteQueue
from mpreg.errors import LeaseLostError
from tests.e2e.support import GUARD_SECONDS, loops
from tests.e2e.test_serve import Served

#: On each loop, each node once; `make crash` sets more: from six on, by each signal.
KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "2"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))

NAMES: Final = ("alpha", "beta", "gamma")
#: A queue of each node, so that each is the right one for somebody and a wrong one for others.
QUEUES: Final = {"alpha": "apples", "beta": "berries", "gamma": "grapes"}

#: A guard: for three nodes, and each that is started again, on a machine that is busy as well.
ALL_SECONDS: Final = GUARD_SECONDS + 60.0 * KILLS

#: What is acknowledged between two kills, at least; at most three times as much.
ACKS_BETWEEN: Final = 5

#: Senders wait beyond it, so that what is left at the end is soon taken.
BACKLOG_MAX: Final = 30

SETTINGS: Final = """
[mpreg]
name = "{name}"
announcement_ttl_seconds = 6.0
[mpreg.persistence]
data_dir = "data"
backend = "{backend}"
[mpreg.queues.{queue}]
max_deliveries = 1000
lease_seconds = 5.0
[mpreg.server]
port = {port}
write_token_file = "write-token"
admin_token_file = "admin-token"
{peers}
"""

PEER: Final = """
[[mpreg.peers]]
url = "http://127.0.0.1:{port}"
token_file = "admin-token"
"""

WRITE_TOKEN: Final = "write-token-of-all"
ADMIN_TOKEN: Final = "admin-token-of-all"


@define(eq=False)
class Story:
    """One directory with a directory for each node, and what is known of what they were told."""

    place: Path
    loop: str
    chance: random.Random
    ports: dict[str, int] = field(factory=dict)
    nodes: dict[str, Served] = field(factory=dict)
    """Those that run."""
    incarnations: dict[str, int] = field(factory=dict)
    identities: dict[str, str] = field(factory=dict)
    seen: Counter[str] = field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        # Held together, so that they are three.
        with socket.socket() as one, socket.socket() as other, socket.socket() as third:
            for name, free in zip(NAMES, (one, other, third), strict=True):
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                free.bind(("127.0.0.1", 0))
                self.ports[name] = free.getsockname()[1]
        for name in NAMES:
            (self.place / name).mkdir()
            for file, token in (("write-token", WRITE_TOKEN), ("admin-token", ADMIN_TOKEN)):
                path = self.place / name / file
                path.write_text(token)
                path.chmod(0o600)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def served(self, name: str) -> Served:
        peers = "".join(PEER.format(port=self.ports[one]) for one in NAMES if one != name)
        text = SETTINGS.format(
            name=name,
            queue=QUEUES[name],
            port=self.ports[name],
            peers=peers,
            backend="file" if name == "gamma" else "sqlite",
        )
        place, port = self.place / name, self.ports[name]
        return Served(place, self.loop, "--port", port, text=text, guard_seconds=ALL_SECONDS)

    # --- asking ---

    async def fabric(self, name: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {WRITE_TOKEN}"}
        async with httpx.AsyncClient(
            base_url=self.url(name), headers=headers, timeout=None
        ) as client:
            answer = await client.get("/v1/fabric")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def until_all_know_all(self) -> None:
        for name in NAMES:
            while True:
                nodes = (await self.fabric(name))["nodes"]
                known = {one["name"]: one["queues"] for one in nodes if one["state"] != "away"}
                if known == {one: [QUEUES[one]] for one in NAMES}:
                    break
                await anyio.sleep(0.02)

    # --- lives ---

    async def begin(self, name: str) -> None:
        """Start a node. Whoever asks it before it has restored all is told so, and nothing else."""
        node = self.nodes[name] = self.served(name).__enter__()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self._ask_too_early, name, node)
            await anyio.to_thread.run_sync(node.url)
            task_group.cancel_scope.cancel()
        await self._look(name)

    async def _ask_too_early(self, name: str, node: Served) -> None:
        """It is ready only when everything is there; the first answer that is no refusal has it."""
        headers = {"authorization": f"Bearer {WRITE_TOKEN}"}
        async with httpx.AsyncClient(
            base_url=self.url(name), headers=headers, timeout=None
        ) as client:
            while True:
                try:
                    ready = await client.get("/health/ready")
                    stats = await client.get(f"/v1/queues/{QUEUES[name]}")
                except httpx.TransportError:
                    self.seen["not listening"] += 1
                    await anyio.sleep(0.03)
                    continue
                if stats.status_code == 200:
                    return
                assert stats.json()["error"] == "NotReadyError", stats.text
                restored = {one["name"]: one["state"] for one in ready.json()["restore"]}
                if ready.status_code == 503:
                    self.seen["not ready"] += 1
                else:
                    assert set(restored.values()) == {"ready"}
                await anyio.sleep(0.03)

    async def _look(self, name: str) -> None:
        """What a node is after its restore: itself, of a later life, with what it knew."""
        headers = {"authorization": f"Bearer {WRITE_TOKEN}"}
        async with httpx.AsyncClient(
            base_url=self.url(name), headers=headers, timeout=None
        ) as client:
            ready = (await client.get("/health/ready")).json()
            queue = (await client.get(f"/v1/queues/{QUEUES[name]}")).json()
        found = await self.fabric(name)
        restored = {one["name"]: one for one in ready["restore"]}
        assert restored["catalog"]["state"] == "ready"
        assert list(restored).index("queues") < list(restored).index("catalog")
        assert queue["configuration"]["max_deliveries"] == 1000
        own = found["nodes"][0]
        assert own["queues"] == [QUEUES[name]]
        assert self.identities.setdefault(name, found["node"]) == found["node"]
        assert own["incarnation"] > self.incarnations.get(name, 0)
        if name in self.incarnations:
            # It knew of the others when it was ready, before any of them was asked.
            assert restored["catalog"]["done"] == len(NAMES) - 1
            assert {one["name"] for one in found["nodes"]} == set(NAMES)
        self.incarnations[name] = own["incarnation"]

    async def end(self, name: str, number: signal.Signals) -> None:
        node = self.nodes.pop(name)
        try:
            await self._end(node, number)
        finally:
            node.__exit__(None, None, None)

    @staticmethod
    async def _end(node: Served, number: signal.Signals) -> None:
        node.send(number)
        code = await anyio.to_thread.run_sync(node.wait)
        assert code == (0 if number is signal.SIGTERM else -number), node.errors
        assert "Traceback" not in node.errors, node.errors


@define(eq=False)
class Work:
    """Senders and consumers of one queue, each through a node of its own, and what they know."""

    name: str
    senders: list[RemoteQueue]
    consumers: list[RemoteQueue]
    numbers: itertools.count[int] = field(factory=itertools.count)
    ids: dict[int, str] = field(factory=dict)
    """Of each number that was sent, or has come."""
    sent: set[int] = field(factory=set)
    acked: dict[int, int] = field(factory=dict)
    """With the attempt that was acknowledged."""
    stopping: bool = False
    ended: anyio.Event = field(factory=anyio.Event)

    async def run(self) -> None:
        async with anyio.create_task_group() as consuming:
            for queue in self.consumers:
                consuming.start_soon(self._consume, queue)
            async with anyio.create_task_group() as sending:
                for queue in self.senders:
                    sending.start_soon(self._send, queue)
            while not self.acked.keys() >= self.sent:
                await anyio.sleep(0.01)
            consuming.cancel_scope.cancel()
        self.ended.set()

    async def _send(self, queue: RemoteQueue) -> None:
        while not self.stopping:
            if len(self.sent) - len(self.acked) > BACKLOG_MAX:
                await anyio.sleep(0.01)
                continue
            number = next(self.numbers)
            self._check(number, await queue.send([self.name, number]))
            self.sent.add(number)

    async def _consume(self, queue: RemoteQueue) -> None:
        async for message in queue.consume(prefetch=2):
            name, number = message.payload
            assert name == self.name, f"a message of {name} is in the queue {self.name}"
            # One that was taken ahead before its node was killed may be looked at after another
            # consumer had it again; what was handed out after the ack is no earlier attempt.
            last = self.acked.get(number, message.attempt + 1)
            assert message.attempt < last, f"{number} was acknowledged and comes again"
            self._check(number, message.id)
            try:
                await message.ack()
            except LeaseLostError:
                # Its node was started again, or its lease was over: it comes again.
                continue
            assert number not in self.acked, f"{number} was acknowledged twice"
            self.acked[number] = message.attempt

    def _check(self, number: int, id: str) -> None:
        assert self.ids.setdefault(number, id) == id, f"{number} was sent twice"


async def tell(story: Story, kills: int) -> None:
    async with AsyncExitStack() as stack:
        # Each may only write; what else it takes, the nodes do for one another.
        clients = [
            await stack.enter_async_context(
                MPREGClient(story.url(name), WRITE_TOKEN, patience_seconds=None)
            )
            for name in NAMES
        ]
        try:
            async with anyio.create_task_group() as task_group:
                for name in NAMES:
                    task_group.start_soon(story.begin, name)
            await story.until_all_know_all()
            works = [
                Work(
                    queue,
                    senders=[await client.message_queues.get_queue(queue) for client in clients],
                    consumers=[await client.message_queues.get_queue(queue) for client in clients],
                )
                for queue in QUEUES.values()
            ]
            async with anyio.create_task_group() as task_group:
                for work in works:
                    task_group.start_soon(work.run)
                for kill in range(kills):
                    await until_acked(works, story.chance)
                    # In turn: each node, and each of them by one signal and then by the other.
                    name = NAMES[kill % 3]
                    await story.end(name, signal.SIGTERM if kill % 2 else signal.SIGKILL)
                    if story.chance.random() < 0.5:
                        # The others have work meanwhile.
                        others = [one for one in works if one.name != QUEUES[name]]
                        await until_acked(others, story.chance)
                    await story.begin(name)
                await until_acked(works, story.chance)
                for work in works:
                    work.stopping = True
                for work in works:
                    await work.ended.wait()
                    assert work.acked.keys() >= work.sent
                    assert (await work.senders[0].statistics()).size == 0
            await story.until_all_know_all()
            assert story.seen["not listening"] or story.seen["not ready"]
            for name in NAMES:
                await story.end(name, signal.SIGTERM)
        finally:
            for node in story.nodes.values():
                node.__exit__(None, None, None)


async def until_acked(works: list[Work], chance: random.Random) -> None:
    enough = [len(one.acked) + chance.randint(ACKS_BETWEEN, 3 * ACKS_BETWEEN) for one in works]
    while any(len(one.acked) < count for one, count in zip(works, enough, strict=True)):
        await anyio.sleep(0.03)


@pytest.mark.parametrize("loop", loops("trio"))
def test_three_nodes_that_end_in_turn_under_load_keep_what_they_promised(
    tmp_path: Path, loop: str
) -> None:
    story = Story(tmp_path, loop, random.Random(SEED))

    async def guarded() -> None:
        with anyio.fail_after(ALL_SECONDS):
            await tell(story, KILLS)

    anyio.run(guarded, backend=loop)
