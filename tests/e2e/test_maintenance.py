"""Maintenance by real processes: killed at any moment, interrupted, and out of room."""

from __future__ import annotations

import fcntl
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import anyio
import pytest

from mpreg.persistence import DataDirectoryError, PersistenceRegistry
from mpreg.persistence.maintenance import VerificationReport, backup, export_lines, repair, verify
from tests.e2e.support import (
    GUARD_SECONDS,
    REPOSITORY,
    on_both_backends,
    on_both_loops,
    on_loops_and_backends,
)
from tests.integration.maintenance_support import fill, filled
from tests.integration.support import config, tamper

KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "3"))


def start(*arguments: object, limit: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mpreg.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
    )


def killed(
    rng: random.Random, *arguments: object, seconds_max: float, begun: Path | None = None
) -> None:
    """Run a command and kill it at some moment, or let it end where it was faster.

    Where it is known what it makes first, the moment is after that: a slow machine takes long to
    start.
    """
    with start(*arguments) as process:
        while begun is not None and not begun.exists() and process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        try:
            process.wait(rng.uniform(0.0 if begun else 0.2, seconds_max))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()


def ended(*arguments: object) -> int:
    with start(*arguments) as process:
        process.communicate(timeout=GUARD_SECONDS)
        return process.returncode


def verified(directory: Path) -> VerificationReport:
    return anyio.run(verify, directory)


async def made(data_dir: Path, backend: str) -> None:
    async with PersistenceRegistry(config(data_dir, backend=backend)) as opened:
        await fill(opened)


async def changed(data_dir: Path, backend: str) -> None:
    async with PersistenceRegistry(config(data_dir, backend=backend)) as opened:
        await opened.log_store("more").append(b"")


async def lines(data_dir: Path) -> list[bytes]:
    """What is exported, but for what an import gives anew: versions, times, the order of names."""
    found: list[bytes] = []
    await export_lines(data_dir, found.append)
    gone = re.compile(rb'"(version|saved_at)":[^,}]*')
    return sorted(gone.sub(b"", line) for line in found[1:-1])


@on_both_backends
def test_a_backup_that_is_killed_leaves_the_one_before_or_is_complete(
    tmp_path: Path, backend: str
) -> None:
    data_dir, place, rng = tmp_path / "data", tmp_path / "to" / "backup", random.Random(backend)
    anyio.run(made, data_dir, backend)
    begun = place.with_name(".backup.mpreg-new")
    for number in range(KILLS):
        anyio.run(changed, data_dir, backend)
        command = ("backup", place, "--data-dir", data_dir, "--bytes-per-second", "5e6")
        killed(rng, *command, seconds_max=0.6, begun=begun)
        if place.exists():
            assert verified(place).sound, number
    assert ended("backup", place, "--data-dir", data_dir) == 0
    assert [path.name for path in place.parent.iterdir()] == ["backup"]
    assert verified(place).commit_sequence == verified(data_dir).commit_sequence


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_loops_and_backends
def test_a_backup_that_is_told_to_stop_leaves_nothing(
    tmp_path: Path, backend: str, loop: str, number: signal.Signals
) -> None:
    data_dir, place = tmp_path / "data", tmp_path / "to" / "backup"
    anyio.run(made, data_dir, backend)
    slow = ("--bytes-per-second", "1000", "--loop", loop)
    with start("backup", place, "--data-dir", data_dir, *slow) as process:
        begun = place.with_name(".backup.mpreg-new")
        while not begun.exists() or not any(begun.iterdir()):
            assert process.poll() is None
        process.send_signal(number)
        _, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 130
    told = f"interrupted: {place} is as it was before, or, where it was done already"
    assert errors.splitlines()[-1].startswith(told.encode())
    assert list(place.parent.iterdir()) == []


@on_both_backends
def test_a_restore_that_is_killed_leaves_the_old_store_or_the_new_one(
    tmp_path: Path, backend: str
) -> None:
    data_dir, place = tmp_path / "on" / "data", tmp_path / "backup"
    rng, begun = random.Random(backend), data_dir.with_name(".data.mpreg-new")
    anyio.run(made, data_dir, backend)
    expected = anyio.run(lines, data_dir)
    anyio.run(backup, data_dir, place)
    for _ in range(KILLS):
        command = ("restore", place, "--data-dir", data_dir, "--overwrite")
        killed(rng, *command, seconds_max=0.3, begun=begun)
        assert anyio.run(lines, data_dir) == expected
    assert ended("restore", place, "--data-dir", data_dir, "--overwrite") == 0
    assert [path.name for path in data_dir.parent.iterdir()] == ["data"]
    assert anyio.run(lines, data_dir) == expected


