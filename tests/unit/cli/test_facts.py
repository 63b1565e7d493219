"""The facts of a file; whatever is wrong with what is in it is one of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from mpreg.cli.demo.facts import (
    FileFacts,
    Unreadable,
    extract_all,
    facts_of_source,
    read_facts,
)

SOURCE = b"""\
import os, sys
from . import near
from ..far import (away, far as there)

class One:
    def method(self):
        import os.path
        def inner(): pass
    async def other(self): pass

if sys:
    def conditional(): pass
else:
    try:
        import missing
    except ImportError:
        def fallback(): pass
    finally:
        pass
match sys:
    case 1:
        class Matched: pass
key = lambda: sys
"""


def test_imports_and_definitions_in_the_files_order_wherever_they_stand() -> None:
    facts = facts_of_source(7, SOURCE)
    assert facts == FileFacts(
        job=7,
        digest=hashlib.sha256(SOURCE).hexdigest(),
        size_bytes=len(SOURCE),
        lines=23,
        imports=("os", "sys", ".", "..far", "os.path", "missing"),
        definitions=(
            "One",
            "One.method",
            "One.method.inner",
            "One.other",
            "conditional",
            "fallback",
            "Matched",
        ),
    )


@pytest.mark.parametrize(
    ("data", "lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"a\r\nb\r\n", 2)]
)
def test_lines_are_counted_with_or_without_a_last_newline(data: bytes, lines: int) -> None:
    assert facts_of_source(0, data).lines == lines


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"def", "SyntaxError"),
        (b"x = '\0'", ""),
        (b"# coding: none-such\n", "SyntaxError"),
        (b"# coding: ascii\n\xff", "SyntaxError"),
        (b"x = '\xff'", ""),
        (b"(" * 100_000, ""),
        (b"-" * 100_000 + b"1", ""),
        (b"x = " + b"9" * 10_000, ""),
        (b"if 1:\n " * 200, ""),
    ],
)
def test_a_file_that_cannot_be_parsed_has_its_error_and_its_digest(data: bytes, error: str) -> None:
    facts = facts_of_source(0, data)
    assert facts.error is not None
    assert facts.error.startswith(error)
    assert "\n" not in facts.error
    assert facts.digest == hashlib.sha256(data).hexdigest()
    assert msgspec.json.decode(msgspec.json.encode(facts), type=FileFacts) == facts


def test_a_file_that_cannot_be_read_has_no_facts(tmp_path: Path) -> None:
    """Also with a name that is not text, which the error repeats."""
    found = read_facts(3, str(tmp_path / "gone-\udcff.py"))
    assert isinstance(found, Unreadable)
    assert found.error.startswith("FileNotFoundError")
    assert found.error.encode()


def test_deep_nesting_that_the_parser_takes_is_walked() -> None:
    deep = b"".join(b" " * depth + b"class C:\n" for depth in range(90)) + b" " * 90 + b"pass\n"
    facts = facts_of_source(0, deep)
    assert (facts.error, len(facts.definitions)) == (None, 90)


def test_a_chunk_keeps_its_order(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(f"import {name}")
    second, missing, first = extract_all([(5, f"{tmp_path}/b"), (7, ""), (2, f"{tmp_path}/a")])
    assert isinstance(second, FileFacts)
    assert isinstance(missing, Unreadable)
    assert isinstance(first, FileFacts)
    assert [(one.job, one.imports) for one in (second, first)] == [(5, ("b",)), (2, ("a",))]
