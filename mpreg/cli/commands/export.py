"""``mpreg export``."""

from __future__ import annotations

from pathlib import Path

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, any_path, common_options

__all__ = ["export"]


@click.command()
@click.argument("file", type=any_path, default="-")
@click.option(
    "--allow-gaps",
    is_flag=True,
    help="Also where records are missing from logs. Each gap is told, and is a line of the export.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE where it is there.")
@common_options
def export(common: Common, file: Path, allow_gaps: bool, overwrite: bool) -> None:
    """Write a store as JSON Lines to FILE, or to the standard output.

    All lines are one state, also while a server has the store open. FILE appears when it is
    complete; one that is there is kept, and nothing written, without --overwrite. Devices and pipes
    are written to as they are; what was written to them by an export that failed cannot be
    imported. The report goes to the standard error.
    """
    execute(
        common,
        "export:run_export",
        interrupted=_interrupted(file),
        file=file,
        allow_gaps=allow_gaps,
        overwrite=overwrite,
    )


def _interrupted(file: Path) -> str:
    if str(file) == "-" or _is_no_file(file):
        return "what was written until then cannot be imported, unless its last line is there"
    return f"{file} is as it was before, or, where it was done already, the new export as a whole"


def _is_no_file(file: Path) -> bool:
    """A device, a pipe. A name that cannot be is refused where it is opened."""
    try:
        return file.exists() and not file.is_file()
    except OSError:
        return False
