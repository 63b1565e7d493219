"""How an error ends a command."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mpreg.cli.exits import DAMAGED, DISK, REFUSED, told
from mpreg.errors import (
    CorruptDataError,
    MpregError,
    NodeUnreachableError,
    ParticipantFailedError,
    QueueNotFoundError,
    StorageIOError,
)
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


def failed_by(cause: Exception, path: Path) -> StorageIOError:
    error = StorageIOError(str(cause), path)
    error.__cause__ = cause
    return error


def refused_by_sqlite(path: Path) -> sqlite3.Error:
    """What it says where it may only read."""
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE things (id)")
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            connection.execute("DROP TABLE things")
        except sqlite3.Error as error:
            return error
    raise AssertionError("it was not refused")


def test_what_may_not_be_read_or_written_is_no_failure_of_the_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mpreg.db"
    for number in (errno.EACCES, errno.EPERM, errno.EROFS):
        assert ended(failed_by(OSError(number, "no"), path), capsys)[0] == REFUSED
        assert ended(OSError(number, "no"), capsys)[0] == REFUSED
    assert ended(failed_by(refused_by_sqlite(path), path), capsys)[0] == REFUSED
    assert ended(failed_by(OSError(errno.EIO, "no"), path), capsys)[0] == DISK
    assert ended(failed_by(sqlite3.OperationalError("disk I/O error"), path), capsys)[0] == DISK


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_this_user_may_not_read_is_refused_where_sqlite_does_not_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mpreg.db"
    path.touch(mode=0)
    cause = sqlite3.OperationalError("unable to open database file")
    assert ended(failed_by(cause, path), capsys)[0] == REFUSED


def test_a_file_that_cannot_even_be_looked_for_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "closed" / "mpreg.db"
    cause = sqlite3.OperationalError("unable to open database file")
    assert ended(failed_by(cause, path), capsys)[0] == DISK
    stat = Path.stat

    def refused(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return stat(self, follow_symlinks=follow_symlinks)

    # Root may look everywhere.
    monkeypatch.setattr(Path, "stat", refused)
    assert ended(failed_by(cause, path), capsys)[0] == REFUSED


def test_a_file_in_the_place_of_the_data_directory_is_told_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(SystemExit), told(is_json=False):
        DataDirectory(file).acquire()
    assert f"{file}: the data directory cannot be used: Not a directory" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_of_a_node_that_gives_no_answer_it_is_told_how_to_start_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = NodeUnreachableError("http://127.0.0.1:8765: refused", may_have_been_made=False)
    code, said = ended(error, capsys)
    assert code == REFUSED
    assert "`mpreg serve` starts it" in said


def test_a_command_names_no_call_of_python_where_a_queue_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = QueueNotFoundError("there is no queue 'jobs'", "make it with create_queue")
    code, said = ended(error, capsys)
    assert code == REFUSED
    assert str(error) == "there is no queue 'jobs': make it with create_queue"
    assert said.startswith("mpreg: there is no queue 'jobs'\n")
    assert "PUT /v1/queues/NAME" in said
    assert "create_queue" not in said
