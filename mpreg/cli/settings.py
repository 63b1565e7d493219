"""Which store a command works on, and with which settings. The one place that reads the environment
for them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import attrs
import click
from attrs import frozen

from mpreg.cli.options import Common
from mpreg.cli.variables import near_misses
from mpreg.errors import ConfigurationError
from mpreg.persistence import PersistenceConfig
from mpreg.persistence.config import TABLE
from mpreg.persistence.read_only import FoundDirectory
from mpreg.settings_source import SettingsSource

__all__ = ["DATA_DIR", "NONE_NAMED", "Settings", "data_dir_of", "source_of"]

log = logging.getLogger("mpreg.cli")

DATA_DIR: Final = (TABLE, "data_dir")

NONE_NAMED: Final = (
    "Missing option '--data-dir' (env var: 'MPREG_DATA_DIR'). It may also be data_dir of "
    "[mpreg.persistence] in a --config file."
)


def source_of(common: Common) -> SettingsSource:
    """What a command is told: by the file, the environment, which wins over it, and the options.

    Raises:
        ConfigurationError: the file cannot be read, or two directories are named and none by an
            option.
    """
    source = SettingsSource()
    if common.config_file is not None:
        source = SettingsSource.read(common.config_file)
    source = source.with_environment(os.environ)
    for miss in near_misses(os.environ):
        log.warning("%s", miss)
    if common.data_dir is None:
        return source
    if common.is_from_environment:
        _check_same(source, common.data_dir)
    place = "MPREG_DATA_DIR" if common.is_from_environment else "--data-dir"
    return source.with_value(DATA_DIR, common.data_dir, place)


def _check_same(source: SettingsSource, data_dir: Path) -> None:
    """A variable that was set for another store must not send a purge there."""
    other = data_dir_of(source)
    if other is not None and data_dir.resolve() != other.resolve():
        raise ConfigurationError(
            f"MPREG_DATA_DIR is {data_dir}, and data_dir in {source.origin(*DATA_DIR)} is {other}: "
            "say with --data-dir which is meant"
        )


def data_dir_of(source: SettingsSource) -> Path | None:
    """Where something names it, and it is a path; whatever else is wrong."""
    found = source.found(*DATA_DIR)
    if not isinstance(found, str):
        return found if isinstance(found, Path) else None
    try:
        return source.resolved(found, DATA_DIR)
    except RuntimeError:
        return None


@frozen
class Settings:
    data_dir: Path
    _config: PersistenceConfig
    _says_backend: bool
    """Whether a file or the environment does, and not only a default."""

    @classmethod
    def of(cls, common: Common) -> Settings:
        """
        Raises:
            ConfigurationError: something is wrong with the settings, of whatever part of a node.
            click.UsageError: no directory was named.
        """
        source = source_of(common)
        is_named = source.is_written(*DATA_DIR)
        if not is_named:
            # What else is wrong is told first: it may be why none was found.
            source = source.with_value(DATA_DIR, Path(), "")
        config = _config_of(source)
        if config.backend == "memory":
            raise ConfigurationError(
                f"{source.origin(TABLE, 'backend')}: backend is 'memory', which keeps nothing on "
                "disk: there is no store to work on"
            )
        if not is_named or config.data_dir is None:
            raise click.UsageError(NONE_NAMED)
        says_backend = source.path is not None or source.is_written(TABLE, "backend")
        return cls(config.data_dir, config, says_backend)

    def config(self, *, backend: str | None = None) -> PersistenceConfig:
        """For opening the store."""
        return self._config if backend is None else attrs.evolve(self._config, backend=backend)

    def config_of_what_is_there(self) -> PersistenceConfig:
        """For opening a store that is there: opening must not make one.

        Raises:
            DataDirectoryError: there is none, or it is of another backend than the settings say.
        """
        found = FoundDirectory.at(self.data_dir)
        return self.config(backend=None if self._says_backend else found.backend)


def _config_of(source: SettingsSource) -> PersistenceConfig:
    data_dir = source.found(*DATA_DIR)
    if isinstance(data_dir, Path) and source == SettingsSource().with_value(
        DATA_DIR, data_dir, source.origin(*DATA_DIR)
    ):
        return PersistenceConfig(data_dir=data_dir)
    # Not above: it imports all parts of a node, and where nothing else was said, none is needed.
    from mpreg.settings import MPREGSettings

    return MPREGSettings.from_source(source).persistence
