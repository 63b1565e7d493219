"""The order of the pages: that in which the first page names them, under its headings."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Final

from attrs import define, field

__all__ = ["Section", "sections", "toctrees"]

_HEADING_OR_PAGE: Final = re.compile(
    r"^(###?) (.+)$|\]\(([^)#\s:]+)\.md(?:#[^)]*)?\)", re.MULTILINE
)


@define
class Section:
    caption: str
    pages: list[str] = field(factory=list)
    """Without ``.md``, relative to the directory of the first page."""


def sections(text: str) -> list[Section]:
    """Of the first page: each heading, and the pages that are linked below it and not before."""
    found: list[Section] = []
    known: set[str] = set()
    above = ""
    for depth, heading, page in _HEADING_OR_PAGE.findall(text):
        if depth == "##":
            above = heading
            found.append(Section(heading))
        elif depth:
            found.append(Section(f"{above}: {heading[0].lower()}{heading[1:]}"))
        elif page not in known and found:
            known.add(page)
            found[-1].pages.append(page)
    return [section for section in found if section.pages]


def toctrees(found: Iterable[Section], directory: str) -> str:
    """What tells Sphinx of them, to be put at the end of the first page, in this directory."""
    return "\n".join(_toctree(section, directory) for section in found)


def _toctree(section: Section, directory: str) -> str:
    pages = [f"/{posixpath.normpath(posixpath.join(directory, page))}" for page in section.pages]
    options = [":hidden:", f":caption: {section.caption}", ""]
    return "\n".join(["```{toctree}", *options, *pages, "```", ""])
