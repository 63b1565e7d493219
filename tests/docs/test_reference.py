"""The reference pages and the code say the same."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import ModuleType
from typing import Final

import attrs
import pytest

from mpreg import errors, persistence
from mpreg.actors import Ack
from mpreg.persistence import PersistenceConfig, RegistryStatistics
from mpreg.persistence.backends.sqlite import schema
from tests.docs.pages import PAGES

API: Final = PAGES["docs/reference/api.md"]
CONFIGURATION: Final = PAGES["docs/reference/configuration.md"]
ERRORS: Final = PAGES["docs/reference/errors.md"]
FILES: Final = PAGES["docs/reference/files-on-disk.md"]
STATISTICS: Final = PAGES["docs/reference/statistics.md"]


def _public(module: ModuleType) -> dict[str, type]:
    return {name: getattr(module, name) for name in module.__all__}


CLASSES: Final = {
    name: found
    for name, found in _public(persistence).items()
    if not issubclass(found, errors.MpregError)
}


def _members(body: list[ast.stmt]) -> dict[str, str]:
    """Methods and attributes, each as one line that says all about it but what it does."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
            decorators = "".join(f"@{ast.unparse(one)} " for one in node.decorator_list)
            returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
            line = f"{decorators}{kind} {node.name}({ast.unparse(node.args)}){returns}"
            found[node.name] = line
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = f"{node.target.id}: {ast.unparse(node.annotation)}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node)
    return found


def _stubs() -> dict[str, dict[str, str]]:
    return {
        node.name: _members(node.body)
        for block in API.blocks
        if block.mark == "signatures"
        for node in ast.parse(block.text).body
        if isinstance(node, ast.ClassDef)
    }


def _in_the_code(cls: type) -> dict[str, str]:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    return _members(node.body)


def test_every_public_class_has_its_place_in_the_reference() -> None:
    elsewhere = {PersistenceConfig.__name__, RegistryStatistics.__name__}
    assert set(_stubs()) | elsewhere == set(CLASSES)
    assert set(CLASSES) <= {heading.strip("`") for heading in _headings()}


def _headings() -> list[str]:
    return [line.lstrip("# ") for line in API.prose.splitlines() if line.startswith("##")]


@pytest.mark.parametrize("name", _stubs())
def test_the_signatures_are_those_of_the_code(name: str) -> None:
    shown = _stubs()[name]
    in_the_code = _in_the_code(CLASSES[name])
    assert shown == {
        member: line
        for member, line in in_the_code.items()
        if member in shown or not member.startswith("_")
    }


def test_ack_is_one_and_the_same_in_both_packages() -> None:
    assert persistence.Ack is Ack


def _value(cell: str) -> object:
    text = cell.strip("`")
    if text.endswith(" MiB"):
        return int(text.removesuffix(" MiB")) << 20
    return ast.literal_eval(text)


def _unit(name: str) -> str:
    for ending, unit in {
        "_seconds": "seconds",
        "_bytes": "bytes",
        "_bytes_max": "bytes",
        "_batches_max": "batches",
        "_pages": "pages",
        "restarts_max": "restarts",
    }.items():
        if name.endswith(ending):
            return unit
    return ""


def test_the_settings_are_those_of_the_code_with_unit_and_default() -> None:
    said = {
        row["setting"].strip("`"): (row["unit"], _value(row["default"]))
        for row in CONFIGURATION.table("## Settings")
    }
    assert said == {
        attribute.name: (_unit(attribute.name), attribute.default)
        for attribute in attrs.fields(PersistenceConfig)
    }


def test_the_statistics_are_those_of_the_code() -> None:
    said = [
        name.strip(" `")
        for row in STATISTICS.table("## Fields")
        for name in row["field"].split(",")
    ]
    fields = [attribute.name for attribute in attrs.fields(RegistryStatistics)]
    assert sorted(said) == sorted([*fields, "operations_per_fsync"])


def test_the_errors_are_those_of_the_code_with_base_and_state_of_the_data() -> None:
    said = {
        row["error"].strip("`"): (row["is a"].strip("`"), row["`data_state`"])
        for row in ERRORS.table("## All of them")
    }
    assert said == {
        name: (found.__bases__[0].__name__, found.data_state)
        for name in errors.__all__
        for found in [getattr(errors, name)]
    }


def test_the_tree_of_errors_is_the_one_in_the_code() -> None:
    (tree,) = [block.text for block in ERRORS.blocks if "├──" in block.text]
    assert errors.__doc__ is not None
    names = [line.split()[:4] for line in errors.__doc__.splitlines() if "──" in line]
    shown = [line.split()[:4] for line in tree.splitlines() if "──" in line]
    assert [_name_in(words) for words in shown] == [_name_in(words) for words in names]


def _name_in(words: list[str]) -> str:
    return next(word for word in words if word.endswith("Error"))


def _statement(text: str) -> str:
    return " ".join(text.replace("(", " ( ").replace(")", " ) ").split())


def test_the_tables_and_indexes_are_those_of_the_code() -> None:
    (tables,) = [block.text for block in FILES.blocks if block.language == "sql"]
    shown = [_statement(one) for one in tables.split(";") if one.strip()]
    assert shown == [_statement(one) for one in schema.CREATE if "CREATE " in one]


def test_the_pragmas_are_those_of_the_code() -> None:
    said = {
        (who, row["pragma"].strip("`"))
        for row in FILES.table("## Pragmas")
        for who in row["connection"].split(" and ")
    }
    in_the_code = {
        *(("writer", pragma.removeprefix("PRAGMA ")) for pragma in schema.WRITER_PRAGMAS),
        *(("reader", pragma.removeprefix("PRAGMA ")) for pragma in schema.READER_PRAGMAS),
    }
    from_settings = {
        (who, f"{name} = …")
        for who, names in {
            "writer": (
                "busy_timeout",
                "cache_size",
                "journal_size_limit",
                "synchronous",
                "wal_autocheckpoint",
            ),
            "reader": ("busy_timeout", "cache_size"),
        }.items()
        for name in names
    }
    assert said == in_the_code | from_settings
