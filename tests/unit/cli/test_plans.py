"""Which files, and which kills."""

from __future__ import annotations

import os
import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mpreg.cli.demo.plan import DELAY_SECONDS_MAX, plan_kills
from mpreg.cli.demo.sources import (
    SITE_DIRECTORIES,
    find_sources,
    interpreter_roots,
    sample_evenly,
)


@given(st.integers(0, 10_000), st.integers(0, 50), st.integers())
def test_kills_are_in_order_inside_the_job_and_repeatable(jobs: int, kills: int, seed: int) -> None:
    points = plan_kills(jobs, kills, random.Random(seed))
    assert len(points) == kills
    assert points == plan_kills(jobs, kills, random.Random(seed))
    assert [point.after_done for point in points] == sorted(point.after_done for point in points)
    assert all(0 <= point.after_done <= jobs for point in points)
    assert all(0 <= point.delay_seconds <= DELAY_SECONDS_MAX for point in points)


@given(st.integers(0, 400), st.integers(1, 400), st.integers())
def test_a_sample_is_even_in_order_and_repeatable(total: int, count: int, seed: int) -> None:
    items = [f"{number:04}" for number in range(total)]
    sample = sample_evenly(items, count, random.Random(seed))
    assert len(sample) == min(total, count)
    assert sample == sorted(set(sample))
    assert sample == sample_evenly(items, count, random.Random(seed))
    if total > count:
        parts = [int(item) * count // total for item in sample]
        assert all(abs(part - index) <= 1 for index, part in enumerate(parts))


def test_sources_are_python_files_only_each_once(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "site-packages").mkdir()
    for name in ("package/b.py", "a.py", "a.txt", "site-packages/c.py"):
        (tmp_path / name).touch()
    (tmp_path / "dangling.py").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.py")
    own = [str(tmp_path / name) for name in ("a.py", "dangling.py", "package/b.py")]
    roots = [tmp_path, tmp_path / "package", tmp_path / "a.py"]
    assert find_sources(roots, skipped_directories=SITE_DIRECTORIES) == own
    assert find_sources(roots) == [*own, str(tmp_path / "site-packages/c.py")]


def test_the_interpreters_own_roots_hold_its_modules() -> None:
    roots = interpreter_roots()
    assert len(roots) == len(set(roots)) >= 1
    assert (roots[0] / "ast.py").is_file()
