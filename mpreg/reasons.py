"""Why something failed, in words, where the failure itself may have none."""

from __future__ import annotations

__all__ = ["reason"]


def reason(error: BaseException) -> str:
    """The class of an error, and what it says, or else the first that says something of those that
    it came from."""
    name, found = type(error).__name__, error
    seen: set[int] = set()
    while not (said := str(found).strip()):
        seen.add(id(found))
        behind = found.__cause__ or found.__context__
        if behind is None or id(behind) in seen:
            return name
        found = behind
    return f"{name} {said}"
