"""Names and keys as parts of a path, such that each reaches the thing of that name and no other."""

from __future__ import annotations

from urllib.parse import quote

from mpreg.errors import InvalidArgumentError

__all__ = ["as_key", "as_name"]


def as_name(what: str, name: object) -> str:
    """Raises `InvalidArgumentError` for what would be another path."""
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"the name of a {what} is a str that is not empty: {name!r:.80}")
    if "/" in name:
        raise InvalidArgumentError(f"over HTTP the name of a {what} has no slash: {name!r:.80}")
    return _quoted(name)


def as_key(key: object) -> str:
    """Raises `InvalidArgumentError`, also for bytes."""
    if not isinstance(key, str):
        raise InvalidArgumentError(f"over HTTP a key is str, not {type(key).__name__}: {key!r:.80}")
    return _quoted(key)


def _quoted(text: str) -> str:
    try:
        # A part that is only dots means another path.
        return quote(text, safe="").replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"over HTTP names and keys are text: {error}") from error