@on_both_backends
def test_an_export_or_import_that_is_killed_is_whole_or_not_there(
    tmp_path: Path, backend: str
) -> None:
    data_dir, place, rng = tmp_path / "data", tmp_path / "to", random.Random(backend)
    place.mkdir()
    anyio.run(made, data_dir, backend)
    expected = anyio.run(lines, data_dir)
    export = ("export", place / "lines", "--data-dir", data_dir, "--overwrite")
    for _ in range(KILLS // 2):
        killed(rng, *export, seconds_max=0.3, begun=place / ".lines.mpreg-new")
        if (place / "lines").exists():
            assert b'"type":"end"' in (place / "lines").read_bytes()
    assert ended(*export) == 0
    command = ("import", place / "lines", "--data-dir", place / "new", "--backend", backend)
    for _ in range(KILLS):
        killed(rng, *command, seconds_max=0.5, begun=place / ".new.mpreg-new")
        if (place / "new").exists():
            assert anyio.run(lines, place / "new") == expected
            shutil.rmtree(place / "new")
    assert ended(*command) == 0
    assert sorted(path.name for path in place.iterdir()) == ["lines", "new"]
    assert anyio.run(lines, place / "new") == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_a_repair_that_is_killed_loses_nothing(tmp_path: Path, seed: int) -> None:
    data_dir, rng = tmp_path / "data", random.Random(seed)
    anyio.run(filled, data_dir)
    tamper(data_dir, "UPDATE records SET data = x'0504' WHERE offset = 9 AND length(data) = 100")
    for _ in range(KILLS):
        killed(rng, "verify", "--repair", "--data-dir", data_dir, seconds_max=0.8)
        found = [path.read_text() for path in (data_dir / "quarantine").glob("*.jsonl")]
        is_there = not verified(data_dir).sound
        assert is_there or any("BQQ=" in text for text in found)
    assert anyio.run(repair, data_dir).sound


def test_a_backup_without_room_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    data_dir, place = tmp_path / "data", tmp_path / "to" / "backup"
    anyio.run(filled, data_dir)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    with start("backup", place, "--data-dir", data_dir, limit=limit) as process:
        _, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 4, errors
    assert b"State of the data: unchanged." in errors
    assert b"Traceback" not in errors
    assert errors.startswith(f"mpreg: {place.parent}/".encode())
    assert list(place.parent.iterdir()) == []
    assert verified(data_dir).sound


@on_both_backends
@pytest.mark.parametrize("command", ["backup", "restore", "export"])
def test_without_room_it_is_told_of_the_device_that_has_none(
    tmp_path: Path, backend: str, command: str
) -> None:
    data_dir, copy, place = tmp_path / "data", tmp_path / "copy", tmp_path / "to" / "new"

    async def fill_one() -> None:
        async with PersistenceRegistry(config(data_dir, backend=backend)) as opened:
            await opened.log_store("audit").append_many([bytes(10_000)] * 100)

    anyio.run(fill_one)
    assert ended("backup", copy, "--data-dir", data_dir) == 0
    place.parent.mkdir()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    words = [copy, "--data-dir", place] if command == "restore" else [place, "--data-dir", data_dir]
    with start(command, *words, limit=limit) as process:
        _, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 4, errors
    assert errors.startswith(f"mpreg: {place.parent}/".encode()), errors
    assert list(place.parent.iterdir()) == []


@on_both_backends
def test_an_import_without_room_ends_and_leaves_nothing(tmp_path: Path, backend: str) -> None:
    data_dir, exported = tmp_path / "data", tmp_path / "lines"
    anyio.run(filled, data_dir)
    assert ended("export", exported, "--data-dir", data_dir) == 0

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    place = tmp_path / "to" / "new"
    command = ("import", exported, "--data-dir", place, "--backend", backend)
    with start(*command, limit=limit) as process:
        _, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 4, errors
    assert b"Traceback" not in errors
    assert list(place.parent.iterdir()) == []


def test_a_compaction_over_the_limit_on_file_sizes_ends_as_on_a_full_disk(tmp_path: Path) -> None:
    """All that is alive, in one file, is larger than the limit; each segment is not."""
    data_dir = tmp_path / "data"

    async def fill_segments() -> None:
        settings = config(data_dir, backend="file", journal_segment_bytes=64 << 10)
        async with PersistenceRegistry(settings) as opened:
            for number in range(40):
                await opened.log_store("audit").append(bytes(10_000))
                await opened.key_value_store("shelf").put("count", b"%d" % number)

    anyio.run(fill_segments)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    with start("compact", "--data-dir", data_dir, limit=limit) as process:
        _, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 4, errors
    assert b"a snapshot was given up: File too large" in errors
    assert b"Traceback" not in errors
    assert ended("compact", "--data-dir", data_dir) == 0
    assert verified(data_dir).records == 40


def test_a_backup_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    data_dir, place = tmp_path / "data", tmp_path / "to" / "backup"
    anyio.run(filled, data_dir)
    command = ("backup", place, "--data-dir", data_dir, "--bytes-per-second", "1000")
    with start(*command) as process:
        staging = place.with_name(".backup.mpreg-new") / "mpreg.db"
        while not staging.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 130, errors
    assert b"interrupted" in errors
    assert list(place.parent.iterdir()) == []


def waiting_bytes(pipe: IO[bytes]) -> int:
    """What was written to it and not read yet."""
    count = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


@on_both_loops
def test_an_import_that_waits_for_its_input_can_be_interrupted(tmp_path: Path, loop: str) -> None:
    place = tmp_path / "to" / "data"
    command = (sys.executable, "-m", "mpreg.cli", "import", "-", "--data-dir", place)
    with subprocess.Popen(
        [*map(str, command), "--loop", loop],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b'{"type":"mpreg-export","format_version":1,"commit_sequence":1}\n')
        process.stdin.flush()
        while waiting_bytes(process.stdin):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            # Its input stays open, and nothing more comes.
            assert process.wait(GUARD_SECONDS) == 130
        finally:
            process.kill()
        told = process.stderr.read()
    assert told.startswith(b"interrupted: there is no new data directory")
    assert list(place.parent.iterdir()) == []


@pytest.mark.parametrize("source", ["-", "/dev/zero"])
@on_both_loops
def test_an_import_of_a_line_without_an_end_is_refused(
    tmp_path: Path, loop: str, source: str
) -> None:
    place, settings = tmp_path / "to" / "data", tmp_path / "mpreg.toml"
    settings.write_text("[mpreg.persistence]\nvalue_bytes_max = 4096\n")
    with Path("/dev/zero").open("rb") as endless:
        cat = subprocess.Popen(["cat"], stdin=endless, stdout=subprocess.PIPE)
        with cat:
            result = subprocess.run(
                [
                    sys.executable, "-m", "mpreg.cli", "import", source, "--loop", loop,
                    "--config", str(settings), "--data-dir", str(place),
                ],
                cwd=REPOSITORY, stdin=cat.stdout, capture_output=True, text=True,
                timeout=GUARD_SECONDS, check=False,
            )  # fmt: skip
            cat.kill()
    assert result.returncode == 3
    assert "line 1: it is longer than" in result.stderr
    assert list(place.parent.iterdir()) == []


def test_an_export_that_nobody_reads_to_its_end_ends_cleanly(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    anyio.run(filled, data_dir)
    # More than a pipe holds.
    with start("export", "-", "--data-dir", data_dir) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"{"
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        assert (process.wait(GUARD_SECONDS), errors) == (0, b"")


def test_a_store_that_was_left_between_two_renames_is_put_back(tmp_path: Path) -> None:
    """Where the system cannot exchange two names."""
    data_dir, place = tmp_path / "data", tmp_path / "backup"
    anyio.run(filled, data_dir)
    anyio.run(backup, data_dir, place)
    place.rename(tmp_path / ".backup.mpreg-old")
    assert anyio.run(backup, data_dir, place).unchanged
    shutil.copytree(place, tmp_path / ".backup.mpreg-old")
    with pytest.raises(DataDirectoryError, match="look at both"):
        anyio.run(backup, data_dir, place)
