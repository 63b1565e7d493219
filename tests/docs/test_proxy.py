"""The proxy that the page about security shows, in front of a real node."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.docs.pages import PAGES
from tests.e2e.support import GUARD_SECONDS
from tests.e2e.test_serve import Served

PAGE: Final = PAGES["docs/howto/secure-a-node.md"]
NGINX: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

#: Around the server of the page: all of it in a directory of its own, in the foreground, for one.
AROUND: Final = """
daemon off;
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    {server}
}}
"""

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def configuration(place: Path, node: str, port: int) -> str:
    (server,) = [block.text for block in PAGE.blocks if block.argument == "mpreg.conf"]
    here = {
        "http://127.0.0.1:8765": node,
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/nginx/": f"{place}/",
    }
    for told, meant in here.items():
        assert told in server
        server = server.replace(told, meant)
    return AROUND.format(place=place, server=server)


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a node behind it."""
    key, certificate, port = tmp_path / "key.pem", tmp_path / "certificate.pem", free_port()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    text = '[mpreg.persistence]\ndata_dir = "data"\n[mpreg.server]\nwrite_token_file = "token"\n'
    (tmp_path / "token").write_text("token-of-this-test")
    (tmp_path / "token").chmod(0o600)
    with Served(tmp_path, "asyncio", text=text) as node:
        file = tmp_path / "nginx.conf"
        file.write_text(configuration(tmp_path, node.url(), port))
        assert NGINX is not None
        nginx = subprocess.Popen([NGINX, "-c", str(file), "-e", str(tmp_path / "error.log")])
        try:
            # It binds before it serves, and nothing tells when.
            _until_it_listens(port, nginx)
            with httpx.Client(
                base_url=f"https://localhost:{port}",
                headers={"authorization": "Bearer token-of-this-test"},
                verify=ssl.create_default_context(cafile=str(certificate)),
                timeout=GUARD_SECONDS,
            ) as client:
                yield client
        finally:
            nginx.terminate()
            nginx.wait()


def _until_it_listens(port: int, nginx: subprocess.Popen[bytes]) -> None:
    while nginx.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            continue
        return
    raise AssertionError("nginx has ended")


def test_names_with_slashes_bodies_of_any_size_and_streams_go_through(
    proxied: httpx.Client,
) -> None:
    key = "/v1/keys/ns/a%2Fb%20%25"
    assert proxied.put(key, content=b"1").status_code == 200
    entries = proxied.get("/v1/keys/ns").json()["entries"]
    assert [entry["key"] for entry in entries] == ["a/b %"]
    large = bytes(3 << 20)
    assert proxied.put("/v1/snapshots/s", content=large).status_code == 200
    assert proxied.get("/v1/snapshots/s").content == large
    with proxied.stream("GET", "/v1/keys/ns", params={"watch": ""}) as changes:
        lines = changes.iter_lines()
        writer = threading.Thread(
            target=proxied.put, args=("/v1/keys/ns/late",), kwargs={"content": b"2"}
        )
        writer.start()
        # It comes while the stream goes on: nothing holds it back until there is more.
        told = next(line for line in lines if line.startswith("data:"))
        assert json.loads(told.removeprefix("data:"))["key"] == "late"
        writer.join()


def test_a_page_of_the_node_may_ask_it_and_that_of_another_site_may_not(
    proxied: httpx.Client,
) -> None:
    own = {"origin": str(proxied.base_url).rstrip("/")}
    assert proxied.get("/v1/node", headers=own).status_code == 200
    assert proxied.get("/v1/node", headers={"origin": "https://evil.example"}).status_code == 403
