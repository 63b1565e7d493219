"""An exported store as JSON Lines: one object a line, the same for every backend.

::

    {"type": "mpreg-export", "format_version": 1, "commit_sequence": 7, ...}     the first line
    {"type": "entry", "store": NAME, "key": KEY, "value": DATA, "version": 3, "expires_at": null}
    {"type": "log", "store": NAME, "first_offset": 7, "next_offset": 40}
    {"type": "record", "store": NAME, "offset": 7, "data": DATA}
    {"type": "gap", "store": NAME, "offset": 8, "next_offset": 10}     records that were missing
    {"type": "snapshot", "store": NAME, "version": 5, "saved_at": 1.7e9, "chunks": 2,
     "versions_max": 1, "seconds_max": null}                     a version, and how many are kept
    {"type": "chunk", "data": DATA}                              as many as the line before says
    {"type": "end", "lines": 6, "sha256": "..."}                 without it, the file was cut off

    NAME  {"name": "sessions"}, or {"kind": "queues", "name": "configurations"} for mpreg's own
    KEY   {"str": "ann"} or {"bytes": "AAE="}, base64
    DATA  {"text": "..."} where the bytes are UTF-8, or {"base64": "..."}

Every text is ASCII: other characters are escaped, also halves of pairs, which file names can hold.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import Any, Final

from mpreg.codec import (
    KEY_BYTES_MAX,
    NAME_BYTES_MAX,
    decode_key,
    encode_key,
    encode_name,
    encode_reserved_name,
)
from mpreg.errors import InvalidArgumentError
from mpreg.persistence.snapshots import CHUNK_BYTES

__all__ = [
    "FIRST_BYTES",
    "FORMAT_VERSION",
    "data_of",
    "dump_line",
    "encode_data",
    "encode_stored_key",
    "encode_store_name",
    "is_own_name",
    "key_of",
    "line_bytes_max",
    "load_line",
    "number_of",
    "parts_of_name",
    "seconds_of",
    "store_name_of",
]

FORMAT_VERSION: Final = 1
FIRST_BYTES: Final = b'{"type":"mpreg-export"'
"""What every export begins with."""

#: The most that one byte becomes: one that is no printable character, as ``\\u0000``.
_BYTES_PER_BYTE: Final = 6
#: Of all that is neither name, nor key, nor data.
_REST_BYTES: Final = 4_096

#: Of the names that mpreg keeps for itself: what `PersistenceRegistry.reserved` is given.
_KIND: Final = re.compile(r"[a-z][a-z0-9_.-]*", re.ASCII)


def dump_line(item: dict[str, Any]) -> bytes:
    return json.dumps(item, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def line_bytes_max(value_bytes_max: int) -> int:
    """No line of an export is longer where no value is larger than ``value_bytes_max``."""
    # A snapshot is cut into chunks by whoever has saved it, with other settings perhaps.
    data = max(value_bytes_max, CHUNK_BYTES)
    return _BYTES_PER_BYTE * (data + KEY_BYTES_MAX + 2 * NAME_BYTES_MAX) + _REST_BYTES


def load_line(line: bytes) -> dict[str, Any]:
    """Raises `InvalidArgumentError` where it is no line of an export."""
    try:
        item = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"not JSON: {error}") from error
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise InvalidArgumentError("not an object with a type")
    return item


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


# --- names ---


def parts_of_name(encoded: bytes) -> tuple[str | None, str]:
    """(kind, name) of a name as it is stored; kind None for a user's."""
    if not is_own_name(encoded):
        return None, encoded.decode("utf-8", "surrogatepass")
    kind, _, name = encoded[1:].partition(b"/")
    return kind.decode(), name.decode("utf-8", "surrogatepass")


def is_own_name(encoded: bytes) -> bool:
    """Whether it is one that mpreg keeps for itself."""
    return encoded[:1] == b"\xff"


def encode_store_name(encoded: bytes) -> dict[str, str]:
    kind, name = parts_of_name(encoded)
    return {"name": name} if kind is None else {"kind": kind, "name": name}


def store_name_of(item: dict[str, Any]) -> bytes:
    """The stored name that a line names."""
    store = _field(item, "store", dict)
    name = _field(store, "name", str)
    if "kind" not in store:
        return encode_name(name)
    kind: str = _field(store, "kind", str)
    if _KIND.fullmatch(kind) is None:
        raise InvalidArgumentError(f"kind: {kind!r:.80} is none of mpreg's own stores")
    return encode_reserved_name(kind, name)


# --- keys and values ---


def encode_stored_key(encoded: bytes) -> dict[str, str]:
    key = decode_key(encoded)
    if isinstance(key, str):
        return {"str": key}
    return {"bytes": base64.b64encode(key).decode()}


def key_of(item: dict[str, Any]) -> bytes:
    """The stored key that a line names."""
    key = _field(item, "key", dict)
    if "str" in key:
        return encode_key(_field(key, "str", str))
    return encode_key(_decoded(_field(key, "bytes", str)))


def encode_data(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def data_of(item: dict[str, Any], name: str) -> bytes:
    data = _field(item, name, dict)
    if "text" in data:
        try:
            text: str = _field(data, "text", str)
            return text.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"{name}: not UTF-8: {error}") from error
    return _decoded(_field(data, "base64", str))


def number_of(item: dict[str, Any], name: str) -> int:
    """A whole number, 0 or above."""
    number: int = _field(item, name, int)
    if isinstance(number, bool) or not 0 <= number < 2**63:
        raise InvalidArgumentError(f"{name}: {number!r} is no number of this kind")
    return number


def seconds_of(item: dict[str, Any], name: str) -> float | None:
    """A finite number of seconds; None where the line has null, or nothing, for it."""
    found = item.get(name)
    if found is None:
        return None
    if isinstance(found, int | float) and not isinstance(found, bool):
        try:
            seconds = float(found)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise InvalidArgumentError(f"{name}: finite seconds or null expected, not {_shown(found)}")


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too long to be shown"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError(f"not base64: {error}") from error


def _field(item: dict[str, Any], name: str, kind: type[Any]) -> Any:
    found = item.get(name)
    if not isinstance(found, kind):
        raise InvalidArgumentError(f"{name}: {kind.__name__} expected, not {_shown(found)}")
    return found
