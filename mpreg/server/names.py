"""Names that come with a request, looked at once: what is behind this point may trust them."""

from __future__ import annotations

import unicodedata
from typing import Final
from urllib.parse import unquote_to_bytes

from mpreg.errors import InvalidArgumentError, RequestRefusedError

__all__ = ["NAME_CHARACTERS_MAX", "check_query", "checked_name", "checked_path"]

NAME_CHARACTERS_MAX: Final = 200


def checked_name(what: str, name: str) -> str:
    """Raises `InvalidArgumentError` unless it is 1 to 200 characters that can be shown."""
    if not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise InvalidArgumentError(
            f"the name of a {what} has 1 to {NAME_CHARACTERS_MAX} characters, not {len(name)}"
        )
    # Control characters, surrogates alone, and what has no meaning assigned for ever.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InvalidArgumentError(f"the name of a {what} has no control characters: {name!r:.80}")
    return name


def checked_path(raw_path: bytes) -> str:
    """The path as text. Raises `RequestRefusedError` where it is none: what only looks like a name
    would be another one's."""
    return _text("path", raw_path)


def check_query(query_string: bytes) -> None:
    """Raises `RequestRefusedError` where it is no text, as of a path."""
    _text("query", query_string)


def _text(what: str, quoted: bytes) -> str:
    try:
        return unquote_to_bytes(quoted).decode()
    except UnicodeDecodeError:
        raise RequestRefusedError(f"the {what} is not UTF-8") from None
