"""`MPREGSettings`: the settings of a node, all of its parts in one file.

::

    [mpreg]                      the node itself
    [mpreg.persistence]          `mpreg.persistence.PersistenceConfig`
    [mpreg.cache]                `mpreg.cache.CacheConfiguration`
    [mpreg.queues.NAME]          `mpreg.queues.QueueConfiguration`, of each queue
    [mpreg.server]               `ServerSettings`
    [mpreg.monitoring]           `MonitoringSettings`
    [[mpreg.peers]]              `PeerSettings`, of each other node

Nothing here reads the environment: whoever starts the program passes it in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import attrs
from attrs import field, frozen

from mpreg.cache import CacheConfiguration
from mpreg.errors import ConfigurationError, InvalidArgumentError
from mpreg.persistence import PersistenceConfig
from mpreg.queues import QueueConfiguration
from mpreg.queues.storage import checked_queue_name
from mpreg.settings_reading import SECRET, SettingsReader
from mpreg.settings_source import SettingsSource
from mpreg.validation import (
    as_path,
    flag,
    found,
    instance,
    number,
    one_of,
    path_or_none,
    seconds,
    text,
    whole_number,
)

__all__ = [
    "LOOPS",
    "ConfigurationError",
    "MPREGSettings",
    "MonitoringSettings",
    "PeerSettings",
    "ServerSettings",
]

MIB: Final = 1 << 20
LOOPS: Final = ("asyncio", "trio")
ROLES: Final = ("read", "write", "admin")
#: What a token is, for whoever gave something else.
A_TOKEN: Final = "16 to 512 printable ASCII characters without spaces"  # noqa: S105
LOG_FORMATS: Final = ("console", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


def _url(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None and attribute.default is None:
        return
    if isinstance(value, str) and "@" in value:
        # Not shown: it may be a password.
        raise ConfigurationError(
            f"{attribute.name}: no name or password stands in a URL; a token has a file of its own",
            attribute.name,
        )
    if not isinstance(value, str) or not _is_url(value):
        raise found(attribute.name, "a URL like 'http://host:8765'", value)


def _is_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        port_is_right = parts.port != 0
    except ValueError:
        return False
    is_whole = not re.search(r"[\s?#]", value) and bool(parts.hostname)
    return is_whole and port_is_right and parts.scheme in ("http", "https")


def is_token(value: str) -> bool:
    """What could be guessed, or cannot stand in a header, is none."""
    return re.fullmatch(r"[!-~]{16,512}", value) is not None


def _token(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    # It is never shown.
    if not isinstance(value, str) or not is_token(value):
        raise ConfigurationError(f"{attribute.name}: {A_TOKEN} are expected", attribute.name)


def _secret() -> Any:
    return field(
        default=None,
        validator=_token,
        repr=lambda value: "None" if value is None else "…",
        metadata=SECRET,
    )


@frozen(kw_only=True)
class ServerSettings:
    """Of the HTTP server. Loopback only, unless tokens say who may do what."""

    host: str = field(default="127.0.0.1", validator=text(r"[^\s/]+", "a host name or address"))
    """Where to listen. One that other machines can reach needs a token."""
    port: int = field(default=8765, validator=whole_number(0, 65_535))
    """TCP; 0: any that is free."""
    loop: str = field(default="asyncio", validator=one_of(*LOOPS))
    """The event loop to run on: ``"asyncio"`` or ``"trio"``."""
    grace_seconds: float = field(default=10.0, validator=seconds(zero=True))
    """How long requests under way may take when the node stops."""

    read_token_file: Path | None = field(default=None, converter=as_path, validator=path_or_none)
    """A file whose first line is the token of those who may read."""
    write_token_file: Path | None = field(default=None, converter=as_path, validator=path_or_none)
    """The same of those who may also write: send, receive, put, append."""
    admin_token_file: Path | None = field(default=None, converter=as_path, validator=path_or_none)
    """The same of those who may also make, change, purge and delete queues."""
    read_token: str | None = _secret()
    """The token itself instead of a file; never in the file of settings."""
    write_token: str | None = _secret()
    """The same of those who may also write."""
    admin_token: str | None = _secret()
    """The same of those who may do everything."""

    tls_certificate_file: Path | None = field(
        default=None, converter=as_path, validator=path_or_none
    )
    """PEM, with the chain. Without it, connections are not encrypted."""
    tls_key_file: Path | None = field(default=None, converter=as_path, validator=path_or_none)
    """PEM, the certificate's private key."""

    body_bytes_max: int = field(default=16 * MIB, validator=whole_number(1_024))
    """Of a request, but for what is streamed: snapshots."""
    body_bytes_per_second_min: int = field(default=500, validator=whole_number(1))
    """A body that comes more slowly, after 30 seconds, is not waited for."""
    connections_max: int = field(default=2_048, validator=whole_number(1))
    """At the same time; further ones wait to be accepted."""
    long_polls_max: int = field(default=4_096, validator=whole_number(1))
    """Requests that wait for messages or changes at the same time."""
    long_poll_seconds_max: float = field(default=60.0, validator=seconds(zero=False))
    """How long one may wait; who asks for longer waits so long."""
    requests_per_second_max: float | None = field(
        default=None, validator=number(0, above=True, none=True)
    )
    """From one address; None: any number."""
    idempotency_window_seconds: float = field(default=86_400.0, validator=seconds(zero=False))
    """For how long the answer to a write with an ``Idempotency-Key`` is remembered."""

    def __attrs_post_init__(self) -> None:
        if problems := list(self._impossible()):
            raise ConfigurationError.of(problems)

    def _impossible(self) -> Iterator[ConfigurationError]:
        """What cannot be beside something else."""
        if (self.tls_certificate_file is None) is not (self.tls_key_file is None):
            missing = "tls_key_file" if self.tls_key_file is None else "tls_certificate_file"
            yield ConfigurationError(
                f"{missing}: missing; a certificate and its key belong together", missing
            )
        for role in ROLES:
            if None not in (getattr(self, f"{role}_token"), getattr(self, f"{role}_token_file")):
                yield ConfigurationError(
                    f"{role}_token: {role}_token_file is given as well; one of them is the token",
                    f"{role}_token",
                )
        if not self.is_loopback and not self.has_tokens:
            yield ConfigurationError(
                f"host: {self.host!r} can be reached from other machines, and no token is set: "
                "give read_token_file, write_token_file or admin_token_file, or listen on "
                "127.0.0.1",
                "host",
            )

    @property
    def has_tokens(self) -> bool:
        """Whether any role has one."""
        names = [f"{role}_token{end}" for role in ROLES for end in ("", "_file")]
        return any(getattr(self, name) is not None for name in names)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@frozen(kw_only=True)
