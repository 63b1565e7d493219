"""The commands say what they are, and importing them costs little."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from mpreg import __version__
from mpreg.cli.app import mpreg


def test_version() -> None:
    result = CliRunner().invoke(mpreg, ["--version"])
    assert (result.exit_code, result.output) == (0, f"mpreg, version {__version__}\n")


def test_every_option_of_every_command_has_help() -> None:
    context = click.Context(mpreg)
    for name in mpreg.list_commands(context):
        command = mpreg.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                assert parameter.make_metavar(context).strip("[]") in command.help
                continue
            assert isinstance(parameter, click.Option)
            assert parameter.help, f"{name} {parameter.opts}"


def test_help_names_the_demo_and_not_its_worker() -> None:
    output = CliRunner().invoke(mpreg, ["-h"]).output
    assert "demo " in output
    assert "demo-worker" not in output


@pytest.mark.parametrize(
    "arguments",
    [["--kills", "-1"], ["--files-max", "0"], ["--path", "/none/such"], ["--loop", "curio"], ["x"]],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(mpreg, ["demo", *arguments])
    assert result.exit_code == 2


def test_importing_the_command_line_imports_next_to_nothing() -> None:
    heavy = "{'anyio', 'trio', 'asyncio', 'rich', 'click', 'attrs', 'msgspec', 'sqlite3'}"
    code = f"import sys, mpreg.cli; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
