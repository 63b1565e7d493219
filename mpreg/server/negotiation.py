"""Values in requests and answers, as JSON or MessagePack.

MessagePack has all that a payload can be. JSON has no bytes, and no numbers that are not finite, so
they stand there as an object with one name: ``{"$base64": "aGk="}`` and ``{"$float": "nan"}``. An
object of a user that looks like that gets one ``$`` more, which is taken off again.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from mpreg.errors import InvalidArgumentError, RequestRefusedError

__all__ = ["JSON", "MESSAGEPACK", "accepted", "as_type", "decode", "encode"]

T = TypeVar("T")

JSON: Final = "application/json"
MESSAGEPACK: Final = "application/msgpack"
_OTHER_NAMES: Final = {"application/x-msgpack": MESSAGEPACK, "application/vnd.msgpack": MESSAGEPACK}

#: Deeper than any payload may be, with what stands around it.
DEPTH_MAX: Final = 80

_FLOATS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TAG: Final = re.compile(r"\$+(base64|float)")


def media_type(header: str) -> str:
    kind = header.partition(";")[0].strip().lower()
    return _OTHER_NAMES.get(kind, kind)


def accepted(header: str | None, default: str = JSON) -> str:
    """The better of the two for an ``Accept`` header; ``default`` where it takes neither: an answer
    in another form is more use than none."""
    best, found = 0.0, default
    for part in (header or "*/*").split(","):
        kind, quality = media_type(part), _quality(part)
        if quality <= best:
            continue
        if kind in (JSON, MESSAGEPACK):
            best, found = quality, kind
        elif kind in ("*/*", "application/*"):
            best, found = quality, default
    return found


def _quality(part: str) -> float:
    found = re.search(r";\s*q\s*=\s*([0-9]+(?:\.[0-9]*)?)", part, re.IGNORECASE)
    return 1.0 if found is None else min(float(found[1]), 1.0)


def decode(body: bytes, content_type: str | None) -> Any:
    """
    Raises:
        RequestRefusedError: another type, or the body is not of it.
    """
    kind = media_type(content_type or "")
    if kind not in (JSON, MESSAGEPACK):
        raise RequestRefusedError(
            f"a body is {JSON} or {MESSAGEPACK} (Content-Type), not {content_type!r:.80}", 415
        )
    try:
        if kind == MESSAGEPACK:
            return msgspec.msgpack.decode(body)
        return _untagged(msgspec.json.decode(body), DEPTH_MAX)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefusedError(f"the body is not {kind}: {error}") from error
    except RecursionError:
        raise RequestRefusedError("the body is nested too deeply") from None


def encode(value: Any, kind: str) -> bytes:
    if kind == MESSAGEPACK:
        return msgspec.msgpack.encode(value)
    return msgspec.json.encode(_tagged(value))


def as_type(value: object, kind: type[T]) -> T:
    """Raises `InvalidArgumentError` where it has not that shape; says where."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"body: {error}") from error


def _tagged(value: Any) -> Any:
    kind = type(value)
    if kind is bytes:
        return {"$base64": base64.b64encode(value).decode()}
    if kind is float and not math.isfinite(value):
        return {"$float": repr(value)}
    if kind is list or kind is tuple:
        return [_tagged(item) for item in value]
    if kind is dict:
        if len(value) == 1 and _TAG.fullmatch(name := next(iter(value))):
            return {f"${name}": _tagged(value[name])}
        return {name: _tagged(item) for name, item in value.items()}
    return value


def _untagged(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is not dict and kind is not list:
        return value
    if not depth:
        raise RecursionError
    if kind is list:
        return [_untagged(item, depth - 1) for item in value]
    if len(value) == 1 and _TAG.fullmatch(name := next(iter(value))):
        if name in _MEANINGS:
            return _MEANINGS[name](value[name])
        return {name[1:]: _untagged(value[name], depth - 1)}
    return {name: _untagged(item, depth - 1) for name, item in value.items()}


def _bytes(text: object) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidArgumentError(f"$base64 is not followed by base64: {text!r:.80}")


def _float(text: object) -> float:
    if isinstance(text, str) and text in _FLOATS:
        return _FLOATS[text]
    raise InvalidArgumentError(f"$float is 'nan', 'inf' or '-inf', not {text!r:.80}")


_MEANINGS: Final[dict[str, Callable[[object], Any]]] = {"$base64": _bytes, "$float": _float}
