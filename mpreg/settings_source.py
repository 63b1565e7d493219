"""Where settings come from: a file of TOML or JSON, and the environment; and where in it each stands.

One file has the settings of all parts, below ``[mpreg]``. Environment variables win over it:
``MPREG__PERSISTENCE__DATA_DIR`` is ``data_dir`` of ``[mpreg.persistence]``. This module only reads;
what a setting means, its part says.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from mpreg.errors import ConfigurationError
from mpreg.validation import meant

__all__ = ["ROOT", "SettingsSource", "line_of"]

#: The table that everything of mpreg's stands below.
ROOT: Final = "mpreg"

#: What variables begin with, and what stands between their parts.
_PREFIX: Final = "MPREG__"
_BETWEEN: Final = "__"


@frozen
class SettingsSource:
    """What was written, and where."""

    path: Path | None
    """None: it is no file."""
    settings: Mapping[str, Any]
    """Of `ROOT`."""
    text: str = ""
    """Of a file of TOML."""
    variables: Mapping[tuple[str, ...], str] = {}
    """Where each setting that comes from the environment stands there."""

    @classmethod
    def read(cls, path: Path) -> SettingsSource:
        """A file: JSON where its name ends so, else TOML.

        Raises:
            ConfigurationError: it cannot be read, is neither, or has something outside `ROOT`.
        """
        try:
            text = path.read_bytes().decode()
        except OSError as error:
            raise ConfigurationError(
                f"{path}: the file of settings cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path}: this is no text: {error}") from error
        is_json = path.suffix.lower() == ".json"
        try:
            found = json.loads(text) if is_json else tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            kind = "JSON" if is_json else "TOML"
            raise ConfigurationError(f"{path}: this is not {kind}: {error}") from error
        if not isinstance(found, dict):
            raise ConfigurationError(f"{path}: an object is expected, with {ROOT!r} in it")
        source = cls(path, {}, "" if is_json else text)
        return cls(path, source._below_root(found), source.text)

    def _below_root(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, value in found.items():
            if name != ROOT:
                place = self._in_file((name,), outermost=())
                raise ConfigurationError(f"{place}: {_stray(name, value)}", name)
        settings = found.get(ROOT, {})
        if not isinstance(settings, dict):
            place = self._in_file((ROOT,), outermost=())
            raise ConfigurationError(f"{place}: {ROOT} must be a table: [{ROOT}]", ROOT)
        return settings

    def with_environment(self, environment: Mapping[str, str]) -> SettingsSource:
        """With what the variables say instead of what is written here. Their values are text.

        Names are compared without regard to case, so that a queue called ``jobs`` is ``JOBS`` there.

        Raises:
            ConfigurationError: two variables contradict each other: one names a table, the other
                gives it a value.
        """
        settings = _copied(self.settings)
        variables: dict[tuple[str, ...], str] = {}
        for variable, value in sorted(environment.items()):
            if variable.startswith(_PREFIX):
                keys = _set(settings, variable, value)
                variables[keys] = variable
        return SettingsSource(self.path, settings, self.text, variables)

    def place(self, *keys: str) -> str:
        """Where a setting stands, in words; of one that is written nowhere, where it would."""
        for length in range(len(keys), 0, -1):
            if (variable := self.variables.get(keys[:length])) is not None:
                return f"environment variable {variable}"
        return self._in_file(keys)

    def is_written(self, *keys: str) -> bool:
        found: Any = self.settings
        for key in keys:
            if not isinstance(found, Mapping) or key not in found:
                return False
            found = found[key]
        return True

    def error(self, message: str, *keys: str) -> ConfigurationError:
        """The same said of this source, with the place of the setting."""
        return ConfigurationError(f"{self.place(*keys)}: {message}", keys[-1] if keys else None)

    def _in_file(self, keys: tuple[str, ...], outermost: tuple[str, ...] = (ROOT,)) -> str:
        if self.path is None:
            return ".".join((*outermost, *keys))
        line = line_of(self.text, *outermost, *keys) if self.text else None
        return str(self.path) if line is None else f"{self.path}, line {line}"


def _copied(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _copied(value) if isinstance(value, dict) else value
        for name, value in settings.items()
    }


def _set(settings: dict[str, Any], variable: str, value: str) -> tuple[str, ...]:
    """Put the value where the variable says, and return that."""
    keys: list[str] = []
    *tables, name = variable.removeprefix(_PREFIX).split(_BETWEEN)
    for table in tables:
        key = _written_as(settings, table)
        keys.append(key)
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise ConfigurationError(
                f"environment variable {variable}: {'.'.join(keys)} is a value and no table", key
            )
    key = _written_as(settings, name)
    settings[key] = value
    return (*keys, key)


def _written_as(settings: Mapping[str, Any], name: str) -> str:
    return next((key for key in settings if key.upper() == name.upper()), name.lower())


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


def _stray(name: str, value: object) -> str:
    if not isinstance(value, dict):
        return f"{name!r} stands in no table: settings stand below [{ROOT}]"
    return (
        f"unknown table [{name}]; {meant(name, [ROOT])}: settings stand in [{ROOT}.persistence] …"
    )
