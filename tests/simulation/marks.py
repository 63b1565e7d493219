"""Parts of batches as bytes, so that what comes back from a store can be recognised."""

from __future__ import annotations

from attrs import frozen

from mpreg.testing import Mark, Part


def encode_part(mark: Mark, index: int, note: str = "") -> bytes:
    """Some of those without a note are long: a database has them in tables of their own."""
    if not note and mark.number % 4 == 3:
        note = "." * 1_000
    return f"{mark.caller}/{mark.number}/{index}/{note}".encode()


def decode_part(data: bytes) -> Part:
    caller, number, index, _ = data.decode().split("/", 3)
    return Part(Mark(int(caller), int(number)), int(index))


def decode_note(data: bytes) -> str:
    return data.decode().split("/", 3)[3]


@frozen
class Change:
    """A change of a shared key, as the audit log tells it.

    It is written in one transaction with the change itself. So the audit log, replayed, must give
    exactly the keys that are there, and every condition must hold at its place in the log.
    """

    key: str
    value: str
    """Empty: deleted."""
    condition: str | None = None
    """The value that the caller had seen and asked to find; empty: none; None: it did not ask."""

    def encode(self) -> str:
        condition = "any" if self.condition is None else f"was {self.condition}"
        return f"{self.key}={self.value}={condition}"

    @classmethod
    def decode(cls, note: str) -> Change:
        key, value, condition = note.split("=")
        return cls(key, value, None if condition == "any" else condition.removeprefix("was "))


def replay(changes: list[Change]) -> dict[str, str]:
    """The shared keys after these changes; fails where a condition did not hold."""
    state: dict[str, str] = {}
    for number, change in enumerate(changes):
        if change.condition is not None:
            found = state.get(change.key, "")
            assert found == change.condition, (
                f"change {number}, {change}, was let through, but the key held {found!r}"
            )
        if change.value:
            state[change.key] = change.value
        else:
            state.pop(change.key, None)
    return state
