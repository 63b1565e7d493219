"""``mpreg verify``."""

from __future__ import annotations

from typing import Final

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, common_options

__all__ = ["verify"]

REPAIR_INTERRUPTED: Final = (
    "nothing is lost: each damaged item is in the store, in its quarantine directory, or in both; "
    "run again, it goes on"
)


@click.command()
@click.option("--full", is_flag=True, help="Compare every index with its table as well; slower.")
@click.option(
    "--repair",
    is_flag=True,
    help="Move damaged items into the quarantine directory of the store. Only while no process "
    "has it open.",
)
@common_options
def verify(common: Common, full: bool, repair: bool) -> None:
    """Examine a store: checksums, offsets, snapshots, cursors of queues, SQLite's structure.

    Changes nothing (without --repair), and may be run while a server has the store open: the
    server's write-ahead log grows meanwhile by what is written. The exit code is 3 where damage was
    found, or is left after a repair.
    """
    execute(
        common,
        "verify:run_verify",
        interrupted=REPAIR_INTERRUPTED if repair else "nothing was changed",
        is_full=full,
        is_repair=repair,
    )
