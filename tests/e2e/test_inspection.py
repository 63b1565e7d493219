"""The command line in processes of its own, beside a process that holds the directory."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.support import GUARD_SECONDS, REPOSITORY, Program, loops, on_both_loops

MPREG: Final = [sys.executable, "-m", "mpreg.cli"]


def mpreg(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MPREG, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
        **options,
    )


#: The loop is that of the holder; whoever looks runs on the other.
@pytest.fixture(scope="module", params=loops("trio"))
def holder(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[tuple[Program, Path]]:
    data_dir = tmp_path_factory.mktemp("held") / "data"
    # It lives as long as all tests that look at it take together.
    guard_seconds = 10 * GUARD_SECONDS
    with Program("holder", request.param, data_dir, guard_seconds=guard_seconds) as program:
        assert program.line() == "ready"
        yield program, data_dir


Held = tuple[Program, Path]


@pytest.fixture
def other_loop(request: pytest.FixtureRequest) -> str:
    """Not that of the holder."""
    loop: str = request.node.callspec.params["holder"]
    return {"asyncio": "trio", "trio": "asyncio"}[loop]


def test_beside_a_process_that_writes_everything_can_be_read(holder: Held, other_loop: str) -> None:
    (program, data_dir), loop = holder, other_loop
    options = ("--data-dir", data_dir, "--loop", loop)
    stats = mpreg("stats", "--json", *options)
    assert json.loads(stats.stdout.splitlines()[0])["pid"] == program.pid
    shown = mpreg("queue", "show", "jobs", "--json", *options)
    assert json.loads(shown.stdout)["pending"] == 10
    assert f"pid {program.pid} holds the directory" in shown.stderr
    assert len(mpreg("queue", "peek", "jobs", *options).stdout.splitlines()) == 10
    for command in ("verify", "export"):
        done = mpreg(command, "--json", *options)
        assert done.returncode == 0, done.stderr
    for _ in range(2):
        found = mpreg("inspect", "records", "beats", "--json", *options)
        assert (found.returncode, found.stderr) == (0, "")
        offsets = [json.loads(line)["offset"] for line in found.stdout.splitlines()]
        assert offsets == list(range(len(offsets)))


def test_a_command_that_writes_says_who_holds_the_directory(holder: Held, other_loop: str) -> None:
    (program, data_dir), loop = holder, other_loop
    backup = data_dir.with_name(f"backup-{loop}")
    assert mpreg("backup", backup, "--data-dir", data_dir).returncode == 0
    commands: tuple[tuple[object, ...], ...] = (
        ("queue", "redrive", "jobs"),
        ("queue", "purge", "jobs", "--yes"),
        ("compact",),
        ("verify", "--repair"),
        ("restore", backup, "--overwrite"),
        ("import", "/dev/null"),
    )
    for command in commands:
        refused = mpreg(*command, "--data-dir", data_dir, "--loop", loop)
        assert refused.returncode == 1
        assert f"the process with pid {program.pid} on {os.uname().nodename} since 2" in (
            refused.stderr
        )
        assert "Traceback" not in refused.stderr


MEASURED: Final = """
import resource, sys
from mpreg.cli import main
sys.argv = ["mpreg", *sys.argv[1:]]
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def _peak_kib(*arguments: object) -> tuple[int, int]:
    """Lines printed, and the most memory that the process had."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return len(done.stdout.splitlines()), int(done.stderr.split()[-1])


def test_a_hundred_thousand_keys_are_listed_in_bounded_memory(holder: Held) -> None:
    _, data_dir = holder
    keys = ("inspect", "keys", "numbers", "--json", "--data-dir", data_dir)
    _, one = _peak_kib(*keys, "--limit", 1)
    lines, all_of_them = _peak_kib(*keys)
    assert lines == 100_000
    assert all_of_them - one < 16 << 10


@on_both_loops
@pytest.mark.parametrize("mode", ["--json", "--limit=90000"])
def test_whoever_reads_only_the_head_ends_it_cleanly(holder: Held, loop: str, mode: str) -> None:
    _, data_dir = holder
    place = ("--loop", loop, "--data-dir", str(data_dir))
    command = [*MPREG, "inspect", "keys", "numbers", mode, *place]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(GUARD_SECONDS) == 0


@on_both_loops
def test_an_interrupt_ends_it_without_a_traceback(holder: Held, loop: str) -> None:
    _, data_dir = holder
    command = [*MPREG, "inspect", "keys", "numbers", "--loop", loop, "--data-dir", str(data_dir)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        while process.stdout.read(1 << 16):
            pass
        assert process.stderr.read() == b"interrupted\n"
        assert process.wait(GUARD_SECONDS) == 130


def test_on_a_terminal_a_list_goes_through_the_pager(holder: Held, tmp_path: Path) -> None:
    _, data_dir = holder
    master, terminal = pty.openpty()
    command = [*MPREG, "inspect", "keys", "numbers", "--data-dir", str(data_dir)]
    environment = os.environ | {"PAGER": "head -n 3", "COLUMNS": "40"}
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=GUARD_SECONDS,
        check=False,
    )
    os.close(terminal)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = shown.splitlines()
    assert [line[:6] for line in lines] == ["000000", "000001", "000002"]
    assert {len(line) for line in lines} == {40}


def test_the_directory_may_come_from_the_environment(holder: Held) -> None:
    _, data_dir = holder
    done = mpreg("inspect", "logs", env=os.environ | {"MPREG_DATA_DIR": str(data_dir)})
    assert done.stdout.startswith("beats")
