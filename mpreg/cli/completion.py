"""Names for the shell to complete, read from the data directory that the command line names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from mpreg.cli.loops import run
from mpreg.cli.options import Common

__all__ = ["keys_of", "logs_of", "namespaces_of", "queues_of", "snapshots_of", "subscriptions_of"]

NAMES_MAX: Final = 1_000


def _completing(
    what: str, within: str | None = None
) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """What a `click.Parameter` takes as ``shell_complete``.

    ``within`` is the parameter, typed before it, that names what they are names in.
    """

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        given: dict[str, Any] = ctx.params
        config_file, data_dir = given.get("config_file"), given.get("data_dir")
        if config_file is None and data_dir is None:
            return []
        # At an option that has no value yet, click has given no argument its name.
        place = None if within is None else given.get(within) or next(iter(ctx.args), None)
        if (within is not None and place is None) or given.get("is_hex"):
            return []
        from mpreg.cli.runs.names import names_for_completion
        from mpreg.errors import MpregError

        common = Common(config_file, data_dir, False, False, "asyncio")
        try:
            names = run("asyncio", names_for_completion, common, what, place, incomplete, NAMES_MAX)
        except (MpregError, OSError, click.UsageError):
            # Someone is typing: that the directory is wrong is told when the command is run.
            return []
        return [CompletionItem(name) for name in names]

    return complete


namespaces_of = _completing("namespaces")
logs_of = _completing("logs")
snapshots_of = _completing("snapshots")
queues_of = _completing("queues")
keys_of = _completing("keys", within="namespace")
subscriptions_of = _completing("subscriptions", within="name")
