"""A campaign of schemathesis against a node."""

from __future__ import annotations

from typing import Final

__all__ = ["KEPT"]

#: Stands in the name of everything that must still be there when all is over.
KEPT: Final = "kept-77c1"
