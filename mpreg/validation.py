"""Validators and converters that all settings share, and their words."""

from __future__ import annotations

import difflib
import enum
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import date, time
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from mpreg.errors import ConfigurationError

__all__ = [
    "as_path",
    "flag",
    "found",
    "instance",
    "meant",
    "member",
    "number",
    "one_of",
    "path_or_none",
    "refuse_unknown",
    "seconds",
    "text",
    "whole_number",
]

E = TypeVar("E", bound=enum.Enum)

#: A wrong value may be a whole file.
SHOWN_CHARACTERS_MAX: Final = 200


def found(name: str, expected: str, value: object) -> ConfigurationError:
    return ConfigurationError(f"{name}: {expected} is expected, not {_shown(value)}", name)


def _shown(value: object) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # A whole number of thousands of digits, or a nest of lists.
        return f"a {type(value).__name__} that is too long to be shown"
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"


def whole_number(minimum: int, maximum: int | None = None, *, none: bool = False) -> Any:
    bound = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    expected = f"a whole number, {bound}{', or none' if none else ''},"

    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if none and value is None:
            return
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < minimum
            or (maximum is not None and value > maximum)
        ):
            raise found(attribute.name, expected, value)

    return check


def number(
    minimum: float, *, above: bool = False, none: bool = False, what: str = "a number"
) -> Any:
    """At least ``minimum``, or above it; and finite."""
    bound = f"{'above' if above else 'at least'} {minimum}"
    expected = f"{what}, {bound}{', or none' if none else ''},"

    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if none and value is None:
            return
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not minimum <= value <= sys.float_info.max
            or (above and value == minimum)
        ):
            raise found(attribute.name, expected, value)

    return check


def seconds(*, zero: bool, none: bool = False) -> Any:
    return number(0, above=not zero, none=none, what="a number of seconds")


def instance(kind: type) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, kind):
            raise found(attribute.name, kind.__name__, value)

    return check


def flag(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise found(attribute.name, "true or false", value)


def text(pattern: str, what: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise found(attribute.name, what, value)

    return check


def one_of(*values: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in values:
            raise found(attribute.name, " or ".join(map(repr, values)), value)

    return check


def member(kind: type[E], name: str, value: object) -> E:
    """The member of an enum with this value."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(one.value) for one in kind)
        raise found(name, f"one of {known}", value) from None


def as_path(value: Any) -> Any:
    """A converter. What is no path stays what it is, for `path_or_none` to refuse."""
    return Path(value) if isinstance(value, str | PathLike) and value != "" else value


def path_or_none(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, Path) or "\0" in str(value)):
        raise found(attribute.name, "a path", value)


def refuse_unknown(names: Iterable[object], known: Sequence[str]) -> None:
    """Raises `ConfigurationError` for a name that is not known, with the nearest that is."""
    for name in names:
        if name not in known:
            raise ConfigurationError(f"unknown setting {name!r}; {meant(name, known)}", str(name))


def meant(name: object, known: Sequence[str]) -> str:
    """What somebody who wrote ``name`` may have had in mind."""
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
