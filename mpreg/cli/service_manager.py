"""Telling the service manager how far the node is, as systemd's ``sd_notify`` does it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from typing import Final, Self

from attrs import frozen

__all__ = ["ServiceManager"]

log = logging.getLogger("mpreg.server")

VARIABLE: Final = "NOTIFY_SOCKET"

#: It takes what it is told at once, or has no room for it: then nobody waits for long.
TELLING_SECONDS: Final = 1.0


@frozen
class ServiceManager:
    """Whoever started this process and wants to be told of it. Most often nobody does.

    Where it cannot be told that is logged, and the node goes on: it is as well as before.
    """

    address: str | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The one that has left its address there."""
        return cls(environment.get(VARIABLE) or None)

    def ready(self, url: str) -> None:
        """Everything is restored, and the node may be asked."""
        self._tell("READY=1", f"STATUS=ready on {url}")

    def stopping(self) -> None:
        """A signal has asked for an end."""
        self._tell("STOPPING=1", "STATUS=stopping: what was accepted is being acknowledged")

    def _tell(self, *lines: str) -> None:
        if self.address is None:
            return
        # The kernel's abstract names begin with a NUL, which no variable can hold.
        address = f"\0{self.address[1:]}" if self.address[0] == "@" else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
                way.settimeout(TELLING_SECONDS)
                way.connect(address)
                way.sendall("\n".join(lines).encode())
        except OSError as error:
            log.warning("%s=%s: could not be told %s: %s", VARIABLE, self.address, lines[0], error)
