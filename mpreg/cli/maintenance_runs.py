"""What the commands of maintenance do: call the library, show how far it is, tell how it ended."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar

import anyio.to_thread
import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from mpreg.cli.loops import run
from mpreg.persistence import (
    CorruptDataError,
    InvalidArgumentError,
    MpregError,
    PersistenceConfig,
)
from mpreg.persistence.maintenance import (
    BackupReport,
    Progress,
    RestoreReport,
    VerificationReport,
    export_lines,
    import_lines,
)
from mpreg.persistence.maintenance import backup as make_backup
from mpreg.persistence.maintenance import repair as repair_store
from mpreg.persistence.maintenance import restore as restore_backup
from mpreg.persistence.maintenance import verify as verify_store
from mpreg.persistence.maintenance.staging import sync_file
from mpreg.persistence.maintenance.worker import OnProgress

__all__ = ["run_backup", "run_export", "run_import", "run_restore", "run_verify"]

EXIT_OK: Final = 0
EXIT_DAMAGED: Final = 1
EXIT_FAILED: Final = 2
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT

FINDINGS_SHOWN_MAX: Final = 100


class _Report(Protocol):
    def as_mapping(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=_Report)


def run_verify(data_dir: Path, *, full: bool, repair: bool, as_json: bool, loop: str) -> int:
    def work(on_progress: OnProgress | None) -> Awaitable[VerificationReport]:
        if repair:
            return repair_store(data_dir, on_progress=on_progress)
        return verify_store(data_dir, full=full, on_progress=on_progress)

    def show(report: VerificationReport) -> int:
        _show_verification(report)
        return EXIT_OK if report.sound else EXIT_DAMAGED

    return _run(loop, work, show, as_json=as_json)


def _show_verification(report: VerificationReport) -> None:
    for finding in report.findings[:FINDINGS_SHOWN_MAX]:
        click.echo(f"{'DAMAGED' if finding.kind.is_damage else 'note'}  {finding}")
    left = report.damaged + report.notices - FINDINGS_SHOWN_MAX
    if left > 0:
        click.echo(f"... and {left} more; --json lists up to 10,000")
    click.echo(
        f"{report.path}: {report.entries} entries, {report.records} records in {report.logs} logs, "
        f"{report.snapshots} snapshots, commit sequence {report.commit_sequence}"
    )
    click.echo("sound" if report.sound else f"DAMAGED: {report.damaged} findings")


def run_backup(
    data_dir: Path,
    destination: Path,
    *,
    bytes_per_second: float | None,
    allow_damaged: bool,
    as_json: bool,
    loop: str,
) -> int:
    def work(on_progress: OnProgress | None) -> Awaitable[BackupReport]:
        return make_backup(
            data_dir,
            destination,
            bytes_per_second=bytes_per_second,
            allow_damaged=allow_damaged,
            on_progress=on_progress,
        )

    def show(report: BackupReport) -> int:
        state = "unchanged since the last backup" if report.unchanged else "backed up"
        click.echo(
            f"{report.path}: {state}, commit sequence {report.commit_sequence}, "
            f"{report.size_bytes} bytes"
        )
        if not report.verification.sound:
            _show_verification(report.verification)
        return EXIT_OK

    return _run(loop, work, show, as_json=as_json)


def run_restore(
    source: Path,
    data_dir: Path,
    *,
    overwrite: bool,
    allow_damaged: bool,
    as_json: bool,
    loop: str,
) -> int:
    def work(on_progress: OnProgress | None) -> Awaitable[RestoreReport]:
        return restore_backup(
            source,
            data_dir,
            overwrite=overwrite,
            allow_damaged=allow_damaged,
            on_progress=on_progress,
        )

    def show(report: RestoreReport) -> int:
        click.echo(f"{report.path}: restored as it was at commit sequence {report.commit_sequence}")
        return EXIT_OK

    return _run(loop, work, show, as_json=as_json)


def run_export(file: Path, data_dir: Path, *, as_json: bool, loop: str) -> int:
    async def work(on_progress: OnProgress | None) -> Any:
        with _output(file) as output:
            return await export_lines(data_dir, output.write, on_progress=on_progress)

    def show(report: Any) -> int:
        click.echo(
            f"exported {report.entries} entries, {report.records} records, {report.snapshots} "
            f"snapshots at commit sequence {report.commit_sequence}",
            err=True,
        )
        return EXIT_OK

    return _run(loop, work, show, as_json=as_json, to_errors=True)


def run_import(file: Path, data_dir: Path, *, backend: str, as_json: bool, loop: str) -> int:
    async def work(_on_progress: OnProgress | None) -> Any:
        config = PersistenceConfig(data_dir=data_dir, backend=backend)
        if backend == "memory":
            raise InvalidArgumentError("a memory store would be gone at once; name another backend")
        with _input(file) as stream:
            return await import_lines(_lines_of(stream), config)

    def show(report: Any) -> int:
        click.echo(
            f"{data_dir}: imported {report.entries} entries, {report.records} records, "
            f"{report.snapshots} snapshots"
        )
        return EXIT_OK

    return _run(loop, work, show, as_json=as_json, damaged=(CorruptDataError, InvalidArgumentError))


# --- how each of them runs ---


def _run(
    loop: str,
    work: Callable[[OnProgress | None], Awaitable[R]],
    show: Callable[[R], int],
    *,
    as_json: bool,
    to_errors: bool = False,
    damaged: tuple[type[MpregError], ...] = (CorruptDataError,),
) -> int:
    try:
        with _progress_bar(shown=not as_json) as on_progress:
            report = run(loop, work, on_progress)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was left half done", err=True)
        return EXIT_INTERRUPTED
    except MpregError as error:
        _tell(error, as_json=as_json, to_errors=to_errors)
        return EXIT_DAMAGED if isinstance(error, damaged) else EXIT_FAILED
    except OSError as error:
        click.echo(f"{error.filename or 'the file'}: {error.strerror}", err=True)
        return EXIT_FAILED
    if as_json:
        click.echo(json.dumps(report.as_mapping(), indent=2), err=to_errors)
        return EXIT_OK if getattr(report, "sound", True) else EXIT_DAMAGED
    return show(report)


def _tell(error: MpregError, *, as_json: bool, to_errors: bool) -> None:
    if as_json:
        told = {"error": type(error).__name__, "message": str(error), "state": error.data_state}
        click.echo(json.dumps(told, indent=2), err=to_errors)
    else:
        click.echo(f"{type(error).__name__}: {error}", err=True)


@contextmanager
def _progress_bar(*, shown: bool) -> Iterator[OnProgress | None]:
    """On a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def on_progress(progress: Progress) -> None:
            bar.update(
                task, description=progress.task, completed=progress.done, total=progress.total
            )

        yield on_progress


# --- files ---


@contextmanager
def _output(file: Path) -> Iterator[BinaryIO]:
    """The standard output, or a file that has its name once it is complete and synced."""
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with tempfile.NamedTemporaryFile(
        dir=file.absolute().parent, prefix=f".{file.name}.", delete=False
    ) as unfinished:
        path = Path(unfinished.name)
        try:
            yield unfinished  # type: ignore[misc]
            unfinished.flush()
            os.fsync(unfinished.fileno())
            path.rename(file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    sync_file(file.absolute().parent)


@contextmanager
def _input(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with file.open("rb") as stream:
        yield stream


async def _lines_of(stream: BinaryIO) -> AsyncIterator[bytes]:
    read = functools.partial(stream.readlines, 1 << 20)
    while lines := await anyio.to_thread.run_sync(read, abandon_on_cancel=True):
        for line in lines:
            yield line
