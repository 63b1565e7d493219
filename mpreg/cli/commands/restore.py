"""``mpreg restore``."""

from __future__ import annotations

from pathlib import Path

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, allow_damaged_option, any_path, common_options

__all__ = ["restore"]


@click.command()
@click.argument("source", type=any_path)
@click.option(
    "--to-commit",
    type=click.IntRange(min=0),
    default=None,
    help="As it was right after this commit, where the backup holds it.  [default: the last one]",
)
@click.option("--overwrite", is_flag=True, help="Replace the store that is in the directory.")
@allow_damaged_option
@common_options
def restore(
    common: Common, source: Path, to_commit: int | None, overwrite: bool, allow_damaged: bool
) -> None:
    """Make a data directory from the backup SOURCE. No process may have it open.

    The backup is verified first. What was committed after it is not in it. The backup of a store of
    the file backend can be restored as of any commit since its snapshot (see --to-commit), that of
    a database only as of its last. Where it fails, the data directory is as it was.
    """
    execute(
        common,
        "restore:run_restore",
        interrupted="the data directory is as it was before, or, where it was done already, the "
        "restored one as a whole",
        source=source,
        to_commit=to_commit,
        overwrite=overwrite,
        allow_damaged=allow_damaged,
    )
