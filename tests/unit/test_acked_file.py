"""The file of two slots: written in turn, torn, damaged, missing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import SchemaVersionError
from mpreg.persistence.acked_file import AckedFile, DamagedFileError
from mpreg.persistence.acked_record import BLOCK_BYTES, SLOT_BYTES, AckedRecord

RECORDS = [AckedRecord(1, 0, sequence) for sequence in range(10)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ACKED"


def damage(path: Path, slot: int) -> None:
    with path.open("r+b") as file:
        file.seek(slot * BLOCK_BYTES + 20)
        file.write(b"\xa5\x5a")


def test_where_there_is_no_file_it_says_nothing(path: Path) -> None:
    assert AckedFile(path).read() is None
    assert not path.exists()


def test_what_was_written_last_is_read(path: Path) -> None:
    file = AckedFile(path)
    for record in RECORDS:
        file.write(record)
        assert AckedFile(path).read() == record
    assert path.stat().st_size == 2 * BLOCK_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["ACKED"]


def test_a_file_opened_again_is_written_on_in_turn(path: Path) -> None:
    for record in RECORDS:
        file = AckedFile(path)
        file.read()
        file.write(record)
    both = {record for slot in (0, 1) for record in [_alone(path, slot)]}
    assert both == set(RECORDS[-2:])


def _alone(path: Path, slot: int) -> AckedRecord | None:
    """What is read where the other slot is damaged."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    damage(copy, 1 - slot)
    return AckedFile(copy).read()


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("writes", [1, 2, 3, 4])
def test_a_damaged_slot_leaves_the_other_one(path: Path, slot: int, writes: int) -> None:
    file = AckedFile(path)
    for record in RECORDS[:writes]:
        file.write(record)
    damage(path, slot)
    found = AckedFile(path).read()
    assert found in RECORDS[max(0, writes - 2) : writes]


@given(st.integers(2, 6), st.integers(0, SLOT_BYTES))
def test_a_write_torn_anywhere_leaves_the_record_before_it_or_the_new_one(
    tmp_path_factory: pytest.TempPathFactory, writes: int, at: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "ACKED"
    file = AckedFile(path)
    for record in RECORDS[:writes]:
        file.write(record)
    before = path.read_bytes()
    file.write(RECORDS[writes])
    after = path.read_bytes()
    (first,) = {
        index // BLOCK_BYTES for index in range(len(after)) if after[index] != before[index]
    }
    start = first * BLOCK_BYTES
    path.write_bytes(before[:start] + after[start : start + at] + before[start + at :])
    assert AckedFile(path).read() in (RECORDS[writes - 1], RECORDS[writes])


def test_where_both_slots_are_damaged_it_says_so_and_can_be_set_aside(path: Path) -> None:
    AckedFile(path).write(RECORDS[5])
    damage(path, 0)
    damage(path, 1)
    file = AckedFile(path)
    with pytest.raises(DamagedFileError):
        file.read()
    assert file.set_aside() == path.with_name("ACKED.damaged")
    file.write(RECORDS[6])
    assert AckedFile(path).read() == RECORDS[6]


@pytest.mark.parametrize("size", [0, 1, 30, BLOCK_BYTES])
def test_a_file_cut_off_is_damaged_or_its_first_slot_holds(path: Path, size: int) -> None:
    AckedFile(path).write(RECORDS[5])
    os.truncate(path, size)
    if size < SLOT_BYTES:
        with pytest.raises(DamagedFileError):
            AckedFile(path).read()
    else:
        assert AckedFile(path).read() == RECORDS[5]


def test_a_newer_format_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpreg.persistence.acked_record.FORMAT_VERSION", 2)
    AckedFile(path).write(RECORDS[5])
    with pytest.raises(SchemaVersionError) as caught:
        AckedFile(path).read()
    assert (caught.value.found_version, caught.value.supported_version) == (2, 1)


def test_a_file_removed_meanwhile_is_made_again(path: Path) -> None:
    file = AckedFile(path)
    file.write(RECORDS[1])
    path.unlink()
    file.write(RECORDS[2])
    assert AckedFile(path).read() == RECORDS[2]


def test_an_earlier_record_that_comes_late_is_dropped(path: Path) -> None:
    file = AckedFile(path)
    file.write(RECORDS[5])
    file.write(RECORDS[4])
    assert AckedFile(path).read() == RECORDS[5]
    file.write(AckedRecord(2, 3, 3))
    assert AckedFile(path).read() == AckedRecord(2, 3, 3), "of a later writer"


def test_a_sync_that_fails_is_made_again_in_the_same_slot(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system took for written then may never reach the disk: the other slot must stay."""
    file = AckedFile(path)
    for record in RECORDS[:4]:
        file.write(record)
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", _fail)
        for record in RECORDS[4:7]:
            with pytest.raises(OSError, match="device"):
                file.write(record)
    file.write(RECORDS[7])
    assert {_alone(path, 0), _alone(path, 1)} == {RECORDS[3], RECORDS[7]}


def _fail(_descriptor: int) -> None:
    raise OSError(errno.EIO, "the device failed")


def test_a_creation_that_was_killed_is_made_anew(path: Path) -> None:
    path.with_name("ACKED.creating").write_bytes(b"half")
    file = AckedFile(path)
    assert file.read() is None
    file.write(RECORDS[1])
    assert [entry.name for entry in path.parent.iterdir()] == ["ACKED"]


def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"mine")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        AckedFile(path).read()
    with pytest.raises(OSError):
        AckedFile(path).write(RECORDS[1])
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
