"""The pages of the documentation, their blocks, and the marks that say how a block is checked.

A mark is an HTML comment on the line above a block, so that no reader of the page sees it::

    <!-- docs: not run, it needs a terminal -->
    <!-- docs: asyncio only, uvloop is an asyncio loop -->
    <!-- docs: file count.py -->        written to that file; the page's console blocks use it
    <!-- docs: output -->               what the block before it prints, numbers aside
    <!-- docs: signatures -->           stubs, compared with the code and not run
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

__all__ = ["PAGES", "REPOSITORY", "Block", "Page", "same_but_for_numbers"]

REPOSITORY: Final = Path(__file__).parents[2]

_MARK: Final = re.compile(r"<!-- docs: (not run|asyncio only|file|output|signatures)[, ]*(.*?) -->")
_HEADING: Final = re.compile(r"#+ (.*)")
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE_CODE: Final = re.compile(r"`([^`]+)`")
#: Figures, and what is made by chance.
_NUMBER: Final = re.compile(r"\b[0-9a-f]{32}\b|\d[\d,.]*")


@frozen
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    mark: str
    """What the comment above it says first, or empty."""
    argument: str
    """The rest of the comment: a reason, or a file's name."""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """Of a console block: each command, and the lines that it is said to print."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                assert found, f"{self.name}: a console block begins with a command"
                found[-1][1].append(line)
        return found


@frozen
class Page:
    name: str
    """Its path in the repository."""
    text: str

    @property
    def path(self) -> Path:
        return REPOSITORY / self.name

    @property
    def blocks(self) -> list[Block]:
        return list(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        lines = self.text.splitlines()
        start = 0
        inside = False
        for number, line in enumerate(lines):
            if not line.startswith("```"):
                continue
            if inside:
                mark = _MARK.fullmatch(lines[start - 1]) if start else None
                yield Block(
                    page=self.name,
                    line=start + 1,
                    language=lines[start][3:],
                    text="\n".join(lines[start + 1 : number]) + "\n",
                    mark="" if mark is None else mark[1],
                    argument="" if mark is None else mark[2],
                )
            else:
                start = number
            inside = not inside
        assert not inside, f"{self.name}: the block in line {start + 1} has no end"

    @property
    def prose(self) -> str:
        """The page without its blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    @property
    def links(self) -> list[str]:
        return _LINK.findall(_INLINE_CODE.sub("", self.prose))

    @property
    def inline_code(self) -> list[str]:
        return _INLINE_CODE.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """What a link to a heading may name, as GitHub makes it of the heading."""
        return {_slug(heading) for heading in _HEADING.findall(self.prose)}

    def table(self, heading: str) -> list[dict[str, str]]:
        """The rows of the first table below a heading, each as column → cell."""
        _, found, below = self.text.partition(f"\n{heading}\n")
        assert found, f"{self.name} has no heading {heading!r}"
        rows: list[list[str]] = []
        for line in below.splitlines():
            if line.startswith("|"):
                rows.append([cell.strip() for cell in line.strip("|").split("|")])
            elif rows:
                break
        columns, _rule, *cells = rows
        return [dict(zip(columns, row, strict=True)) for row in cells]


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def same_but_for_numbers(text: str) -> str:
    """For comparing what is printed with what a page shows, where the figures differ each time."""
    return _NUMBER.sub("0", text).strip()


def _pages() -> list[Page]:
    paths = [
        *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        REPOSITORY / "examples/README.md",
        *sorted((REPOSITORY / "docs").rglob("*.md")),
    ]
    return [Page(str(path.relative_to(REPOSITORY)), path.read_text()) for path in paths]


PAGES: Final = {page.name: page for page in _pages()}
