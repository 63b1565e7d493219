"""What the site has beside the text of the pages, put in where they say so::

<!-- site: routes -->                  all routes, from the description that a node gives
<!-- site: module mpreg.client -->     the docstrings of a module's public names
"""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any, Final

from sphinx.application import Sphinx

from mpreg.server.negotiation import JSON, encode
from mpreg.server.openapi import describe
from mpreg.server.routes import ENDPOINTS
from mpreg.server.routes.shapes import SHAPES
from website.http_reference import http_reference
from website.navigation import sections, toctrees

__all__ = ["setup", "with_what_is_made"]

_MARK: Final = re.compile(r"^<!-- site: (routes|module ([\w.]+)) -->$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _complete(app: Sphinx, page: str, source: list[str]) -> None:
    text = with_what_is_made(source[0])
    if page == app.config.root_doc:
        text += "\n" + toctrees(sections(source[0]), posixpath.dirname(page))
    source[0] = text


def with_what_is_made(text: str) -> str:
    return _MARK.sub(_made, text)


def _made(mark: re.Match[str]) -> str:
    if mark[1] == "routes":
        # As a node tells it: bytes in an example have become what stands for them in JSON.
        told = encode(describe(ENDPOINTS, SHAPES), JSON)
        return http_reference(json.loads(told))
    return "\n".join(["```{eval-rst}", f".. automodule:: {mark[2]}", "   :members:", "```"])
