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

from mpreg.cli.exits import DamagedInputError
from mpreg.cli.output import Output
from mpreg.cli.progress import OnProgress, Progress
from mpreg.cli.runs.export import gaps_text
from mpreg.cli.settings import Settings
from mpreg.errors import InvalidArgumentError
from mpreg.persistence.maintenance import ImportReport, import_lines

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
            report = await import_lines(_lines_of(stream, on_progress), config)
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


async def _lines_of(stream: BinaryIO, on_progress: OnProgress | None) -> AsyncIterator[bytes]:
    total, done = _size_of(stream), 0
    groups = _arriving(stream.fileno()) if _may_keep_waiting(stream) else _standing(stream)
    async for lines in groups:
        for line in lines:
            yield line
        done += sum(map(len, lines))
        if on_progress is not None:
            on_progress(Progress("importing bytes", done, total))


async def _standing(stream: BinaryIO) -> AsyncIterator[list[bytes]]:
    read = functools.partial(stream.readlines, READ_BYTES)
    while lines := await anyio.to_thread.run_sync(read, abandon_on_cancel=True):
        yield lines


async def _arriving(descriptor: int) -> AsyncIterator[list[bytes]]:
    """Never in a thread: one that waits for a pipe keeps the process from ending when it is
    interrupted."""
    begun: list[bytes] = []
    while True:
        await anyio.wait_readable(descriptor)
        piece = os.read(descriptor, READ_BYTES)
        *whole, last = piece.split(b"\n")
        if whole:
            first = b"".join((*begun, whole[0]))
            begun = []
            yield [line + b"\n" for line in (first, *whole[1:])]
        begun.append(last)
        if not piece:
            if rest := b"".join(begun):
                yield [rest]
            return


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
