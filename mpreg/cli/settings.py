"""Which store a command works on, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import click
from attrs import frozen

from mpreg.cli.options import Common
from mpreg.errors import ConfigurationError
from mpreg.persistence import PersistenceConfig
from mpreg.persistence.config import TABLE
from mpreg.persistence.read_only import FoundDirectory
from mpreg.settings_source import SettingsSource

__all__ = ["Settings"]

_NONE_NAMED: Final = (
    "Missing option '--data-dir' (env var: 'MPREG_DATA_DIR'). It may also be data_dir in a "
    "--config file."
)


@frozen
class Settings:
    data_dir: Path
    _config: PersistenceConfig | None
    """Of the file that ``--config`` names, if one does."""

    @classmethod
    def of(cls, common: Common) -> Settings:
        """
        Raises:
            ConfigurationError: the file of settings is wrong, or it and the environment name two
                directories.
            click.UsageError: no directory was named.
        """
        if common.config_file is None:
            if common.data_dir is None:
                raise click.UsageError(_NONE_NAMED)
            return cls(common.data_dir, None)
        of_the_file = _data_dir_in(common.config_file)
        data_dir = common.data_dir or of_the_file
        if data_dir is None:
            raise click.UsageError(_NONE_NAMED)
        # A variable that was set for another store must not send a purge there.
        if (
            common.is_from_environment
            and of_the_file is not None
            and not _same(data_dir, of_the_file)
        ):
            raise ConfigurationError(
                f"MPREG_DATA_DIR is {data_dir}, and data_dir in {common.config_file} is "
                f"{of_the_file}: say with --data-dir which is meant"
            )
        config = PersistenceConfig.from_file(common.config_file, data_dir=data_dir)
        if config.backend == "memory":
            raise ConfigurationError(
                f"{common.config_file}: backend is 'memory', which keeps nothing on disk: there is "
                "no store to work on"
            )
        return cls(data_dir, config)

    def config(self, *, backend: str | None = None) -> PersistenceConfig:
        """For opening the store: the settings of the file, or else the defaults."""
        config = self._config or PersistenceConfig(data_dir=self.data_dir)
        return config if backend is None else attrs.evolve(config, backend=backend)

    def config_of_what_is_there(self) -> PersistenceConfig:
        """For opening a store that is there: opening must not make one.

        Raises:
            DataDirectoryError: there is none, or it is of another backend than the file says.
        """
        found = FoundDirectory.at(self.data_dir)
        return self.config(backend=None if self._config is not None else found.backend)


def _data_dir_in(config_file: Path) -> Path | None:
    """What is no path there is told when all settings are looked at."""
    table = SettingsSource.read(config_file).settings.get(TABLE, {})
    found = table.get("data_dir") if isinstance(table, dict) else None
    return config_file.parent / found if isinstance(found, str) else None


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
