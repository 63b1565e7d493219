"""What the demo shows: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["Display"]

#: Without a terminal, the progress is told about this often.
_PLAIN_STEPS = 10


class Display:
    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._progress: Progress | None = None
        self._told_steps = 0

    def line(self, text: str, *, style: str | None = None) -> None:
        # File names may hold what is no text, or what this output has no characters for.
        encoding = self._console.encoding
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        # Not wrapped: a line that is read by a program, or by grep, is one line.
        self._console.print(escape(text), style=style, soft_wrap=True)

    @contextmanager
    def bars(self, files: int, kills: int) -> Iterator[None]:
        """Show bars while the block runs, if there is a terminal to show them on."""
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description:>8}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as self._progress:
            self._files_bar = self._progress.add_task("acked", total=files)
            self._kills_bar = self._progress.add_task("kills", total=kills)
            try:
                yield
            finally:
                self._progress.refresh()
                self._progress = None

    def progress(self, done: int, files: int, kills: int) -> None:
        if self._progress is not None:
            self._progress.update(self._files_bar, completed=done)
            self._progress.update(self._kills_bar, completed=kills)
        elif not self._console.is_terminal and files:
            steps = done * _PLAIN_STEPS // files
            if steps > self._told_steps:
                self._told_steps = steps
                self.line(f"acked     {done:,} of {files:,} files")

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        table = Table(title=title, show_header=False, title_justify="left")
        table.add_column()
        table.add_column(justify="right")
        for name, value in rows:
            table.add_row(escape(name), escape(value))
        self._console.print(table)
