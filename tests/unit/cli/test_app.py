"""The commands say what they are, and importing them costs little."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import click
import pytest
from click.testing import CliRunner

from mpreg import __version__
from mpreg.cli import main
from mpreg.cli.app import mpreg


def test_version() -> None:
    result = CliRunner().invoke(mpreg, ["--version"])
    assert (result.exit_code, result.output) == (0, f"mpreg, version {__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["queue"], ["inspect"], ["config"]])
def test_a_group_alone_shows_its_help_and_no_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(mpreg, arguments)
    assert "Error" not in result.output
    assert result.output == CliRunner().invoke(mpreg, [*arguments, "--help"]).output


def test_an_option_before_its_command_is_told_where_it_stands() -> None:
    result = CliRunner().invoke(mpreg, ["--data-dir", "data", "stats"])
    assert result.exit_code == 2
    assert "after the command, as in `mpreg stats --data-dir`" in result.stderr
    told = json.loads(CliRunner().invoke(mpreg, ["--json", "stats"]).stderr)
    assert "it stands after the command" in told["message"]
    assert "Did you mean '--version'?" in CliRunner().invoke(mpreg, ["--versoin"]).stderr


class _Interrupting:
    """Ctrl-C while a module is looked for."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "mpreg.cli.app":
            raise KeyboardInterrupt


def test_an_interrupt_before_the_command_is_loaded_is_told_like_a_later_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "mpreg.cli.app")
    monkeypatch.setattr(sys, "meta_path", [_Interrupting, *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted\n")


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


HEAVY: Final = {
    *{"anyio", "trio", "asyncio", "rich", "attrs", "msgspec", "sqlite3", "tomllib"},
    *{"mpreg.persistence", "mpreg.queues", "mpreg.cache", "mpreg.settings_source"},
}


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has imported then."""
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_importing_the_command_line_imports_next_to_nothing() -> None:
    assert not modules_after("import mpreg.cli") & (HEAVY | {"click"})


@pytest.mark.parametrize(
    "arguments", ["--help", "inspect keys --help", "backup --help", "config --help"]
)
def test_help_imports_little_more_than_click(arguments: str) -> None:
    code = f"""
from mpreg.cli import main
sys.argv = ["mpreg", *{arguments.split()}]
try:
    main()
except SystemExit:
    pass
"""
    found = modules_after(code)
    assert not found & HEAVY
    assert len(found - modules_after("import click, click.shell_completion, json")) < 60


def test_completing_a_name_imports_no_part_of_a_node_but_the_one_that_it_reads() -> None:
    code = """
import click, pathlib
from mpreg.cli.completion import queues_of
context = click.Context(click.Command("show"))
context.params = {"config_file": pathlib.Path("/none/such.toml")}
assert queues_of(context, context, "") == []
"""
    found = modules_after(code)
    assert "mpreg.settings_source" in found
    assert not found & {"mpreg.settings", "mpreg.cache", "mpreg.settings_template"}


def commands(group: click.Group = mpreg, name: str = "") -> Iterator[tuple[str, click.Command]]:
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{word} ")
        else:
            yield f"{name}{word}", command


ON_A_STORE: Final = [(name, one) for name, one in commands() if not name.startswith("demo")]


@pytest.mark.parametrize(("name", "command"), ON_A_STORE, ids=[name for name, _ in ON_A_STORE])
def test_every_command_on_a_store_takes_the_same_options(name: str, command: click.Command) -> None:
    options = {one.opts[0]: one for one in command.params if isinstance(one, click.Option)}
    assert list(options)[-4:] == ["--config", "--data-dir", "--json", "--loop"], name
    assert options["--data-dir"].envvar == "MPREG_DATA_DIR"
    assert options["--config"].envvar == "MPREG_CONFIG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backup", "--json"], "Missing argument 'DESTINATION'."),
        (["stats", "--json"], "Missing option '--data-dir'"),
        (["queue", "shw", "--json"], "No such command 'shw'."),
        (["--json"], "No such option"),
    ],
)
def test_what_makes_no_sense_is_an_object_with_json(arguments: list[str], message: str) -> None:
    env = {"MPREG_DATA_DIR": None, "MPREG_CONFIG": None}
    result = CliRunner(env=env).invoke(mpreg, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    told = json.loads(result.stderr)
    assert (told["error"], told["exit_code"]) == ("UsageError", 2)
    assert told["message"].startswith(message)
