"""How far long work has come, as it is told to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen

__all__ = ["OnProgress", "Progress"]


@frozen
class Progress:
    """How far a piece of work is."""

    task: str
    done: int
    total: int | None
    """None: not known."""


OnProgress: TypeAlias = Callable[[Progress], None]
"""Called on the worker's thread, some times a second at most a few thousand; must not raise."""
