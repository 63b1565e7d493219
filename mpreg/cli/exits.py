"""How a command ends: one table of exit codes, and one way of telling errors."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import click

from mpreg.cli.streams import naming_standard_output
from mpreg.errors import (
    AckedDataLostError,
    ConfigurationError,
    CorruptDataError,
    DataDirectoryLockedError,
    InvalidArgumentError,
    MpregError,
    NodeUnreachableError,
    ParticipantFailedError,
    QueueNotFoundError,
    ReaderStoppedError,
    StorageFullError,
    StorageIOError,
    WriterStoppedError,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DAMAGED",
    "DISK",
    "INTERRUPTED",
    "OK",
    "REFUSED",
    "USAGE",
    "DamagedInputError",
    "NotFoundError",
    "note_text",
    "safe",
    "tell_usage",
    "told",
]

OK: Final = 0
REFUSED: Final = 1
"""Not found, or not done: the error says which."""
USAGE: Final = 2
"""A command line, or a settings file, that makes no sense; click's own code for it."""
DAMAGED: Final = 3
DISK: Final = 4
INTERRUPTED: Final = 130

#: The disk did nothing wrong: this user may not do that.
_NOT_ALLOWED: Final = {errno.EACCES, errno.EPERM, errno.EROFS}

#: Failures of the operating system that say no more than: not there, or not allowed.
_REFUSALS: Final = {
    *_NOT_ALLOWED,
    errno.ENOENT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


#: Of a port: the settings make sense, and would do elsewhere or at another time.
_NOT_TO_BE_HAD: Final = {errno.EADDRINUSE, errno.EACCES}

#: What click raises to show the help of a group that was given nothing; before 8.2 it shows it.
_HELP: Final[Any] = getattr(click.exceptions, "NoArgsIsHelpError", ())

#: Of `sqlite3`, which help and completion do without.
_SQLITE_READONLY: Final = 8


class NotFoundError(Exception):
    """What was asked for is not there, or was not confirmed."""

    def __init__(self, message: str, *, state: str = "unchanged") -> None:
        super().__init__(message)
        self.state = state
        """Of the data."""


class DamagedInputError(Exception):
    """A file that was to be read is not what it should be."""


class _Ending(NamedTuple):
    """What is told of an error, as text or as an object."""

    error: str
    message: str
    state: str | None
    """Of the data; None where the error has nothing to do with any."""
    advice: list[str]
    code: int
    more: dict[str, Any]


@contextmanager
def told(
    *, is_json: bool, instead: str | None = None, interrupted: str | None = None
) -> Iterator[None]:
    """Turn the errors that are expected into a message and an exit code, without a traceback.

    ``instead`` names what a program that holds the directory can call to the same end;
    ``interrupted`` says how things are wherever the work was cut short.
    """
    try:
        yield
        with naming_standard_output():
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has had enough. Nothing may be flushed to the pipe at the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OK)
    except KeyboardInterrupt:
        message = "interrupted" if interrupted is None else f"interrupted: {interrupted}"
        _tell(_Ending("Interrupted", message, None, [], INTERRUPTED, {}), is_json=is_json)
    except (NotFoundError, DamagedInputError) as error:
        code = DAMAGED if isinstance(error, DamagedInputError) else REFUSED
        state = error.state if isinstance(error, NotFoundError) else "unchanged"
        ending = _Ending(type(error).__name__, str(error), state, [], code, {})
        _tell(ending, is_json=is_json)
    except MpregError as error:
        _tell(_ending(_cause(error), instead), is_json=is_json)
    except OSError as error:
        _tell(_of_the_system(error), is_json=is_json)


def tell_usage(error: click.UsageError, *, is_json: bool) -> NoReturn:
    """A command line that makes no sense: as an object, or raised for click to show."""
    message = error.format_message()
    if isinstance(error, _HELP):
        if not is_json:
            # It is the help, and click shows it as that.
            raise error
        message = "Missing command."
    if not is_json:
        raise click.UsageError(safe(message), error.ctx) from error
    ending = _Ending("UsageError", message, None, [], USAGE, {})
    _tell(ending, is_json=True)


def safe(text: str) -> str:
    """Lines that a terminal shows, whatever is in them: names of files and keys may have anything,
    also what moves its cursor."""
    return "\n".join(
        line if line.isprintable() else "".join(map(_shown, line)) for line in text.split("\n")
    )


def note_text(text: str, *, is_json: bool) -> str:
    """What is said beside the output."""
    return json.dumps({"note": text}, separators=(",", ":")) if is_json else safe(text)


