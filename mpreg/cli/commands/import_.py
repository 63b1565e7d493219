"""``mpreg import``."""

from __future__ import annotations

from pathlib import Path

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, any_path, common_options

__all__ = ["import_"]


@click.command("import")
@click.argument("file", type=any_path, default="-")
@click.option(
    "--backend",
    type=click.Choice(["sqlite", "file"]),
    default=None,
    help="The backend of the new store.  [default: that of the --config file, or sqlite]",
)
@common_options
def import_(common: Common, file: Path, backend: str | None) -> None:
    """Make a data directory from FILE, or the standard input, as ``mpreg export`` writes it.

    The directory must be missing or empty: nothing is merged. Versions are given anew; all else is
    as it was, also the offsets of logs. Where records were missing from a log, the output says what
    became of the gap. Where it fails, nothing is left of it; where FILE is damaged or cut off, the
    exit code is 3.
    """
    execute(
        common,
        "import_:run_import",
        interrupted="there is no new data directory, or, where it was done already, the whole one",
        file=file,
        backend=backend,
    )
