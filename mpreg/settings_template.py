"""A file of settings with all there are: their defaults, and what each is for."""

from __future__ import annotations

import ast
import enum
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from mpreg.persistence import LogRetention, PersistenceConfig
from mpreg.queues import QueueConfiguration
from mpreg.settings import MPREGSettings, PeerSettings
from mpreg.settings_lines import Keys
from mpreg.settings_reading import types_of
from mpreg.settings_source import variable_of
from mpreg.settings_writing import Setting, Table, tables_in

__all__ = ["template"]

WIDTH: Final = 98

#: What has no default: the one setting that has to be given.
DATA_DIR: Final = Path("data")

#: Tables that there may be any number of, as examples.
EXAMPLES: Final[tuple[tuple[Keys, attrs.AttrsInstance], ...]] = (
    (("persistence", "log_retention", 0), LogRetention(log="audit", records_max=1_000_000)),
    (("queues", "jobs"), QueueConfiguration()),
    (("peers", 0), PeerSettings(url="http://127.0.0.1:8766")),
)

HEAD: Final = """\
Settings of mpreg: each with its default, which may as well be left out. Paths are relative to the
directory of this file, and ~ is the home directory; where a setting may be None, "none" says so.
Environment variables win: MPREG__PERSISTENCE__DATA_DIR, MPREG__QUEUES__JOBS__MAX_DELIVERIES."""


def template() -> str:
    """It reads back as the defaults."""
    settings = MPREGSettings(persistence=PersistenceConfig(data_dir=DATA_DIR))
    lines = [f"# {line}" for line in HEAD.splitlines()]
    for table in tables_in(settings):
        lines += ["", "", *_table(table)]
    for keys, example in EXAMPLES:
        for table in tables_in(example, keys):
            lines += ["", "", *map(_commented, _table(table))]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> Iterator[str]:
    first, _, _ = inspect.cleandoc(table.kind.__doc__ or "").partition("\n\n")
    yield from _comment(first)
    yield table.header
    said, wanted = _docstrings(table.kind), types_of(table.kind)
    for setting in table.settings:
        name = setting.attribute.name
        yield ""
        yield from _comment(said.get(name, ""))
        yield from _values_of(wanted[name])
        yield _written(setting)


def _written(setting: Setting) -> str:
    if setting.is_secret:
        return (
            f"# {setting.attribute.name}: by the environment variable {variable_of(setting.keys)}"
        )
    return setting.line(Path())


def _commented(line: str) -> str:
    return line if not line or line.startswith("#") else f"#{line}"


def _comment(text: str) -> Iterator[str]:
    for paragraph in text.replace("``", "`").split("\n\n"):
        for line in textwrap.wrap(" ".join(paragraph.split()), WIDTH):
            yield f"# {line}"


def _values_of(wanted: Any) -> Iterator[str]:
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        yield "# One of " + ", ".join(f'"{one.value}"' for one in wanted) + "."


def _docstrings(kind: type) -> Mapping[str, str]:
    """What stands below each attribute of a class in its source."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for attribute, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[attribute.target.id] = inspect.cleandoc(str(below.value.value))
    return found
