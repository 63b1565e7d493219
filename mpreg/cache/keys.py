"""Structured keys, and their bytes: in order, and never two keys with the same.

The bytes of a key are those of its parts one after the other; each part says its type and where it
ends, by a byte that is nowhere else in it. So a key whose parts begin with those of another begins
with its bytes, and nothing else does. (The form is much like that of FoundationDB's tuple layer.)
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from mpreg.codec import KEY_BYTES_MAX, NAME_BYTES_MAX
from mpreg.errors import InvalidArgumentError, ValueTooLargeError

__all__ = [
    "GlobalCacheKey",
    "KeyPart",
    "check_key",
    "check_namespace",
    "decode_key",
    "decode_namespace",
    "encode_key",
    "encode_prefix",
    "namespace_of",
]

KeyPart: TypeAlias = str | bytes | int

_BYTES: Final = b"\x01"
_TEXT: Final = b"\x02"
_NUMBER: Final = b"\x03"
_END: Final = b"\x00"
_ESCAPE: Final = b"\x01"
_ZERO: Final = b"\x01\x01"
_ONE: Final = b"\x01\x02"
"""The two bytes inside a part that would be an end or an escape; in order, below all others."""

# To look for these in bytes: for a bytes of one, Python first finds that it is no number.
_BYTES_BYTE: Final = _BYTES[0]
_TEXT_BYTE: Final = _TEXT[0]
_NUMBER_BYTE: Final = _NUMBER[0]
_ESCAPE_BYTE: Final = _ESCAPE[0]
_END_BYTE: Final = _END[0]

_NEXT_TEXT: Final = (_END + _TEXT).decode()

_NUMBER_BYTES: Final = 8
_OFFSET: Final = 2**63
_unpack: Final = struct.Struct(">Q").unpack_from
_make_tuple: Final = tuple.__new__

if TYPE_CHECKING:
    _Parts = tuple[KeyPart, ...]
else:
    _Parts = tuple


class GlobalCacheKey(_Parts):
    """The name of a cached value: a namespace, and one part or more within it.

    Parts are `str`, `bytes`, or `int` of 64 bits. They are compared as they are and never joined:
    ``("a", "b:c")`` and ``("a:b", "c")`` are two keys, as ``1`` and ``"1"`` are.

    A tuple, so that it is hashed and compared at the speed of one.

    Raises:
        InvalidArgumentError: a part of another type, a number that does not fit, an empty namespace
            or no part.
        ValueTooLargeError: the namespace has more than 1,024 bytes. That the whole has more than
            64 KiB is told by the call that is given it.
    """

    __slots__ = ()

    def __new__(cls, namespace: str, *parts: KeyPart) -> Self:
        check_namespace(namespace)
        if not parts:
            raise InvalidArgumentError(f"a key in {namespace!r} needs at least one part")
        for part in parts:
            if type(part) is not str:
                _check_part(part)
        return tuple.__new__(cls, (namespace, *parts))

    def __getnewargs__(self) -> tuple[KeyPart, ...]:
        return tuple(self)

    @property
    def namespace(self) -> str:
        return self[0]  # type: ignore[return-value]

    @property
    def parts(self) -> tuple[KeyPart, ...]:
        return self[1:]

    def __repr__(self) -> str:
        return f"GlobalCacheKey({', '.join(map(repr, self))})"


def check_namespace(namespace: object) -> None:
    """Raises what `GlobalCacheKey` raises for it."""
    if type(namespace) is not str:
        raise InvalidArgumentError(f"a namespace is str, not {namespace!r:.80}")
    _check_length(namespace)


@lru_cache(maxsize=1_024)
def _check_length(namespace: str) -> None:
    # Few namespaces have many keys, and one is made for every call of a cache.
    if not namespace:
        raise InvalidArgumentError("a namespace cannot be empty")
    size = len(namespace.encode("utf-8", "surrogatepass"))
    if size > NAME_BYTES_MAX:
        raise ValueTooLargeError(f"a namespace of {size} bytes; at most {NAME_BYTES_MAX}")


def _check_part(part: object) -> None:
    kind = type(part)
    if kind is str or kind is bytes:
        return
    if kind is int:
        assert isinstance(part, int)
        if not -_OFFSET <= part < _OFFSET:
            raise InvalidArgumentError(f"a number in a key has at most 64 bits: {part!r:.40}")
        return
    raise InvalidArgumentError(
        f"a part of a key is str, bytes or int, not {kind.__name__}: {part!r:.80}"
    )


def check_key(key: object) -> None:
    """Raises `InvalidArgumentError` for another type: for a plain tuple, too, that equals a key.
    Its parts were never looked at, and True would be taken for 1."""
    if type(key) is not GlobalCacheKey:
        raise InvalidArgumentError(f"a key is a GlobalCacheKey, not {key!r:.80}")


def encode_key(key: GlobalCacheKey) -> bytes:
    """Raises `InvalidArgumentError` for another type, `ValueTooLargeError` over 64 KiB."""
    if type(key) is not GlobalCacheKey:
        check_key(key)
    encoded = b"".join([_encode_part(part) for part in key])
    if len(encoded) > KEY_BYTES_MAX:
        raise ValueTooLargeError(f"a key of {len(encoded)} bytes; at most {KEY_BYTES_MAX}")
    return encoded


def encode_prefix(namespace: str, prefix: KeyPart | tuple[KeyPart, ...] | None) -> bytes:
    """What the bytes of all keys begin with whose first part begins with ``prefix``, or whose first
    parts are those of a tuple. None: all of the namespace. Raises as `GlobalCacheKey` does."""
    check_namespace(namespace)
    encoded = _encode_part(namespace)
    if prefix is None:
        return encoded
    for part in prefix if isinstance(prefix, tuple) else (prefix,):
        _check_part(part)
        encoded += _encode_part(part)
    # The end of a text is left out: it may go on.
    return encoded[:-1] if isinstance(prefix, str | bytes) else encoded


def decode_key(encoded: bytes) -> GlobalCacheKey:
    """What `encode_key` was given. Raises `ValueError` for what it did not return."""
    first, _, rest = encoded.partition(_END)
    namespace = _first_part(first)
    # Most keys are one number or plain texts: no part has to be looked at by itself then.
    if len(rest) == 1 + _NUMBER_BYTES and rest[0] == _NUMBER_BYTE:
        return _make_tuple(GlobalCacheKey, (namespace, _unpack(rest, 1)[0] - _OFFSET))
    if _ESCAPE_BYTE not in rest and _NUMBER_BYTE not in rest and rest[-1:] == _END:
        texts = rest[1:-1].decode("utf-8", "surrogatepass").split(_NEXT_TEXT)
        if rest[0] == _TEXT_BYTE and rest.count(_END_BYTE) == len(texts):
            return _make_tuple(GlobalCacheKey, (namespace, *texts))
    return _make_tuple(GlobalCacheKey, (namespace, *_decode_parts(rest)))


def _decode_parts(encoded: bytes) -> list[KeyPart]:
    parts: list[KeyPart] = []
    position, length = 0, len(encoded)
    while position < length:
        kind, start = encoded[position], position + 1
        if kind == _NUMBER_BYTE:
            position = start + _NUMBER_BYTES
            if position > length:
                raise ValueError("a number in a key is cut short")
            parts.append(_unpack(encoded, start)[0] - _OFFSET)
        elif kind in (_TEXT_BYTE, _BYTES_BYTE):
            end = _end_of(encoded, start)
            data = _unescape(encoded[start:end])
            parts.append(data if kind == _BYTES_BYTE else data.decode("utf-8", "surrogatepass"))
            position = end + 1
        else:
            raise ValueError(f"no part of a key begins with {kind!r}")
    if not parts:
        raise ValueError("a key has parts beside its namespace")
    return parts


# Few namespaces have many keys, and hundreds of thousands of keys are decoded at a restart.
@lru_cache(maxsize=1_024)
def _first_part(part: bytes) -> str:
    """The namespace of a key, of the bytes before the first end."""
    if part[:1] != _TEXT or part == _TEXT:
        raise ValueError("a key begins with a namespace")
    return decode_namespace(part + _END)


def namespace_of(encoded: bytes) -> bytes:
    """The beginning of a key that names its namespace."""
    return encoded[: _end_of(encoded, 1) + 1]


def decode_namespace(encoded: bytes) -> str:
    """The namespace that `encode_prefix` was given alone."""
    return _unescape(encoded[1:-1]).decode("utf-8", "surrogatepass")


def _encode_part(part: KeyPart) -> bytes:
    if type(part) is str:
        return _TEXT + _escape(part.encode("utf-8", "surrogatepass")) + _END
    if type(part) is bytes:
        return _BYTES + _escape(part) + _END
    assert isinstance(part, int)
    return _NUMBER + (part + _OFFSET).to_bytes(_NUMBER_BYTES, "big")


def _escape(data: bytes) -> bytes:
    return data.replace(_ESCAPE, _ONE).replace(_END, _ZERO)


def _unescape(escaped: bytes) -> bytes:
    if _ESCAPE_BYTE not in escaped:
        return escaped
    # From the left, and zeros first: an escape never begins in the middle of another one.
    data = escaped.replace(_ZERO, _END).replace(_ONE, _ESCAPE)
    if _escape(data) != escaped:
        raise ValueError("a part of a key has an escape of nothing")
    return data


def _end_of(encoded: bytes, start: int) -> int:
    """Where a text that begins at ``start`` ends."""
    end = encoded.find(_END_BYTE, start)
    if end < 0:
        raise ValueError("a part of a key does not end")
    return end
