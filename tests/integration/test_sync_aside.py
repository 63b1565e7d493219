"""Syncs beside the thread that commits, by the real system."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mpreg.persistence.backends.aside import Aside
from mpreg.persistence.backends.file import files
from mpreg.persistence.backends.file.files import OperatingSystem


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were synced, by their names."""
    found: list[str] = []
    real = os.fdatasync

    def noted(file: int) -> None:
        found.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        real(file)

    monkeypatch.setattr(files, "_fdatasync", noted)
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def held_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Threads begin their work when what this gives is called."""
    may_begin = threading.Event()
    work = Aside._work

    def later(aside: Aside) -> None:
        may_begin.wait(30)
        work(aside)

    monkeypatch.setattr(Aside, "_work", later)
    return may_begin.set


def test_it_is_synced_when_it_was_waited_for(tmp_path: Path, synced: list[str]) -> None:
    system = OperatingSystem()
    file = system.create(tmp_path / "one")
    system.begin_sync(file)()
    assert synced == [str(tmp_path / "one")]
    system.close(file)


def test_a_file_that_is_closed_meanwhile_is_synced_and_no_other_in_its_place(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    system, let = OperatingSystem(), held_up(monkeypatch)
    file = system.create(tmp_path / "one")
    wait = system.begin_sync(file)
    system.close(file)
    other = system.create(tmp_path / "other")
    assert other == file
    let()
    wait()
    assert synced == [str(tmp_path / "one")]
    system.close(other)


def test_who_waits_is_told_of_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "_fdatasync", fails)
    system = OperatingSystem()
    file = system.create(tmp_path / "one")
    before = open_files()
    wait = system.begin_sync(file)
    with pytest.raises(OSError, match="Input/output error"):
        wait()
    assert open_files() == before
    system.close(file)


def test_where_there_are_too_many_threads_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    system = OperatingSystem()
    file = system.create(tmp_path / "one")
    before = open_files()
    with pytest.raises(BlockingIOError, match="can't start new thread"):
        system.begin_sync(file)
    assert open_files() == before
    system.close(file)
