"""``verify``, ``backup``, ``restore``, ``export`` and ``import``: options, and what is run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mpreg.cli.loops import loop_option

__all__ = ["backup", "export", "import_", "restore", "verify"]

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="The directory that holds the store.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and no progress bar."
)
allow_damaged_option = click.option(
    "--allow-damaged",
    is_flag=True,
    help="Also where items are damaged. Without it nothing is changed then.",
)


@click.command()
@data_dir_option
@click.option("--full", is_flag=True, help="Compare every index with its table as well; slower.")
@click.option(
    "--repair",
    is_flag=True,
    help="Move damaged items into the quarantine directory of the store. Only while no process "
    "has it open.",
)
@json_option
@loop_option
def verify(data_dir: Path, full: bool, repair: bool, as_json: bool, loop: str) -> None:
    """Examine a store: every checksum, every offset, every snapshot, and SQLite's structure.

    Changes nothing (without --repair), and may be run while a server has the store open: the
    server's write-ahead log grows meanwhile by what is written.

    Exit code: 0 when all is sound, 1 when damage was found (or is left after a repair), 2 when the
    store could not be examined, 130 when interrupted.
    """
    from mpreg.cli.maintenance_runs import run_verify

    sys.exit(run_verify(data_dir, full=full, repair=repair, as_json=as_json, loop=loop))


@click.command()
@click.argument("destination", type=click.Path(path_type=Path))
@data_dir_option
@click.option(
    "--bytes-per-second",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Copy no faster than this.  [default: as fast as it goes]",
)
@allow_damaged_option
@json_option
@loop_option
def backup(
    destination: Path,
    data_dir: Path,
    bytes_per_second: float | None,
    allow_damaged: bool,
    as_json: bool,
    loop: str,
) -> None:
    """Copy a store into the directory DESTINATION, also while a server has it open.

    The copy is one state, with everything that was acknowledged as durable before it began. It is
    verified, and then put in the place of the backup that is there. A store that has not changed
    since is not copied again; one that has is copied as a whole.

    Exit code: 0 when the backup is there, 1 when the store is damaged (see --allow-damaged; the
    backup before stays), 2 when it could not be made, 130 when interrupted.
    """
    from mpreg.cli.maintenance_runs import run_backup

    sys.exit(
        run_backup(
            data_dir,
            destination,
            bytes_per_second=bytes_per_second,
            allow_damaged=allow_damaged,
            as_json=as_json,
            loop=loop,
        )
    )


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@data_dir_option
@click.option("--overwrite", is_flag=True, help="Replace the store that is in the directory.")
@allow_damaged_option
@json_option
@loop_option
def restore(
    source: Path, data_dir: Path, overwrite: bool, allow_damaged: bool, as_json: bool, loop: str
) -> None:
    """Make a data directory from the backup SOURCE. No process may have it open.

    The backup is verified first. A backup is one point in time: what was committed after it is not
    in it, and no other point can be restored from it.

    Exit code: 0 when it is restored, 1 when the backup is damaged, 2 when it could not be done; for
    1 and 2 the data directory is as it was. 130 when interrupted.
    """
    from mpreg.cli.maintenance_runs import run_restore

    sys.exit(
        run_restore(
            source,
            data_dir,
            overwrite=overwrite,
            allow_damaged=allow_damaged,
            as_json=as_json,
            loop=loop,
        )
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@data_dir_option
@json_option
@loop_option
def export(file: Path, data_dir: Path, as_json: bool, loop: str) -> None:
    """Write a store as JSON Lines to FILE, or to the standard output.

    All lines are one state, also while a server has the store open. FILE appears when it is
    complete. The report goes to the standard error.

    Exit code: 0 when it is complete, 1 when something is damaged, 2 when it could not be done; what
    was written cannot be imported then. 130 when interrupted.
    """
    from mpreg.cli.maintenance_runs import run_export

    sys.exit(run_export(file, data_dir, as_json=as_json, loop=loop))


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@data_dir_option
@click.option(
    "--backend", default="sqlite", show_default=True, help="The backend of the new store."
)
@json_option
@loop_option
def import_(file: Path, data_dir: Path, backend: str, as_json: bool, loop: str) -> None:
    """Make a data directory from FILE, or the standard input, as ``mpreg export`` writes it.

    The directory must be missing or empty: nothing is merged. Versions are given anew; all else is
    as it was, also the offsets of logs.

    Exit code: 0 when it is there, 1 when the file is damaged or cut off, 2 when it could not be
    done; for 1 and 2 nothing is left of it. 130 when interrupted.
    """
    from mpreg.cli.maintenance_runs import run_import

    sys.exit(run_import(file, data_dir, backend=backend, as_json=as_json, loop=loop))
