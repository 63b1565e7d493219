"""A cached value and what belongs to it, as the bytes of its row in L2."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["FORMAT", "NO_LINKS", "CachedRecord", "Link", "decode_record", "encode_record"]

FORMAT: Final = 1

Link = str | bytes
"""What can invalidate an entry from elsewhere: a tag (`str`), or a key on which it depends, as
bytes."""

NO_LINKS: Final[tuple[Link, ...]] = ()


class CachedRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    format: int
    value: msgspec.Raw
    """As `mpreg.codec.encode_value` made it."""
    fresh_until: float | None
    """Wall clock; after that only `get_or_compute` may use it, while it computes a new one. None:
    until it is evicted."""
    cost: float
    tags: tuple[str, ...]
    dependencies: tuple[bytes, ...]

    @property
    def links(self) -> tuple[Link, ...]:
        return (*self.tags, *self.dependencies) if self.tags or self.dependencies else NO_LINKS


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CachedRecord).decode


def encode_record(record: CachedRecord) -> bytes:
    return _encode(record)


def decode_record(data: bytes) -> CachedRecord:
    """Raises `ValueError` for what `encode_record` did not return."""
    record = _decode(data)
    if record.format != FORMAT:
        raise ValueError(f"a cached record of format {record.format}; this mpreg knows {FORMAT}")
    return record
