"""Reading a directory: the newest snapshot, the segments after it, and whether all of it is there.

Nothing is written here. Whatever is wrong is told with the file and the byte.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field, frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.file.control import Control
from mpreg.persistence.backends.file.failures import corrupt, reading, translated
from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    SEGMENT_MAGIC,
    SNAPSHOT_MAGIC,
    DamageError,
    Frame,
    FrameKind,
    decode_frame_header,
    decode_header,
    salt_of,
)
from mpreg.persistence.backends.file.names import Names, segment_name, snapshot_name
from mpreg.persistence.backends.file.payload import apply_payload, decode_end, decode_mark
from mpreg.persistence.backends.file.segment import Segment, scan_segment
from mpreg.persistence.backends.state import MemoryState

__all__ = ["LastSegment", "Loaded", "load"]


@frozen
class LastSegment:
    """The segment that is to be gone on with."""

    first_sequence: int
    content: bytes
    """What stands of it, from its first byte on."""
    commits: int


@define
class Loaded:
    """What a directory holds."""

    state: MemoryState
    sequence: int = 0
    """Of the last commit."""
    generation: int = 0
    """The highest that any file names."""
    last_segment: LastSegment | None = None
    """None: there is no journal yet."""
    sealed: dict[int, int] = field(factory=dict)
    """The segments after the snapshot but the last one: first sequence and bytes."""
    snapshot_sequence: int = 0
    """0: there is no snapshot."""
    snapshot_bytes: int = 0
    lost: CorruptDataError | None = None
    """What is to be told where it ends before a commit that was on disk."""


@contextmanager
def _opened(files: FileSystem, path: Path) -> Iterator[int]:
    with translated(path):
        file = files.open(path)
    try:
        yield file
    finally:
        files.close(file)


def load(files: FileSystem, directory: Path, names: Names, control: Control) -> Loaded:
    """Read everything that is there, and see whether anything is missing that was there for sure.

    An end that is missing, with nothing after it, is noted as lost; anything else is refused.

    Raises:
        CorruptDataError, SchemaVersionError, StorageIOError
    """
    loaded = Loaded(
        MemoryState.to_be_loaded(),
        sequence=names.base,
        generation=control.generation,
        snapshot_sequence=names.base,
    )
    if names.snapshots:
        path = directory / snapshot_name(names.base)
        with _opened(files, path) as file:
            _load_snapshot(files, file, path, loaded)
    segments = names.needed_segments
    if not segments and (names.snapshots or names.segments or control.durable_sequence):
        raise corrupt(directory / segment_name(names.base + 1), 0, "the segment is missing")
    for first in segments:
        path = directory / segment_name(first)
        with _opened(files, path) as file, reading(path):
            content = files.read(file, files.size(file), 0)
        _load_segment(content, path, first, loaded, is_last=first == segments[-1])
    if loaded.sequence < control.durable_sequence:
        loaded.lost = _lost(directory, segments, loaded, control)
    loaded.state.loaded()
    return loaded


def _lost(
    directory: Path, segments: list[int], loaded: Loaded, control: Control
) -> CorruptDataError:
    last = loaded.last_segment
    return corrupt(
        directory / segment_name(segments[-1]),
        0 if last is None else len(last.content),
        f"the journal ends with commit {loaded.sequence}, but commits up to "
        f"{control.durable_sequence} were on disk: data is missing",
    )


# --- the snapshot ---


def _load_snapshot(files: FileSystem, file: int, path: Path, loaded: Loaded) -> None:
    """Frame by frame: it may be as large as all that is alive."""
    size = files.size(file)
    with reading(path):
        start = files.read(file, HEADER_BYTES, 0)
        header = decode_header(start, SNAPSHOT_MAGIC)
        if header.sequence != loaded.sequence:
            raise DamageError(
                f"this is the snapshot of commit {header.sequence}, by its header", 16
            )
    loaded.generation = max(loaded.generation, header.generation)
    at, salt, parts = HEADER_BYTES, salt_of(start), 0
    while True:
        with reading(path, at):
            frame, payload = _read_frame(files, file, at, salt, size)
            if frame.sequence != parts:
                raise DamageError(
                    f"piece {frame.sequence} stands here, where {parts} comes next", 0
                )
            if frame.kind == FrameKind.END:
                break
            if frame.kind != FrameKind.PART:
                raise DamageError("this frame is no piece of a snapshot", 0)
            _apply(payload, loaded.state, 0)
        at, parts = frame.end, parts + 1
    with reading(path, at):
        try:
            end = decode_end(payload)
        except ValueError as error:
            raise DamageError(f"the end of the snapshot cannot be read: {error}", 0) from error
        if end.parts != parts or frame.end != size:
            raise DamageError("the snapshot's end does not fit what stands before or after it", 0)
    loaded.state.last_version = end.last_version
    loaded.snapshot_bytes = size


def _read_frame(files: FileSystem, file: int, at: int, salt: int, size: int) -> tuple[Frame, bytes]:
    header = files.read(file, FRAME_BYTES, at)
    frame = decode_frame_header(header, 0, salt, base=at)
    if frame is None:
        raise DamageError("no frame begins here, before the snapshot's end", 0)
    if frame.end > size:
        raise DamageError(f"a frame that ends at byte {frame.end} is cut off", 0)
    payload = files.read(file, frame.payload_bytes, frame.payload_start)
    if zlib.crc32(payload) != frame.payload_checksum:
        raise DamageError("the frame does not match its checksum", 0)
    return frame, payload


# --- segments ---


def _load_segment(content: bytes, path: Path, first: int, loaded: Loaded, *, is_last: bool) -> None:
    with reading(path):
        header = decode_header(content[:HEADER_BYTES], SEGMENT_MAGIC)
        if header.sequence != first:
            raise DamageError(f"this is the segment of commit {header.sequence}, by its header", 16)
        if first != loaded.sequence + 1:
            raise DamageError(
                f"the segment begins with commit {first}, where {loaded.sequence + 1} comes next: "
                "commits are missing, or there twice",
                16,
            )
        segment = scan_segment(content, first, is_last=is_last)
        loaded.generation = max(loaded.generation, header.generation)
        _apply_frames(content, segment, loaded)
    loaded.sequence = segment.last_sequence
    if is_last:
        commits = segment.last_sequence - first + 1
        loaded.last_segment = LastSegment(first, content[: segment.end], commits)
    else:
        loaded.sealed[first] = len(content)


def _apply_frames(content: bytes, segment: Segment, loaded: Loaded) -> None:
    with memoryview(content) as view:
        for frame in segment.frames:
            payload = view[frame.payload_start : frame.end]
            if frame.kind == FrameKind.COMMIT:
                _apply(payload, loaded.state, frame.offset)
                continue
            try:
                mark = decode_mark(payload)
            except ValueError as error:
                raise DamageError(f"the mark cannot be read: {error}", frame.offset) from error
            loaded.generation = max(loaded.generation, mark.generation)


def _apply(payload: bytes | memoryview, state: MemoryState, offset: int) -> None:
    try:
        apply_payload(payload, state)
    except ValueError as error:
        raise DamageError(f"the frame's content cannot be read: {error}", offset) from error
