"""What a repair has set aside, kept where it can be read: JSON Lines in ``quarantine/``."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from attrs import define, field

__all__ = ["QUARANTINE_NAME", "SetAside", "copy_quarantine", "quarantine_files", "read_set_aside"]

QUARANTINE_NAME: Final = "quarantine"


@define
class SetAside:
    """The offsets that are missing from logs because they are in quarantine."""

    _offsets: dict[bytes, set[int]] = field(factory=dict)

    def add(self, log: bytes, offset: int) -> None:
        self._offsets.setdefault(log, set()).add(offset)

    def offsets(self, log: bytes) -> frozenset[int]:
        return frozenset(self._offsets.get(log, ()))


def quarantine_files(data_dir: Path) -> list[Path]:
    """One for each repair that found something, oldest first."""
    return sorted((data_dir / QUARANTINE_NAME).glob("*.jsonl"))


def read_set_aside(data_dir: Path) -> SetAside:
    """What is in quarantine. A line that was cut off by a crash is passed over: what it was to
    hold was not removed."""
    found = SetAside()
    for path in quarantine_files(data_dir):
        for item in _lines(path):
            if item.get("kind") == "record" and type(item.get("offset")) is int:
                log = item.get("log_name")
                if isinstance(log, dict) and isinstance(log.get("base64"), str):
                    found.add(base64.b64decode(log["base64"]), item["offset"])
    return found


def copy_quarantine(data_dir: Path, directory: Path) -> None:
    """It belongs to the store: its records are missing from their logs for a known reason."""
    if files := quarantine_files(data_dir):
        (directory / QUARANTINE_NAME).mkdir(mode=0o700)
        for file in files:
            copy = directory / QUARANTINE_NAME / file.name
            copy.touch(mode=0o600)
            shutil.copyfile(file, copy)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            try:
                item = json.loads(line)
            except ValueError:
                continue
            if isinstance(item, dict):
                yield item
