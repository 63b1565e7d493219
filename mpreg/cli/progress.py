"""How far long work has come: a bar on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mpreg.progress import OnProgress, Progress

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(what: str, *, is_shown: bool) -> Iterator[OnProgress | None]:
    """Gives what is to be called with each step, from any thread; None where nobody looks on.

    ``what`` is shown until the first step says more.
    """
    if not is_shown or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def on_progress(progress: Progress) -> None:
            bar.update(
                task, description=progress.task, completed=progress.done, total=progress.total
            )

        yield on_progress
