"""From what was written to the classes of settings, with all that is wrong and where it stands.

The classes say themselves what they take, by their types, converters and validators: here is only
how a table becomes one of them.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import attrs
from attrs import define

from mpreg.errors import ConfigurationError
from mpreg.settings_lines import Keys
from mpreg.settings_source import SettingsSource, dotted, variable_of
from mpreg.validation import meant

__all__ = ["NONE", "SECRET", "SettingsReader", "types_of"]

S = TypeVar("S", bound=attrs.AttrsInstance)

#: What a setting that may be None is called where there is no null.
NONE: Final = "none"

#: Metadata of a setting that is never shown, and must not stand in a file.
SECRET: Final = {"mpreg.secret": True}


def types_of(kind: type[Any]) -> Mapping[str, Any]:
    """Of each setting of a class."""
    return typing.get_type_hints(kind)


@define
class SettingsReader:
    source: SettingsSource
    problems: list[ConfigurationError] = attrs.Factory(
        lambda self: list(self.source.problems), takes_self=True
    )
    """All that was found wrong until now."""

    def read(self, kind: type[S], table: object, keys: Keys = ()) -> S | None:
        """Whatever is wrong with it, `problems` tells then."""
        given = self.values(kind, table, keys)
        if given is None:
            return None
        try:
            return kind(**given)
        except ConfigurationError as error:
            self.tell(error, keys)
            return None

    def values(
        self, kind: type[attrs.AttrsInstance], table: object, keys: Keys
    ) -> dict[str, Any] | None:
        """What is written in a table, as the class takes it; None where a value is wrong.

        A name that is not known is told, and leaves the others to be looked at together.
        """
        if not isinstance(table, Mapping):
            self._wrong(f"a table is expected, [{dotted(keys)}]", keys)
            return None
        known, wanted = attrs.fields_dict(kind), types_of(kind)
        for name, value in table.items():
            if name not in known:
                what = "table" if isinstance(value, Mapping) else "setting"
                self._wrong(f"unknown {what} {name!r}; {meant(name, list(known))}", (*keys, name))
        before = len(self.problems)
        given: dict[str, Any] = {}
        for name, attribute in known.items():
            if name in table or attrs.has(wanted[name]):
                value = table.get(name, {})
                given[name] = self._value(attribute, wanted[name], value, (*keys, name))
            elif attribute.default is attrs.NOTHING:
                self._wrong("missing", (*keys, name))
        return given if len(self.problems) == before else None

    def check(self) -> None:
        """
        Raises:
            ConfigurationError: something is wrong; with all that is.
        """
        if self.problems:
            raise ConfigurationError.of(self.problems)

    def tell(self, error: ConfigurationError, keys: Keys) -> None:
        """What a class says of the settings in its table."""
        for one in error.problems:
            self._wrong(_bare(one), keys if one.setting is None else (*keys, one.setting))

    def _wrong(self, message: str, keys: Keys) -> None:
        self.problems.append(self.source.error(message, *keys))

    def _value(self, attribute: attrs.Attribute[Any], wanted: Any, value: Any, keys: Keys) -> Any:
        before = len(self.problems)
        found = self._typed(wanted, value, keys)
        if len(self.problems) > before or not self._may_stand_there(attribute, keys):
            return None
        try:
            if attribute.converter is not None:
                found = cast(Callable[[Any], Any], attribute.converter)(found)
            if attribute.validator is not None:
                attribute.validator(None, attribute, found)
        except ConfigurationError as error:
            self._wrong(_bare(error), keys)
        return found

    def _may_stand_there(self, attribute: attrs.Attribute[Any], keys: Keys) -> bool:
        if attribute.metadata == SECRET and self.source.file_of(keys) is not None:
            self._wrong(
                f"a secret does not stand in a file of settings; give {attribute.name}_file, or "
                f"the environment variable {variable_of(keys)}",
                keys,
            )
            return False
        return True

    def _typed(self, wanted: Any, value: Any, keys: Keys) -> Any:
        """With what stands in it, where it is a table or a list of them; else as it is."""
        kinds = set(typing.get_args(wanted)) if _is_union(wanted) else {wanted}
        if value == NONE and types.NoneType in kinds:
            return None
        if attrs.has(wanted):
            return self.read(wanted, value, keys)
        if typing.get_origin(wanted) is tuple:
            return self._list(typing.get_args(wanted)[0], value, keys)
        if typing.get_origin(wanted) is Mapping:
            return self._tables(typing.get_args(wanted)[1], value, keys)
        if isinstance(value, str) and self.source.is_winning(keys):
            value = _parsed(kinds, value)
        if isinstance(value, str) and Path in kinds:
            value = self._path(value, keys)
        return value

    def _list(self, kind: type[S], value: Any, keys: Keys) -> list[S | None]:
        if isinstance(value, str) and self.source.is_winning(keys):
            value = _parsed_list(value)
        if not isinstance(value, list | tuple):
            self._wrong(f"a list of tables is expected, [[{dotted(keys)}]]", keys)
            return []
        return [self.read(kind, one, (*keys, index)) for index, one in enumerate(value)]

    def _tables(self, kind: type[S], value: Any, keys: Keys) -> dict[str, S | None]:
        if not isinstance(value, Mapping):
            self._wrong(f"tables are expected, [{dotted(keys)}.NAME]", keys)
            return {}
        return {name: self.read(kind, one, (*keys, name)) for name, one in value.items()}

    def _path(self, text: str, keys: Keys) -> Path | str:
        """Relative to the file that it stands in; else to the working directory."""
        if not text or "\0" in text:
            # Its class says what it wants instead.
            return text
        try:
            return self.source.resolved(text, keys)
        except RuntimeError as error:
            self._wrong(f"{text!r}: {error}", keys)
            return text


def _bare(error: ConfigurationError) -> str:
    """Without the setting's name, which it may begin with: the full one stands before it."""
    return str(error).removeprefix(f"{error.setting}: ")


def _is_union(wanted: object) -> bool:
    return typing.get_origin(wanted) in (types.UnionType, typing.Union)


def _parsed(kinds: set[Any], text: str) -> Any:
    """What a text means where one of ``kinds`` is wanted; the text where that cannot be told."""
    if bool in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                return text
    return text


def _parsed_list(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
