"""What is shown on a real terminal while it lasts, and what the shell completes."""

from __future__ import annotations

import functools
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from click.shell_completion import BashComplete

from mpreg.cli.app import mpreg
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueueManager, QueueConfiguration
from tests.e2e.support import GUARD_SECONDS, REPOSITORY
from tests.integration.maintenance_support import fill
from tests.integration.support import config

MPREG: Final = [sys.executable, "-m", "mpreg.cli"]


async def _make(data_dir: Path) -> None:
    async with PersistenceRegistry(config(data_dir)) as opened:
        await fill(opened)
        settings = QueueConfiguration(max_deliveries=1)
        letters = await MessageQueueManager(opened).create_queue("letters", settings)
        await letters.send_many(range(40))
        for message in await letters.receive_many(40):
            await message.nack()
        await letters.subscription("audit")


@pytest.fixture(scope="module")
def store(tmp_path_factory: Any) -> Path:
    data_dir: Path = tmp_path_factory.mktemp("store") / "data"
    anyio.run(_make, data_dir)
    return data_dir


def errors_on_a_terminal(*arguments: object) -> tuple[str, str]:
    """What a command printed, and what a person saw on standard error: a terminal."""
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [*MPREG, *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += os.read(master, 1 << 16)
            except OSError:  # Linux's end of a terminal whose other side is closed
                break
        os.close(master)
        assert process.stdout is not None
        printed = process.stdout.read().decode()
        assert process.wait(GUARD_SECONDS) == 0, shown
    return printed, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_long_commands_show_on_a_terminal_how_far_they_are(store: Path, tmp_path: Path) -> None:
    at = ("--data-dir", store)
    shown: dict[str, str] = {}
    _, shown["verify"] = errors_on_a_terminal("verify", *at)
    _, shown["export"] = errors_on_a_terminal("export", tmp_path / "lines", *at)
    _, shown["import"] = errors_on_a_terminal(
        "import", tmp_path / "lines", "--data-dir", tmp_path / "imported"
    )
    _, shown["compact"] = errors_on_a_terminal("compact", "--data-dir", tmp_path / "imported")
    _, shown["redrive"] = errors_on_a_terminal(
        "queue", "redrive", "letters", "--data-dir", tmp_path / "imported"
    )
    for name, text in shown.items():
        assert re.search(r"[a-z]+ [━╸╺ ]+.* \d+/[\d?]+", text), (name, text)


def test_json_goes_without_a_bar(store: Path) -> None:
    printed, shown = errors_on_a_terminal("verify", "--data-dir", store, "--json")
    assert printed.startswith("{")
    assert shown == ""


def tab(line: str) -> dict[str, str]:
    """What bash gives to the command when Tab is pressed at the end of the line."""
    return {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}


def completed(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """What bash is told, without a process of its own."""
    for name, value in tab(line).items():
        monkeypatch.setenv(name, value)
    return BashComplete(mpreg, {}, "mpreg", "_MPREG_COMPLETE").complete().split()


def test_the_shell_completes_commands_options_and_names(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = functools.partial(completed, monkeypatch)
    assert complete("mpreg que") == ["plain,queue"]
    assert "plain,--data-dir" in complete("mpreg stats --")
    assert complete("mpreg stats --data-dir /tm") == ["dir,/tm"]
    at = f"--data-dir {store}"
    assert complete(f"mpreg queue show {at} ") == ["plain,jobs", "plain,letters"]
    assert complete(f"mpreg queue redrive jobs {at} --to l") == ["plain,letters"]
    assert complete(f"mpreg inspect keys {at} s") == ["plain,shelf"]
    assert complete(f"mpreg inspect records {at} a") == ["plain,audit"]
    assert complete(f"mpreg inspect snapshot {at} i") == ["plain,image"]
    assert complete(f"mpreg inspect key {at} shelf lar") == ["plain,large", "plain,largest"]
    # Then a key is given in hexadecimal.
    assert complete(f"mpreg inspect key {at} --hex shelf lar") == []
    assert complete(f"mpreg queue peek letters {at} --subscription au") == ["plain,audit"]
    assert "plain,audit" in complete(f"mpreg queue peek letters {at} --subscription ")
    settings = tmp_path / "mpreg.toml"
    settings.write_text(f'[mpreg.persistence]\ndata_dir = "{store}"\n')
    assert complete(f"mpreg queue peek --config {settings} j") == ["plain,jobs"]
    monkeypatch.setenv("MPREG_DATA_DIR", str(store))
    assert complete("mpreg queue show le") == ["plain,letters"]


def test_nothing_is_completed_where_there_is_nothing_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = functools.partial(completed, monkeypatch)
    assert complete("mpreg queue show ") == []
    assert complete(f"mpreg queue show --data-dir {tmp_path} ") == []
    assert complete(f"mpreg queue show --config {tmp_path} ") == []
    assert complete(f"mpreg queue peek --data-dir {tmp_path} --subscription ") == []
    assert complete(f"mpreg queue peek none --data-dir {tmp_path} --subscription ") == []
    assert complete(f"mpreg inspect key none --data-dir {tmp_path} ") == []


def test_the_protocol_works_in_a_process_of_its_own(store: Path) -> None:
    line = f"mpreg queue show --data-dir {store} j"
    environment = {"_MPREG_COMPLETE": "bash_complete", **tab(line)}
    done = subprocess.run(
        MPREG,
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=GUARD_SECONDS,
    )
    assert (done.stdout, done.stderr) == ("plain,jobs\n", "")


def test_the_script_for_the_shell_is_that_of_click() -> None:
    done = subprocess.run(
        MPREG,
        cwd=REPOSITORY,
        env=os.environ | {"_MPREG_COMPLETE": "bash_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_MPREG_COMPLETE=bash_complete" in done.stdout
