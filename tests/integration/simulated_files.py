"""A file system below the file backend that forgets: what was not synced, and names that were not.

It keeps, for each file, what the system's cache gives and what is on the platters. A write gets
there with the next sync of its file, or at a power cut by luck, sector by sector. Names get there
with the next sync of the directory, or at a power cut by luck, in their order. A sync that fails is
the nasty kind: the cache keeps the pages and takes them for clean, so no later sync writes them.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

from attrs import define, field

from mpreg.persistence.backends.file.files import Synced
from tests.integration.simulated_disk import Truncate, Write

__all__ = ["PowerCut", "SimulatedFiles", "failing_once"]


class PowerCut(BaseException):
    """The machine is gone. No handler of errors is to take it for one."""


@define(eq=False)
class _File:
    cache: bytearray = field(factory=bytearray)
    durable: bytearray = field(factory=bytearray)
    waiting: list[Write | Truncate] = field(factory=list)

    def change(self, change: Write | Truncate) -> None:
        change.apply(self.cache)
        self.waiting.append(change)

    def found(self, luck: random.Random, share: float) -> _File:
        content = bytearray(self.durable)
        for change in self.waiting:
            if luck.random() >= share:
                continue
            tears = isinstance(change, Write) and luck.random() < 0.3
            for part in change.torn(luck) if tears and isinstance(change, Write) else [change]:
                part.apply(content)
        return _File(bytearray(content), content)


Names = dict[str, _File]
Fault = Callable[[str, str], OSError | None]
"""What an operation on a file fails with, told its kind and the file's name; None: it works."""


@define(eq=False)
class SimulatedFiles:
    """One directory. Operations that change anything are counted."""

    fault: Fault = lambda _kind, _name: None
    cut_at: int = -1
    """The power is cut at the operation with this number; it may happen in part."""
    happened: list[tuple[str, str]] = field(factory=list)
    """Kind and name of each operation that was begun."""
    _names: Names = field(factory=dict)
    _durable_names: Names = field(factory=dict)
    _waiting_names: list[Callable[[Names], object]] = field(factory=list)
    _open: dict[int, tuple[str, _File]] = field(factory=dict)
    _handles: int = 0
    _dead: bool = False

    def _begin(self, kind: str, name: str) -> bool:
        """Whether the power is cut in the middle of it."""
        if self._dead:
            raise PowerCut
        self.happened.append((kind, name))
        if (error := self.fault(kind, name)) is not None:
            raise error
        return len(self.happened) - 1 == self.cut_at

    def _end(self, cut: bool) -> None:
        if cut:
            self._dead = True
            raise PowerCut

    def _change_names(self, change: Callable[[Names], object]) -> None:
        change(self._names)
        self._waiting_names.append(change)

    # --- `FileSystem` ---

    def names(self, directory: Path) -> list[str]:
        return list(self._names)

    def create(self, path: Path) -> int:
        name, new = path.name, _File()
        cut = self._begin("create", name)
        self._change_names(lambda names: names.__setitem__(name, new))
        self._end(cut)
        return self._opened(name, new)

    def open(self, path: Path) -> int:
        if path.name not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._opened(path.name, self._names[path.name])

    def _opened(self, name: str, file: _File) -> int:
        self._handles += 1
        self._open[self._handles] = (name, file)
        return self._handles

    def close(self, file: int) -> None:
        del self._open[file]

    def size(self, file: int) -> int:
        return len(self._open[file][1].cache)

    def read(self, file: int, count: int, offset: int) -> bytes:
        return bytes(self._open[file][1].cache[offset : offset + count])

    def write(self, file: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        name, opened = self._open[file]
        try:
            cut = self._begin("write", name)
        except OSError:
            # A part of it is there: that is what a full disk leaves.
            opened.change(Write(name, offset, bytes(data[: len(data) // 2])))
            raise
        opened.change(Write(name, offset, bytes(data)))
        self._end(cut)

    def truncate(self, file: int, size: int) -> None:
        name, opened = self._open[file]
        cut = self._begin("truncate", name)
        opened.change(Truncate(name, size))
        self._end(cut)

    def sync(self, file: int) -> None:
        name, opened = self._open[file]
        try:
            self._end(self._begin("sync", name))
        except OSError:
            opened.waiting.clear()
            raise
        for change in opened.waiting:
            change.apply(opened.durable)
        opened.waiting.clear()

    def start_sync(self, file: int, offset: int, count: int) -> None:
        return

    def begin_sync(self, file: int) -> Synced:
        return lambda: self.sync(file)

    def links(self, file: int) -> int:
        return sum(self._open[file][1] is one for one in self._names.values())

    def rename(self, source: Path, target: Path) -> None:
        one, other = source.name, target.name
        cut = self._begin("rename", other)
        self._change_names(lambda names: names.update({other: names.pop(one)}))
        self._end(cut)

    def remove(self, path: Path) -> None:
        name = path.name
        cut = self._begin("remove", name)
        self._change_names(lambda names: names.pop(name, None))
        self._end(cut)

    def sync_directory(self, directory: Path) -> None:
        self._end(self._begin("sync directory", ""))
        self._sync_names(len(self._waiting_names))

    def _sync_names(self, count: int) -> None:
        for change in self._waiting_names[:count]:
            change(self._durable_names)
        self._waiting_names.clear()

    # --- what is left ---

    def after_a_kill(self) -> SimulatedFiles:
        """The process dies, the machine goes on: cache and disk stay as they are."""
        self._dead = True
        return SimulatedFiles(
            names=self._names,
            durable_names=self._durable_names,
            waiting_names=self._waiting_names,
        )

    def after_a_power_cut(self, luck: random.Random, *, keeps: bool = True) -> SimulatedFiles:
        """What is found when the power is back. ``keeps=False``: only what was synced."""
        self._dead = True
        share = luck.choice([0.0, 0.5, 0.9, 1.0]) if keeps else 0.0
        self._sync_names(luck.randint(0, len(self._waiting_names)) if keeps else 0)
        found = {name: file.found(luck, share) for name, file in self._durable_names.items()}
        return SimulatedFiles(names=found, durable_names=dict(found))

    def content(self) -> dict[str, bytes]:
        return {name: bytes(file.cache) for name, file in self._names.items()}


def failing_once(kind: str, nth: int, error: int, *, name: str = "") -> Fault:
    """The nth operation of a kind, on files whose names hold ``name``, fails, and only that."""
    count = 0

    def fault(happens: str, file: str) -> OSError | None:
        nonlocal count
        if happens != kind or name not in file:
            return None
        count += 1
        return OSError(error, os.strerror(error)) if count - 1 == nth else None

    return fault