class MonitoringSettings:
    """What a node tells of itself."""

    metrics: bool = field(default=True, validator=flag)
    """Whether there is ``/metrics``."""
    status_page: bool = field(default=True, validator=flag)
    """Whether there is a page for people at ``/``."""
    log_format: str = field(default="console", validator=one_of(*LOG_FORMATS))
    """``"console"``, for people, or ``"json"``, an object a line."""
    log_level: str = field(default="info", validator=one_of(*LOG_LEVELS))
    """``"debug"``, ``"info"``, ``"warning"`` or ``"error"``: what is less than that is not told."""
    opentelemetry: bool = field(default=False, validator=flag)
    """Spans of requests and commits; needs ``mpreg[opentelemetry]``."""


@frozen(kw_only=True)
class PeerSettings:
    """Another node."""

    url: str = field(validator=_url)
    """Its HTTP server, like ``"http://host:8765"``."""
    token_file: Path | None = field(default=None, converter=as_path, validator=path_or_none)
    """A file whose first line is the token for it."""


def _queues(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Mapping):
        raise found(attribute.name, "a mapping of names to QueueConfiguration", value)
    for name, queue in value.items():
        try:
            checked_queue_name(name)
        except InvalidArgumentError as error:
            raise ConfigurationError(f"{attribute.name}: {error}", attribute.name) from error
        if not isinstance(queue, QueueConfiguration):
            raise found(attribute.name, f"QueueConfiguration of {name!r}", queue)


