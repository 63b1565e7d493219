"""Whole values, over several lines or as they are."""

from __future__ import annotations

import json
import sys
from typing import Final

from mpreg.cli.decoding import decode, printable, size

__all__ = ["value_block", "write_raw"]

HEX_BYTES_MAX: Final = 4_096


def value_block(data: bytes) -> str:
    """A whole value over several lines."""
    found = decode(data)
    match found.format:
        case "text":
            return "\n".join(printable(line) for line in found.value.splitlines())
        case "bytes":
            return _hex_lines(data)
        case _:
            text = json.dumps(found.value, ensure_ascii=False, indent=2)
            return "\n".join(printable(line) for line in text.splitlines())


def _hex_lines(data: bytes) -> str:
    lines = [
        f"{start:08x}  {data[start : start + 16].hex(' ')}"
        for start in range(0, min(len(data), HEX_BYTES_MAX), 16)
    ]
    if len(data) > HEX_BYTES_MAX:
        lines.append(f"… ({size(len(data))}; --raw writes all of it)")
    return "\n".join(lines)


def write_raw(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
