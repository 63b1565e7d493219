"""How a command ends: exit codes, and errors for a person who has to do something about them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from mpreg.errors import (
    CorruptDataError,
    DataDirectoryLockedError,
    InvalidArgumentError,
    MpregError,
    ReaderStoppedError,
    StorageFullError,
    StorageIOError,
    WriterStoppedError,
)

__all__ = ["DAMAGED", "DISK", "INTERRUPTED", "NotFoundError", "OK", "REFUSED", "USAGE", "told"]

OK: Final = 0
REFUSED: Final = 1
"""Not found, or not done: the error says which."""
USAGE: Final = 2
"""A command line that makes no sense; click's own code for it."""
DAMAGED: Final = 3
DISK: Final = 4
INTERRUPTED: Final = 130


class NotFoundError(Exception):
    """What was asked for is not there."""


@contextmanager
def told() -> Iterator[None]:
    """Turn the errors that are expected into a message and an exit code, without a traceback."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has had enough. Nothing may be flushed to the pipe at the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OK)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except NotFoundError as error:
        click.echo(f"mpreg: {_text(error)}", err=True)
        sys.exit(REFUSED)
    except MpregError as error:
        shown = _cause(error)
        click.echo(f"mpreg: {_text(shown)}", err=True)
        for line in _advice(shown):
            click.echo(f"  {line}", err=True)
        sys.exit(_code(shown))


def _cause(error: MpregError) -> MpregError:
    """What is behind an error that only says that somebody stopped."""
    while isinstance(error, ReaderStoppedError | WriterStoppedError) and isinstance(
        error.__cause__, MpregError
    ):
        error = error.__cause__
    return error


def _text(error: Exception) -> str:
    """Whatever is in it, a terminal can show it."""
    return str(error).encode("utf-8", "backslashreplace").decode()


def _advice(error: MpregError) -> Iterator[str]:
    if not isinstance(error, InvalidArgumentError):
        yield f"State of the data: {error.data_state}."
    if isinstance(error, DataDirectoryLockedError):
        yield (
            "This command writes, and only one process may. Stop that one and run this again, or "
            "do it through the running server: MessageQueue.redrive, .purge and "
            ".purge_dead_letters do the same there."
        )
        yield "Commands that only read (stats, inspect, queue list, show, peek) work meanwhile."
    elif isinstance(error, CorruptDataError):
        yield (
            "What is damaged was not changed. Copy the directory away before anything else; the "
            "rest of it can be read."
        )


def _code(error: MpregError) -> int:
    if isinstance(error, CorruptDataError):
        return DAMAGED
    if isinstance(error, StorageIOError | StorageFullError):
        return DISK
    return USAGE if isinstance(error, InvalidArgumentError) else REFUSED
