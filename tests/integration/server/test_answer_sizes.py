"""An answer is bounded by bytes as well as by count; what is out with consumers costs little."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest

from tests.integration.server.support import Node, error_of, open_node

pytestmark = pytest.mark.anyio

JOBS = "/v1/queues/jobs"

#: With what a message has beside it, two are more than 1,500 bytes and one is less.
LARGE = "x" * 1_000


@pytest.fixture(autouse=True)
def small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpreg.server.routes.queues.ANSWER_BYTES_MAX", 1_500)


async def make_dead(node: Node, count: int) -> None:
    await node.client.put("/v1/queues/once", json={"max_deliveries": 1})
    await node.send(*([number, LARGE] for number in range(count)), queue="once")
    while messages := await node.receive("once"):
        for message in messages:
            body = {"token": message["token"], "reason": "no"}
            assert (await node.post("/v1/queues/once/nack", body)).status_code == 200


async def test_a_receive_gives_no_more_than_fits_and_leases_no_more_than_it_gives(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:
        await node.send(*([number, LARGE] for number in range(5)))
        for given, pending in ((2, 3), (2, 1), (1, 0)):
            assert len(await node.receive()) == given
            queue = (await node.client.get(JOBS)).json()["statistics"]
            assert (queue["pending"], queue["in_flight"]) == (pending, 5 - pending)
            assert len(node.state.leases) == queue["in_flight"]


async def test_one_message_is_given_however_large_it_is(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.send("x" * 100_000, "y")
        assert len(await node.receive(messages_max=10)) == 1


async def test_dead_letters_come_page_by_page(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await make_dead(node, 5)
        path, seen = "/v1/queues/once/dead-letters", []
        pages: list[int] = []
        after = None
        while not pages or after is not None:
            answer = await node.client.get(path, params={"after": after} if after else None)
            found = answer.json()
            after = found["next"]
            pages.append(len(found["dead_letters"]))
            seen += [letter["payload"][0] for letter in found["dead_letters"]]
        assert (seen, pages) == ([0, 1, 2, 3, 4], [2, 2, 1])
        first = (await node.client.get(path, params={"limit": 1})).json()
        assert first["next"] == first["dead_letters"][0]["key"]
        for nothing in ("~", "999/", "\U0010ffff"):
            answer = await node.client.get(path, params={"after": nothing})
            assert answer.json() == {"dead_letters": [], "next": None}
        assert error_of(await node.client.get(path, params={"limit": "x"}))[0] == 400


async def test_what_is_out_with_consumers_is_not_in_memory(data_dir: Path) -> None:
    """Nor is what it took to die: it is read back where its last attempt is given back."""
    count, size = 48, 1 << 20
    async with open_node(data_dir, backend="sqlite") as node:
        await node.client.put("/v1/queues/once", json={"max_deliveries": 1})
        tokens = []
        tracemalloc.start()
        try:
            for number in range(count):
                await node.send(f"{number:03}" + "x" * size, queue="once")
                [message] = await node.receive("once")
                tokens.append(message["token"])
                del message
            gc.collect()
            # The newest messages are kept for whoever asks next: 16 MiB of them.
            assert tracemalloc.get_traced_memory()[0] < (16 + 8) * size
        finally:
            tracemalloc.stop()
        body = {"token": tokens[0], "reason": "no"}
        assert (await node.post("/v1/queues/once/nack", body)).json() == {"returned": 1}
        answer = await node.client.get("/v1/queues/once/dead-letters")
        [letter] = answer.json()["dead_letters"]
        assert letter["payload"].startswith("000x")
        assert len(letter["payload"]) == 3 + size
        late = await node.post("/v1/queues/once/nack", body)
        assert error_of(late) == (409, "LeaseLostError")
