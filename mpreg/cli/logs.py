"""What mpreg logs, as notes on standard error: a person at a terminal has no use for tracebacks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click

from mpreg.cli.exits import note_text

__all__ = ["logs_as_notes"]


class _Notes(logging.Handler):
    def __init__(self, *, is_json: bool) -> None:
        super().__init__(logging.WARNING)
        self._is_json = is_json
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # What is tried again and again is told once.
        if message != self._last:
            self._last = message
            click.echo(note_text(message, is_json=self._is_json), err=True)


@contextmanager
def logs_as_notes(*, is_json: bool) -> Iterator[None]:
    logger, notes = logging.getLogger("mpreg"), _Notes(is_json=is_json)
    propagates = logger.propagate
    logger.addHandler(notes)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.propagate = propagates
