"""The pages as a site: built without a warning, and nothing in it comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import PAGES, REPOSITORY
from tests.e2e.browser import CHROMIUM, browse
from website.http_reference import http_reference
from website.navigation import Section, sections, toctrees

#: Only turns a hang into a failure.
GUARD_SECONDS: Final = 240.0

INDEX: Final = PAGES["docs/index.md"]

#: Where a browser would ask another server for something, and not only lead there.
LOADING: Final = {
    ("a", "href"): False,
    ("link", "href"): True,
    ("form", "action"): True,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "website", str(directory)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return directory


def test_every_page_is_in_the_site_and_its_address_follows_from_its_name(site: Path) -> None:
    missing = [name for name in PAGES if not (site / name).with_suffix(".html").exists()]
    assert missing == []
    assert 'href="docs/index.html"' in (site / "index.html").read_text()


def test_every_page_is_named_on_the_first_one_which_is_where_the_navigation_comes_from() -> None:
    """A page that it does not name has no place in the site: name it under a heading there."""
    named = {
        (INDEX.path.parent / f"{page}.md").resolve()
        for section in sections(INDEX.text)
        for page in section.pages
    }
    assert {page.path for page in PAGES.values()} - named == {INDEX.path}


class _Loaded(HTMLParser):
    """Whatever a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            is_address = name in ("href", "src", "srcset", "action", "data", "poster", "content")
            if is_address and value and LOADING.get((tag, name), True):
                self.addresses.append(value)


def _is_foreign(address: str) -> bool:
    return re.search(r"(^|[\s=(])(https?:)?//", address) is not None


def test_no_page_loads_anything_from_another_server(site: Path) -> None:
    foreign = []
    for path in sorted(site.rglob("*.html")):
        page = _Loaded()
        page.feed(path.read_text())
        foreign += [f"{path.name}: {one}" for one in page.addresses if _is_foreign(one)]
    assert foreign == []


def test_no_style_and_no_script_loads_anything_from_another_server(site: Path) -> None:
    foreign = []
    for path in sorted(site.rglob("*.css")):
        loaded = re.findall(
            r"url\(\s*[\"']?(.*?)[\"']?\s*\)|@import\s+[\"'](.*?)[\"']", path.read_text()
        )
        foreign += [f"{path.name}: {one}" for both in loaded for one in both if _is_foreign(one)]
    for path in sorted(site.rglob("*.js")):
        # A comment may tell of a page, and a name of XML looks like an address.
        code = re.sub(r"/\*.*?\*/|^\s*//.*?$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", code)
        foreign += [f"{path.name}: {one}" for one in found if "www.w3.org" not in one]
    assert foreign == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: make browser")
def test_a_search_finds_pages_without_any_server(site: Path, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as browser:
        browser.open(f"{(site / 'search.html').as_uri()}?q=fdatasync")
        # They appear one by one.
        browser.until("document.querySelectorAll('ul.search a').length >= 2")
        links = browser.run("[...document.querySelectorAll('ul.search a')].map(one => one.href)")
        assert any("docs/explanation/journal.html" in link for link in links)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: make browser")
def test_the_first_page_shows_the_way_in_and_no_error(site: Path, tmp_path: Path) -> None:
    with browse(tmp_path / "profile") as browser:
        browser.open((site / "index.html").as_uri())
        assert browser.until("document.querySelector('h1')?.innerText").startswith("mpreg")
        assert "Tutorial: a node" in browser.text("article")
        captions = browser.run(
            "[...document.querySelectorAll('.caption-text')].map(one => one.textContent)"
        )
        assert captions[:2] == ["Tutorials", "How-to: run a node"]
        assert browser.errors == []


# --- what is made ---


def test_the_navigation_follows_the_first_page() -> None:
    text = """# Title

See [this](howto/b.md).

## How-to

### Run it

- [A](howto/a.md), and [a part of it](howto/a.md#part)
- [elsewhere](https://example.com/c.md)

## Project

- [B](../README.md)
"""
    found = sections(text)
    assert found == [
        Section("How-to: run it", ["howto/a"]),
        Section("Project", ["../README"]),
    ]
    assert "/docs/howto/a\n" in toctrees(found, "docs")
    assert "/README\n" in toctrees(found, "docs")


def test_a_route_is_shown_with_all_that_is_described_of_it() -> None:
    page = http_reference(
        {
            "paths": {
                "/v1/things/{thing}": {
                    "put": {
                        "summary": "Set a thing",
                        "description": "Set ``it``.",
                        "tags": ["things"],
                        "x-mpreg-role": "write",
                        "parameters": [
                            {
                                "name": "ttl",
                                "in": "query",
                                "description": "From now.",
                                "schema": {"type": "number"},
                            }
                        ],
                        "requestBody": {
                            "content": {
                                "application/json": {
                                    "schema": {"$ref": "#/components/schemas/Thing"},
                                    "example": {"size": 7},
                                }
                            }
                        },
                        "responses": {
                            "200": {"description": "Done.", "content": {"application/json": {}}},
                            "304": {"description": "It is the same."},
                            "default": {"$ref": "#/components/responses/Problem"},
                        },
                    }
                }
            },
            "components": {
                "schemas": {
                    "Thing": {
                        "properties": {
                            "size": {"type": "integer"},
                            "names": {
                                "anyOf": [
                                    {"type": "array", "items": {"type": "string"}},
                                    {"type": "null"},
                                ],
                                "default": None,
                            },
                        },
                        "required": ["size"],
                    }
                }
            },
        }
    )
    for line in (
        "## Things",
        "### PUT /v1/things/{thing}",
        "Set `it`.",
        "Needs a token that may *write*.",
        "| `ttl` | query | number | From now. |",
        "Body: [Thing](#thing) (`application/json`)",
        '  "size": 7',
        "Answer 200 (`application/json`)",
        "Answer 304: It is the same.",
        "| `size` | integer | required |",
        "| `names` | list of string or null | `null` |",
    ):
        assert f"\n{line}\n" in f"\n{page}"
