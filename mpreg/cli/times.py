"""Moments, as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["moment"]


def moment(wall: float) -> str:
    """In UTC, to the second; as it is where no calendar has it."""
    try:
        return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{wall} seconds since 1970"
