"""Who may do what: a token for each role, compared in constant time and never shown."""

from __future__ import annotations

import enum
import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from attrs import field, frozen

from mpreg.errors import ConfigurationError, ForbiddenError, RequestRefusedError, UnauthorizedError
from mpreg.settings import A_TOKEN, ServerSettings, is_token

__all__ = ["Access", "Role", "is_loopback", "is_secret", "lowered", "read_token"]


class Role(enum.IntEnum):
    """Each may also do what those before it may."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@frozen
class Access:
    """Of a node."""

    _digests: Mapping[Role, bytes] = field(repr=False)
    """Of the tokens: all of one length, so that comparing tells nothing of theirs."""
    is_loopback: bool
    """Whether only this machine can ask."""

    @classmethod
    def of(cls, settings: ServerSettings) -> Access:
        """Reads the files of tokens.

        Raises:
            ConfigurationError: a file cannot be read, others may read it, or it holds no token; or
                two roles have the same one.
        """
        digests: dict[Role, bytes] = {}
        for role in Role:
            name = f"{role.name.lower()}_token"
            token = getattr(settings, name)
            path = getattr(settings, f"{name}_file")
            if token is None and path is not None:
                token = read_token(f"{name}_file", path)
            if token is not None:
                digests[role] = _digest(token)
        if len(set(digests.values())) != len(digests):
            raise ConfigurationError("two roles have the same token: give each its own")
        return cls(digests, settings.is_loopback)

    def role(self, headers: Mapping[str, str]) -> Role:
        """What the request may do.

        Raises:
            UnauthorizedError: tokens are needed, and this has none, or an unknown one.
            ForbiddenError: a browser sent it for a page of somebody else.
        """
        _check_origin(headers)
        if not self._digests:
            _check_host(headers)
            return Role.ADMIN
        scheme, _, token = headers.get("authorization", "").partition(" ")
        digest, found = _digest(token.strip()), None
        for role, known in self._digests.items():
            # Each is compared, whichever it is.
            if hmac.compare_digest(digest, known):
                found = role
        if found is None or scheme.lower() != "bearer":
            raise UnauthorizedError("a token of this node is needed: Authorization: Bearer …")
        return found


def check(role: Role, needed: Role) -> None:
    """Raises `ForbiddenError` where the role does not suffice."""
    if role < needed:
        raise ForbiddenError(
            f"this needs a token that may {needed.name.lower()}; the one given may "
            f"{role.name.lower()}"
        )


def lowered(role: Role, wanted: str | None) -> Role:
    """What is left of a role for one who asks for somebody else, who has the ``wanted`` one.

    Raises:
        RequestRefusedError: there is no such role.
    """
    if wanted is None:
        return role
    try:
        return min(role, Role[wanted.upper()])
    except KeyError:
        raise RequestRefusedError(f"X-MPREG-Role: there is no role {wanted!r:.80}") from None


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_secret(found: os.stat_result) -> bool:
    """Whether only its owner may read a file.

    A credential that systemd hands to a service is a file of root's that nobody may write, with an
    entry in its access list for the service: its mode looks as if root's group might read it.
    """
    is_credential = found.st_uid == found.st_gid == 0 and stat.S_IMODE(found.st_mode) == 0o440
    return is_credential or not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _check_origin(headers: Mapping[str, str]) -> None:
    """A browser says for which page it asks. Only our own pages may."""
    origin = headers.get("origin")
    if origin is not None and _host(origin) != _host(f"//{headers.get('host', '')}"):
        raise ForbiddenError("this comes from a page of another site")


def _check_host(headers: Mapping[str, str]) -> None:
    """Where there is no token, being on this machine is all that counts. A page from elsewhere may
    have its own name resolved to this machine, but cannot change what the browser calls it."""
    host = _host(f"//{headers.get('host', '')}")[0]
    if not is_loopback(host):
        raise ForbiddenError(
            "without tokens this node answers to localhost and loopback addresses, by those names"
        )


def _host(url: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def read_token(setting: str, path: Path) -> str:
    """The first line of a file.

    Raises:
        ConfigurationError: it cannot be read, others may read it, or it holds no token.
    """
    try:
        found = path.stat()
        first = path.read_bytes().decode().strip().splitlines()[:1]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"{setting}: {path} cannot be read: {why}", setting) from error
    if not is_secret(found):
        raise ConfigurationError(
            f"{setting}: others may read {path}; make it yours alone: chmod 600 {path}", setting
        )
    if not first:
        raise ConfigurationError(f"{setting}: {path} is empty", setting)
    token = first[0].strip()
    if not is_token(token):
        raise ConfigurationError(
            f"{setting}: the first line of {path} is no token: {A_TOKEN} are expected", setting
        )
    return token
