"""Where lines go: to a file or pipe as they come, on a terminal through a pager."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any, Final

import click
from attrs import define

from mpreg.cli.decoding import as_json
from mpreg.cli.exits import note_text, safe
from mpreg.cli.progress import progress_bar
from mpreg.cli.streams import name_standard_output
from mpreg.progress import OnProgress

__all__ = ["Output", "opened_output"]

PIPE_WIDTH: Final = 160
"""Where there is no terminal whose width could be asked for."""


@define(eq=False)
class Output:
    """Takes rows, shows each as a JSON object in a line, or as text."""

    is_json: bool
    _stream: IO[str]
    is_terminal: bool
    width: int
    damaged: int = 0
    """How many damaged items were shown."""
    _heading: str | None = None

    def row(self, fields: dict[str, Any], text: str) -> None:
        self._end_heading()
        self._write(as_json(fields) if self.is_json else safe(text))

    def heading(self, text: str) -> None:
        """Above what comes next; where nothing comes, it is not shown."""
        self._heading = text

    def _end_heading(self) -> None:
        heading, self._heading = self._heading, None
        if heading is not None and not self.is_json:
            self._write(self._style(heading, bold=True))

    def damage(self, message: str, where: str = "") -> None:
        """A damaged item, in its place among the others."""
        self._end_heading()
        self.damaged += 1
        fields = {"damaged": {"where": where, "message": message}}
        if self.is_json:
            self._write(as_json(fields))
        else:
            place = f"{where}: " if where else ""
            self._write(self._style(f"DAMAGED {place}{message}", fg="red"))

    def note(self, text: str) -> None:
        """Beside the output: to standard error."""
        click.echo(note_text(text, is_json=self.is_json), err=True)

    def aside(self, fields: dict[str, Any], text: str) -> None:
        """A row where standard output is for something else: to standard error."""
        click.echo(as_json(fields) if self.is_json else safe(text), err=True)

    def progress(self, what: str) -> AbstractContextManager[OnProgress | None]:
        """How far long work has come, for a person who looks on; None where nobody does."""
        return progress_bar(what, is_shown=not self.is_json)

    def _style(self, text: str, **style: Any) -> str:
        return click.style(safe(text), **style) if self.is_terminal else safe(text)

    def _write(self, line: str) -> None:
        # For each of what may be millions of lines: a block of a context manager would cost more.
        try:
            self._stream.write(f"{line}\n")
        except OSError as error:
            name_standard_output(error)
            raise


@contextmanager
def opened_output(*, is_json: bool, paged: bool = True) -> Iterator[Output]:
    """On a terminal, lines go through ``$PAGER`` (``less``); it may be left at any time."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else PIPE_WIDTH
    pager = _pager() if is_terminal and paged and not is_json else None
    if pager is None:
        yield Output(is_json, sys.stdout, is_terminal, width)
        return
    environment = {"LESS": "FRX", **os.environ}
    process = subprocess.Popen(
        pager, stdin=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    )
    assert process.stdin is not None
    try:
        yield Output(is_json, process.stdin, is_terminal=True, width=width)
        process.stdin.close()
    except BrokenPipeError:
        # Left before the end.
        return
    finally:
        with _ignored_broken_pipe():
            process.stdin.close()
        _wait(process)


@contextmanager
def _ignored_broken_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        return


def _wait(process: subprocess.Popen[str]) -> None:
    while True:
        try:
            process.wait()
        except KeyboardInterrupt:
            # The pager has got it, too, and goes on.
            continue
        return


def _pager() -> list[str] | None:
    words = shlex.split(os.environ.get("PAGER", "less"))
    return words if words and shutil.which(words[0]) else None
