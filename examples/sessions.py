"""Sessions of a web server: they expire, and two requests never overwrite each other's change."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from mpreg.persistence import (
    KeyValueStore,
    PersistenceConfig,
    PersistenceRegistry,
    VersionConflictError,
)

SESSION_SECONDS = 1_800.0


async def add_to_cart(sessions: KeyValueStore, user: str, article: bytes) -> None:
    """Read, change, write back if nobody else did in between; otherwise read again."""
    while True:
        entry = await sessions.get(user)
        cart = b"" if entry is None else entry.value
        try:
            await sessions.put(
                user,
                cart + article + b";",
                ttl_seconds=SESSION_SECONDS,
                expected_version=0 if entry is None else entry.version,  # 0: must not exist
            )
        except VersionConflictError:
            continue
        return  # on disk, and it would survive a power cut


async def main(data_dir: Path) -> None:
    async with PersistenceRegistry(PersistenceConfig(data_dir=data_dir)) as registry:
        sessions = registry.key_value_store("sessions")
        async with anyio.create_task_group() as requests:
            for number in range(10):
                requests.start_soon(add_to_cart, sessions, "ann", b"article %d" % number)
        await sessions.put("bob", b"gone soon", ttl_seconds=0.001)
        await anyio.sleep(0.01)

    # A restart of the server: sessions are there again, and expired ones are not.
    async with PersistenceRegistry(PersistenceConfig(data_dir=data_dir)) as registry:
        sessions = registry.key_value_store("sessions")
        async for entry in sessions.scan():
            print(f"{entry.key!r}: {entry.value.count(b';')} articles, version {entry.version}")
        assert await sessions.get("bob") is None


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        anyio.run(main, Path(directory))
