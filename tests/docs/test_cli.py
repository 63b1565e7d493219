"""The reference of the command line shows the help of every command, and the right exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click
import pytest

from mpreg.cli import exits
from mpreg.cli.app import mpreg
from tests.docs.pages import PAGES
from tests.e2e.test_nodes_command import NODE
from tests.integration.test_inspection import ROWS
from tests.unit.cli.test_maintenance import REPORTS

CLI: Final = PAGES["docs/reference/cli.md"]

#: Commands whose help depends on the machine, or that another page shows.
NOT_SHOWN: Final = {"mpreg demo", "mpreg demo-worker"}


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, group
    for word, command in sorted(group.commands.items()):
        full = f"{name} {word}"
        if isinstance(command, click.Group):
            yield from commands(command, full)
        elif full not in NOT_SHOWN:
            yield full, command


COMMANDS: Final = list(commands(mpreg, "mpreg"))
each_command = pytest.mark.parametrize(
    ("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS]
)


def help_of(name: str, command: click.Command) -> str:
    parent: click.Context | None = None
    *before, _ = words = name.split()
    for word in before:
        parent = click.Context(mpreg, info_name=word, parent=parent)
    settings = {"max_content_width": 100, "terminal_width": 100}
    context = click.Context(
        command,
        info_name=words[-1],
        parent=parent,
        help_option_names=["-h", "--help"],
        **settings,  # type: ignore[arg-type]
    )
    return command.get_help(context).rstrip() + "\n"


def shown_help() -> dict[str, str]:
    found = {}
    for block in CLI.blocks:
        if block.language == "text" and block.text.startswith("Usage: "):
            usage = block.text.removeprefix("Usage: ").split(" [OPTIONS]")[0]
            found[usage] = block.text
    return found


@each_command
def test_the_help_shown_is_that_of_the_code(name: str, command: click.Command) -> None:
    assert shown_help()[name] == help_of(name, command)


def test_no_command_is_shown_that_is_not_there() -> None:
    assert set(shown_help()) == {name for name, _ in COMMANDS}


def test_the_exit_codes_are_those_of_the_code() -> None:
    said = {int(row["code"]) for row in CLI.table("## Exit codes")}
    assert said == {
        exits.OK,
        exits.REFUSED,
        exits.USAGE,
        exits.DAMAGED,
        exits.DISK,
        exits.INTERRUPTED,
    }


def test_the_fields_of_json_are_those_that_are_tested() -> None:
    said = {row["row"]: row["fields"].replace("`", "") for row in CLI.table("## JSON")}
    assert said == ROWS | {
        "damaged item": "damaged",
        "redrive": "queue to redriven dead",
        "purge": "queue removed",
        "node": NODE,
        "config check": "path right problems",
        "setting": "setting value origin secret",
        "template": "template",
        **REPORTS,
    }


@each_command
def test_every_option_has_help_and_every_command_says_what_it_does(
    name: str, command: click.Command
) -> None:
    assert command.help, name
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"
