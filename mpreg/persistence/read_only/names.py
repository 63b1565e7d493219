"""Names as they are stored: those of users, and those that mpreg keeps for itself."""

from __future__ import annotations

from typing import Final, Self

from attrs import frozen

from mpreg.codec import decode_name, encode_name

__all__ = ["StoredName"]

_RESERVED: Final = b"\xff"
_SNAPSHOT_KIND: Final = "snapshot"


@frozen
class StoredName:
    """The name of a namespace or log."""

    encoded: bytes
    """As it is on disk."""

    @classmethod
    def parse(cls, shown: str) -> Self:
        """What `shown` is of: in angle brackets, a name that mpreg keeps for itself.

        Raises `InvalidArgumentError`, as `mpreg.codec.encode_name`.
        """
        if shown.startswith("<") and shown.endswith(">") and len(shown) > 2:
            return cls(_RESERVED + encode_name(shown[1:-1]))
        return cls(encode_name(shown))

    @property
    def is_reserved(self) -> bool:
        return self.encoded.startswith(_RESERVED)

    @property
    def shown(self) -> str:
        return decode_name(self.encoded)

    @property
    def name(self) -> str:
        """Without the brackets."""
        return self.encoded.removeprefix(_RESERVED).decode("utf-8", "surrogatepass")

    @property
    def is_snapshot(self) -> bool:
        """Whether it is a namespace that holds a snapshot."""
        kind = self._kind
        return kind == _SNAPSHOT_KIND or kind.endswith(f".{_SNAPSHOT_KIND}")

    @property
    def is_users_snapshot(self) -> bool:
        return self._kind == _SNAPSHOT_KIND

    @property
    def snapshot(self) -> str:
        """The name of the snapshot as its owner knows it."""
        name = self.name.partition("/")[2]
        return name if self.is_users_snapshot else f"<{self.name}>"

    @property
    def _kind(self) -> str:
        return self.name.partition("/")[0] if self.is_reserved else ""
