"""Who holds the data directory and for how long, and what is made of what lies in it."""

from __future__ import annotations

import fcntl
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from attrs import define, field

from mpreg.persistence import (
    CommitUnknownError,
    DataDirectoryError,
    DataDirectoryLockedError,
    DataDirectoryMissingError,
    StorageIOError,
    open_read_only,
)
from mpreg.persistence.backends.file.session import FileSession
from mpreg.persistence.backends.sqlite.write_session import WriteSession
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.data_directory import DataDirectory
from mpreg.persistence.maintenance.restore import held_place
from tests.integration.support import database, registry

pytestmark = pytest.mark.anyio


@define
class SlowCommit:
    """A commit that stands still on its thread until it is told to go on."""

    entered: threading.Event = field(factory=threading.Event)
    may_go_on: threading.Event = field(factory=threading.Event)
    thread: threading.Thread = field(factory=threading.current_thread)

    def end(self) -> None:
        self.may_go_on.set()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()


SESSIONS: dict[str, type[Any]] = {"sqlite": WriteSession, "file": FileSession}


@contextmanager
def slow_commit(backend: str) -> Iterator[SlowCommit]:
    slow = SlowCommit()
    real = SESSIONS[backend].commit

    def commit(session: Any, group: CommitGroup) -> Any:
        slow.thread = threading.current_thread()
        slow.entered.set()
        slow.may_go_on.wait(timeout=60)
        return real(session, group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SESSIONS[backend], "commit", commit)
        try:
            yield slow
        finally:
            slow.may_go_on.set()


@pytest.mark.parametrize("backend", SESSIONS)
async def test_a_registry_stopped_without_grace_while_idle_frees_the_directory_at_once(
    data_dir: Path, backend: str
) -> None:
    for _ in range(2):
        async with anyio.create_task_group() as task_group:
            opened = await task_group.start(
                registry(data_dir, backend=backend, grace_seconds=0).serve
            )
            await opened.key_value_store("s").put("k", b"")
            task_group.cancel_scope.cancel()


@pytest.mark.parametrize("backend", SESSIONS)
async def test_a_commit_that_was_given_up_on_keeps_the_directory_until_it_has_ended(
    data_dir: Path, backend: str
) -> None:
    with slow_commit(backend) as slow:
        async with anyio.create_task_group() as task_group:
            opened = await task_group.start(
                registry(data_dir, backend=backend, grace_seconds=0).serve
            )
            ack = opened.key_value_store("s").put_nowait("k", b"late")
            await anyio.to_thread.run_sync(slow.entered.wait, 60)
            task_group.cancel_scope.cancel()
        with pytest.raises(CommitUnknownError):
            await ack
        with pytest.raises(DataDirectoryLockedError):
            async with registry(data_dir, backend=backend):
                pass
        slow.end()
    async with registry(data_dir, backend=backend) as opened:
        entry = await opened.key_value_store("s").get("k")
        assert entry is not None
        assert entry.value == b"late"


FORKS = """
import os, signal, sys
import anyio
from mpreg.persistence import PersistenceConfig, PersistenceRegistry

async def main():
    async with PersistenceRegistry(PersistenceConfig(data_dir=sys.argv[1])) as opened:
        await opened.key_value_store("s").put("k", b"")
        if os.fork() == 0:
            os.write(1, b"forked")
            os.read(0, 1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main)
"""


