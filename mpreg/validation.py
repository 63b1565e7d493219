"""Validators that all settings share, and their words."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from mpreg.errors import ConfigurationError

__all__ = ["found", "meant", "refuse_unknown", "seconds", "whole_number"]


def found(name: str, expected: str, value: object) -> ConfigurationError:
    return ConfigurationError(f"{name}: {expected} is expected, not {value!r}", name)


def whole_number(minimum: int, maximum: int | None = None, *, none: bool = False) -> Any:
    bound = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if none and value is None:
            return
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < minimum
            or (maximum is not None and value > maximum)
        ):
            raise found(attribute.name, f"a whole number, {bound},", value)

    return check


def seconds(*, zero: bool, none: bool = False) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if none and value is None:
            return
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value <= sys.float_info.max
            or (value == 0 and not zero)
        ):
            bound = "at least 0" if zero else "above 0"
            raise found(attribute.name, f"a number of seconds, {bound},", value)

    return check


def refuse_unknown(names: Iterable[object], known: Sequence[str]) -> None:
    """Raises `ConfigurationError` for a name that is not known, with the nearest that is."""
    for name in names:
        if name not in known:
            raise ConfigurationError(f"unknown setting {name!r}; {meant(name, known)}", str(name))


def meant(name: object, known: Sequence[str]) -> str:
    """What somebody who wrote ``name`` may have had in mind."""
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
