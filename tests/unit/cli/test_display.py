"""What the demo shows where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mpreg.cli.demo.display import Display


def shown_by(encoding: str = "utf-8") -> tuple[Display, io.BytesIO]:
    output = io.BytesIO()
    file = io.TextIOWrapper(output, encoding=encoding, write_through=True)
    return Display(Console(file=file, highlight=False, force_terminal=False)), output


def test_a_long_line_stays_one_line_without_control_codes() -> None:
    display, output = shown_by()
    display.line("x" * 500 + " [bold]no markup[/bold]", style="red")
    assert output.getvalue() == b"x" * 500 + b" [bold]no markup[/bold]\n"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", b"name-\\udcff \xe2\x98\x83\n"), ("ascii", b"name-\\udcff \\u2603\n")],
)
def test_a_name_that_is_no_text_can_be_told(encoding: str, shown: bytes) -> None:
    display, output = shown_by(encoding)
    display.line("name-\udcff \u2603")
    assert output.getvalue() == shown


def test_progress_is_told_a_few_times_and_never_backwards() -> None:
    display, output = shown_by()
    with display.bars(1_000, 2):
        for done in [*range(0, 500, 7), *range(400, 1_001, 7), 1_000]:
            display.progress(done, 1_000, 0)
    lines = output.getvalue().decode().splitlines()
    assert len(lines) == 10
    assert lines[-1] == "acked     1,000 of 1,000 files"
    assert lines == sorted(lines, key=lambda line: int(line.split()[1].replace(",", "")))
