"""No statement numbers its parameters: Python 3.12.0 to 3.12.3 takes ``?1`` for a name, and warns
where a tuple is bound to it. Where warnings are errors, that breaks the writer for good."""

from __future__ import annotations

import re
from pathlib import Path

import mpreg

NUMBERED = re.compile(r"\?\d")


def test_no_statement_numbers_its_parameters() -> None:
    files = sorted(Path(mpreg.__file__).parent.rglob("*.py"))
    assert any(file.name == "schema.py" for file in files)
    numbered = [
        f"{file.name}: {line.strip()}"
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if NUMBERED.search(line)
    ]
    assert numbered == []
