"""``mpreg stats``."""

from __future__ import annotations

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, all_option, common_options, exact_option

__all__ = ["stats"]


@click.command()
@exact_option
@all_option
@common_options
def stats(common: Common, is_exact: bool, is_all: bool) -> None:
    """Say how large a data directory is, how far it has come, and who holds it.

    Then its namespaces, logs and queues. Keys of a namespace are counted up to 10,000; all of them
    with --exact, which reads through them. It changes nothing, and works while a process holds the
    directory.
    """
    execute(common, "stats:show_stats", is_paged=True, is_exact=is_exact, is_all=is_all)
