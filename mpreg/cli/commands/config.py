"""``mpreg config``."""

from __future__ import annotations

import click

from mpreg.cli.execution import execute
from mpreg.cli.options import Common, common_options

__all__ = ["config"]


@click.group()
def config() -> None:
    """Look at the settings of a node: the --config file, and the variables that win over it.

    MPREG__SERVER__PORT is the variable of port in [mpreg.server], and so with every other setting.
    """


@config.command()
@common_options
def check(common: Common) -> None:
    """Say all that is wrong with the settings, each with its line or variable.

    Also with the files of tokens, certificates and keys that they name: what a node would refuse
    to start with. The exit code is 2 where anything is wrong.
    """
    execute(common, "config:check", needs_store=False)


@config.command()
@common_options
def show(common: Common) -> None:
    """Show the settings in force, as TOML, and where each comes from.

    Paths are absolute, so that the output is a file of the same settings anywhere. Secrets are
    not shown.
    """
    execute(common, "config:show", needs_store=False, is_paged=True)


@config.command()
@common_options
def template(common: Common) -> None:
    """Print a TOML file with every setting, its default, and what it is for.

    It is the same whatever the other options say.
    """
    execute(common, "config:print_template", needs_store=False, is_paged=True)
