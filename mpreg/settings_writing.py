"""Settings as TOML that reads back as the same settings; secrets left out."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from mpreg.settings_lines import Keys
from mpreg.settings_reading import NONE, SECRET
from mpreg.settings_source import ROOT

__all__ = ["Setting", "Table", "tables_in", "toml"]


@frozen
class Setting:
    keys: Keys
    attribute: attrs.Attribute[Any]
    value: Any
    """None of a secret, whatever it is: nobody who writes settings can tell it."""

    @property
    def is_secret(self) -> bool:
        return self.attribute.metadata == SECRET

    def line(self, directory: Path) -> str:
        """It as TOML. A relative path is one in ``directory``: where the text will be read it may
        mean another."""
        return f"{self.attribute.name} = {_value(self.value, directory)}"


@frozen
class Table:
    keys: Keys
    kind: type[Any]
    """The class that it is made into."""
    settings: list[Setting]
    """Without the tables below it."""

    @property
    def header(self) -> str:
        name = ".".join(_key(key) for key in (ROOT, *self.keys) if isinstance(key, str))
        is_of_list = self.keys != () and isinstance(self.keys[-1], int)
        return f"[[{name}]]" if is_of_list else f"[{name}]"


def tables_in(part: attrs.AttrsInstance, keys: Keys = ()) -> Iterator[Table]:
    """The table that a part is, and all below it, in the order in which TOML has them."""
    settings: list[Setting] = []
    below: list[tuple[Keys, Any]] = []
    for attribute in attrs.fields(type(part)):
        value, here = getattr(part, attribute.name), (*keys, attribute.name)
        if attrs.has(type(value)):
            below.append((here, value))
        elif isinstance(value, Mapping):
            below += [((*here, name), one) for name, one in value.items()]
        elif isinstance(value, tuple):
            below += [((*here, index), one) for index, one in enumerate(value)]
        else:
            told = None if attribute.metadata == SECRET else value
            settings.append(Setting(here, attribute, told))
    yield Table(keys, type(part), settings)
    for here, one in below:
        yield from tables_in(one, here)


def toml(settings: attrs.AttrsInstance, directory: Path, beside: Callable[[Setting], str]) -> str:
    """All settings, each with a comment ``beside`` it, also where it is a secret."""
    lines: list[str] = []
    for table in tables_in(settings):
        lines += ["", table.header]
        for one in table.settings:
            written = f"# {one.attribute.name}" if one.is_secret else one.line(directory)
            lines.append(f"{written}  # {_in_one_line(beside(one))}")
    return "\n".join(lines[1:]) + "\n"


def _in_one_line(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)


def _value(value: Any, directory: Path) -> str:
    match value:
        case None:
            return f'"{NONE}"'
        case enum.Enum():
            return _value(value.value, directory)
        case Path():
            return _text(str(directory / value))
        case bool():
            return str(value).lower()
        case str():
            return _text(value)
        case int():
            return f"{value:_}"
        case _:
            return repr(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(text: str) -> str:
    # JSON escapes as TOML does, but for one control character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
