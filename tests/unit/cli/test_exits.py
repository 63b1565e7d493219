"""How an error ends a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpreg.cli.exits import DAMAGED, REFUSED, told
from mpreg.errors import CorruptDataError, MpregError, ParticipantFailedError
from mpreg.persistence.data_directory import DataDirectory


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught, told(is_json=False):
        raise error
    return caught.value.code, capsys.readouterr().err


def part(cause: Exception) -> ParticipantFailedError:
    error = ParticipantFailedError("restore", ("queues",), str(cause))
    error.__cause__ = cause
    return error


def test_a_part_that_damage_keeps_from_being_restored_ends_as_damage_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, said = ended(part(CorruptDataError("page 3 is torn", Path("mpreg.db"))), capsys)
    assert code == DAMAGED
    assert "'queues' could not be restored" in said
    assert "page 3 is torn" in said
    assert "`mpreg verify`" in said


def test_a_part_that_fails_for_a_reason_of_its_own_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for cause in (MpregError("not today"), ValueError("not today")):
        code, said = ended(part(cause), capsys)
        assert code == REFUSED
        assert "not today" in said
        assert "verify" not in said
        # What an operator can do, and not what a programmer could.
        assert "put back a backup" in said
        assert "required" not in said


def test_a_file_in_the_place_of_the_data_directory_is_told_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(SystemExit), told(is_json=False):
        DataDirectory(file).acquire()
    assert f"{file}: the data directory cannot be used: Not a directory" in capsys.readouterr().err
    assert file.read_text() == "mine"
