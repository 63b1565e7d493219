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
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import attrs
from attrs import field, frozen

from mpreg.cache import CacheConfiguration
from mpreg.errors import ConfigurationError
from mpreg.persistence import PersistenceConfig
from mpreg.queues import QueueConfiguration
from mpreg.settings_source import ROOT, SettingsSource
from mpreg.validation import found, meant, seconds, whole_number

__all__ = ["LOOPS", "MPREGSettings", "MonitoringSettings", "PeerSettings", "ServerSettings"]

S = TypeVar("S", bound=attrs.AttrsInstance)

MIB: Final = 1 << 20
LOOPS: Final = ("asyncio", "trio")
LOG_FORMATS: Final = ("console", "json")

#: What a setting that may be None is called where there is no null.
NONE: Final = "none"


def _text(pattern: str, what: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise found(attribute.name, what, value)

    return check


def _one_of(*values: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in values:
            raise found(attribute.name, " or ".join(map(repr, values)), value)

    return check


def _flag(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise found(attribute.name, "true or false", value)


def _url(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None and attribute.default is None:
        return
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        right = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        right = False
    if not right:
        raise found(attribute.name, "an http or https URL", value)


def _path_or_none(value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str | PathLike):
        raise found("path", "a path", value)
    return Path(value)


def _token(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    # What could be guessed, or cannot stand in a header, is no token.
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{16,512}", value):
        raise ConfigurationError(
            f"{attribute.name}: 16 to 512 printable ASCII characters without spaces are expected",
            attribute.name,
        )


def _secret() -> Any:
    return field(default=None, validator=_token, repr=lambda value: "…" if value else "None")


@frozen(kw_only=True)
class ServerSettings:
    """Of the HTTP server. Loopback only, unless tokens say who may do what."""

    host: str = field(default="127.0.0.1", validator=_text(r"[^\s/]+", "a host name or address"))
    port: int = field(default=8765, validator=whole_number(0, 65_535))
    """0: any that is free."""
    loop: str = field(default="asyncio", validator=_one_of(*LOOPS))
    """The event loop to run on."""
    grace_seconds: float = field(default=10.0, validator=seconds(zero=True))
    """How long requests under way may take when the node stops."""

    read_token_file: Path | None = field(default=None, converter=_path_or_none)
    """A file whose first line is the token of those who may read."""
    write_token_file: Path | None = field(default=None, converter=_path_or_none)
    """The same of those who may also write: send, receive, put, append."""
    admin_token_file: Path | None = field(default=None, converter=_path_or_none)
    """The same of those who may also make, change, purge and delete queues."""
    read_token: str | None = _secret()
    """The token itself: from the environment only."""
    write_token: str | None = _secret()
    admin_token: str | None = _secret()

    tls_certificate_file: Path | None = field(default=None, converter=_path_or_none)
    """PEM, with the chain. Without it, connections are not encrypted."""
    tls_key_file: Path | None = field(default=None, converter=_path_or_none)

    body_bytes_max: int = field(default=16 * MIB, validator=whole_number(1_024))
    """Of a request, but for what is streamed: snapshots."""
    connections_max: int = field(default=2_048, validator=whole_number(1))
    """At the same time; further ones wait to be accepted."""
    long_polls_max: int = field(default=4_096, validator=whole_number(1))
    """Requests that wait for messages or changes at the same time."""
    long_poll_seconds_max: float = field(default=60.0, validator=seconds(zero=False))
    """How long one may wait; who asks for longer waits so long."""
    requests_per_second_max: float | None = field(
        default=None, validator=seconds(zero=False, none=True)
    )
    """From one address; None: any number."""
    idempotency_window_seconds: float = field(default=86_400.0, validator=seconds(zero=False))
    """For how long the answer to a write with an ``Idempotency-Key`` is remembered."""

    def __attrs_post_init__(self) -> None:
        if (self.tls_certificate_file is None) is not (self.tls_key_file is None):
            missing = "tls_key_file" if self.tls_key_file is None else "tls_certificate_file"
            raise ConfigurationError(
                f"{missing}: missing; a certificate and its key belong together", missing
            )
        if not self.is_loopback and not self.has_tokens:
            raise ConfigurationError(
                f"host: {self.host!r} can be reached from other machines, and no token is set: give "
                "read_token_file, write_token_file or admin_token_file, or listen on 127.0.0.1",
                "host",
            )

    @property
    def has_tokens(self) -> bool:
        names = ("read", "write", "admin")
        return any(
            getattr(self, f"{name}_token{end}") is not None
            for name in names
            for end in ("", "_file")
        )

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@frozen(kw_only=True)
class MonitoringSettings:
    """What a node tells of itself."""

    metrics: bool = field(default=True, validator=_flag)
    """Whether there is ``/metrics``."""
    status_page: bool = field(default=True, validator=_flag)
    """Whether there is a page for people at ``/``."""
    log_format: str = field(default="console", validator=_one_of(*LOG_FORMATS))
    log_level: str = field(default="info", validator=_one_of("debug", "info", "warning", "error"))
    opentelemetry: bool = field(default=False, validator=_flag)
    """Spans of requests and commits; needs ``mpreg[opentelemetry]``."""


@frozen(kw_only=True)
class PeerSettings:
    """Another node."""

    url: str = field(validator=_url)
    token_file: Path | None = field(default=None, converter=_path_or_none)
    """A file whose first line is the token for it."""


@frozen(kw_only=True)
class MPREGSettings:
    """The settings of a node.

    Raises:
        ConfigurationError: a value has the wrong type, is out of range, or is impossible beside
            another one. The ``from_…`` methods also raise it for unknown names; it names the file
            and the line, or the variable, what was found, and what is allowed.
    """

    persistence: PersistenceConfig
    name: str = field(
        default="mpreg", validator=_text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "a name of the node")
    )
    """Names it among its peers."""
    advertised_url: str | None = field(default=None, validator=_url)
    """Under which its peers reach it; None: where it listens."""
    announcement_ttl_seconds: float = field(default=15.0, validator=seconds(zero=False))
    """For how long its peers believe what it announces; it announces three times as often."""
    cache: CacheConfiguration = field(factory=CacheConfiguration)
    queues: Mapping[str, QueueConfiguration] = field(factory=dict)
    server: ServerSettings = field(factory=ServerSettings)
    monitoring: MonitoringSettings = field(factory=MonitoringSettings)
    peers: tuple[PeerSettings, ...] = ()

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
        return cls.from_source(SettingsSource(None, settings), environment=environment)

    @classmethod
    def from_source(
        cls, source: SettingsSource, *, environment: Mapping[str, str] | None = None
    ) -> Self:
        """From what was read."""
        source = source.with_environment(environment or {})
        reader = _Reader(source)
        known = attrs.fields_dict(cls)
        own = {}
        for name, value in source.settings.items():
            if name not in known:
                raise source.error(_unknown(name, value, list(known)), name)
            if name not in _TABLES:
                own[name] = reader.value(known[name], value, (name,))
        made = {name: read(reader) for name, read in _TABLES.items()}
        return reader.make(cls, (), {**own, **made})


def _check_suffix(path: Path, *, is_json: bool) -> None:
    if (path.suffix.lower() == ".json") is not is_json:
        raise ConfigurationError(f"{path}: its name says that it is {'no ' if is_json else ''}JSON")


def _unknown(name: str, value: object, known: list[str]) -> str:
    what = f"table [{ROOT}.{name}]" if isinstance(value, Mapping) else f"setting {name!r}"
    return f"unknown {what}; {meant(name, known)}"


@frozen
class _Reader:
    """Makes the parts out of what a source says, and says of what is wrong where it stands."""

    source: SettingsSource

    def table(self, *keys: str) -> Mapping[str, Any]:
        found: Any = self.source.settings
        for key in keys:
            found = found.get(key, {})
        if not isinstance(found, Mapping):
            raise self.source.error(f"[{'.'.join((ROOT, *keys))}] must be a table", *keys)
        return found

    def read(self, kind: type[S], keys: tuple[str, ...], table: Mapping[str, Any]) -> S:
        known = attrs.fields_dict(kind)
        given = {}
        for name, value in table.items():
            if name not in known:
                message = f"unknown setting {name!r}; {meant(name, list(known))}"
                raise self.source.error(f"{'.'.join((ROOT, *keys))}: {message}", *keys, name)
            given[name] = self.value(known[name], value, (*keys, name))
        return self.make(kind, keys, given)

    def make(self, kind: type[S], keys: tuple[str, ...], given: Mapping[str, Any]) -> S:
        try:
            return kind(**given)
        except ConfigurationError as error:
            place = keys if error.setting is None else (*keys, error.setting)
            raise self.source.error(f"{'.'.join((ROOT, *keys))}: {error}", *place) from error
        except TypeError as error:
            missing = [
                name
                for name, attribute in attrs.fields_dict(kind).items()
                if attribute.default is attrs.NOTHING and name not in given
            ]
            if not missing:
                raise
            raise self.source.error(
                f"{'.'.join((ROOT, *keys))}: {missing[0]} is missing", *keys
            ) from error

    def value(self, attribute: attrs.Attribute[Any], value: Any, keys: tuple[str, ...]) -> Any:
        kind = str(attribute.type)
        if value == NONE and "None" in kind:
            return None
        if isinstance(value, str) and keys in self.source.variables:
            value = self._parsed(kind, value, keys)
        if "Path" in kind and isinstance(value, str):
            base = Path() if self.source.path is None else self.source.path.parent
            return base / Path(value).expanduser()
        if "token" in attribute.name and "Path" not in kind and keys not in self.source.variables:
            raise self.source.error(
                f"{attribute.name}: a secret does not stand in a file of settings; give "
                f"{attribute.name}_file, or the environment variable "
                f"MPREG__{'__'.join(keys).upper()}",
                *keys,
            )
        return value

    def _parsed(self, kind: str, text: str, keys: tuple[str, ...]) -> Any:
        for name, parse in _PARSERS.items():
            if name in kind:
                try:
                    return parse(text)
                except ValueError:
                    # Its part says what it wants instead.
                    return text
        return text


def _parsed_flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "bool": _parsed_flag,
    "float": float,
    "int": int,
}


def _persistence(reader: _Reader) -> PersistenceConfig:
    return reader.read(PersistenceConfig, ("persistence",), reader.table("persistence"))


def _queues(reader: _Reader) -> Mapping[str, QueueConfiguration]:
    return {
        name: reader.read(QueueConfiguration, ("queues", name), reader.table("queues", name))
        for name in reader.table("queues")
    }


def _peers(reader: _Reader) -> tuple[PeerSettings, ...]:
    peers = reader.source.settings.get("peers", [])
    if not isinstance(peers, list) or not all(isinstance(one, Mapping) for one in peers):
        raise reader.source.error(f"[[{ROOT}.peers]] must be a list of tables", "peers")
    return tuple(reader.read(PeerSettings, ("peers",), one) for one in peers)


def _section(kind: type[S], name: str) -> Callable[[_Reader], S]:
    return lambda reader: reader.read(kind, (name,), reader.table(name))


_TABLES: Final[dict[str, Callable[[_Reader], Any]]] = {
    "persistence": _persistence,
    "cache": _section(CacheConfiguration, "cache"),
    "queues": _queues,
    "server": _section(ServerSettings, "server"),
    "monitoring": _section(MonitoringSettings, "monitoring"),
    "peers": _peers,
}
