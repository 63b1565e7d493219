"""Writing a store as lines of JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mpreg.cli.exits import NotFoundError
from mpreg.cli.output import Output
from mpreg.cli.settings import Settings
from mpreg.cli.streams import standard_output_is_closed
from mpreg.persistence.maintenance import export_lines
from mpreg.persistence.maintenance.staged_file import staged_file
from mpreg.persistence.maintenance.staging import refuse_nested

__all__ = ["run_export"]


async def run_export(settings: Settings, output: Output, *, file: Path) -> None:
    if str(file) == "-":
        if standard_output_is_closed():
            raise NotFoundError("the standard output is closed; nothing was exported: name a FILE")
    else:
        refuse_nested(file, settings.data_dir, "the data directory")
    with output.progress("exporting") as on_progress, _written(file) as stream:
        report = await export_lines(settings.data_dir, stream.write, on_progress=on_progress)
    output.aside(
        report.as_mapping(),
        f"exported {report.entries} entries, {report.records} records, {report.snapshots} "
        f"snapshots at commit sequence {report.commit_sequence}",
    )


@contextmanager
def _written(file: Path) -> Iterator[BinaryIO]:
    """The standard output, or a file that has its name once it is complete and synced."""
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with staged_file(file) as stream:
        yield stream
