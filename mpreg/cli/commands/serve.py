"""``mpreg serve``."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import click

from mpreg.cli.exits import told
from mpreg.cli.options import config_option, data_dir_option, json_option

__all__ = ["serve"]

_load = functools.partial(importlib.import_module, "mpreg.cli.runs.serve")


@click.command()
@click.option("--host", default=None, help="Listen on this address.  [default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=None,
    help="Listen on this port; 0: any that is free.  [default: 8765]",
)
@config_option
@data_dir_option
@json_option
@click.option(
    "--loop",
    type=click.Choice(["asyncio", "trio"]),
    default=None,
    help="The event loop to run on.  [default: asyncio]",
)
def serve(
    host: str | None,
    port: int | None,
    config_file: Path | None,
    data_dir: Path | None,
    is_json: bool,
    loop: str | None,
) -> None:
    """Run a node: the queues, keys, logs and snapshots of a directory, over HTTP.

    It restores what the directory has, makes the queues that the --config file names, and prints
    where it listens. SIGTERM and SIGINT stop it: what is under way has grace_seconds to end, all
    that was accepted is on disk then, and the exit code is 0. A second one ends it at once.

    Beyond this machine it listens only with tokens: see the settings of [mpreg.server]. Each
    option wins over the environment, and that over the file.
    """
    options = {"host": host, "port": port, "loop": loop}
    with told(is_json=is_json):
        _load().serve(config_file, data_dir, options, is_json=is_json)
