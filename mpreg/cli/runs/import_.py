"""Making a data directory from lines of JSON."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISFIFO, S_ISREG, S_ISSOCK
from typing import BinaryIO, Final

import anyio.to_thread
from attrs import define, field

from mpreg.cli.exits import DamagedInputError
from mpreg.cli.output import Output
from mpreg.cli.runs.export import gaps_text
from mpreg.cli.settings import Settings
from mpreg.errors import InvalidArgumentError
from mpreg.persistence.maintenance import ImportReport, import_lines, line_bytes_max
from mpreg.progress import OnProgress, Progress

__all__ = ["run_import"]

READ_BYTES: Final = 1 << 20


async def run_import(
    settings: Settings, output: Output, *, file: Path, backend: str | None
) -> None:
    config = settings.config(backend=backend)
    if config.backend == "memory":
        raise InvalidArgumentError("a memory store would be gone at once; name another backend")
    with output.progress("importing") as on_progress, _opened(file) as stream:
        try:
            lines = _lines_of(stream, line_bytes_max(config.value_bytes_max), on_progress)
            report = await import_lines(lines, config)
        except InvalidArgumentError as error:
            raise DamagedInputError(f"{file}: {error}; nothing was imported") from error
    output.row(
        {"path": str(settings.data_dir), **report.as_mapping()}, _text(settings.data_dir, report)
    )


def _text(data_dir: Path, report: ImportReport) -> str:
    return (
        f"{data_dir}: imported {report.entries} entries, {report.records} records, "
        f"{report.snapshots} snapshots{gaps_text(report.gaps, report.missing)}"
    )


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with file.open("rb") as stream:
        yield stream


async def _lines_of(
    stream: BinaryIO, bytes_max: int, on_progress: OnProgress | None
) -> AsyncIterator[bytes]:
    total, done = _size_of(stream), 0
    read = _arriving if _may_keep_waiting(stream) else _standing
    cutter = LineCutter(bytes_max)
    while piece := await read(stream):
        for line in cutter.cut(piece):
            yield line
        done += len(piece)
        if on_progress is not None:
            on_progress(Progress("importing bytes", done, total))
    if rest := cutter.rest():
        yield rest


async def _standing(stream: BinaryIO) -> bytes:
    read = functools.partial(stream.read, READ_BYTES)
    return await anyio.to_thread.run_sync(read, abandon_on_cancel=True)


async def _arriving(stream: BinaryIO) -> bytes:
    """Never in a thread: one that waits for a pipe keeps the process from ending when it is
    interrupted."""
    await anyio.wait_readable(stream.fileno())
    return os.read(stream.fileno(), READ_BYTES)


@define
class LineCutter:
    """Cuts into lines what comes in pieces. A line may have no end, so one that is too long is
    given as far as it came: whoever reads it sees that it is."""

    bytes_max: int
    _begun: list[bytes] = field(factory=list)
    _size: int = 0

    def cut(self, piece: bytes) -> Iterator[bytes]:
        """The lines that end in this piece."""
        *ended, last = piece.split(b"\n")
        for line in ended:
            self._add(line)
            yield self.rest() + b"\n"
        self._add(last)
        if self._size > self.bytes_max:
            yield self.rest()

    def _add(self, part: bytes) -> None:
        self._begun.append(part)
        self._size += len(part)

    def rest(self) -> bytes:
        """What has no end yet."""
        begun, self._begun, self._size = self._begun, [], 0
        return b"".join(begun)


def _may_keep_waiting(stream: BinaryIO) -> bool:
    """A pipe, a socket or a terminal: what comes next may not be there yet."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except OSError:
        return False
    return S_ISFIFO(mode) or S_ISSOCK(mode) or stream.isatty()


def _size_of(stream: BinaryIO) -> int | None:
    """None where it cannot be told: a pipe."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return None
    return found.st_size if S_ISREG(found.st_mode) else None
