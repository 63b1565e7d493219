"""The certificate of a node and its key, and which of them is to blame."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from hypercorn.config import Config

from mpreg.errors import ConfigurationError

__all__ = ["check_certificate", "tls_context"]

CERTIFICATE: Final = "tls_certificate_file"
KEY: Final = "tls_key_file"


def tls_context(config: Config) -> ssl.SSLContext | None:
    """None where there is no certificate.

    Raises:
        ConfigurationError: the certificate or its key cannot be used. It names the file.
    """
    # Without one, OpenSSL asks for it on the terminal, and a service waits for ever.
    config.keyfile_password = ""
    try:
        return config.create_ssl_context()
    except OSError as error:
        setting, why = _to_blame(Path(config.certfile or ""), Path(config.keyfile or ""), error)
        raise ConfigurationError(f"{setting}: {why}", setting) from error


def check_certificate(certificate: Path, key: Path) -> None:
    """
    Raises:
        ConfigurationError: as `tls_context`.
    """
    config = Config()
    config.certfile, config.keyfile = str(certificate), str(key)
    tls_context(config)


def _to_blame(certificate: Path, key: Path, error: OSError) -> tuple[str, str]:
    """OpenSSL's own words name neither the file nor, mostly, the cause."""
    found = {}
    for setting, path in ((CERTIFICATE, certificate), (KEY, key)):
        try:
            found[setting] = path.read_bytes()
        except OSError as unread:
            return setting, f"{path} cannot be read: {unread.strerror}"
    if b"-----BEGIN CERTIFICATE-----" not in found[CERTIFICATE]:
        return CERTIFICATE, f"{certificate} has no certificate in it (PEM is expected)"
    if b"PRIVATE KEY-----" not in found[KEY]:
        return KEY, f"{key} has no private key in it (PEM is expected)"
    if b"ENCRYPTED" in found[KEY]:
        return KEY, f"{key} asks for a pass phrase, which a node cannot type: store it without one"
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return KEY, f"{key} is not the key of the certificate in {certificate}"
    return CERTIFICATE, f"{certificate} and {key} cannot be used: {error}"
