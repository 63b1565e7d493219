"""Every example runs by itself, as a reader would run it, and on the other event loop too."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.e2e.support import GUARD_SECONDS, REPOSITORY

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))

by_name = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


@by_name
def test_it_runs_from_the_command_line(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert list(tmp_path.iterdir()) == [], "it left something behind"


@by_name
def test_it_runs_on_trio(example: Path, tmp_path: Path) -> None:
    main = runpy.run_path(str(example))["main"]
    anyio.run(main, tmp_path, backend="trio")


@by_name
def test_it_is_short(example: Path) -> None:
    """An example that needs more lines explains too much at once."""
    assert len(example.read_text().splitlines()) < 60
