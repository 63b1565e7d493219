"""Names for the shell to complete, read from the data directory that the command line names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from mpreg.cli.loops import run
from mpreg.cli.options import Common

__all__ = ["logs_of", "namespaces_of", "queues_of", "snapshots_of"]

NAMES_MAX: Final = 1_000


def _completing(what: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """What a `click.Parameter` takes as ``shell_complete``."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        given: dict[str, Path | None] = ctx.params
        config_file, data_dir = given.get("config_file"), given.get("data_dir")
        if config_file is None and data_dir is None:
            return []
        from mpreg.cli.runs.names import names_for_completion
        from mpreg.errors import MpregError

        common = Common(config_file, data_dir, False, False, "asyncio")
        try:
            names = run("asyncio", names_for_completion, common, what, incomplete, NAMES_MAX)
        except (MpregError, OSError, click.UsageError):
            # Someone is typing: that the directory is wrong is told when the command is run.
            return []
        return [CompletionItem(name) for name in names]

    return complete


namespaces_of = _completing("namespaces")
logs_of = _completing("logs")
snapshots_of = _completing("snapshots")
queues_of = _completing("queues")
