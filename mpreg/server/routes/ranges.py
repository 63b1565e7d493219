"""The part of an answer that is asked for: ``Range`` and ``If-Range``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mpreg.errors import RequestRefusedError
from mpreg.server.routes.conditions import etag

__all__ = ["range_of"]

_BYTES: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


def range_of(headers: Mapping[str, str], version: int, size: int) -> tuple[int, int] | None:
    """First byte, and the one behind the last. None: all of it, also where several parts are asked
    for, or those of another version, as HTTP allows.

    Raises:
        RequestRefusedError: it has no such bytes: 416.
    """
    if headers.get("if-range", etag(version)) != etag(version):
        return None
    asked = _BYTES.fullmatch(headers.get("range", "").strip())
    if asked is None or not any(asked.groups()):
        return None
    first, last = asked.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= size:
        raise RequestRefusedError(f"there are {size} bytes, and none from byte {start} on", 416)
    return start, stop
