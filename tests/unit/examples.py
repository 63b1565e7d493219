"""How many examples are made of a property: ``MPREG_EXAMPLES=20`` makes twenty times as many as a
test names, an ordinary run half as many."""

from __future__ import annotations

import os

__all__ = ["examples"]

_TIMES = float(os.environ.get("MPREG_EXAMPLES", "0.5"))


def examples(count: int) -> int:
    """As many as are asked for where ``count`` is right for a test; at least one."""
    return max(1, int(count * _TIMES))
