"""``mpreg compact``."""

from __future__ import annotations

from typing import Final

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, common_options

__all__ = ["compact"]

INTERRUPTED: Final = "what was removed until then is gone, all else is there; run again, it goes on"
INSTEAD: Final = "a node does it by itself, a program has PersistenceRegistry.compact"


@click.command()
@common_options
def compact(common: Common) -> None:
    """Remove what nobody can ask for any more, and give back the space.

    Entries that have expired, records beyond the limits of their logs (log_retention in the
    --config file), what saves of snapshots left behind, and unused space. A server does the same by
    itself in the background. This command writes, and needs the directory for itself.

    Interrupted, what was done is done; run again, it goes on.
    """
    execute(common, "compact:run_compact", instead=INSTEAD, interrupted=INTERRUPTED)
