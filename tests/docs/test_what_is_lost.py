"""The page that says what is lost when names a test for each thing that it says."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Final

import pytest

from tests.docs.pages import PAGES, REPOSITORY

PAGE: Final = PAGES["docs/explanation/what-is-lost-when.md"]
TABLES: Final = [
    heading
    for heading in re.findall(r"^## .*$", PAGE.text, re.MULTILINE)
    if "\n| event |" in PAGE.text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
]
ROWS: Final = [(heading, row) for heading in TABLES for row in PAGE.table(heading)]
TESTS: Final = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.text)))


@cache
def found_in(path: str) -> set[str]:
    file = REPOSITORY / path
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module([], [])
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


@pytest.mark.parametrize(
    ("heading", "row"), ROWS, ids=[f"{heading[3:]}: {row['event']}" for heading, row in ROWS]
)
def test_each_event_names_the_test_that_proves_it(heading: str, row: dict[str, str]) -> None:
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row["proved by"]), heading
    assert row.get("backend", "both") in ("both", "SQLite", "file")


@pytest.mark.parametrize(("path", "name"), TESTS, ids=[name for _, name in TESTS])
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert name in found_in(path), f"{path} has no {name}"


def test_the_page_tells_of_every_kind_of_event() -> None:
    assert len(TABLES) == 7
    assert len(ROWS) > 40
