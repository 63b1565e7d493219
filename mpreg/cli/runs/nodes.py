"""Which nodes a node knows, as it tells itself."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from mpreg.cli.decoding import printable
from mpreg.cli.options import Common
from mpreg.cli.output import Output
from mpreg.cli.settings import DATA_DIR, source_of
from mpreg.cli.times import moment
from mpreg.client.problems import error_of, is_of_a_node
from mpreg.errors import ConfigurationError, NodeUnreachableError
from mpreg.reasons import reason
from mpreg.server.auth import read_token
from mpreg.settings import MPREGSettings, ServerSettings

__all__ = ["rows", "show_nodes", "url_of"]

PATIENCE_SECONDS: Final = 10.0
ROLES: Final = ("read", "write", "admin")


async def show_nodes(
    common: Common, output: Output, *, url: str | None, token_file: Path | None
) -> None:
    """
    Raises:
        ConfigurationError: the settings, or what they name, cannot be used.
        NodeUnreachableError: the node gave no answer.
        MpregError: it refused to.
    """
    server = _server_settings(common)
    token = _token(server, token_file, is_own=url is None)
    found = await _ask(url_of(server) if url is None else url, token)
    for row in rows(found):
        output.row(row, _line(row))
    for one in found["shared_queues"]:
        at = ", ".join(one["nodes"])
        output.note(f"queue {one['queue']!r} is at several nodes, each with its own messages: {at}")


def _server_settings(common: Common) -> ServerSettings:
    source = source_of(common)
    if not source.is_written(*DATA_DIR):
        # No directory is looked into.
        source = source.with_value(DATA_DIR, Path(), "")
    return MPREGSettings.from_source(source).server


def url_of(server: ServerSettings) -> str:
    """Of a node with these settings, from its own machine."""
    if not server.port:
        raise ConfigurationError("port is 0 in [mpreg.server], any that is free: give the --url")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    scheme = "http" if server.tls_certificate_file is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"


def _token(server: ServerSettings, token_file: Path | None, *, is_own: bool) -> str | None:
    """The one that is named; of the node of the settings the first of its own."""
    if token_file is not None:
        return read_token("--token-file", token_file)
    for role in ROLES if is_own else ():
        token: str | None = getattr(server, f"{role}_token")
        file: Path | None = getattr(server, f"{role}_token_file")
        if token is not None:
            return token
        if file is not None:
            return read_token(f"mpreg.server.{role}_token_file", file)
    return None


async def _ask(url: str, token: str | None) -> dict[str, Any]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        async with httpx.AsyncClient(
            verify=ssl.create_default_context(), trust_env=False, timeout=PATIENCE_SECONDS
        ) as http:
            answer = await http.get(f"{url.rstrip('/')}/v1/fabric", headers=headers)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigurationError(f"--url: {error}", "--url") from error
    except httpx.TransportError as error:
        raise NodeUnreachableError(f"{url}: {reason(error)}", False) from error
    if not (answer.is_success and is_of_a_node(answer)):
        raise error_of(answer)
    told: dict[str, Any] = answer.json()
    return told


def rows(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of what `GET /v1/fabric` answers: each node, then the peers that were never heard of."""
    nodes = found["nodes"]
    for one in nodes:
        names = ("name", "node", "state", "url", "incarnation", "heard_at", "queues", "via", "why")
        yield {name: one[name] for name in names}
    known = {one["node"] for one in nodes}
    for peer in found["peers"]:
        if peer["node"] not in known:
            yield {
                "name": peer["name"],
                "node": peer["node"],
                "state": peer["state"],
                "url": peer["url"],
                "incarnation": None,
                "heard_at": None,
                "queues": None,
                "via": None,
                "why": peer["error"],
            }


def _line(row: dict[str, Any]) -> str:
    queues = "unknown" if row["queues"] is None else f"{len(row['queues'])} queues"
    heard = "" if row["heard_at"] is None else f"heard {moment(row['heard_at'])}"
    life = "" if row["incarnation"] is None else f"incarnation {row['incarnation']}"
    name = printable(row["name"] or "?")
    line = (
        f"{name:<20} {row['state']:<8} {queues:<12} {life:<16} {heard:<29} {printable(row['url'])}"
    )
    return f"{line}\n  {printable(row['why'])}" if row["why"] else line
