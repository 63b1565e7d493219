"""What can still be read of a damaged journal, and everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from attrs import define, field, frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.file.control import CONTROL_BYTES, Control, decode_control
from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import (
    HEADER_BYTES,
    SEGMENT_MAGIC,
    SNAPSHOT_MAGIC,
    DamageError,
    Frame,
    FrameKind,
    NewerFormatError,
    decode_header,
    salt_of,
)
from mpreg.persistence.backends.file.names import Names, segment_name, snapshot_name
from mpreg.persistence.backends.file.payload import FramePayload, decode_end, decode_mark
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.commit_group import NewRecord
from mpreg.persistence.maintenance.checks import gap_in
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.journal.walk import Stretch, walk_frames
from mpreg.persistence.own_names import JOURNAL_NAME

__all__ = ["DamagedBytes", "Salvage", "salvage"]

_payloads = msgspec.msgpack.Decoder(FramePayload)


@frozen
class DamagedBytes:
    """Bytes of a file that are not what was written."""

    file: str
    start: int
    data: bytes


@define
class Salvage:
    """What is left of a journal."""

    state: MemoryState
    sequence: int = 0
    """Of the last commit that can be read."""
    generation: int = 0
    durable_sequence: int = 0
    """Up to here the journal was on disk once."""
    size_bytes: int = 0
    findings: list[Finding] = field(factory=list)
    damaged: list[DamagedBytes] = field(factory=list)
    """Nothing of it is in ``state``."""
    cut_off: list[NewRecord] = field(factory=list)
    """Whole records that are not in ``state`` all the same: those before a gap in their log."""

    def tell(self, file: str, at: int, message: str) -> None:
        self.findings.append(Finding(FindingKind.STRUCTURE, f"{file}, byte {at}", message))

    def tell_lost(self, first: int, last: int, file: str) -> None:
        commits = f"commit {first} is" if first == last else f"commits {first} to {last} are"
        self.findings.append(Finding(FindingKind.STRUCTURE, file, f"{commits} missing"))


def salvage(files: FileSystem, directory: Path) -> Salvage:
    """Read all that can be read. Damage is no error here.

    Raises:
        CorruptDataError: written by a newer mpreg, so that nothing can be told of it.
        OSError: the files cannot be read.
    """
    names = Names.of(files.names(directory), JOURNAL_NAME)
    found = Salvage(MemoryState.to_be_loaded(), sequence=names.base)
    control = _read_control(files, directory, names, found)
    found.generation, found.durable_sequence = control.generation, control.durable_sequence
    if names.snapshots:
        _read_snapshot(files, directory, names.base, found)
    segments = names.needed_segments
    for first in segments:
        _read_segment(files, directory, first, found, is_last=first == segments[-1])
    if not segments and (names.snapshots or names.segments or control.durable_sequence):
        found.tell(segment_name(names.base + 1), 0, "the segment is missing")
    if found.sequence < control.durable_sequence:
        found.tell_lost(found.sequence + 1, control.durable_sequence, "the journal's end")
    found.state.loaded()
    return found


def _read_control(files: FileSystem, directory: Path, names: Names, found: Salvage) -> Control:
    if not names.has_control:
        found.tell(JOURNAL_NAME, 0, "the control file is missing")
        return Control(0, 0)
    data = _content(files, directory / JOURNAL_NAME)[:CONTROL_BYTES]
    try:
        return decode_control(data)[0]
    except DamageError as damage:
        found.tell(JOURNAL_NAME, damage.offset, damage.message)
        found.damaged.append(DamagedBytes(JOURNAL_NAME, 0, data))
        return Control(0, 0)
    except NewerFormatError as error:
        raise _newer(directory / JOURNAL_NAME, error) from error


def _newer(path: Path, error: NewerFormatError) -> CorruptDataError:
    return CorruptDataError(f"written by a newer mpreg (format version {error.version})", path)


def _content(files: FileSystem, path: Path) -> bytes:
    file = files.open(path)
    try:
        return files.read(file, files.size(file), 0)
    finally:
        files.close(file)


def _salt(path: Path, data: bytes, magic: bytes, sequence: int, found: Salvage) -> int | None:
    """None: the file ends before its first frame."""
    found.size_bytes += len(data)
    try:
        header = decode_header(data[:HEADER_BYTES], magic)
    except DamageError as damage:
        found.tell(path.name, damage.offset, damage.message)
        found.damaged.append(DamagedBytes(path.name, 0, data[:HEADER_BYTES]))
        # Unless the salt is what is damaged, the frames can be told from other bytes all the same.
        return salt_of(data) if len(data) >= HEADER_BYTES else None
    except NewerFormatError as error:
        raise _newer(path, error) from error
    if header.sequence != sequence:
        found.tell(path.name, 16, f"by its header this is the file of commit {header.sequence}")
    found.generation = max(found.generation, header.generation)
    return salt_of(data)


# --- the snapshot ---


def _read_snapshot(files: FileSystem, directory: Path, base: int, found: Salvage) -> None:
    path = directory / snapshot_name(base)
    data = _content(files, path)
    salt = _salt(path, data, SNAPSHOT_MAGIC, base, found)
    if salt is None:
        return
    parts, has_end = 0, False
    for item in walk_frames(data, HEADER_BYTES, salt):
        if isinstance(item, Stretch):
            _damaged(path.name, data, item, found)
        elif item.kind == FrameKind.END:
            has_end = True
            _read_end(path.name, data, item, parts, found)
        else:
            parts += 1
            _apply(path.name, data, item, found)
    if not has_end:
        found.tell(path.name, len(data), "the end of the snapshot is missing")


def _read_end(name: str, data: bytes, frame: Frame, parts: int, found: Salvage) -> None:
    try:
        end = decode_end(data[frame.payload_start : frame.end])
    except ValueError as error:
        found.tell(name, frame.offset, f"the end of the snapshot cannot be read: {error}")
        return
    found.state.last_version = max(found.state.last_version, end.last_version)
    if end.parts != parts:
        found.tell(name, frame.offset, f"{end.parts - parts} pieces of the snapshot are missing")


# --- segments ---


def _read_segment(
    files: FileSystem, directory: Path, first: int, found: Salvage, *, is_last: bool
) -> None:
    path = directory / segment_name(first)
    data = _content(files, path)
    if first > found.sequence + 1:
        found.tell_lost(found.sequence + 1, first - 1, path.name)
        found.sequence = first - 1
    salt = _salt(path, data, SEGMENT_MAGIC, first, found)
    if salt is None:
        return
    items = list(walk_frames(data, HEADER_BYTES, salt))
    torn_from = _torn_from(items, len(data)) if is_last else len(data)
    for item in items:
        if isinstance(item, Stretch):
            if item.start < torn_from:
                _damaged(path.name, data, item, found)
        elif item.offset < torn_from:
            _read_frame(path.name, data, item, found)


def _torn_from(items: list[Frame | Stretch], end: int) -> int:
    """Where a crash may have left what it liked: behind all that a frame vouches for."""
    vouched = max((item.synced for item in items if isinstance(item, Frame)), default=0)
    torn = [item.start for item in items if isinstance(item, Stretch) and item.start >= vouched]
    return min(torn, default=end)


def _read_frame(name: str, data: bytes, frame: Frame, found: Salvage) -> None:
    if frame.kind == FrameKind.MARK:
        try:
            mark = decode_mark(data[frame.payload_start : frame.end])
        except ValueError as error:
            found.tell(name, frame.offset, f"the mark cannot be read: {error}")
            return
        found.generation = max(found.generation, mark.generation)
        return
    if frame.kind != FrameKind.COMMIT or frame.sequence <= found.sequence:
        found.tell(name, frame.offset, f"a frame of commit {frame.sequence} has no place here")
        found.damaged.append(DamagedBytes(name, frame.offset, data[frame.offset : frame.end]))
        return
    if frame.sequence > found.sequence + 1:
        found.tell_lost(found.sequence + 1, frame.sequence - 1, name)
    found.sequence = frame.sequence
    _apply(name, data, frame, found)


def _damaged(name: str, data: bytes, stretch: Stretch, found: Salvage) -> None:
    found.tell(name, stretch.start, stretch.message)
    found.damaged.append(DamagedBytes(name, stretch.start, data[stretch.start : stretch.stop]))


def _apply(name: str, data: bytes, frame: Frame, found: Salvage) -> None:
    try:
        changes = _payloads.decode(data[frame.payload_start : frame.end])
        _close_gaps(changes, found)
        for log, first_offset in changes.begun.items():
            if found.state.log_bounds(log) == (0, 0):
                found.state.start_log(log, first_offset)
        found.state.carry_out(changes)
    except ValueError as error:
        found.tell(name, frame.offset, f"the frame's content cannot be read: {error}")
        found.damaged.append(DamagedBytes(name, frame.offset, data[frame.offset : frame.end]))


def _close_gaps(changes: FramePayload, found: Salvage) -> None:
    """A log cannot have a hole. It keeps what comes after one: offsets are never given twice."""
    expected: dict[bytes, int] = {}
    for log, offset, _ in changes.records:
        start, stop = found.state.log_bounds(log)
        next_offset = expected.get(log, changes.begun.get(log, stop))
        truncated = changes.truncated.get(log, 0)
        if log not in changes.deleted and offset > max(next_offset, truncated):
            message = "records are missing"
            if start < stop:
                message += f"; those before them, {start} to {stop - 1}, a repair sets aside"
            found.findings.append(gap_in(log, next_offset, offset, message))
            found.cut_off += [(log, at, data) for at, data in found.state.records(log)]
            if start < stop or log not in expected:
                found.state.start_log(log, offset)
        expected[log] = offset + 1
