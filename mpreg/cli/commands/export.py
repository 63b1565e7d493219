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
@common_options
def export(common: Common, file: Path, allow_gaps: bool) -> None:
    """Write a store as JSON Lines to FILE, or to the standard output.

    All lines are one state, also while a server has the store open. FILE appears when it is
    complete, in the place of an older one; what was written to the standard output by an export
    that failed cannot be imported. The report goes to the standard error.
    """
    execute(common, "export:run_export", file=file, allow_gaps=allow_gaps)
