"""The ``mpreg`` command: all commands, and how a command line that makes no sense is told."""

from __future__ import annotations

from typing import Any, Final

import click

from mpreg import __version__
from mpreg.cli.commands.backup import backup
from mpreg.cli.commands.compact import compact
from mpreg.cli.commands.config import config
from mpreg.cli.commands.demo import demo, demo_worker
from mpreg.cli.commands.export import export
from mpreg.cli.commands.import_ import import_
from mpreg.cli.commands.inspect import inspect
from mpreg.cli.commands.nodes import nodes
from mpreg.cli.commands.queue import queue
from mpreg.cli.commands.restore import restore
from mpreg.cli.commands.serve import serve
from mpreg.cli.commands.stats import stats
from mpreg.cli.commands.verify import verify
from mpreg.cli.exits import tell_usage

__all__ = ["mpreg"]


#: ``\\b`` keeps click from filling the lines.
EPILOG: Final = """
\b
Exit codes:
  0    done
  1    refused, or not found
  2    the command line or the file of settings makes no sense
  3    something is damaged
  4    the disk failed, or is full
  130  interrupted

\b
Completion, in ~/.bashrc (for zsh and fish see the reference):
  eval "$(_MPREG_COMPLETE=bash_source mpreg)"
"""


class _Root(click.Group):
    """Tells also what click finds wrong as an object, where ``--json`` is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = "--json" in args
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if any(name in parameter.opts for parameter in stats.params):
                where = f"it stands after the command, as in `mpreg stats {name}`"
                message = f"No such option {name!r} here: {where}."
                tell_usage(click.UsageError(message, error.ctx), is_json=ctx.obj)
            tell_usage(error, is_json=ctx.obj)
        except click.UsageError as error:
            tell_usage(error, is_json=ctx.obj)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            tell_usage(error, is_json=ctx.obj)


@click.group(
    cls=_Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="mpreg")
def mpreg() -> None:
    """Durable state for async Python servers: one directory, one writer, honest acks."""


for command in (
    stats,
    inspect,
    queue,
    verify,
    compact,
    backup,
    restore,
    export,
    import_,
    config,
    serve,
    nodes,
    demo,
    demo_worker,
):
    mpreg.add_command(command)
