"""Writing a store as lines of JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from mpreg.cli.exits import NotFoundError
from mpreg.cli.output import Output
from mpreg.cli.settings import Settings
from mpreg.cli.streams import standard_output_is_closed
from mpreg.persistence.maintenance import Finding, export_lines
from mpreg.persistence.maintenance.staged_file import staged_file
from mpreg.persistence.maintenance.staging import naming, refuse_nested

__all__ = ["gaps_text", "run_export"]

GAPS_SHOWN_MAX: Final = 100


async def run_export(
    settings: Settings, output: Output, *, file: Path, allow_gaps: bool, overwrite: bool
) -> None:
    if str(file) == "-":
        if standard_output_is_closed():
            raise NotFoundError("the standard output is closed; nothing was exported: name a FILE")
    else:
        refuse_nested(file, settings.data_dir, "the data directory")
    with output.progress("exporting") as on_progress, _written(file, overwrite) as stream:
        report = await export_lines(
            settings.data_dir,
            _writer(file, stream),
            allow_gaps=allow_gaps,
            on_progress=on_progress,
        )
    text = (
        f"exported {report.entries} entries, {report.records} records, {report.snapshots} "
        f"snapshots at commit sequence {report.commit_sequence}"
    )
    output.aside(report.as_mapping(), text + gaps_text(report.gaps, report.missing))


def _writer(file: Path, stream: BinaryIO) -> Callable[[bytes], object]:
    place = Path("the standard output") if str(file) == "-" else file

    def write(line: bytes) -> None:
        with naming(place):
            stream.write(line)

    return write


def gaps_text(gaps: Sequence[Finding], missing: int) -> str:
    """Lines for those that were met in logs; empty where none was."""
    if not missing:
        return ""
    lines = [f"MISSING  {gap}" for gap in gaps[:GAPS_SHOWN_MAX]]
    if len(gaps) > GAPS_SHOWN_MAX:
        lines.append("... and more; --json lists up to 10,000")
    return "\n".join(("", *lines, f"records missing from logs: {missing}"))


@contextmanager
def _written(file: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """The standard output, or a file that has its name once it is complete and synced."""
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with staged_file(file, overwrite=overwrite) as stream:
        yield stream
