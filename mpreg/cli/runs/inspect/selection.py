"""Which part of a list is shown, and what is said of damage in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from mpreg.cli.output import Output
from mpreg.errors import CorruptDataError, InvalidArgumentError
from mpreg.persistence import StoredName

__all__ = ["COUNTED_MAX", "Selection", "named", "telling"]

#: Without ``--exact``, keys are counted up to here.
COUNTED_MAX: Final = 10_000


@frozen(kw_only=True)
class Selection:
    """Which part of a list."""

    limit: int | None = None
    after: str | None = None
    is_all: bool = False
    is_hex: bool = False

    def enough(self, shown: int) -> bool:
        return self.limit is not None and shown >= self.limit

    def shows(self, name: StoredName) -> bool:
        is_asked_for = self.is_all or not name.is_reserved
        return is_asked_for and (self.after is None or name.encoded > _parsed(self.after).encoded)

    def key(self, text: str) -> str | bytes:
        """Raises `InvalidArgumentError` where ``--hex`` was given and this is none."""
        if not self.is_hex:
            return text
        try:
            return bytes.fromhex(text.removeprefix("0x"))
        except ValueError as error:
            raise InvalidArgumentError(f"not hexadecimal: {text!r}") from error


def _parsed(text: str) -> StoredName:
    return StoredName.parse(text)


def named(text: str, selection: Selection) -> StoredName:
    """A name as it was given; with ``--all``, one in brackets is one of mpreg's own."""
    parsed = StoredName.parse(text)
    return parsed if selection.is_all or not parsed.is_reserved else StoredName(text.encode())


def telling(output: Output) -> Callable[[CorruptDataError], None]:
    def tell(damage: CorruptDataError) -> None:
        output.damage(damage.message, damage.where)

    return tell
