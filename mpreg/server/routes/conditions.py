"""Conditions of a request on the version of a key: ``If-Match`` and ``If-None-Match``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from mpreg.errors import InvalidArgumentError

__all__ = ["EXISTS", "Condition", "condition_of", "etag", "is_unchanged"]

_ETAG: Final = re.compile(r'"([0-9]{1,19})"')


@frozen
class Condition:
    """``expected_version`` as the stores have it, or that there is any."""

    expected_version: int | None
    exists: bool = False


EXISTS: Final = Condition(None, exists=True)


def etag(version: int) -> str:
    return f'"{version}"'


def condition_of(headers: Mapping[str, str]) -> Condition:
    """Of a write. ``If-Match: "7"``: it has version 7; ``If-Match: *``: it is there;
    ``If-None-Match: *``: it is not there.

    Raises:
        InvalidArgumentError: another condition, which would be passed over.
    """
    match, none = headers.get("if-match"), headers.get("if-none-match")
    if match is not None and none is not None:
        raise InvalidArgumentError("If-Match and If-None-Match exclude each other")
    if none is not None:
        if none.strip() != "*":
            raise InvalidArgumentError(f"If-None-Match of a write is *, not {none!r:.80}")
        return Condition(0)
    if match is None:
        return Condition(None)
    if match.strip() == "*":
        return EXISTS
    if (found := _ETAG.fullmatch(match.strip())) is None:
        raise InvalidArgumentError(f'If-Match is one ETag, as "7", or *, not {match!r:.80}')
    return Condition(int(found[1]))


def is_unchanged(headers: Mapping[str, str], version: int) -> bool:
    """Whether a reader has this version already (``If-None-Match``)."""
    known = headers.get("if-none-match", "")
    return known.strip() == "*" or str(version) in _ETAG.findall(known)
