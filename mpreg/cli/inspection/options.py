"""The options that the commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mpreg.cli.loops import loop_option

__all__ = ["after_option", "all_option", "json_option", "limit_option", "shared_options"]

F = TypeVar("F", bound=Callable[..., Any])

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    required=True,
    envvar="MPREG_DATA_DIR",
    show_envvar=True,
    help="The data directory.",
)
json_option = click.option(
    "--json", "is_json", is_flag=True, help="JSON: one object, or one in each line of a list."
)
limit_option = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=None,
    help="At most so many.  [default: all]",
)
all_option = click.option(
    "--all", "is_all", is_flag=True, help="Also what mpreg's own parts keep: names in <brackets>."
)


def after_option(what: str) -> Callable[[F], F]:
    return click.option("--after", default=None, help=f"Go on after this {what}.")


def shared_options(function: F) -> F:
    """``--data-dir``, ``--json`` and ``--loop``, last in the help."""
    return data_dir_option(json_option(loop_option(function)))
