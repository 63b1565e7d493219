"""What keeps the data directory locked while a session is open, and how both end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, TypeVar

__all__ = ["Hold", "Release", "close_and_release", "hold_nothing", "open_held"]

Release: TypeAlias = Callable[[], None]
Hold: TypeAlias = Callable[[], Release]
"""Keeps the directory locked until what it returns is called: while there is a session, also one
that nobody waits for any more. Both are called on the session's thread."""

S = TypeVar("S")


def hold_nothing() -> Release:
    return lambda: None


def open_held(hold: Hold, open_session: Callable[[], S]) -> tuple[S, Release]:
    """Open a session that holds the directory. Where that raises, it does not."""
    release = hold()
    try:
        return open_session(), release
    except BaseException:
        release()
        raise


class _Thread(Protocol):
    @property
    def abandoned(self) -> bool: ...

    async def close(self, function: Callable[[], None]) -> None: ...


class _Session(Protocol):
    def close(self) -> None: ...

    def let_go(self) -> None: ...


async def close_and_release(thread: _Thread, session: _Session, release: Release) -> None:
    """Close a session and end its thread; let go of the directory once that is done."""

    def close_session() -> None:
        try:
            # A session that somebody gave up waiting for may have a successor by now.
            (session.let_go if thread.abandoned else session.close)()
        finally:
            release()

    await thread.close(close_session)
