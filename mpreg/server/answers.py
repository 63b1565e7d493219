"""What a route answers, before it is bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

__all__ = ["BODY_FOLLOWS", "Answer"]

#: In the state of a request: to be called before the head of an answer whose body follows at once,
#: so that both are one write.
BODY_FOLLOWS: Final = "mpreg.body_follows"


@frozen(kw_only=True)
class Answer:
    """Of plain values, so that it can be kept and given again."""

    value: Any = None
    """As JSON or MessagePack, unless it is `is_raw`."""
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    is_raw: bool = False
    """Its value is bytes, sent as they are."""
