"""An outbox: an order and the message about it are written together, so neither is without the
other; the messages are sent afterwards, in order, and where sending stopped is written as well."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from mpreg.persistence import PersistenceConfig, PersistenceRegistry


async def place_order(registry: PersistenceRegistry, number: int) -> None:
    orders = registry.key_value_store("orders")
    outbox = registry.log_store("outbox")
    async with registry.transaction() as transaction:
        orders.put_nowait(f"{number}", b"placed", expected_version=0, transaction=transaction)
        offset = outbox.append_nowait(b"order %d placed" % number, transaction=transaction)
    print(f"order {number} is on disk, its message at offset {await offset}")


async def send_messages(registry: PersistenceRegistry, at_most: int) -> None:
    """Send what is in the outbox; a crash between sending and noting it sends one message twice."""
    progress = registry.key_value_store("progress")
    outbox = registry.log_store("outbox")
    entry = await progress.get("sent")
    start = 0 if entry is None else int(entry.value)
    async for record in outbox.read_range(start, start + at_most):
        print(f"sent: {record.data.decode()}")
        async with registry.transaction() as transaction:
            sent = record.offset + 1
            progress.put_nowait("sent", b"%d" % sent, transaction=transaction)
            outbox.truncate_before_nowait(sent, transaction=transaction)


async def main(data_dir: Path) -> None:
    config = PersistenceConfig(data_dir=data_dir)
    async with PersistenceRegistry(config) as registry:
        async with anyio.create_task_group() as customers:
            for number in range(5):
                customers.start_soon(place_order, registry, number)
        await send_messages(registry, at_most=2)

    print("a restart")
    async with PersistenceRegistry(config) as registry:
        await send_messages(registry, at_most=100)
        outbox = registry.log_store("outbox")
        assert await outbox.first_offset() == await outbox.next_offset() == 5


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        anyio.run(main, Path(directory))