def test_a_forked_child_does_not_keep_the_lock_of_a_process_that_was_killed(data_dir: Path) -> None:
    async def use() -> None:
        async with registry(data_dir) as opened:
            assert await opened.key_value_store("s").get("k") is not None

    with subprocess.Popen(
        [sys.executable, "-c", FORKS, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.read(6) == b"forked"
        assert server.wait(timeout=60) == -signal.SIGKILL
        # The child lives on: it waits for its input to end, which the end of this block does.
        anyio.run(use)


async def test_a_lock_file_that_is_a_link_is_refused_and_its_target_left_alone(
    data_dir: Path, tmp_path: Path
) -> None:
    data_dir.mkdir()
    target = tmp_path / "precious"
    target.write_bytes(b"mine")
    (data_dir / "LOCK").symlink_to(target)
    with pytest.raises(DataDirectoryError, match="cannot be used"):
        async with registry(data_dir):
            pass
    assert target.read_bytes() == b"mine"
    assert [entry.name for entry in data_dir.iterdir()] == ["LOCK"]


async def test_the_lock_of_a_directory_that_was_put_there_is_somebody_elses(
    data_dir: Path, tmp_path: Path
) -> None:
    """A command fails after it has put a store in the place of an empty directory."""
    data_dir.mkdir(exist_ok=True)
    made = tmp_path / "made"
    DataDirectory(made).acquire()()
    others: list[Callable[[], None]] = []

    def put_there_and_fail() -> None:
        with held_place(data_dir) as is_empty:
            assert is_empty
            data_dir.rename(tmp_path / "before")
            made.rename(data_dir)
            others.append(DataDirectory(data_dir).acquire())
            raise OSError("no sync")

    with pytest.raises(OSError, match="no sync"):
        put_there_and_fail()
    with pytest.raises(DataDirectoryLockedError):
        DataDirectory(data_dir).acquire()
    [let_go] = others
    let_go()


async def test_a_lock_on_a_file_that_is_gone_holds_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed by who held it before, between our opening and our locking it."""
    lock = fcntl.flock

    def flock_once_removed(file: int, how: int) -> None:
        (data_dir / "LOCK").unlink(missing_ok=True)
        lock(file, how)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", flock_once_removed)
        with pytest.raises(DataDirectoryError, match="cannot be locked"):
            DataDirectory(data_dir).acquire()
    DataDirectory(data_dir).acquire()()


@pytest.mark.parametrize(
    ("content", "pid", "host"),
    [
        (b"", None, None),
        (b"\xff" * 5_000, None, None),
        (b"9" * 5_000, None, None),
        (b"12", 12, None),
        (b"12\n\xff\x1b\n", 12, "\ufffd\x1b"),
    ],
)
async def test_whatever_is_in_the_lock_file_who_comes_second_is_refused(
    data_dir: Path, content: bytes, pid: int | None, host: str | None
) -> None:
    async with registry(data_dir):
        (data_dir / "LOCK").write_bytes(content)
        with pytest.raises(DataDirectoryLockedError) as caught:
            DataDirectory(data_dir).acquire()
    assert (caught.value.pid, caught.value.host) == (pid, host)


async def test_a_database_that_is_a_link_is_refused_and_its_target_left_alone(
    data_dir: Path, tmp_path: Path
) -> None:
    async with registry(tmp_path / "elsewhere") as opened:
        await opened.key_value_store("s").put("k", b"")
    target = database(tmp_path / "elsewhere")
    before = target.read_bytes()
    data_dir.mkdir()
    database(data_dir).symlink_to(target)
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match="this is a link") as caught:
            async with registry(data_dir):
                pass
        assert type(caught.value) is DataDirectoryError, "it is not left locked"
    assert target.read_bytes() == before
    assert sorted(entry.name for entry in data_dir.iterdir()) == ["LOCK", "mpreg.db"]


async def test_a_directory_of_values_that_is_a_link_is_refused(
    data_dir: Path, tmp_path: Path
) -> None:
    data_dir.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (data_dir / "values").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataDirectoryError, match="this is a link"):
        async with registry(data_dir):
            pass


def test_who_only_looks_whether_it_is_held_keeps_nobody_out(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DataDirectory(data_dir).acquire()()
    pauses: list[float] = []
    with (data_dir / "LOCK").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)

        def look_away(seconds: float) -> None:
            pauses.append(seconds)
            fcntl.flock(looking, fcntl.LOCK_UN)

        monkeypatch.setattr("mpreg.persistence.data_directory.time.sleep", look_away)
        DataDirectory(data_dir).acquire()()
    assert len(pauses) == 1
    let_go = DataDirectory(data_dir).acquire()
    with pytest.raises(DataDirectoryLockedError):
        DataDirectory(data_dir).acquire()
    assert len(pauses) == 1, "who holds it is not waited for"
    let_go()
    with (data_dir / "LOCK").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr("mpreg.persistence.data_directory.time.sleep", pauses.append)
        with pytest.raises(DataDirectoryLockedError):
            DataDirectory(data_dir).acquire()


def test_a_directory_that_another_process_makes_at_the_same_time_is_as_good(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.mkdir

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        real(path, parents=True, exist_ok=True)
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    DataDirectory(data_dir / "deep").acquire()()
    assert (data_dir / "deep" / "LOCK").exists()


def test_every_directory_that_is_made_is_synced_into_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("mpreg.persistence.data_directory.sync_directory", synced.append)
    DataDirectory(tmp_path / "a" / "b" / "c").acquire()()
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}


# --- a first opening without room ---


@contextmanager
def no_room_in_files(of_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (of_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("backend", "of_bytes"), [("sqlite", 20_000), ("file", 1_000)])
async def test_a_store_that_was_never_finished_is_told_as_that_and_made_by_the_next_start(
    data_dir: Path, backend: str, of_bytes: int
) -> None:
    with no_room_in_files(of_bytes), pytest.raises(StorageIOError):
        async with registry(data_dir, backend=backend, restarts_max=0):
            raise AssertionError
    # What was begun would take room that there is not.
    assert [path.name for path in data_dir.iterdir()] == ["LOCK"]
    with pytest.raises(DataDirectoryMissingError, match=r"never finished.*ever acknowledged"):
        async with open_read_only(data_dir):
            raise AssertionError
    async with registry(data_dir, backend=backend) as opened:
        await opened.key_value_store("things").put("a", b"1")
    async with open_read_only(data_dir) as view:
        assert await view.key_value_store("things").get("a") is not None


@pytest.mark.parametrize("left", ["mpreg.db.creating", "mpreg.journal.new"])
async def test_what_a_kill_leaves_of_a_first_opening_is_told_as_never_finished(
    data_dir: Path, left: str
) -> None:
    data_dir.mkdir()
    (data_dir / "LOCK").touch()
    (data_dir / left).touch()
    with pytest.raises(DataDirectoryMissingError, match=f"but LOCK, {left}; .*never finished"):
        async with open_read_only(data_dir):
            raise AssertionError
    # It tells what was acknowledged in a store that was there.
    (data_dir / "ACKED").touch()
    with pytest.raises(DataDirectoryMissingError, match=f"but ACKED, LOCK, {left}$"):
        async with open_read_only(data_dir):
            raise AssertionError
