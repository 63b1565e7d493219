"""The event loops that a command can run on."""

from __future__ import annotations

import importlib.util
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from anyio import CancelScope
    from anyio.abc import TaskStatus

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
    """Run an async function on the loop of that name. Ctrl-C and SIGTERM cancel it.

    Raises:
        KeyboardInterrupt: it was interrupted, and has cleaned up.
        click.UsageError: the loop is not installed.
    """
    import anyio

    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise click.UsageError("uvloop is not installed; try: pip install 'mpreg[uvloop]'")
    backend, options = LOOPS[loop]
    if threading.current_thread() is not threading.main_thread():
        # Signals come to the main thread, and are for whatever runs there.
        return anyio.run(function, *arguments, backend=backend, backend_options=options)
    return anyio.run(_interruptible, function, *arguments, backend=backend, backend_options=options)


async def _interruptible(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    # Not left to the event loops: asyncio cancels natively, which is lost now and then, and trio
    # raises in the middle of whatever is running.
    import anyio

    done: list[T] = []
    failed: list[Exception] = []
    async with anyio.create_task_group() as task_group:
        await task_group.start(_cancel_when_interrupted, task_group.cancel_scope)
        try:
            done.append(await function(*arguments))
        except Exception as error:  # noqa: BLE001
            # Raised below, where no task group wraps it.
            failed.append(error)
        is_interrupted = task_group.cancel_scope.cancel_called
        task_group.cancel_scope.cancel()
    if done:
        return done[0]
    if failed and not is_interrupted:
        raise failed[0]
    raise KeyboardInterrupt


async def _cancel_when_interrupted(scope: CancelScope, *, task_status: TaskStatus[None]) -> None:
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            # The next one meets whatever the event loop does.
            break
    scope.cancel()
