"""``mpreg nodes``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, any_path, common_options

__all__ = ["nodes"]


@click.command()
@click.option(
    "--url",
    default=None,
    help="The node to ask.  [default: the one of the settings, on this machine]",
)
@click.option(
    "--token-file",
    type=any_path,
    default=None,
    help="A file whose first line is a token that may read.  [default: that of the settings]",
)
@common_options
def nodes(common: Common, url: str | None, token_file: Path | None) -> None:
    """Ask a node that runs which nodes it knows, and how they are.

    Of each: its name, state, number of queues, incarnation, when it was heard of, its URL, and why
    it is not alive. Queues that several nodes have are told beside it.
    """
    named: dict[str, Any] = {"url": url, "token_file": token_file}
    execute(common, "nodes:show_nodes", needs_store=False, is_paged=True, **named)
