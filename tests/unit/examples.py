"""How many examples are made of a property: ``MPREG_EXAMPLES=20`` makes twenty times as many."""

from __future__ import annotations

import os

__all__ = ["examples"]

_TIMES = int(os.environ.get("MPREG_EXAMPLES", "1"))


def examples(count: int) -> int:
    """So many in an ordinary run of the tests."""
    return count * _TIMES
