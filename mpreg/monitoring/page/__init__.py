"""The status page: the files of this directory as they stand. Nothing is built, nothing comes
from elsewhere, and nothing in it may run but its own scripts."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from attrs import frozen

__all__ = ["INDEX", "PAGE_HEADERS", "Asset", "page_assets"]

#: To be sent with each of them.
PAGE_HEADERS: Final[Mapping[str, str]] = MappingProxyType({
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
})  # fmt: skip

#: The page itself is served at ``/``, the others below ``/page/``.
INDEX: Final = "index.html"

_FILES: Final = {
    INDEX: "text/html; charset=utf-8",
    "status.css": "text/css; charset=utf-8",
    "status.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@frozen
class Asset:
    content: bytes
    content_type: str
    etag: str


def page_assets() -> dict[str, Asset]:
    """The files of the page by name. Reads them: once is enough."""
    return {name: _asset(name, kind) for name, kind in _FILES.items()}


def _asset(name: str, content_type: str) -> Asset:
    content = files(__package__).joinpath(name).read_bytes()
    return Asset(content, content_type, f'"{sha256(content).hexdigest()[:20]}"')
