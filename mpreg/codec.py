"""Names, keys and values as bytes, and the checksum that every stored item carries.

A key is `str` or `bytes`. Its first stored byte tells which, so that ``"a"`` and ``b"a"`` are two
keys, each comes back as what it was, and a prefix of one kind never meets keys of the other.
UTF-8 with ``surrogatepass`` keeps any Python string (file names, say) and sorts by code point.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mpreg.errors import InvalidArgumentError, ValueTooLargeError

__all__ = [
    "KEY_BYTES_MAX",
    "NAME_BYTES_MAX",
    "checksum_entry",
    "checksum_record",
    "decode_key",
    "decode_name",
    "decode_value",
    "encode_bytes",
    "encode_key",
    "encode_keys",
    "encode_name",
    "encode_reserved_name",
    "encode_value",
    "prefix_end",
    "shown_name",
]

KEY_BYTES_MAX: Final = 65_536
NAME_BYTES_MAX: Final = 1_024

_BYTES_KEY: Final = b"\x00"
_TEXT_KEY: Final = b"\x01"
_RESERVED_NAME: Final = b"\xff"
_EXPIRY: Final = struct.Struct("<Bd")
_U32: Final = 0xFFFF_FFFF

VALUE_DEPTH_MAX: Final = 64
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1


def encode_key(key: str | bytes) -> bytes:
    """Raises `InvalidArgumentError` for another type, `ValueTooLargeError` over `KEY_BYTES_MAX`."""
    if isinstance(key, str):
        encoded = _TEXT_KEY + key.encode("utf-8", "surrogatepass")
    elif isinstance(key, bytes):
        encoded = _BYTES_KEY + key
    else:
        raise InvalidArgumentError(f"a key is str or bytes, not {type(key).__name__}: {key!r:.80}")
    if len(encoded) > KEY_BYTES_MAX + 1:
        raise ValueTooLargeError(f"a key of {len(encoded) - 1} bytes; at most {KEY_BYTES_MAX}")
    return encoded


def encode_keys(keys: Sequence[str | bytes]) -> list[bytes]:
    """`encode_key` of each; of many that are bytes, at a quarter of the cost."""
    if set(map(type, keys)) == {bytes} and max(map(len, keys)) <= KEY_BYTES_MAX:
        return list(map(_BYTES_KEY.__add__, keys))  # type: ignore[arg-type]
    return [encode_key(key) for key in keys]


def decode_key(encoded: bytes) -> str | bytes:
    if encoded[:1] == _TEXT_KEY:
        return encoded[1:].decode("utf-8", "surrogatepass")
    return encoded[1:]


def prefix_end(encoded: bytes) -> bytes | None:
    """The first key after all that start with ``encoded``; None where there is no such bound."""
    trimmed = encoded.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


def encode_name(name: str) -> bytes:
    """The name of a namespace or log. Raises like `encode_key`, and for an empty name."""
    if not isinstance(name, str):
        raise InvalidArgumentError(f"a name is str, not {type(name).__name__}: {name!r:.80}")
    encoded = name.encode("utf-8", "surrogatepass")
    if not encoded:
        raise InvalidArgumentError("a name cannot be empty")
    if len(encoded) > NAME_BYTES_MAX:
        raise ValueTooLargeError(f"a name of {len(encoded)} bytes; at most {NAME_BYTES_MAX}")
    return encoded


def encode_reserved_name(kind: str, name: str) -> bytes:
    """The name of a namespace that mpreg keeps for itself, for a thing of this name.

    It begins with a byte that no UTF-8 begins with, so that no user's name can reach it.
    """
    return _RESERVED_NAME + f"{kind}/".encode() + encode_name(name)


def decode_name(encoded: bytes) -> str:
    """The name as its owner knows it; a reserved one in angle brackets, only to be shown."""
    if encoded[:1] == _RESERVED_NAME:
        return f"<{encoded[1:].decode('utf-8', 'surrogatepass')}>"
    return encoded.decode("utf-8", "surrogatepass")


def shown_name(encoded: bytes) -> str:
    """`decode_name` for messages: of a name that is damaged, what is left of it."""
    try:
        return decode_name(encoded)
    except UnicodeDecodeError:
        return encoded.decode("utf-8", "backslashreplace")


def encode_bytes(value: bytes | bytearray | memoryview, bytes_max: int) -> bytes:
    """An immutable copy where the caller could still change it, the same object where not.

    Raises `InvalidArgumentError` for another type, `ValueTooLargeError` over ``bytes_max``.
    """
    if type(value) is not bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise InvalidArgumentError(
                f"a value is bytes, not {type(value).__name__}: {value!r:.80}; encode it first"
            )
        value = bytes(value)
    if len(value) > bytes_max:
        raise ValueTooLargeError(f"a value of {len(value)} bytes; at most {bytes_max}")
    return value


def encode_value(value: object, bytes_max: int) -> bytes:
    """A value as MessagePack, so that `decode_value` gives back an equal one of the same types.

    None, bool, int of 64 bits, float, str, bytes, and lists and dicts (with str keys) of these, at
    most `VALUE_DEPTH_MAX` deep.

    Raises:
        InvalidArgumentError: something else, which would come back as another type or not at all;
            the message says where in the value it is.
        ValueTooLargeError: over ``bytes_max`` when encoded.
    """
    _check_value(value, "value", VALUE_DEPTH_MAX)
    try:
        encoded = msgspec.msgpack.encode(value)
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a str that is no text: {error}") from error
    if len(encoded) > bytes_max:
        raise ValueTooLargeError(f"a value of {len(encoded)} bytes encoded; at most {bytes_max}")
    return encoded


def decode_value(encoded: bytes | msgspec.Raw) -> Any:
    """What `encode_value` was given."""
    return msgspec.msgpack.decode(encoded)


def _check_value(value: object, where: str, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bytes or kind is float or kind is bool or value is None:
        return
    if isinstance(value, int) and kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise InvalidArgumentError(f"{where} does not fit in 64 bits: {value!r:.40}")
    elif not depth:
        raise InvalidArgumentError(f"{where:.200} lies more than {VALUE_DEPTH_MAX} levels deep")
    elif isinstance(value, dict) and kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidArgumentError(
                    f"{where} has a key of type {type(key).__name__}, not str: {key!r:.80}"
                )
            _check_value(item, f"{where}[{key!r:.40}]", depth - 1)
    elif isinstance(value, list) and kind is list:
        for index, item in enumerate(value):
            _check_value(item, f"{where}[{index}]", depth - 1)
    else:
        raise InvalidArgumentError(
            f"{where} is of type {kind.__name__}, which cannot come back as it went in; "
            "use None, bool, int, float, str, bytes, list, or dict with str keys"
        )


def checksum_entry(
    name_seed: int, key: bytes, version: int, expires_at: float | None, value: bytes
) -> int:
    """CRC-32 over the whole row, so that a value under another's key is found out as well.

    ``name_seed`` is the CRC-32 of the namespace's name. The version goes in as the start value of
    the key's CRC, which costs nothing and changes the result for any changed low 32 bits.
    """
    seed = zlib.crc32(key, name_seed ^ (version & _U32))
    if expires_at is not None:
        # With a byte before it that is not zero: a CRC whose state is zero does not see zeros.
        seed = zlib.crc32(_EXPIRY.pack(1, expires_at), seed)
    return zlib.crc32(value, seed)


def checksum_record(name_seed: int, offset: int, data: bytes) -> int:
    """CRC-32 over a log's name, the record's offset and its data."""
    return zlib.crc32(data, name_seed ^ (offset & _U32))
