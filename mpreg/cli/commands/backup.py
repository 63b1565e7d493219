"""``mpreg backup``."""

from __future__ import annotations

from pathlib import Path

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, allow_damaged_option, any_path, common_options

__all__ = ["backup"]


@click.command()
@click.argument("destination", type=any_path)
@click.option(
    "--bytes-per-second",
    type=click.FloatRange(1, 2**53),
    default=None,
    help="Copy no faster than this.  [default: as fast as it goes]",
)
@allow_damaged_option
@common_options
def backup(
    common: Common, destination: Path, bytes_per_second: float | None, allow_damaged: bool
) -> None:
    """Copy a store into the directory DESTINATION, also while a server has it open.

    The copy is one state, with everything that was acknowledged as durable before it began. It is
    verified, and then put in the place of the backup that is there. A store that has not changed
    since is not copied again; one that has is copied as a whole, but for files of values that the
    backup has already. Where the store is damaged, the backup before stays (see --allow-damaged).
    """
    execute(
        common,
        "backup:run_backup",
        interrupted=f"{destination} is as it was before, or, where it was done already, the new "
        "backup as a whole; the store was not changed",
        destination=destination,
        bytes_per_second=bytes_per_second,
        allow_damaged=allow_damaged,
    )
