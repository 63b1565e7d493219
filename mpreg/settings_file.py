"""A file of settings, before anything is known of what it means: TOML, or JSON."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from mpreg.errors import ConfigurationError

__all__ = ["read_file"]


def read_file(path: Path) -> tuple[dict[str, Any], str]:
    """What is in it: JSON where its name ends so, else TOML; and the text, where that is TOML.

    Reads at once, without await.

    Raises:
        ConfigurationError: it cannot be read, is neither, or has no table outermost.
    """
    text = _text_of(path)
    is_json = path.suffix.lower() == ".json"
    try:
        found = _json(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if is_json else "TOML"
        raise ConfigurationError(f"{path}: this is not {kind}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: an object is expected, not {type(found).__name__}")
    return found, "" if is_json else text


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the file of settings cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: this is no text in UTF-8: {error}") from error


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_doubles)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As TOML has it: of two settings of one name nobody knows which is meant."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"{name!r} stands twice in one object")
        made[name] = value
    return made
