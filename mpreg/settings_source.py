"""Where settings come from: a file of TOML or JSON, and what wins over it; and where each stands.

One file has the settings of all parts, below ``[mpreg]``. Environment variables win over it:
``MPREG__PERSISTENCE__DATA_DIR`` is ``data_dir`` of ``[mpreg.persistence]``. This module only reads;
what a setting means, its part says.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from attrs import frozen

from mpreg.errors import ConfigurationError
from mpreg.settings_file import read_file
from mpreg.settings_lines import Keys, lines_of

__all__ = ["ROOT", "SettingsSource", "dotted", "variable_of"]

#: The table that everything of mpreg's stands below.
ROOT: Final = "mpreg"

#: What variables begin with, and what stands between their parts.
_PREFIX: Final = "MPREG__"
_BETWEEN: Final = "__"

#: What there is where nothing else than a table stands.
_TABLE: Final = (Mapping, type(None))


def dotted(keys: Keys) -> str:
    """The full name of a setting: ``mpreg.peers[0].url``."""
    return ROOT + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def variable_of(keys: Keys) -> str:
    """The environment variable of a setting."""
    return _PREFIX + _BETWEEN.join(_as_in_variables(str(key)) for key in keys)


def _as_in_variables(name: str) -> str:
    # What the name of a queue may have, and that of a variable not.
    return re.sub(r"\W", "_", name).upper()


@frozen
class SettingsSource:
    """What was written, and where."""

    path: Path | None = None
    """None: it is no file."""
    settings: Any = attrs.Factory(dict)
    """Of `ROOT`."""
    text: str = ""
    """Of a file of TOML."""
    winning: Mapping[Keys, str] = {}
    """Settings that something else than the file gives: an environment variable, an option."""
    problems: tuple[ConfigurationError, ...] = ()
    """What is wrong, whatever the settings mean."""

    @classmethod
    def read(cls, path: Path) -> SettingsSource:
        """What `read_file` reads.

        Raises:
            ConfigurationError: see there. What is outside `ROOT` is one of the `problems` instead.
        """
        found, text = read_file(path)
        source = cls(path=path, text=text)
        problems = [
            ConfigurationError(f"{source._in_file((name,))}: {_stray(name, value)}", name)
            for name, value in found.items()
            if name != ROOT or not isinstance(value, dict)
        ]
        settings = found.get(ROOT)
        return attrs.evolve(
            source,
            settings=settings if isinstance(settings, dict) else {},
            problems=tuple(problems),
        )

    def with_environment(self, environment: Mapping[str, str]) -> SettingsSource:
        """With what the variables say instead of what is written here. Their values are text.

        Names are compared without regard to case, so that a queue called ``jobs`` is ``JOBS``
        there.
        """
        source = self
        for variable, value in sorted(environment.items()):
            if variable.startswith(_PREFIX):
                place = f"environment variable {variable}"
                try:
                    keys = _keys_of(source.settings, variable)
                except ConfigurationError as error:
                    problem = ConfigurationError(f"{place}: {error}")
                    source = attrs.evolve(source, problems=(*source.problems, problem))
                else:
                    source = source.with_value(keys, value, place)
        return source

    def with_value(self, keys: Keys, value: object, place: str) -> SettingsSource:
        """With another value of one setting, which ``place`` gives; unless what should be a table
        on the way to it is none, which is an error in itself."""
        if any(not isinstance(self.found(*keys[:end]), _TABLE) for end in range(len(keys))):
            return self
        return attrs.evolve(
            self,
            settings=_replaced(self.settings, keys, value),
            winning={**self.winning, keys: place},
        )

    def found(self, *keys: str | int) -> Any:
        """What is written there, or None."""
        inside = self.settings
        for key in keys:
            inside = inside.get(key) if isinstance(inside, Mapping) else None
        return inside

    def is_written(self, *keys: str | int) -> bool:
        return self.origin(*keys) != "default"

    def origin(self, *keys: str | int) -> str:
        """Where a setting gets its value, or a table is begun, in words."""
        for length in range(len(keys), 0, -1):
            if (place := self.winning.get(keys[:length])) is not None:
                return place
        inside = self.settings
        for key in keys:
            try:
                inside = inside[key]
            except (KeyError, IndexError, TypeError):
                return "default"
        if (ROOT, *keys) not in _lines(self.text):
            for below, place in self.winning.items():
                if below[: len(keys)] == keys:
                    return place
        return self._in_file((ROOT, *keys))

    def is_winning(self, keys: Keys) -> bool:
        """Whether a setting is not what the file says."""
        return any(keys[:length] in self.winning for length in range(1, len(keys) + 1))

    def file_of(self, keys: Keys) -> Path | None:
        """The file that says what a setting is, if one does."""
        return None if self.is_winning(keys) else self.path

    def resolved(self, text: str, keys: Keys) -> Path:
        """A path that is written there.

        Raises:
            RuntimeError: ``~`` begins it, and nobody knows whose home directory is meant.
        """
        file, path = self.file_of(keys), Path(text).expanduser()
        return path if file is None else file.parent / path

    def error(self, message: str, *keys: str | int) -> ConfigurationError:
        """The same said of this source, with the setting's full name and its place."""
        place = self._place(keys)
        setting = str(keys[-1]) if keys else None
        return ConfigurationError(
            f"{place}{': ' if place else ''}{dotted(keys)}: {message}", setting
        )

    def _place(self, keys: Keys) -> str:
        """Where it stands; of what is written nowhere, the table where it would."""
        for length in range(len(keys), 0, -1):
            origin = self.origin(*keys[:length])
            if origin != "default":
                return origin
        return "" if self.path is None else str(self.path)

    def _in_file(self, keys: Keys) -> str:
        if self.path is None:
            return ""
        line = _lines(self.text).get(keys)
        return str(self.path) if line is None else f"{self.path}, line {line}"


#: Files are small, and each error asks for a line of the same one.
_lines = functools.lru_cache(maxsize=1)(lines_of)


def _replaced(settings: Mapping[Any, Any], keys: Keys, value: object) -> dict[Any, Any]:
    key, *below = keys
    new = _replaced(settings.get(key, {}), tuple(below), value) if below else value
    return {**settings, key: new}


def _keys_of(settings: Any, variable: str) -> tuple[str, ...]:
    """What a variable names, spelt as in the file where it stands there."""
    keys: tuple[str, ...] = ()
    for part in variable.removeprefix(_PREFIX).split(_BETWEEN):
        if not isinstance(settings, Mapping):
            raise ConfigurationError(f"{dotted(keys)} has a value and is no table")
        known = [key for key in settings if _as_in_variables(str(key)) == part.upper()]
        if len(known) > 1:
            raise ConfigurationError(f"it may mean {' or '.join(map(repr, known))}")
        keys = (*keys, known[0] if known else part.lower())
        settings = settings.get(keys[-1], {})
    return keys


def _stray(name: str, value: object) -> str:
    if name == ROOT:
        return f"{ROOT}: a table is expected, [{ROOT}]"
    if not isinstance(value, dict):
        return f"{name!r} stands in no table: settings stand below [{ROOT}]"
    near = difflib.get_close_matches(name, [ROOT])
    asked = f"did you mean [{ROOT}]?" if near else f"settings stand below it, as [{ROOT}.server]"
    return f"unknown table [{name}]; the only one is [{ROOT}]: {asked}"
