"""Any bytes of any file changed: never wrong data, never another exception, always where."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mpreg.errors import (
    CorruptDataError,
    DataDirectoryError,
    ForeignDatabaseError,
    PersistenceError,
    SchemaVersionError,
    StorageIOError,
)
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.backends.file.files import OperatingSystem
from mpreg.persistence.backends.file.format import (
    CONTROL_MAGIC,
    FORMAT_VERSION,
    SEGMENT_MAGIC,
    SNAPSHOT_MAGIC,
    encode_stamp,
)
from mpreg.persistence.backends.file.session import FileSession
from tests.integration.journal_stories import DURABLE, OPTIONS, Story, options, state_of

Change = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, luck: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(luck.choice([1, 1, 1, 5])):
        changed[luck.randrange(len(changed))] ^= 1 << luck.randrange(8)
    return bytes(changed)


def _piece(content: bytes, luck: random.Random) -> tuple[int, int]:
    start = luck.randrange(len(content))
    return start, min(len(content), start + luck.choice([1, 4, 16, 100, 512, 4_096]))


def zero(content: bytes, luck: random.Random) -> bytes:
    start, stop = _piece(content, luck)
    return content[:start] + bytes(stop - start) + content[stop:]


def cut_out(content: bytes, luck: random.Random) -> bytes:
    start, stop = _piece(content, luck)
    return content[:start] + content[stop:]


def cut_off(content: bytes, luck: random.Random) -> bytes:
    return content[: luck.randrange(len(content))]


def duplicate(content: bytes, luck: random.Random) -> bytes:
    start, stop = _piece(content, luck)
    return content[:stop] + content[start:]


def append(content: bytes, luck: random.Random) -> bytes:
    return content + luck.choice([bytes(100), luck.randbytes(100), content[-100:]])


CHANGES = (flip, zero, cut_out, cut_off, duplicate, append)


def make(directory: Path, seed: int, *, closed: bool) -> Story:
    """A directory with a snapshot and several segments."""
    directory.mkdir()
    story = Story(random.Random(seed))
    session = story.open(directory=directory)
    for _ in range(60):
        story.commit(session)
    while len(list(directory.glob("journal-*"))) < 3 or not list(directory.glob("snapshot-*0?")):
        story.commit(session, DURABLE)
    story.commit(session, DURABLE)
    (session.close if closed else session.let_go)()
    assert list(directory.glob("snapshot-" + "?" * 20))
    return story


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def put_back(directory: Path, content: dict[str, bytes]) -> None:
    shutil.rmtree(directory)
    directory.mkdir()
    for name, data in content.items():
        (directory / name).write_bytes(data)


def refusal(directory: Path) -> PersistenceError | FileSession:
    try:
        return FileSession.open(directory, OPTIONS, OperatingSystem())
    except PersistenceError as error:
        return error


def check_told(error: PersistenceError, name: str, directory: Path) -> None:
    """It says which file, and for damage which byte, and it is not the system that failed."""
    assert isinstance(error, CorruptDataError | ForeignDatabaseError), repr(error)
    assert error.path is not None
    assert error.path.parent == directory
    if isinstance(error, ForeignDatabaseError):
        assert name == "mpreg.journal"
    else:
        assert error.where.startswith("byte ")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_changed_bytes_are_told_or_do_not_matter(
    tmp_path: Path, seed: int, *, closed: bool
) -> None:
    directory = tmp_path / "d"
    story = make(directory, seed, closed=closed)
    content = content_of(directory)
    luck = random.Random(f"{seed} {closed}")
    told = 0
    for number in range(150):
        name = luck.choice([name for name in content if name != "LOCK"])
        change = luck.choice(CHANGES)
        damaged = content | {name: change(content[name], luck)}
        put_back(directory, damaged)
        where = f"seed {seed}, number {number}: {change.__name__} of {name}"
        found = refusal(directory)
        if isinstance(found, FileSession):
            sequence = found.opened.commit_sequence
            assert state_of(found.state) == story.states[sequence], where
            # After a clean close every byte that matters is vouched for.
            assert sequence == story.acked or not closed, where
            found.let_go()
        else:
            check_told(found, name, directory)
            assert content_of(directory) == damaged, f"{where}: it is left untouched"
            told += 1
    assert told > (50 if closed else 5)


@pytest.mark.parametrize("seed", range(3))
def test_a_file_that_is_missing_is_told(tmp_path: Path, seed: int) -> None:
    directory = tmp_path / "d"
    make(directory, seed, closed=True)
    content = content_of(directory)
    for name in content:
        put_back(directory, {other: data for other, data in content.items() if other != name})
        found = refusal(directory)
        assert isinstance(found, CorruptDataError), name
        assert found.path is not None
        assert found.path.parent == directory


def test_files_that_stand_under_each_others_names_are_told(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    make(directory, 0, closed=True)
    content = content_of(directory)
    for one in content:
        for other in content:
            if one != other:
                put_back(directory, content | {one: content[other]})
                assert isinstance(refusal(directory), CorruptDataError | ForeignDatabaseError)


def test_the_last_frames_of_a_killed_process_may_be_lost_only_where_a_crash_could_take_them(
    tmp_path: Path,
) -> None:
    """A frame that another one vouches for is missed; the very last one nobody vouches for."""
    directory = tmp_path / "d"
    story = Story(random.Random(1))
    session = story.open(directory=_made(directory), options=options(1 << 20))
    ends = []
    for _ in range(5):
        story.commit(session, DURABLE)
        ends.append(session.segments.journal.end)
    session.let_go()
    content = content_of(directory)
    (segment,) = [name for name in content if name.startswith("journal-")]
    for number, end in enumerate(ends, 1):
        changed = bytearray(content[segment])
        changed[end - 1] ^= 1
        put_back(directory, content | {segment: bytes(changed)})
        found = refusal(directory)
        if number == 5:
            assert isinstance(found, FileSession)
            assert found.opened.commit_sequence == 4
            found.let_go()
        else:
            assert isinstance(found, CorruptDataError)
            assert found.path == directory / segment
            assert found.where == f"byte {ends[number - 2] if number > 1 else 78}"


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


# --- other versions, other programs, other backends ---


@pytest.mark.parametrize(
    ("prefix", "magic"),
    [("mpreg.journal", CONTROL_MAGIC), ("journal-", SEGMENT_MAGIC), ("snapshot-", SNAPSHOT_MAGIC)],
)
def test_a_newer_format_is_refused_with_both_versions(
    tmp_path: Path, prefix: str, magic: bytes
) -> None:
    directory = tmp_path / "d"
    make(directory, 0, closed=True)
    path = max(directory.glob(f"{prefix}*"))
    content = path.read_bytes()
    path.write_bytes(encode_stamp(magic, FORMAT_VERSION + 6) + content[16:])
    before = content_of(directory)
    found = refusal(directory)
    assert isinstance(found, SchemaVersionError)
    assert (found.path, found.found_version, found.supported_version) == (path, 7, 1)
    assert content_of(directory) == before


def test_a_control_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mpreg.journal").write_bytes(b"something else entirely")
    assert isinstance(refusal(tmp_path), ForeignDatabaseError)
    assert content_of(tmp_path) == {"mpreg.journal": b"something else entirely"}


def test_files_of_others_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", "journal-1", "snapshot-old.new", "mpreg.db.creating"):
        (tmp_path / name).write_bytes(b"mine")
    Story(random.Random(0)).open(directory=tmp_path).close()
    content = content_of(tmp_path)
    assert sum(data == b"mine" for data in content.values()) == 4


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    make(directory, 0, closed=True)
    path = next(directory.glob("journal-*"))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    found = refusal(directory)
    assert isinstance(found, StorageIOError)
    assert "this is a link" in str(found)


@pytest.mark.anyio
@pytest.mark.parametrize(("first", "second"), [("file", "sqlite"), ("sqlite", "file")])
async def test_a_directory_of_another_backend_is_refused_and_both_are_named(
    tmp_path: Path, first: str, second: str
) -> None:
    async with PersistenceRegistry(PersistenceConfig(data_dir=tmp_path, backend=first)) as opened:
        await opened.key_value_store("s").put("k", b"v")
    before = content_of(tmp_path)
    with pytest.raises(DataDirectoryError, match=f"the store of the {first} backend") as caught:
        await PersistenceRegistry(PersistenceConfig(data_dir=tmp_path, backend=second)).__aenter__()
    assert f"backend={second!r}" in str(caught.value)
    assert content_of(tmp_path) == before


@pytest.mark.anyio
async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    config = PersistenceConfig(data_dir=data_dir, backend="file", journal_segment_bytes=4_096)
    async with PersistenceRegistry(config) as opened:
        for number in range(100):
            await opened.key_value_store("s").put(f"{number % 3}", bytes(500))
        names = [path.name for path in data_dir.iterdir()]
        assert any(name.startswith("snapshot-") for name in names)
        assert data_dir.stat().st_mode & 0o777 == 0o700
    # While it is open, upkeep may remove what was listed.
    assert {path.stat().st_mode & 0o777 for path in data_dir.iterdir()} == {0o600}
