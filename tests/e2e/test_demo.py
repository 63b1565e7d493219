"""The main job as a user runs it: what it says, what it proves, and its exit code."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.queues import MessageQueueManager
from tests.e2e.support import GUARD_SECONDS, REPOSITORY, loops, on_both_loops

FILES = 40

#: Files that cannot be parsed, or not even read.
BAD_FILES = {
    "syntax.py": b"def\n",
    "null.py": b"x = '\0'\n",
    "encoding.py": b"# coding: none-such\n",
    "latin.py": b"x = '\xe9'\n",
    "deep.py": b"(" * 50_000,
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A small tree of Python files with everything in it that can be wrong with one."""
    root = tmp_path / "sources"
    root.mkdir()
    for number in range(FILES):
        (root / f"m{number}.py").write_text(f"import os\n\ndef f{number}():\n    pass\n" * 50)
    for name, data in BAD_FILES.items():
        (root / name).write_bytes(data)
    (root / "dangling.py").symlink_to("nowhere")
    Path(os.fsdecode(os.fsencode(root) + b"/name-\xff.py")).touch()
    return root


TOTAL = FILES + len(BAD_FILES) + 2
WITH_ERROR = len(BAD_FILES)

#: All but the dangling link, which has no facts and is a dead letter.
INDEXED = TOTAL - 1


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mpreg.cli", "demo", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=GUARD_SECONDS,
        check=False,
    )


def table_of(output: str) -> dict[str, str]:
    rows = (line.split("│")[1:3] for line in output.splitlines() if line.startswith("│"))
    return {name.strip(): value.strip() for name, value in rows}


@pytest.mark.parametrize("loop", loops("asyncio"))
def test_it_survives_kills_and_proves_it_in_plain_lines(
    loop: str, sources: Path, tmp_path: Path
) -> None:
    done = demo("--path", sources, "--kills", 2, "--loop", loop)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    table = table_of(done.stdout)
    assert table["files indexed"] == table["acks"] == str(INDEXED)
    assert table["of them with an error instead of facts"] == str(WITH_ERROR)
    assert table["messages sent"] == str(TOTAL + 1)
    assert table["dead letters"] == "2 (1 on purpose)"
    assert table["writes (facts, completion and ack of each file)"] == str(3 * INDEXED)
    assert (table["lost"], table["duplicated"]) == ("0", "0")
    assert int(table["commit groups"]) >= 1
    kills = int(table["kills survived"])
    assert done.stdout.count("\nkill ") == done.stdout.count("\nrestore ") == kills
    assert done.stdout.count("\nleases ") == kills
    assert kills == 2 or "note      2 kills were planned" in done.stdout
    assert "every file but 1, which cannot be read, was indexed exactly once" in done.stdout
    assert "a temporary directory, removed" in done.stdout


def test_what_cannot_be_read_is_tried_again_and_shown_at_the_end(sources: Path) -> None:
    done = demo("--path", sources, "--kills", 0)
    assert done.returncode == 0, done.stdout
    # Without kills nothing but their own failures has cost them attempts.
    told = "4 attempts; used up its 4 deliveries; last error: FileNotFoundError"
    on_purpose, dangling = (line for line in done.stdout.splitlines() if line.startswith("dead "))
    assert f"no-such-file.py (on purpose): {told}" in on_purpose
    assert f"{sources}/dangling.py: {told}" in dangling
    assert table_of(done.stdout)["messages redelivered"] == str(2 * 3)


def test_it_says_when_it_takes_a_sample(sources: Path) -> None:
    (sources / "dangling.py").unlink()
    done = demo("--path", sources, "--kills", 0, "--files-max", 10)
    assert done.returncode == 0
    assert f"10 of {TOTAL - 1} Python files" in done.stdout
    assert "even sample" in done.stdout
    table = table_of(done.stdout)
    assert (table["files indexed"], table["dead letters"]) == ("10", "1 (on purpose)")
    assert "every file was indexed exactly once" in done.stdout


async def _sabotage(data_dir: Path) -> str | bytes:
    """Delete a file's facts, complete a job once more, and lose a dead letter."""
    async with PersistenceRegistry(PersistenceConfig(data_dir=data_dir)) as registry:
        index = registry.key_value_store("index")
        key = [entry.key async for entry in index.scan()][7]
        await index.delete(key)
        await registry.log_store("completions").append(b"2")
        files = await MessageQueueManager(registry).get_queue("files")
        on_purpose, _ = await files.dead_letters()
        await files.purge_dead_letters([on_purpose])
    return key


