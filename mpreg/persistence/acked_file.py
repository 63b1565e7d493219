"""The file ``ACKED`` in the data directory: read at open, written in turn, one slot at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from mpreg.errors import SchemaVersionError
from mpreg.persistence.acked_record import (
    BLOCK_BYTES,
    FORMAT_VERSION,
    SLOT_BYTES,
    SLOTS,
    AckedRecord,
    Slot,
    decode_slot,
    encode_slot,
    newest_slot,
)
from mpreg.persistence.data_directory import sync_directory

__all__ = ["AckedFile", "DamagedFileError"]


class DamagedFileError(Exception):
    """The file is there, and no slot of it is intact. Only `Accounting` ever sees this one."""


class AckedFile:
    """Where an `AckedRecord` is kept. Blocking, for any thread; writes come one after the other.

    A write that fails is made again in the same slot: the other one is the one known to be whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._next_slot = 0
        self._count = 0
        self._written: AckedRecord | None = None

    def read(self) -> AckedRecord | None:
        """What it says; None where there is no file.

        Raises:
            DamagedFileError: no slot is intact.
            SchemaVersionError: written by a newer mpreg.
            OSError: it cannot be read.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            slots = [
                decode_slot(os.pread(descriptor, SLOT_BYTES, number * BLOCK_BYTES))
                for number in range(SLOTS)
            ]
        finally:
            os.close(descriptor)
        return self._use(slots)

    def _use(self, slots: list[Slot | None]) -> AckedRecord:
        newest = newest_slot(slots)
        slot = None if newest is None else slots[newest]
        if newest is None or slot is None:
            raise DamagedFileError
        if slot.version > FORMAT_VERSION:
            raise SchemaVersionError(self.path, slot.version, FORMAT_VERSION)
        self._next_slot, self._count = (newest + 1) % SLOTS, slot.count + 1
        self._written = slot.record
        return slot.record

    def write(self, record: AckedRecord) -> None:
        """Write a record and sync it; does nothing where a later one was written meanwhile.

        Makes the file where it is missing.

        Raises:
            OSError: the record before it stands.
        """
        with self._writing:
            if self._written is not None and record < self._written:
                return
            try:
                self._write_slot(encode_slot(self._count, record))
            except FileNotFoundError:
                self._create(record)
            self._next_slot = (self._next_slot + 1) % SLOTS
            self._count += 1
            self._written = record

    def set_aside(self) -> Path:
        """Give the file another name, so that the next write makes a new one. Returns the name."""
        aside = self.path.with_name(f"{self.path.name}.damaged")
        self.path.rename(aside)
        return aside

    def _write_slot(self, slot: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _write_all(descriptor, slot, self._next_slot * BLOCK_BYTES)
            _sync_data(descriptor)
        finally:
            os.close(descriptor)

    def _create(self, record: AckedRecord) -> None:
        """The file complete or not at all, and both its slots the same."""
        unfinished = self.path.with_name(f"{self.path.name}.creating")
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(unfinished, flags, 0o600)
        try:
            block = encode_slot(self._count, record).ljust(BLOCK_BYTES, b"\x00")
            _write_all(descriptor, block * SLOTS, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        unfinished.rename(self.path)
        sync_directory(self.path.parent)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _sync_data(descriptor: int) -> None:
    # macOS has no fdatasync.
    getattr(os, "fdatasync", os.fsync)(descriptor)