def _shown(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _tell(ending: _Ending, *, is_json: bool) -> NoReturn:
    """Print it to standard error and exit."""
    if is_json:
        fields: dict[str, Any] = {"error": ending.error, "message": ending.message}
        if ending.state is not None:
            fields |= {"state": ending.state, "advice": ending.advice}
        click.echo(json.dumps(fields | ending.more | {"exit_code": ending.code}), err=True)
    elif ending.code == INTERRUPTED:
        click.echo(safe(ending.message), err=True)
    else:
        click.echo(f"mpreg: {safe(ending.message)}", err=True)
        if ending.state is not None:
            click.echo(f"  State of the data: {ending.state}.", err=True)
        for line in ending.advice:
            click.echo(f"  {line}", err=True)
    sys.exit(ending.code)


def _cause(error: MpregError) -> MpregError:
    """What is behind an error that only says that somebody stopped."""
    while isinstance(error, ReaderStoppedError | WriterStoppedError) and isinstance(
        error.__cause__, MpregError
    ):
        error = error.__cause__
    return error


def _behind(error: MpregError) -> MpregError:
    """What decides how it ends: of a part that could not be restored, what kept it from that."""
    if isinstance(error, ParticipantFailedError) and isinstance(error.__cause__, MpregError):
        return error.__cause__
    return error


def _ending(error: MpregError, instead: str | None) -> _Ending:
    behind = _behind(error)
    is_usage = _is_usage(error)
    more: dict[str, Any] = {}
    if isinstance(error, DataDirectoryLockedError):
        more = {"pid": error.pid, "host": error.host, "since": error.since}
    elif isinstance(error, ConfigurationError):
        more = {"problems": list(map(str, error.problems))}
    return _Ending(
        type(error).__name__,
        error.without_call,
        None if is_usage else behind.data_state,
        list(_advice(behind, instead)),
        _code(behind),
        more,
    )


def _advice(error: MpregError, instead: str | None) -> Iterator[str]:
    if isinstance(error, DataDirectoryLockedError):
        through = "" if instead is None else f", or do it through the running server: {instead}"
        yield (
            "This command writes, and only one process may. Stop that one and run this "
            f"again{through}."
        )
        yield (
            "Commands that only read (stats, inspect, verify, backup, export, queue list, show, "
            "peek, dead-letters) work meanwhile."
        )
    elif isinstance(error, QueueNotFoundError):
        yield "`mpreg queue list` lists the queues, `mpreg queue show` the subscriptions of one."
        yield (
            "A running node makes one that is missing: PUT /v1/queues/NAME. So does `mpreg serve` "
            "at its start: [mpreg.queues.NAME] in the --config file."
        )
    elif _is_port_not_to_be_had(error):
        yield (
            "Nothing was opened. --port takes another one for this start, port in [mpreg.server] "
            "of the --config file for all."
        )
    elif isinstance(error, NodeUnreachableError):
        yield "Is the node running? `mpreg serve` starts it; --url names another."
    elif isinstance(error, AckedDataLostError):
        yield (
            "To go on without what is missing, for one start: "
            f"MPREG__PERSISTENCE__ACCEPT_ACKED_DATA_LOSS={error.acceptance}, or "
            f'accept_acked_data_loss = "{error.acceptance}" in [mpreg.persistence].'
        )
    elif isinstance(error, CorruptDataError):
        yield (
            "What is damaged was not changed. Copy the directory away before anything else; "
            "`mpreg verify` tells what else is damaged, and the rest can be read."
        )


def _code(error: MpregError) -> int:
    if isinstance(error, CorruptDataError | AckedDataLostError):
        return DAMAGED
    if isinstance(error, StorageIOError) and _is_not_allowed(error):
        return REFUSED
    if isinstance(error, StorageIOError | StorageFullError):
        return DISK
    return USAGE if _is_usage(error) else REFUSED


def _is_usage(error: MpregError) -> bool:
    if _is_port_not_to_be_had(error):
        return False
    return isinstance(error, InvalidArgumentError | ConfigurationError)


def _is_port_not_to_be_had(error: MpregError) -> bool:
    """Before anything is opened: a node listens first of all."""
    return (
        isinstance(error, ConfigurationError)
        and error.setting == "port"
        and isinstance(error.__cause__, OSError)
        and error.__cause__.errno in _NOT_TO_BE_HAD
    )


def _is_not_allowed(error: StorageIOError) -> bool:
    """Whether the disk did nothing wrong: this user may not do that."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.errno in _NOT_ALLOWED
    if getattr(cause, "sqlite_errorcode", 0) & 0xFF == _SQLITE_READONLY:
        return True
    # Of a file that it cannot open SQLite does not say why.
    return error.path is not None and _may_not_read(error.path)


def _may_not_read(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        # Not even whether it is there: a directory above it is somebody else's.
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK)


def _of_the_system(error: OSError) -> _Ending:
    message = f"{error.filename or 'a file'}: {error.strerror or error}"
    code = REFUSED if error.errno in _REFUSALS else DISK
    return _Ending(type(error).__name__, message, "unchanged", [], code, {})
