"""The three standard streams, as a command may find them: closed, or unable to show a character."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Final, TextIO, cast

__all__ = [
    "name_standard_output",
    "naming_standard_output",
    "open_standard_streams",
    "standard_output_is_closed",
]

_STANDARD: Final = 2
"""The highest of their descriptors."""


def open_standard_streams() -> None:
    """See to it that all three are there, and that standard output takes any text.

    Supervisors and ``>&-`` close some: the next file that is opened, perhaps that of a store, would
    get the number of one, and with it whatever is printed. What they are replaced by is empty, and
    keeps nothing.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD:
        pass
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = _nothing("r")
    if sys.stdout is None:
        sys.stdout = _nothing("w")
    if sys.stderr is None:
        sys.stderr = _nothing("w")
    if isinstance(sys.stdout, TextIOWrapper):
        # A name is shown as far as the terminal can, as standard error does by itself.
        sys.stdout.reconfigure(errors="backslashreplace")


def _nothing(mode: str) -> TextIO:
    return cast(TextIO, Path(os.devnull).open(mode, encoding="utf-8"))


def standard_output_is_closed() -> bool:
    """Whether it was, when the process began."""
    return sys.__stdout__ is None


@contextmanager
def naming_standard_output() -> Iterator[None]:
    """Have an error of the system that names no file say which it was.

    Raises:
        OSError: as the block does.
    """
    try:
        yield
    except OSError as error:
        name_standard_output(error)
        raise


def name_standard_output(error: OSError) -> None:
    """Have an error that names no file say that it was this one."""
    if error.filename is None and error.errno != errno.EPIPE:
        error.filename = "the standard output"