def test_kept_data_is_recounted_and_the_exit_code_tells_what_is_found(
    sources: Path, tmp_path: Path
) -> None:
    """The exit code is the proof's: made false in four ways, refused where there is none."""
    data_dir = tmp_path / "data"
    options = ("--path", sources, "--kills", 0, "--data-dir", data_dir)
    first = demo(*options)
    assert first.returncode == 0, first.stdout
    assert f"kept in {data_dir}" in first.stdout

    again = demo(*options)
    assert again.returncode == 0, again.stdout
    assert f"found {INDEXED} completions" in again.stdout
    table = table_of(again.stdout)
    assert (table["messages sent"], table["transactions"]) == (str(TOTAL + 1), "0")

    key = anyio.run(_sabotage, data_dir)
    (sources / "m3.py").write_text("changed = 1\n")
    sabotaged = demo(*options)
    assert sabotaged.returncode == 1, sabotaged.stdout
    assert f"FAILED: 1 not in the index: {key!s}" in sabotaged.stdout
    assert f"changed since): {sources}/m3.py" in sabotaged.stdout
    assert "FAILED: 1 completed more than once" in sabotaged.stdout
    assert "FAILED: the job that was there to fail is not" in sabotaged.stdout
    assert table_of(sabotaged.stdout)["duplicated"] == "1"
    assert "exactly once" not in sabotaged.stdout

    (sources / "more.py").touch()
    other = demo(*options)
    assert other.returncode == 1
    assert "the index of other files" in other.stdout


def test_a_directory_with_something_else_in_it_is_refused_and_left_alone(
    sources: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    done = demo("--path", sources, "--data-dir", foreign)
    assert done.returncode == 1
    assert "not empty" in done.stdout
    assert [path.name for path in foreign.iterdir()] == ["letter.txt"]


#: Of this interpreter's own files: enough that the demo is at work for some seconds.
FILES_MAX = 500


class Running:
    """The demo on this interpreter's own files, up to where the worker is at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.worker = self._worker_pid()
        # Parsed files are acked: so the parsing processes are there.
        assert self._line_with("acked ")
        # By thread: trio starts processes on one of its own.
        threads = Path(f"/proc/{self.worker}/task").glob("*/children")
        self.parsers = [int(pid) for thread in threads for pid in thread.read_text().split()]
        self._watched = [os.pidfd_open(pid) for pid in (self.worker, *self.parsers)]

    def _line_with(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended without saying {start!r}")

    def _worker_pid(self) -> int:
        return int(self._line_with("start ").split()[2])

    def await_the_end_of_all(self) -> str:
        """Wait for the demo, its worker and the worker's own processes; the rest of its output."""
        output, errors = self.process.communicate(timeout=GUARD_SECONDS)
        assert errors == ""
        for watched in self._watched:
            ended, _, _ = select.select([watched], [], [], GUARD_SECONDS)
            assert ended, "a process was left behind"
            os.close(watched)
        return output


@pytest.fixture
def running(loop: str, tmp_path: Path) -> Iterator[Running]:
    if not (hasattr(os, "pidfd_open") and Path("/proc/self/task").is_dir()):
        pytest.skip("waiting for processes of other processes takes Linux")
    command = [sys.executable, "-m", "mpreg.cli", "demo", "--kills", "0"]
    command += ["--files-max", str(FILES_MAX)]
    command += ["--loop", loop, "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


@on_both_loops
def test_ctrl_c_stops_everything_and_says_where_the_data_is(
    running: Running, tmp_path: Path
) -> None:
    assert len(running.parsers) >= 1
    running.process.send_signal(signal.SIGINT)
    output = running.await_the_end_of_all()
    assert running.process.returncode == 130, output
    assert "interrupted" in output
    assert f"kept in {tmp_path / 'data'}; the same command goes on from there" in output


@pytest.mark.parametrize("loop", ["asyncio"])
def test_a_worker_that_ends_by_itself_is_a_failure(running: Running) -> None:
    os.kill(running.worker, signal.SIGKILL)  # not one of the demo's own kills
    output = running.await_the_end_of_all()
    assert running.process.returncode == 1
    assert f"FAILED: worker {running.worker} ended by itself, with exit code -9" in output


@pytest.mark.parametrize("loop", loops("trio"))
def test_a_demo_that_is_killed_leaves_nothing_running_and_is_gone_on_with(
    running: Running, tmp_path: Path
) -> None:
    running.process.kill()
    running.await_the_end_of_all()
    # The sample is that of the seed, so it is the same job.
    done = demo("--kills", 1, "--files-max", FILES_MAX, "--data-dir", tmp_path / "data")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    table = table_of(done.stdout)
    assert table["messages sent"] == str(FILES_MAX + 1)
    assert table["files indexed"] == table["acks"] == str(FILES_MAX)
    assert (table["lost"], table["duplicated"]) == ("0", "0")
