"""The options that the commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from mpreg.cli.loops import loop_option

__all__ = [
    "Common",
    "after_option",
    "all_option",
    "allow_damaged_option",
    "any_path",
    "common_options",
    "exact_option",
    "hex_option",
    "limit_option",
    "raw_option",
]

F = TypeVar("F", bound=Callable[..., Any])


class Common(NamedTuple):
    """What every command is told: where the store is, and how to run and to answer."""

    config_file: Path | None
    data_dir: Path | None
    is_from_environment: bool
    """Whether ``data_dir`` is that of ``MPREG_DATA_DIR``."""
    is_json: bool
    loop: str


#: Whether it is there, and may be used, is told in mpreg's own words and not by click.
any_path = click.Path(readable=False, allow_dash=True, path_type=Path)


def _directories(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


config_option = click.option(
    "--config",
    "config_file",
    type=any_path,
    envvar="MPREG_CONFIG",
    show_envvar=True,
    help="A TOML or JSON file with the settings of the node.",
)
data_dir_option = click.option(
    "--data-dir",
    type=any_path,
    envvar="MPREG_DATA_DIR",
    show_envvar=True,
    shell_complete=_directories,
    help="The data directory. Wins over the one in the --config file.",
)
json_option = click.option(
    "--json",
    "is_json",
    is_flag=True,
    help="Print JSON, also of errors: one object, or one a line.",
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
raw_option = click.option("--raw", "is_raw", is_flag=True, help="Only the bytes, as they are.")
hex_option = click.option(
    "--hex", "is_hex", is_flag=True, help="Keys are given in hexadecimal: they are bytes, not str."
)
exact_option = click.option(
    "--exact", "is_exact", is_flag=True, help="Count all keys, and not only the first 10,000."
)
allow_damaged_option = click.option(
    "--allow-damaged",
    is_flag=True,
    help="Also where items are damaged. Without it nothing is changed then.",
)


def after_option(what: str) -> Callable[[F], F]:
    return click.option("--after", default=None, help=f"Go on after this {what}.")


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The last options in the help of every command; the function takes them as ``common``.

    Stands next to the function, below all other options.
    """

    @functools.wraps(function)
    def with_common(
        *, config_file: Path | None, data_dir: Path | None, is_json: bool, loop: str, **named: Any
    ) -> Any:
        source = click.get_current_context().get_parameter_source("data_dir")
        is_from_environment = source is ParameterSource.ENVIRONMENT
        common = Common(config_file, data_dir, is_from_environment, is_json, loop)
        return function(common=common, **named)

    return config_option(data_dir_option(json_option(loop_option(with_common))))
