"""What the programs have in common."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

__all__ = ["run", "say"]


def say(line: str) -> None:
    """A line on the standard output, in one unbuffered write: a kill never cuts an earlier one."""
    os.write(1, f"{line}\n".encode())


def run(loop: str, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    anyio.run(function, *arguments, backend=loop)
