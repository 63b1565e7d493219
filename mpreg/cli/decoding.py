"""Stored bytes as something that a person, or a JSON parser, can read.

What the bytes are is not stored with them: it is a guess, and every place that shows it says what
was guessed.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime
from typing import Any, Final

import msgspec
from attrs import frozen

__all__ = [
    "Decoded",
    "as_json",
    "cut",
    "decode",
    "key_text",
    "plain",
    "printable",
    "size",
    "value_text",
]

#: Of a value that is larger only so much is looked at for a line of text.
LOOKED_AT_MAX: Final = 4_096


@frozen
class Decoded:
    format: str
    """``json``, ``text``, ``msgpack`` or ``bytes``."""
    value: Any
    """As `plain` makes it."""


def decode(data: bytes) -> Decoded:
    """JSON objects, arrays and strings; printable UTF-8; MessagePack maps, arrays, strings."""
    text = _as_text(data)
    if text is not None:
        if text[:1] in ("{", "[", '"'):
            try:
                return Decoded("json", plain(json.loads(text)))
            except (ValueError, RecursionError):
                pass
        return Decoded("text", text)
    try:
        found = msgspec.msgpack.decode(data)
        # Almost any byte is a small number: only what has a shape is taken for MessagePack.
        if isinstance(found, list | dict | str | bytes):
            return Decoded("msgpack", plain(found))
    except (msgspec.MsgspecError, ValueError, RecursionError, TypeError):
        pass
    return Decoded("bytes", plain(data))


def _as_text(data: bytes) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\n\r\t" for char in text) else None


def plain(value: Any) -> Any:
    """For JSON: bytes as ``{"base64": …}``, floats that are no numbers as ``{"float": …}``, maps
    with other keys than str as ``{"map": [[key, value], …]}``."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case list() | tuple():
            return [plain(item) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: plain(item) for key, item in value.items()}
        case dict():
            return {"map": [[plain(key), plain(item)] for key, item in value.items()]}
        case datetime():
            return {"datetime": value.isoformat()}
        case _:
            return {"other": repr(value)}


def as_json(value: Any) -> str:
    # ASCII: a lone surrogate, which a key may have, could not be written otherwise.
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def printable(text: str) -> str:
    """One line that shows what is in it and moves no cursor."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def key_text(key: str | bytes) -> str:
    """A `bytes` key in hexadecimal, as ``--hex`` takes it."""
    return f"0x{key.hex()}" if isinstance(key, bytes) else printable(key)


def value_text(data: bytes) -> str:
    """A line: the value, and what it was taken for."""
    if len(data) > LOOKED_AT_MAX and _as_text(data[: LOOKED_AT_MAX // 2]) is None:
        return f"(bytes) {data[:64].hex()}"
    found = decode(data)
    if found.format == "bytes":
        return f"(bytes) {data[:LOOKED_AT_MAX].hex()}"
    if found.format == "text":
        return printable(found.value)
    return f"({found.format}) {printable(json.dumps(found.value, ensure_ascii=False))}"


def cut(text: str, width: int, size_bytes: int | None = None) -> str:
    """At most so wide; what is cut ends with its size."""
    if len(text) <= width:
        return text
    end = "…" if size_bytes is None else f"… ({size(size_bytes)})"
    return text[: max(0, width - len(end))] + end


def size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
