"""What the documentation shows works: programs, commands, names and links."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import Final

import anyio
import click
import pytest

from mpreg.cli.app import mpreg
from tests.docs.pages import PAGES, REPOSITORY, Block, Page, same_but_for_numbers
from tests.docs.shell import Shell

#: Of the node in the stories. They are told with one that is free.
PORT: Final = "8765"

BLOCKS: Final = [block for page in PAGES.values() for block in page.blocks]
PYTHON: Final = [block for block in BLOCKS if block.language == "python"]
PROGRAMS: Final = [block for block in PYTHON if block.mark in ("", "asyncio only")]
STORIES: Final = [
    page for page in PAGES.values() if any(block.mark == "file" for block in page.blocks)
]

#: Pages that show pieces and no programs, and why. What they import must be there.
PIECES: Final = {"docs/testing.md": "pieces of the reader's own test modules"}

#: Programs of the system that a console block may use.
KNOWN_COMMANDS: Final = {
    *(".", "cat", "cp", "curl", "git", "kill", "ls", "pip", "pytest", "python", "python3", "rm"),
    *("sleep", "tail", "until", "wait"),
    *("chown", "install", "journalctl", "mv", "openssl", "systemctl"),
    *("systemd-analyze", "umask"),
}

by_page = pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))


def _loops() -> list[tuple[Block, str]]:
    programs = [block for block in PROGRAMS if block.page not in PIECES]
    return [
        (block, loop)
        for block in programs
        for loop in ("asyncio", "trio")
        if loop == "asyncio" or block.mark != "asyncio only"
    ]


def _said_output(block: Block) -> str | None:
    """What the page shows right after the block as its output."""
    blocks = PAGES[block.page].blocks
    following = blocks[blocks.index(block) + 1 :][:1]
    return next((after.text for after in following if after.mark == "output"), None)


@pytest.mark.parametrize(
    ("block", "loop"), _loops(), ids=[f"{block.name}-{loop}" for block, loop in _loops()]
)
def test_a_program_runs_as_it_stands(
    block: Block,
    loop: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(anyio, "run", functools.partial(anyio.run, backend=loop))
    program = compile(block.text, block.name, "exec", dont_inherit=True)
    exec(program, {"__name__": "__main__"})
    if (said := _said_output(block)) is not None:
        assert same_but_for_numbers(capsys.readouterr().out) == same_but_for_numbers(said)


@pytest.mark.parametrize("page", STORIES, ids=[page.name for page in STORIES])
def test_a_story_told_in_commands_goes_as_it_is_told(page: Page, tmp_path: Path) -> None:
    """Files are written and commands are run, in the order of the page, all in one shell."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    for program in sorted(_needed(page)):
        if shutil.which(program) is None:
            pytest.skip(f"{page.name} needs {program}, which is not installed")
    port = str(_free_port())
    with Shell(tmp_path, environment) as shell:
        for block in page.blocks:
            if block.mark == "file":
                (tmp_path / block.argument).write_text(block.text.replace(PORT, port))
            elif block.language == "console" and block.mark != "not run":
                for command, said in block.commands:
                    if command.startswith("mpreg demo"):
                        continue  # tested on its own
                    done = shell.run(command.replace(PORT, port))
                    assert done.code == 0, f"{command}: {done.output} {done.errors}"
                    shown = same_but_for_numbers("\n".join(said))
                    assert same_but_for_numbers(done.output) == shown, f"{command}: {done.errors}"


def _needed(page: Page) -> set[str]:
    """Programs that not every system has."""
    run = [block for block in page.blocks if block.language == "console" and not block.mark]
    words = {word for block in run for command, _ in block.commands for word in command.split()}
    return words & {"curl", "openssl"}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize("block", PYTHON, ids=[block.name for block in PYTHON])
def test_what_is_not_run_says_why(block: Block) -> None:
    if block.mark in ("not run", "asyncio only"):
        assert block.argument


@pytest.mark.parametrize(
    "block",
    [block for block in PYTHON if block not in PROGRAMS or block.page in PIECES],
    ids=lambda block: block.name,
)
def test_what_is_not_run_is_python_and_imports_what_is_there(block: Block) -> None:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(block.text, block.name, "exec", flags, dont_inherit=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []


@by_page
def test_blocks_name_their_language(page: Page) -> None:
    known = {"python", "console", "text", "sql", "toml", "ini", "nginx"}
    assert [block.name for block in page.blocks if block.language not in known] == []


@by_page
def test_the_commands_that_it_shows_exist(page: Page) -> None:
    consoles = [block for block in page.blocks if block.language == "console"]
    shown = [command for block in consoles for command, _ in block.commands]
    shown += [code for code in page.inline_code if re.match(r"([A-Z]+=\S+ )*(make|mpreg) ", code)]
    assert [problem for command in shown if (problem := _problem(command))] == []


def _problem(command: str) -> str | None:
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if not words:
        return None  # it only sets variables
    program, *arguments = words
    program = program.rpartition("/")[2]
    if program == "make":
        known = _targets()
        unknown = [word for word in arguments if word not in known]
        return f"{command}: no such target" if unknown or not arguments else None
    if program == "mpreg":
        return _mpreg_problem(command, arguments)
    return None if program in KNOWN_COMMANDS else f"{command}: unknown program"


def _targets() -> set[str]:
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    return set(phony[1].split())


def _mpreg_problem(command: str, arguments: list[str]) -> str | None:
    target: click.Command = mpreg
    for word in arguments:
        if not isinstance(target, click.Group) or word.startswith("-"):
            break
        if word not in target.commands:
            return f"{command}: no such command"
        target = target.commands[word]
    context = click.Context(target, help_option_names=["-h", "--help"])
    known = {option for parameter in target.get_params(context) for option in parameter.opts}
    unknown = [word for word in arguments if word.startswith("-") and word not in known]
    return f"{command}: no such option {unknown}" if unknown else None


@by_page
def test_its_links_lead_somewhere(page: Page) -> None:
    assert [problem for link in page.links if (problem := _broken(page, link))] == []


def _broken(page: Page, link: str) -> str | None:
    if link.startswith("https://"):
        return None
    path, _, anchor = link.partition("#")
    target = (page.path.parent / path).resolve() if path else page.path
    if not target.exists() or not target.is_relative_to(REPOSITORY):
        return f"{link}: no such file"
    if anchor:
        name = str(target.relative_to(REPOSITORY))
        if name not in PAGES or anchor not in PAGES[name].anchors:
            return f"{link}: no such heading"
    return None


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[str] = set()
    ahead = ["README.md"]
    while ahead:
        page = PAGES[ahead.pop()]
        reached.add(page.name)
        for link in page.links:
            target = (page.path.parent / link.partition("#")[0]).resolve()
            name = os.path.relpath(target, REPOSITORY)
            if name in PAGES and name not in reached:
                ahead.append(name)
    assert set(PAGES) - reached == set()


@by_page
def test_the_names_that_it_mentions_exist(page: Page) -> None:
    mentioned = [
        code for code in page.inline_code if re.fullmatch(r"mpreg(\.(?!db|journal|toml)\w+)+", code)
    ]
    assert [name for name in mentioned if not _exists(name)] == []


def _exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if part in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@by_page
def test_it_names_no_place_on_somebodys_machine(page: Page) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|root|home|Users|mnt|opt|srv)/\S*", page.text) == []
