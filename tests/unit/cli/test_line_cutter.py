"""Lines cut out of what comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpreg.cli.runs.import_ import LineCutter


def cut(cutter: LineCutter, pieces: list[bytes]) -> list[bytes]:
    lines = [line for piece in pieces for line in cutter.cut(piece)]
    rest = cutter.rest()
    return [*lines, rest] if rest else lines


@given(st.lists(st.text("ab\n", max_size=12).map(str.encode)))
def test_lines_are_the_same_however_they_come(pieces: list[bytes]) -> None:
    assert cut(LineCutter(1_000), pieces) == b"".join(pieces).splitlines(keepends=True)


def test_a_line_without_an_end_is_given_when_it_is_too_long() -> None:
    cutter = LineCutter(10)
    assert list(cutter.cut(b"ab\n01234")) == [b"ab\n"]
    assert list(cutter.cut(b"56789")) == []
    assert list(cutter.cut(b"x")) == [b"0123456789x"]
