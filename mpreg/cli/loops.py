"""The event loops that a command can run on."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import click

__all__ = ["LOOPS", "loop_option", "run"]

T = TypeVar("T")

LOOPS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

loop_option = click.option(
    "--loop",
    type=click.Choice(sorted(LOOPS)),
    default="asyncio",
    show_default=True,
    help="The event loop to run on.",
)


def run(loop: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run an async function on the loop of that name.

    Raises:
        click.UsageError: the loop is not installed.
    """
    import anyio

    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise click.UsageError("uvloop is not installed; try: pip install 'mpreg[uvloop]'")
    backend, options = LOOPS[loop]
    return anyio.run(function, *arguments, backend=backend, backend_options=options)
