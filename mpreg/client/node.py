"""A node, as a program somewhere else has it."""

from __future__ import annotations

import math
import random
import re
import secrets
import ssl
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import httpx

from mpreg.client.cache import RemoteCacheManager
from mpreg.client.calls import MESSAGEPACK, Calls
from mpreg.client.computing import Computations
from mpreg.client.connections import Connections
from mpreg.client.keeper import Keeper
from mpreg.client.keys import RemoteKeyValueStore
from mpreg.client.logs import RemoteLogStore
from mpreg.client.queues import RemoteQueueManager
from mpreg.client.snapshots import RemoteSnapshotStore
from mpreg.errors import ConfigurationError
from mpreg.persistence import SnapshotRetention
from mpreg.persistence.engine import collapsed_groups

__all__ = ["MPREGClient"]

CONNECT_SECONDS_MAX = 5.0


class MPREGClient:
    """A node that is asked over HTTP, with the names of the stores in the same process::

        async with MPREGClient("http://127.0.0.1:8765") as node:
            jobs = await node.message_queues.create_queue("jobs")
            await jobs.send({"file": "a.py"})

    A request that gets no answer, or finds the node not ready, is made again: after growing pauses,
    for ``patience_seconds`` (None: for ever) beside what it was to wait. Each write has an
    ``Idempotency-Key``, so that it is made once, also over a restart of the node. One attempt has
    ``attempt_seconds``.

    Used by any number of tasks of the loop in which its block was entered; once.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience_seconds: float | None = 60.0,
        attempt_seconds: float = 30.0,
        resend_bytes_max: int = 1 << 30,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
        randomness: random.Random | None = None,
    ) -> None:
        """``resend_bytes_max``: so much of a snapshot that an iterable gives is kept in a temporary
        file, to be sent again where the node goes away meanwhile. ``verify`` the certificate of the
        node: against those of certifi, or as a context does.
        ``transport`` takes the place of the network. ``randomness`` is what keys and pauses are
        made of; None: the system's.

        Raises:
            ConfigurationError: an argument is impossible.
        """
        if not str(url).startswith(("http://", "https://")):
            raise ConfigurationError(
                f"the url of a node is http://… or https://…, not {url!r:.200}"
            )
        if patience_seconds is not None:
            _check_seconds("patience_seconds", patience_seconds)
        _check_seconds("attempt_seconds", attempt_seconds)
        if type(resend_bytes_max) is not int or resend_bytes_max < 0:
            raise ConfigurationError(
                f"resend_bytes_max is a number of bytes, not {resend_bytes_max!r}",
                "resend_bytes_max",
            )
        # As it is: a part of a snapshot would be one of something else.
        headers = {"accept": MESSAGEPACK, "accept-encoding": "identity"}
        if token is not None:
            _check_token(token)
            headers["authorization"] = f"Bearer {token}"
        try:
            http = httpx.AsyncClient(
                base_url=url,
                headers=headers,
                transport=Connections.of(verify) if transport is None else transport,
                # Of each attempt as a whole there is one.
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS_MAX),
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"url: {error}", "url") from None
        self._http = http
        self.url = url
        chance = secrets.SystemRandom() if randomness is None else randomness
        self._calls = Calls(http, chance, patience_seconds, attempt_seconds)
        self._keeper = Keeper(self._calls)
        self._task_group: anyio.abc.TaskGroup | None = None
        self._queues = RemoteQueueManager.of(self._calls, self._keeper)
        self._cache = RemoteCacheManager(self._calls, Computations(self._start_soon))
        self._resend_bytes_max = resend_bytes_max

    @property
    def message_queues(self) -> RemoteQueueManager:
        """Its queues: `mpreg.queues.MessageQueueManager`."""
        return self._queues

    def key_value_store(self, namespace: str) -> RemoteKeyValueStore:
        """The keys of a namespace: `mpreg.persistence.PersistenceRegistry.key_value_store`."""
        return RemoteKeyValueStore(self._calls, namespace)

    def log_store(self, name: str) -> RemoteLogStore:
        """A log: `mpreg.persistence.PersistenceRegistry.log_store`."""
        return RemoteLogStore(self._calls, name)

    def snapshot_store(
        self, name: str, *, retention: SnapshotRetention | None = None
    ) -> RemoteSnapshotStore:
        """The last complete states saved under a name:
        `mpreg.persistence.PersistenceRegistry.snapshot_store`. A ``retention`` holds from the next
        save on."""
        return RemoteSnapshotStore(self._calls, name, self._resend_bytes_max, retention)

    @property
    def cache(self) -> RemoteCacheManager:
        """Its cache: `mpreg.cache.GlobalCacheManager`."""
        return self._cache

    def _start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._task_group is not None
        self._task_group.start_soon(work)

    async def __aenter__(self) -> Self:
        """It asks nothing: whether the node is there, the first request tells."""
        await self._http.__aenter__()
        self._task_group = anyio.create_task_group()
        await self._task_group.__aenter__()
        self._task_group.start_soon(self._keeper.run)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """What its consumers have taken ahead is given back; for that the node has two seconds."""
        assert self._task_group is not None
        try:
            await self._keeper.close(give_back_seen=exc is not None)
        finally:
            self._task_group.cancel_scope.cancel()
            try:
                with collapsed_groups():
                    await self._task_group.__aexit__(exc_type, exc, traceback)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._http.aclose()

    def __repr__(self) -> str:
        return f"<MPREGClient {self.url}>"


def _check_token(token: object) -> None:
    # It would be shown where it cannot stand in a header; it is never shown here.
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise ConfigurationError(
            "token: printable ASCII characters without spaces are expected", "token"
        )


def _check_seconds(name: str, seconds: object) -> None:
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 < seconds < math.inf
    ):
        raise ConfigurationError(f"{name} is a number of seconds above 0, not {seconds!r}", name)
