"""Every setting of a registry: its unit, its default, and what it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import attrs
from attrs import field, frozen

from mpreg.actors import RestartPolicy
from mpreg.errors import ConfigurationError
from mpreg.persistence.log_retention import LogRetention
from mpreg.settings_reading import SettingsReader
from mpreg.settings_source import SettingsSource
from mpreg.validation import (
    as_path,
    found,
    one_of,
    path_or_none,
    refuse_unknown,
    seconds,
    whole_number,
)

__all__ = ["BACKENDS", "TABLE", "PersistenceConfig"]

BACKENDS: Final = ("sqlite", "file", "memory")

MIB: Final = 1 << 20

#: Of a file of settings.
TABLE: Final = "persistence"


def _acceptance(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None or (isinstance(value, str) and re.fullmatch(r"\d+/\d+-\d+", value)):
        return
    raise found(attribute.name, "what AckedDataLostError says, like '7/51-100',", value)


def _retention(settings: dict[str, Any]) -> LogRetention:
    names = [attribute.name for attribute in attrs.fields(LogRetention)]
    refuse_unknown(settings, names)
    if "log" not in settings:
        raise ConfigurationError("log_retention: 'log' is missing", "log_retention")
    return LogRetention(**settings)


def _retentions(value: object) -> tuple[LogRetention, ...]:
    if isinstance(value, list | tuple):
        made = tuple(_retention(one) if isinstance(one, dict) else one for one in value)
        if all(isinstance(one, LogRetention) for one in made):
            names = [one.log for one in made]
            if len(set(names)) < len(names):
                raise ConfigurationError("log_retention: a log is named twice", "log_retention")
            return made
    raise found("log_retention", "a list of LogRetention", value)


@frozen(kw_only=True)
class PersistenceConfig:
    """The settings of a `PersistenceRegistry`. Only ``data_dir`` has no default.

    Raises:
        ConfigurationError: a value has the wrong type, is out of range, or is impossible beside
            another one. `from_mapping` also raises it for unknown names.
    """

    data_dir: Path | None = field(default=None, converter=as_path, validator=path_or_none)
    """The directory that holds everything; made (0700) where it is missing. The memory backend
    needs none."""

    backend: str = field(default="sqlite", validator=one_of(*BACKENDS))
    """``"sqlite"``; ``"file"``: an append-only journal, with all that is alive in memory; or
    ``"memory"``: the same calls, and nothing survives the process."""

    grace_seconds: float = field(default=10.0, validator=seconds(zero=True))
    """How long a stop may take to commit and ack what was accepted before it."""

    mailbox_batches_max: int = field(default=16_384, validator=whole_number(1))
    """Batches that wait for the writer; whoever comes later waits, or gets `MailboxFullError`."""

    mailbox_bytes_max: int = field(default=128 * MIB, validator=whole_number(1))
    """Their bytes together."""

    group_batches_max: int = field(default=4_096, validator=whole_number(1))
    """Batches joined into one commit group. More make the fsync cheaper and the acks later."""

    group_bytes_max: int = field(default=16 * MIB, validator=whole_number(1))
    """Bytes joined into one commit group; the last batch taken may go over it."""

    batch_bytes_max: int = field(default=64 * MIB, validator=whole_number(1))
    """One batch: a transaction, or one call."""

    value_bytes_max: int = field(default=16 * MIB, validator=whole_number(1, 512 * MIB))
    """One value or record. SQLite's own limit is a little below 1 GB."""

    cache_bytes: int = field(default=64 * MIB, validator=whole_number(MIB))
    """SQLite's page cache, for the writer and for the reader each."""

    wal_checkpoint_pages: int = field(default=16_384, validator=whole_number(1))
    """Pages in the write-ahead log after which SQLite moves them into the database."""

    journal_segment_bytes: int = field(default=16 * MIB, validator=whole_number(4_096))
    """Of the file backend: bytes after which its journal goes on in a new file. Opening copies the
    last one; after four of them, and as much as is alive, a snapshot is written."""

    busy_timeout_seconds: float = field(default=5.0, validator=seconds(zero=True))
    """How long to wait where another program holds a lock on the database; in the file backend,
    where a commit that was given up is still at work."""

    switch_interval_seconds: float | None = field(
        default=0.0001, validator=seconds(zero=False, none=True)
    )
    """`sys.setswitchinterval` while a registry is open; None leaves it alone. It is process-wide.

    With Python's own 0.005 an event loop that is never idle keeps the commit's thread from the
    interpreter lock, and an ack waits for seconds. It only ever lowers what is set, and puts it
    back at close."""

    accounting_interval_seconds: float = field(default=1.0, validator=seconds(zero=False))
    """How far the file that says what was acknowledged may lag behind the acks."""

    accept_acked_data_loss: str | None = field(default=None, validator=_acceptance)
    """The loss with which the store may be opened, as `AckedDataLostError.acceptance` says it. It
    names one loss; another one is refused again."""

    upkeep_interval_seconds: float | None = field(
        default=10.0, validator=seconds(zero=False, none=True)
    )
    """How long after a write upkeep looks what there is to do. None: only when
    `PersistenceRegistry.compact` is called."""

    free_bytes_max: int = field(default=64 * MIB, validator=whole_number(0))
    """What may lie unused in the database, for later writes; the rest is given back to the file
    system. Never more than half of what is in use; where nobody writes, never more than a
    sixteenth."""

    log_retention: tuple[LogRetention, ...] = field(default=(), converter=_retentions)
    """How much is kept of which logs; of all others everything."""

    restarts_max: int = field(default=8, validator=whole_number(0))
    """Restarts of the writer, and of the reader, within ``restart_window_seconds`` before their
    supervisor gives up."""

    restart_window_seconds: float = field(default=60.0, validator=seconds(zero=False))
    """The window that they are counted in."""

    backoff_initial_seconds: float = field(default=0.05, validator=seconds(zero=True))
    """Pause before the first restart; it doubles with each failure in the window."""

    backoff_max_seconds: float = field(default=5.0, validator=seconds(zero=True))
    """The longest pause."""

    def __attrs_post_init__(self) -> None:
        if self.backend != "memory" and self.data_dir is None:
            raise ConfigurationError(
                f"data_dir: the {self.backend} backend needs a directory", "data_dir"
            )
        if self.value_bytes_max > self.batch_bytes_max:
            raise ConfigurationError(
                f"value_bytes_max ({self.value_bytes_max}) is above batch_bytes_max "
                f"({self.batch_bytes_max}): such a value could never be written",
                "value_bytes_max",
            )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, object]) -> PersistenceConfig:
        """From a mapping of names to values, as a settings file has it."""
        refuse_unknown(settings, [attribute.name for attribute in attrs.fields(cls)])
        return cls(**settings)  # type: ignore[arg-type]

    @classmethod
    def from_file(cls, path: str | PathLike[str], **changes: object) -> PersistenceConfig:
        """From the table ``[mpreg.persistence]`` of a TOML or JSON file, the one that has the
        settings of all parts (`mpreg.settings.MPREGSettings`); ``changes`` win over what it says.

        ``data_dir`` is relative to the directory of the file. TOML has no null: what may be None
        here is written as ``"none"`` there. Reads the file at once, without await.

        Raises:
            ConfigurationError: the file cannot be read, is neither TOML nor JSON, or has something
                in this table that is no setting or cannot be one; names the file, and the line
                where there is one.
        """
        source = SettingsSource.read(Path(path))
        reader = SettingsReader(source)
        given = reader.values(cls, source.settings.get(TABLE, {}), (TABLE,))
        reader.check()
        try:
            return cls.from_mapping({**(given or {}), **changes})
        except ConfigurationError as error:
            if error.setting in changes:
                raise
            reader.tell(error, (TABLE,))
            raise ConfigurationError.of(reader.problems) from error

    @property
    def restart_policy(self) -> RestartPolicy:
        return RestartPolicy(
            restarts_max=self.restarts_max,
            window_seconds=self.restart_window_seconds,
            backoff_initial_seconds=self.backoff_initial_seconds,
            backoff_max_seconds=self.backoff_max_seconds,
        )
