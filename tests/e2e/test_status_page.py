"""The status page of a real node in a real browser."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from tests.e2e.browser import CHROMIUM, Browser, browse
from tests.integration.fabric.support import free_port

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium: scripts/install-browser installs it, as root"
)

TOKEN: Final = "read-token-of-a-test"

CHARTS: Final = ("writes", "group", "ack", "queues")


@contextmanager
def node(data_dir: Path, *options: str, port: int = 0) -> Iterator[tuple[str, Any]]:
    """Its URL and its process."""
    command = [sys.executable, "-m", "mpreg.cli", "serve", "--json", "--data-dir", str(data_dir)]
    with subprocess.Popen(
        [*command, "--port", str(port), *options],
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"], process
        finally:
            process.kill()


def ask(url: str, method: str, path: str, body: object) -> None:
    request = urllib.request.Request(
        url + path,
        method=method,
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=60).close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with browse(tmp_path / "profile") as browser:
        yield browser


def test_a_person_sees_how_the_node_is(tmp_path: Path, browser: Browser) -> None:
    with node(tmp_path / "data") as (url, _):
        for name in ("jobs", "<b>bold"):
            ask(url, "PUT", f"/v1/queues/{quote(name, safe='')}", {})
        ask(url, "POST", "/v1/queues/jobs/messages", {"messages": [{"payload": 1}] * 3})
        browser.open(url)
        browser.show(1280, 1200)
        browser.until("document.querySelectorAll('#chart-queues path.line').length === 4")
        assert browser.text("#state") == "ready"
        rows = browser.run(
            "[...document.querySelectorAll('#queue-table tbody tr')].map(r => r.innerText)"
        )
        assert rows[0].split("\t")[:3] == ["jobs", "3", "0"]
        # What a queue is called is text, and nothing else.
        assert rows[1].startswith("<b>bold")
        # A node where nothing happens has no thousandths of a write on its axis.
        steps = browser.run("import('/page/charts.js').then(it => it.ticks(0, false, 1))")
        assert steps == [0, 1]
        assert browser.text(".links").split() == ["Metrics", "Persistence", "OpenAPI"]
        _is_accessible(browser)
        _fits(browser, tmp_path)
        assert browser.errors == []


def _is_accessible(browser: Browser) -> None:
    for chart in CHARTS:
        label = browser.run(
            f"document.querySelector('#chart-{chart} svg').getAttribute('aria-label')"
        )
        assert "over 60 s" in label
        assert "now" in label
    headings = "[...document.querySelectorAll('tbody th')].every(one => one.scope === 'row')"
    assert browser.run(headings)
    assert browser.run("document.documentElement.lang") == "en"
    # Through time by keyboard, and told to who cannot see it.
    browser.run("document.querySelector('#chart-queues svg').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft")
    assert "pending 3" in browser.text("#chart-queues [aria-live]")


def _fits(browser: Browser, directory: Path) -> None:
    """On a phone and in the dark, too."""
    light = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.show(360, 740, scheme="dark")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != light
    browser.photograph(directory / "phone.png")
    assert (directory / "phone.png").stat().st_size > 10_000


def test_it_says_when_the_node_cannot_be_reached_and_finds_it_again(
    tmp_path: Path, browser: Browser
) -> None:
    with node(tmp_path / "data") as (url, process):
        browser.open(url)
        browser.until("document.querySelector('#state')?.dataset.state === 'ready'")
        process.send_signal(signal.SIGKILL)
        browser.until("document.querySelector('#state')?.dataset.state === 'unreachable'")
        assert "cannot be reached since" in browser.text("#unreachable")
    with node(tmp_path / "data", port=int(url.rpartition(":")[2])):
        browser.until("document.querySelector('#state')?.dataset.state === 'ready'")
        assert browser.run("document.querySelector('#unreachable').hidden")
        assert "generation 2, after one that was cut short" in browser.text("#event-table")


PEERS: Final = """
[mpreg]
name = "{name}"
[mpreg.queues.jobs]
{peers}
"""


def peer(url: str) -> str:
    return f'[[mpreg.peers]]\nurl = "{url}"\n'


def test_a_person_sees_the_other_nodes_and_why_one_is_away(
    tmp_path: Path, browser: Browser
) -> None:
    (tmp_path / "b.toml").write_text(PEERS.format(name="b", peers=""))
    with node(tmp_path / "b", "--config", str(tmp_path / "b.toml")) as (other, _):
        peers = peer(other) + peer(f"http://127.0.0.1:{free_port()}")
        (tmp_path / "a.toml").write_text(PEERS.format(name="a", peers=peers))
        with node(tmp_path / "a", "--config", str(tmp_path / "a.toml")) as (url, _):
            browser.open(url)
            browser.until(
                "document.querySelector('#node-table tr:nth-child(3)')?.innerText.includes('away')"
            )
            browser.until("document.querySelector('#shared-queues').innerText.includes('jobs')")
            rows = browser.run(
                "[...document.querySelectorAll('#node-table tbody tr')].map(r => r.innerText)"
            )
            own, known, missing = (row.split("\t") for row in rows)
            assert own[:5] == ["a", "this one", url, "1", "1"]
            assert known[:5] == ["b", "alive", other, "1", "1"]
            assert missing[0] == "not heard of yet"
            assert "ConnectError" in missing[6]
            assert "jobs (a, b)" in browser.text("#shared-queues")
            assert browser.errors == []


def test_a_node_without_peers_shows_no_others(tmp_path: Path, browser: Browser) -> None:
    with node(tmp_path / "data") as (url, _):
        browser.open(url)
        browser.until("document.querySelector('#state')?.dataset.state === 'ready'")
        assert browser.run("document.querySelector('#nodes').hidden")


#: A node that never comes to the end of its restore.
RESTORING: Final = """
const restore = [{ name: "queues", state: "restoring", done: 40, total: 1000, unit: "queues" }];
window.fetch = async (path) => path.startsWith("health")
  ? Response.json({ ready: false, phase: "starting", restore }, { status: 503 })
  : new Response("", { status: 503 });
"""


def test_it_says_how_far_a_restore_is(tmp_path: Path, browser: Browser) -> None:
    with node(tmp_path / "data") as (url, _):
        browser.open(url, first=RESTORING)
        browser.until("document.querySelector('#state')?.dataset.state === 'starting'")
        said = "The node is restoring its state: queues, 40 of 1,000 queues."
        assert browser.text("#unreachable") == said


def test_it_asks_for_a_token_where_the_node_does(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "node.toml").write_text('[mpreg.server]\nread_token_file = "token"\n')
    with node(tmp_path / "data", "--config", str(tmp_path / "node.toml")) as (url, _):
        browser.open(url)
        browser.until("document.querySelector('#ask:not([hidden])') !== null")
        # What a link without a token would not get is not offered.
        assert browser.text(".links").split() == ["OpenAPI"]
        assert browser.run("document.querySelector('#main').hidden")
        for token, shown in (
            ("no-such-token-at-all", "#refused:not(:empty)"),
            (TOKEN, "#main:not([hidden])"),
        ):
            browser.run(f"document.querySelector('#token').value = {token!r}")
            browser.run("document.querySelector('#ask button').click()")
            browser.until(f"document.querySelector({shown!r}) !== null")
        assert browser.text(".links").split() == ["OpenAPI"]
        assert browser.run("document.querySelector('#ask').hidden")
