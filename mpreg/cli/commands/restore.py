"""``mpreg restore``."""

from __future__ import annotations

from pathlib import Path

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, allow_damaged_option, common_options

__all__ = ["restore"]


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace the store that is in the directory.")
@allow_damaged_option
@common_options
def restore(common: Common, source: Path, overwrite: bool, allow_damaged: bool) -> None:
    """Make a data directory from the backup SOURCE. No process may have it open.

    The backup is verified first. A backup is one point in time: what was committed after it is not
    in it, and no other point can be restored from it. Where it fails, the data directory is as it
    was.
    """
    execute(
        common,
        "restore:run_restore",
        source=source,
        overwrite=overwrite,
        allow_damaged=allow_damaged,
    )
