"""A store whose every state is known, changes to any of its bytes, and what it says after them."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from anyio import to_thread
from attrs import field, frozen

from mpreg.errors import PersistenceError
from mpreg.persistence import Entry, KeyValueStore, LogStore, PersistenceRegistry, SnapshotStore
from tests.integration.support import config

__all__ = ["CHANGES", "Read", "Stored", "content_of", "fill", "put_back", "read_everything"]

Change = Callable[[bytes, random.Random], bytes]

#: What one item is: ("entry", key), ("record", offset), ("snapshot",) ...
Item = tuple[object, ...]
#: What is stored of each, None where it was deleted, truncated or not written yet.
State = Mapping[Item, object]

KEYS: Final = tuple(f"key {number:03}" for number in range(80))
RECORDS_MAX: Final = 200
SNAPSHOT: Final = ("snapshot",)


def flip(content: bytes, luck: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(luck.choice([1, 1, 1, 5])):
        changed[luck.randrange(len(changed))] ^= 1 << luck.randrange(8)
    return bytes(changed)


def _piece(content: bytes, luck: random.Random) -> tuple[int, int]:
    start = luck.randrange(len(content))
    return start, min(len(content), start + luck.choice([1, 4, 16, 100, 512, 4_096, 16_384]))


def zero(content: bytes, luck: random.Random) -> bytes:
    start, stop = _piece(content, luck)
    return content[:start] + bytes(stop - start) + content[stop:]


def zero_page(content: bytes, luck: random.Random) -> bytes:
    start = luck.randrange(0, len(content), 4_096)
    return content[:start] + bytes(len(content[start : start + 4_096])) + content[start + 4_096 :]


def swap_pages(content: bytes, luck: random.Random) -> bytes:
    one, other = (luck.randrange(len(content) // 4_096 or 1) * 4_096 for _ in range(2))
    changed = bytearray(content)
    changed[one : one + 4_096], changed[other : other + 4_096] = (
        content[other : other + 4_096],
        content[one : one + 4_096],
    )
    return bytes(changed)


def cut_out(content: bytes, luck: random.Random) -> bytes:
    start, stop = _piece(content, luck)
    return content[:start] + content[stop:]


def cut_off(content: bytes, luck: random.Random) -> bytes:
    return content[: luck.randrange(len(content))]


def duplicate(content: bytes, luck: random.Random) -> bytes:
    start, stop = _piece(content, luck)
    return content[:stop] + content[start:]


def append(content: bytes, luck: random.Random) -> bytes:
    return content + luck.choice([bytes(100), luck.randbytes(100), content[-100:]])


CHANGES: Final = (flip, flip, zero, zero_page, swap_pages, cut_out, cut_off, duplicate, append)


@frozen
class Stored:
    """The files, and what is in them by the commit sequence that they may show."""

    files: dict[str, bytes] = field(repr=False)
    states: dict[int, State] = field(repr=False)
    acked: int

    def at(self, sequence: int) -> dict[Item, set[object]]:
        """What each item may be after that commit. One inside a save shows the old or the new."""
        before = max(known for known in self.states if known <= sequence)
        after = min((known for known in self.states if known >= sequence), default=before)
        may = {item: {value} for item, value in self.states[before].items()}
        may[SNAPSHOT].add(self.states[after][SNAPSHOT])
        return may


@frozen
class Read:
    """What a store said: how it ended where it did not open, or what each item was."""

    refused: PersistenceError | None
    sequence: int = 0
    items: dict[Item, object] = field(factory=dict, repr=False)
    """An item's value, None where there is none, or the error that was got instead."""


async def fill(data_dir: Path, seed: int, *, closed: bool, **settings: Any) -> Stored:
    """Write, overwrite, delete and truncate; note the state after each commit."""
    luck = random.Random(seed)
    state: dict[Item, object] = {("record", offset): None for offset in range(RECORDS_MAX)}
    state |= {("entry", key): None for key in KEYS} | {SNAPSHOT: None}
    states: dict[int, State] = {}
    files: dict[str, bytes] = {}
    async with PersistenceRegistry(config(data_dir, **settings)) as registry:
        stores = _stores(registry)
        states[(await registry.stats()).commit_sequence] = dict(state)
        for _ in range(250):
            await _write_something(stores, luck, state)
            sequence = (await registry.stats()).commit_sequence
            states[sequence] = dict(state)
        if not closed:
            files = await to_thread.run_sync(_killed_now, data_dir)
    return Stored(files or content_of(data_dir), states, sequence)


_Stores = tuple[KeyValueStore, LogStore, SnapshotStore]


def _stores(registry: PersistenceRegistry) -> _Stores:
    return (
        registry.key_value_store("shelf"),
        registry.log_store("audit"),
        registry.snapshot_store("images"),
    )


async def _write_something(stores: _Stores, luck: random.Random, state: dict[Item, object]) -> None:
    entries, log, snapshots = stores
    key = luck.choice(KEYS)
    match luck.choice(["put"] * 12 + ["delete", "append", "append", "append", "truncate", "save"]):
        case "put":
            value = luck.randbytes(luck.choice([0, 20, 20, 300, 300, 9_000, 140_000]))
            await entries.put(key, value)
            state["entry", key] = value
        case "delete":
            await entries.delete(key)
            state["entry", key] = None
        case "append":
            first = await log.next_offset()
            records = [luck.randbytes(luck.choice([5, 100, 700])) for _ in range(3)]
            if first + len(records) <= RECORDS_MAX:
                await log.append_many(records)
                state.update({("record", first + at): data for at, data in enumerate(records)})
        case "truncate":
            first, stop = await log.first_offset(), await log.next_offset()
            before = first + (stop - first) // 4
            await log.truncate_before(before)
            state.update({("record", offset): None for offset in range(before)})
        case "save":
            if luck.random() < 0.5:
                data = luck.randbytes(luck.choice([10, 5_000, 300_000]))
                await snapshots.save(data)
                state[SNAPSHOT] = data


async def read_everything(data_dir: Path, **settings: Any) -> Read:
    """Open it as a server would, and ask for everything that ever was there."""
    items: dict[Item, object] = {}
    try:
        async with PersistenceRegistry(config(data_dir, **settings)) as registry:
            entries, log, snapshots = _stores(registry)
            sequence = (await registry.stats()).commit_sequence
            for key in KEYS:
                items["entry", key] = await _asked(entries.get, key)
            for offset in range(RECORDS_MAX):
                items["record", offset] = await _record(log, offset)
            items[SNAPSHOT] = await _asked(snapshots.load)
    except PersistenceError as error:
        if not items:
            return Read(error)
    return Read(None, sequence, items)


async def _asked(ask: Callable[..., Awaitable[Any]], *arguments: object) -> object:
    try:
        found = await ask(*arguments)
    except PersistenceError as error:
        return error
    return None if found is None else found.value if isinstance(found, Entry) else found.data


async def _record(log: LogStore, offset: int) -> object:
    try:
        found = [record async for record in log.read_range(offset, offset + 1)]
    except PersistenceError as error:
        return error
    return found[0].data if found else None


def content_of(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def _killed_now(data_dir: Path) -> dict[str, bytes]:
    """The files of a directory in use. Read in another process: here it would drop the locks."""
    copy = data_dir.with_name(f"{data_dir.name}-killed")
    subprocess.run(["cp", "-r", data_dir, copy], check=True)
    return content_of(copy)


def put_back(directory: Path, content: dict[str, bytes]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    for name, data in content.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)
