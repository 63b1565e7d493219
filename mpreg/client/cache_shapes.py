"""Keys, changes and what belongs to cached values, as they stand in requests and events."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

from mpreg.cache import CacheChange, ChangeKind, GlobalCacheKey, KeyPart
from mpreg.cache.requests import Details
from mpreg.errors import InvalidArgumentError

__all__ = ["as_parts", "change_in", "details_in_body", "details_in_query"]


def as_parts(parts: Iterable[KeyPart]) -> str:
    """Raises `InvalidArgumentError` for what is no text and no bytes either."""
    shown = json.dumps([_shown(part) for part in parts], ensure_ascii=False)
    try:
        shown.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"over HTTP keys are text: {error}") from error
    return shown


def _shown(part: KeyPart) -> Any:
    return {"$base64": base64.b64encode(part).decode()} if isinstance(part, bytes) else part


def details_in_query(details: Details) -> list[tuple[str, str]]:
    query = [("tags", tag) for tag in details.checked_tags]
    query += [("dependencies", as_parts(key)) for key in details.dependencies]
    if details.ttl_seconds is not None:
        query.append(("ttl_seconds", repr(float(details.ttl_seconds))))
    query.append(("cost", repr(float(details.cost))))
    return query


def details_in_body(details: Details) -> dict[str, Any]:
    return {
        "ttl_seconds": details.ttl_seconds,
        "tags": list(details.checked_tags),
        "dependencies": [list(key) for key in details.dependencies],
        "cost": details.cost,
    }


def change_in(kind: ChangeKind, data: dict[str, Any]) -> CacheChange:
    prefix = data.get("prefix")
    return CacheChange(
        kind=kind,
        version=data.get("version"),
        key=_key(data.get("key")),
        namespace=data.get("namespace"),
        prefix=tuple(map(_part, prefix)) if isinstance(prefix, list) else _part(prefix),
        tag=data.get("tag"),
        dependency=_key(data.get("dependency")),
    )


def _key(parts: Sequence[Any] | None) -> GlobalCacheKey | None:
    return None if parts is None else GlobalCacheKey(*map(_part, parts))


def _part(part: Any) -> Any:
    return base64.b64decode(part["$base64"]) if isinstance(part, dict) else part
