"""A TOML file of settings, and where in it something stands."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from mpreg.errors import ConfigurationError
from mpreg.validation import meant

__all__ = ["SettingsFile", "line_of"]


@frozen
class SettingsFile:
    """A file that was read, with the settings of one table."""

    path: Path
    table: str
    settings: Mapping[str, object]
    _text: str

    @classmethod
    def read(cls, path: Path, table: str) -> SettingsFile:
        """
        Raises:
            ConfigurationError: it cannot be read, is no TOML, or has more in it than this table.
        """
        try:
            text = path.read_bytes().decode()
            found = tomllib.loads(text)
        except OSError as error:
            raise ConfigurationError(
                f"{path}: the file of settings cannot be read: {error.strerror}"
            ) from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigurationError(f"{path}: this is not TOML: {error}") from error
        for name, value in found.items():
            if name != table:
                line = _place(path, line_of(text, name))
                raise ConfigurationError(f"{line}: {_stray(name, value, table)}", name)
        settings = found.get(table, {})
        if not isinstance(settings, dict):
            line = _place(path, line_of(text, table))
            raise ConfigurationError(f"{line}: {table} must be a table: [{table}]", table)
        return cls(path, table, settings, text)

    def error(self, message: str, setting: str | None) -> ConfigurationError:
        """The same said of this file, with the line in which the setting stands."""
        line = None if setting is None else line_of(self._text, self.table, setting)
        return ConfigurationError(f"{_place(self.path, line)}: {message}", setting)


def line_of(text: str, *keys: str) -> int | None:
    """The line, from 1, at which ``keys``, from the outermost table inward, get a value.

    TOML parsers do not tell. The shortest beginning of the file that is TOML and has the key ends
    with it: so it begins in the line after the longest one that is TOML and has it not.
    """
    lines = text.split("\n")
    before = 0
    for count in range(1, len(lines) + 1):
        try:
            found = tomllib.loads("\n".join(lines[:count]) + "\n")
        except tomllib.TOMLDecodeError:
            continue
        if _has(found, keys):
            return before + 1
        before = count
    return None


def _has(found: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            return False
        found = found[key]
    return True


def _place(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}, line {line}"


def _stray(name: str, value: object, table: str) -> str:
    if isinstance(value, dict):
        return f"unknown table [{name}]; {meant(name, [table])}"
    return f"{name!r} stands in no table: settings stand below [{table}]"