def _peers(value: object) -> tuple[PeerSettings, ...]:
    if not isinstance(value, list | tuple):
        raise found("peers", "a list of PeerSettings", value)
    known: set[str] = set()
    for peer in value:
        if not isinstance(peer, PeerSettings):
            raise found("peers", "a list of PeerSettings", value)
        url = peer.url.rstrip("/").lower()
        if url in known:
            raise ConfigurationError(f"peers: {peer.url!r} is named twice", "peers")
        known.add(url)
    return tuple(value)


@frozen(kw_only=True)
class MPREGSettings:
    """The settings of a node.

    Raises:
        ConfigurationError: a value has the wrong type, is out of range, or is impossible beside
            another one. The ``from_…`` methods also raise it for unknown names, and tell of all
            that is wrong (`ConfigurationError.problems`): the file and the line, or the variable,
            the full name, what was found, and what is allowed.
    """

    name: str = field(
        default="mpreg", validator=text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "a node's name")
    )
    """Names it among its peers: letters, digits, and ``.``, ``_``, ``-`` between them."""
    advertised_url: str | None = field(default=None, validator=_url)
    """Under which its peers reach it; None: where it listens."""
    announcement_ttl_seconds: float = field(default=15.0, validator=seconds(zero=False))
    """For how long its peers believe what it announces; they ask three times as often."""
    peer_patience_seconds: float | None = field(
        default=30.0, validator=seconds(zero=True, none=True)
    )
    """How long a peer that is not heard of may keep new queues from being made; None: for ever."""
    persistence: PersistenceConfig = field(validator=instance(PersistenceConfig))
    cache: CacheConfiguration = field(
        factory=CacheConfiguration, validator=instance(CacheConfiguration)
    )
    queues: Mapping[str, QueueConfiguration] = field(factory=dict, validator=_queues)
    """Created at start, or changed to this. Others stay as they are."""
    server: ServerSettings = field(factory=ServerSettings, validator=instance(ServerSettings))
    monitoring: MonitoringSettings = field(
        factory=MonitoringSettings, validator=instance(MonitoringSettings)
    )
    peers: tuple[PeerSettings, ...] = field(default=(), converter=_peers)

    @classmethod
    def from_path(
        cls, path: str | PathLike[str], *, environment: Mapping[str, str] | None = None
    ) -> Self:
        """From a file: JSON where its name ends with ``.json``, else TOML.

        ``environment`` wins over it: see `mpreg.settings_source`. Paths are relative to the
        directory of the file, and ``~`` is the user's. Reads at once, without await.
        """
        return cls.from_source(SettingsSource.read(Path(path)), environment=environment)

    @classmethod
    def from_toml(
        cls, path: str | PathLike[str], *, environment: Mapping[str, str] | None = None
    ) -> Self:
        """`from_path`, of a file that must not be JSON."""
        _check_suffix(Path(path), is_json=False)
        return cls.from_path(path, environment=environment)

    @classmethod
    def from_json(
        cls, path: str | PathLike[str], *, environment: Mapping[str, str] | None = None
    ) -> Self:
        """`from_path`, of a file whose name ends with ``.json``."""
        _check_suffix(Path(path), is_json=True)
        return cls.from_path(path, environment=environment)

    @classmethod
    def from_mapping(
        cls, settings: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
    ) -> Self:
        """From what stands below ``[mpreg]``. Paths are relative to the working directory."""
        return cls.from_source(SettingsSource(settings=settings), environment=environment)

    @classmethod
    def from_source(
        cls, source: SettingsSource, *, environment: Mapping[str, str] | None = None
    ) -> Self:
        """From what was read."""
        reader = SettingsReader(source.with_environment(environment or {}))
        made = reader.read(cls, reader.source.settings)
        reader.check()
        assert made is not None
        return made


def _check_suffix(path: Path, *, is_json: bool) -> None:
    if (path.suffix.lower() == ".json") is not is_json:
        raise ConfigurationError(f"{path}: its name says that it is {'no ' if is_json else ''}JSON")
