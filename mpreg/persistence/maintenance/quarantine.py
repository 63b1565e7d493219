"""What a repair has set aside, kept where it can be read: JSON Lines in ``quarantine/``.

Each line ends with the CRC-32 of what it is without that, so that a changed one is found out.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from attrs import define, field

from mpreg.persistence.data_directory import sync_directory
from mpreg.persistence.maintenance.findings import Finding, FindingKind

__all__ = [
    "QUARANTINE_NAME",
    "Quarantine",
    "SetAside",
    "copy_quarantine",
    "dump_item",
    "quarantine_files",
    "read_set_aside",
]

QUARANTINE_NAME: Final = "quarantine"
_CHECKSUM: Final = "crc32"


@define
class SetAside:
    """The offsets that are missing from logs because they are in quarantine."""

    findings: list[Finding] = field(factory=list)
    """What of the quarantine cannot be read."""
    _offsets: dict[bytes, set[int]] = field(factory=dict)

    def add(self, log: bytes, offset: int) -> None:
        self._offsets.setdefault(log, set()).add(offset)

    def offsets(self, log: bytes) -> frozenset[int]:
        return frozenset(self._offsets.get(log, ()))


@define
class Quarantine:
    """A new file of JSON Lines, 0600; made when there is something to be written to it."""

    data_dir: Path
    _file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, item: dict[str, Any]) -> None:
        """Raises OSError."""
        if self._file is None:
            self._file = self._new_file()
        self._file.write(dump_item(item))

    def sync(self) -> None:
        """So that it survives a power cut, before anything is removed. Raises OSError."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        sync_directory(self.data_dir / QUARANTINE_NAME)
        sync_directory(self.data_dir)

    def _new_file(self) -> BinaryIO:
        directory = self.data_dir / QUARANTINE_NAME
        directory.mkdir(mode=0o700, exist_ok=True)
        numbers = [int(path.stem) for path in quarantine_files(self.data_dir) if _is_number(path)]
        path = directory / f"{max(numbers, default=0) + 1:06}.jsonl"
        return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")


def _is_number(path: Path) -> bool:
    return path.stem.isdecimal()


def quarantine_files(data_dir: Path) -> list[Path]:
    """One for each repair that found something, oldest first."""
    found = sorted((data_dir / QUARANTINE_NAME).glob("*.jsonl"))
    return [path for path in found if path.is_file()]


def dump_item(item: dict[str, Any]) -> bytes:
    """A line, with bytes as ``{"base64": ...}`` and all else as itself."""
    line = {name: _raw(value) for name, value in item.items()}
    return json.dumps(line | {_CHECKSUM: _checksum(line)}).encode() + b"\n"


def read_set_aside(data_dir: Path) -> SetAside:
    """What is in quarantine. A last line that was cut off by a crash is passed over: what it was to
    hold was not removed.

    Raises:
        OSError: a file cannot be read.
    """
    found = SetAside()
    for path in quarantine_files(data_dir):
        for number, item in _lines(path):
            if item is None:
                where = f"{QUARANTINE_NAME}/{path.name}, line {number}"
                message = "what was set aside there was changed, and cannot be read"
                found.findings.append(Finding(FindingKind.QUARANTINE, where, message))
            elif (place := _place_in_log(item)) is not None:
                found.add(*place)
    return found


def _place_in_log(item: dict[str, Any]) -> tuple[bytes, int] | None:
    """(log, offset) of a record whose absence is explained by this; None for anything else, a
    record of no log among it: its row was damaged, and columns of it may be anything."""
    log, offset = item.get("log_name"), item.get("offset")
    if item.get("kind") != "record" or not isinstance(log, dict) or type(offset) is not int:
        return None
    encoded = log.get("base64")
    return None if encoded is None else (base64.b64decode(encoded), offset)


def copy_quarantine(data_dir: Path, directory: Path) -> list[Path]:
    """It belongs to the store: its records are missing from their logs for a known reason. Gives
    the copies."""
    files = quarantine_files(data_dir)
    if files:
        (directory / QUARANTINE_NAME).mkdir(mode=0o700)
    copies = []
    for file in files:
        copy = directory / QUARANTINE_NAME / file.name
        copy.touch(mode=0o600)
        shutil.copyfile(file, copy)
        copies.append(copy)
    return copies


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield number, _load_item(line)


def _load_item(line: bytes) -> dict[str, Any] | None:
    """None: this is not what was written."""
    try:
        item = json.loads(line)
        checksum = item.pop(_CHECKSUM)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    return item if checksum == _checksum(item) else None


def _checksum(line: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(line).encode())


def _raw(column: Any) -> Any:
    return {"base64": base64.b64encode(column).decode()} if isinstance(column, bytes) else column
