"""From a listening socket to hypercorn's HTTP: accepting, a bound on connections, and an end.

Hypercorn speaks HTTP on a connection. Which connections there are is decided here, because a node
has to bound them, and to end them for certain when its grace time is over: also those that do not
read what they are sent.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import anyio
import sniffio
import trio
from anyio.abc import TaskStatus
from attrs import define, field, frozen
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer as AsyncioConnection
from hypercorn.asyncio.worker_context import WorkerContext as AsyncioContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer as TrioConnection
from hypercorn.trio.worker_context import WorkerContext as TrioContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp, Receive, Scope, Send

from mpreg.errors import ConfigurationError, MpregError
from mpreg.server.answers import BODY_FOLLOWS
from mpreg.server.tls import tls_context
from mpreg.settings import ServerSettings

__all__ = ["Connections", "listening_socket", "make_connections", "url_of"]

log = logging.getLogger("mpreg.server")

#: How long a connection may be without a request, or take to send the head of one.
IDLE_SECONDS: Final = 20.0
#: Of the head of a request, the path and its names with it.
HEAD_BYTES_MAX: Final = 64 * 1024
#: How long a client may take nothing of what is sent to it, where the operating system can tell:
#: enough of such clients would keep all others out.
UNREAD_SECONDS_MAX: Final = 60.0
#: For what the operating system refuses for want of something: a moment to give it back.
EXHAUSTED_SECONDS: Final = 0.1
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
#: What accepting tells of the connection that was to be accepted, which is gone.
_GONE: Final = {
    *(errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENOPROTOOPT),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH),
}


def listening_socket(settings: ServerSettings) -> socket.socket:
    """
    Raises:
        ConfigurationError: nothing can listen there.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(1_024)
            found.setblocking(False)
        except BaseException:
            found.close()
            raise
    except OSError as error:
        setting, advice = _to_change(error)
        raise ConfigurationError(
            f"{setting}: nothing can listen on {host} port {port}: {error.strerror or error}"
            f"{advice}",
            setting,
        ) from error
    return found


def _to_change(error: OSError) -> tuple[str, str]:
    """The setting to blame, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            "port",
            "; another program has it (`ss -ltnp` tells which): stop that, or take another",
        )
    if error.errno == errno.EACCES:
        return "port", "; this user may not: take one above 1023"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "host", "; give a name or an address of this machine, or 0.0.0.0 for all of them"
    return "port", ""


def url_of(listening: socket.socket, settings: ServerSettings) -> str:
    host, port = listening.getsockname()[:2]
    scheme = "http" if settings.tls_certificate_file is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _config(settings: ServerSettings) -> Config:
    config = Config()
    config.errorlog = logging.getLogger("mpreg.server.http")
    config.include_server_header = False
    config.keep_alive_max_requests = 1_000_000
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.ssl_handshake_timeout = IDLE_SECONDS
    # One request at a time on a connection: what is bounded are connections.
    config.alpn_protocols = ["http/1.1"]
    if settings.tls_certificate_file is not None:
        config.certfile = str(settings.tls_certificate_file)
        config.keyfile = str(settings.tls_key_file)
    return config


@define(eq=False)
class Connections(ABC):
    """The connections of one listening socket."""

    _app: ASGIApp
    _settings: ServerSettings
    _config: Config = field(init=False)
    _tls: ssl.SSLContext | None = field(init=False)
    _room: anyio.Semaphore = field(init=False)
    _open: dict[Callable[[], None], None] = field(factory=dict)
    """What cuts each of them."""
    _accepting: anyio.CancelScope = field(factory=anyio.CancelScope)
    _empty: anyio.Event = field(factory=anyio.Event)

    def __attrs_post_init__(self) -> None:
        self._config = _config(self._settings)
        self._tls = tls_context(self._config)
        self._room = anyio.Semaphore(self._settings.connections_max)
        self._empty.set()

    @property
    def count(self) -> int:
        return len(self._open)

    async def serve(
        self, listening: socket.socket, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept until `stop`, and close the socket; ends when the last connection has."""
        async with anyio.create_task_group() as task_group:
            with self._accepting:
                task_status.started()
                while True:
                    await self._room.acquire()
                    try:
                        connection = await self._accept(listening)
                    except BaseException:
                        self._room.release()
                        raise
                    task_group.start_soon(self._serve_one, connection)
            # At once, so that who comes now goes elsewhere, and does not wait for nobody.
            listening.close()

    async def stop(self) -> None:
        """Accept no more, and wait until the connections have ended: those that are idle do at
        once. Cancelled, they go on: see `cut`."""
        self._accepting.cancel()
        await self._end_idle()
        await self._empty.wait()

    def cut(self) -> None:
        """End all connections, whatever they do."""
        for cut in list(self._open):
            cut()

    async def _accept(self, listening: socket.socket) -> Any:
        while True:
            try:
                return await self._accept_next(listening)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.warning("no connection can be accepted: %s", error)
                    await anyio.sleep(EXHAUSTED_SECONDS)
                elif error.errno not in _GONE:
                    raise

    async def _serve_one(self, connection: Any) -> None:
        def cut() -> None:
            self._cut_one(connection)

        self._open[cut] = None
        self._empty = anyio.Event() if self._empty.is_set() else self._empty
        try:
            await self._speak(connection)
        except OSError:
            # It broke, and nobody is there to be told.
            pass
        except Exception:
            log.exception("a connection has failed")
        finally:
            cut()
            del self._open[cut]
            self._room.release()
            if not self._open:
                self._empty.set()

    @abstractmethod
    async def _end_idle(self) -> None: ...

    @abstractmethod
    async def _accept_next(self, listening: socket.socket) -> Any: ...

    @abstractmethod
    async def _speak(self, connection: Any) -> None: ...

    @abstractmethod
    def _cut_one(self, connection: Any) -> None: ...


class _Idle:
    """Closes a connection that is idle for too long, or when the node stops.

    Hypercorn's own is a task for each time between two requests; this is one for all of them.
    """

    def __init__(self, has_terminated: Any, close: Callable[[], Awaitable[None]]) -> None:
        self._has_terminated = has_terminated
        self._close = close
        self._since: float | None = None
        self._resumed: anyio.Event | None = None
        self._watching: anyio.CancelScope | None = None

    async def restart(self, task_group: Any, _: object) -> None:
        """It is idle from now on."""
        self._since = anyio.current_time()
        if self._watching is None:
            self._watching = anyio.CancelScope()
            task_group.spawn(self._watch, self._watching)
        elif self._resumed is not None:
            self._resumed.set()

    async def stop(self) -> None:
        """It has something to do."""
        self._since = None

    def end(self) -> None:
        """It is watched no more."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        with scope:
            while not self._is_over():
                if self._since is None:
                    # However long that takes, nobody has to look.
                    self._resumed = anyio.Event()
                    await self._resumed.wait()
                    self._resumed = None
                else:
                    with anyio.move_on_at(self._since + IDLE_SECONDS):
                        await self._has_terminated.wait()
            with anyio.CancelScope(shield=True):
                await self._close()

    def _is_over(self) -> bool:
        if self._since is None:
            return False
        is_late = anyio.current_time() >= self._since + IDLE_SECONDS
        return is_late or self._has_terminated.is_set()


class _Ending:
    """A connection that ends when its client has gone, or when it was closed, and stays with
    HTTP/1.1.

    Hypercorn's own goes on until it would have been idle for too long, and would count for so long;
    and where it is closed between a request and the next one, its reader may wait for ever. It
    changes to HTTP/2 for whoever asks for it, with many requests on one connection.
    """

    idle_task: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reading = anyio.CancelScope()
        self._has_ended = False
        self._head = b""
        self._body_follows = False
        self.state[BODY_FOLLOWS] = self._expect_body  # type: ignore[attr-defined]
        self.idle_task = _Idle(
            self.context.terminated,  # type: ignore[attr-defined]
            self._initiate_server_close,  # type: ignore[attr-defined]
        )

    async def _read_data(self) -> None:
        self.protocol.protocol._check_protocol = _stay  # type: ignore[attr-defined]
        try:
            with self._reading:
                await super()._read_data()  # type: ignore[misc]
        finally:
            self._has_ended = True
            self.idle_task.end()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            event, self._head = RawData(self._head + event.data), b""
            if self._body_follows:
                self._head, self._body_follows = event.data, False
                return
            if not event.data:
                return
        if self._has_ended and isinstance(event, Updated):
            # An answer has ended after its client: there is no next request to wait for.
            return
        try:
            await super().protocol_send(event)  # type: ignore[misc]
        except (OSError, trio.BusyResourceError):
            # There are more ways to break than those that hypercorn knows: on trio it may be that
            # the reader has just begun to close, since what came next is no request.
            await self.protocol.handle(Closed())  # type: ignore[attr-defined]
        finally:
            if isinstance(event, Closed):
                # Also where whoever answers is cancelled by this, since its client has gone now:
                # the reader closes what was not closed.
                self._reading.cancel()

    def _expect_body(self) -> None:
        self._body_follows = True


async def _stay(_: object) -> None:
    """Whatever the head of a request asks for."""


@frozen
class _Quiet:
    """An application that has told itself why it cuts an answer short: hypercorn would tell it once
    more, with a traceback. It closes the connection of an answer that has no end."""

    _app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(MpregError):
            await self._app(scope, receive, send)


class _AsyncioConnection(_Ending, AsyncioConnection):
    pass


class _TrioConnection(_Ending, TrioConnection):
    pass


@define(eq=False)
class _Asyncio(Connections):
    _context: AsyncioContext = field(factory=lambda: AsyncioContext(None))

    async def _end_idle(self) -> None:
        await self._context.terminated.set()

    async def _accept_next(self, listening: socket.socket) -> socket.socket:
        accepted, _ = await asyncio.get_running_loop().sock_accept(listening)
        return accepted

    async def _speak(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _bound_silence(connection)
            with anyio.fail_after(IDLE_SECONDS):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, connection, ssl=self._tls
                )
        except BaseException:
            connection.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        await _AsyncioConnection(
            ASGIWrapper(_Quiet(self._app)),  # type: ignore[arg-type]
            loop,
            self._config,
            self._context,
            {},
            reader,
            writer,
        ).run()

    def _cut_one(self, connection: socket.socket) -> None:
        _shut(connection)


@define(eq=False)
class _Trio(Connections):
    _context: TrioContext = field(factory=lambda: TrioContext(None))

    async def _end_idle(self) -> None:
        await self._context.terminated.set()

    async def _accept_next(self, listening: socket.socket) -> trio.SocketStream:
        accepted, _ = await trio.socket.from_stdlib_socket(listening).accept()
        return trio.SocketStream(accepted)

    async def _speak(self, connection: trio.SocketStream) -> None:
        _bound_silence(connection.socket)
        stream: Any = connection
        if self._tls is not None:
            stream = trio.SSLStream(connection, self._tls, server_side=True, https_compatible=True)
        await _TrioConnection(
            ASGIWrapper(_Quiet(self._app)),  # type: ignore[arg-type]
            self._config,
            self._context,
            ConnectionState({}),
            stream,
        ).run()

    def _cut_one(self, connection: trio.SocketStream) -> None:
        _shut(connection.socket)
        connection.socket.close()


def make_connections(app: ASGIApp, settings: ServerSettings) -> Connections:
    """For the event loop that runs.

    Raises:
        ConfigurationError: the certificate, or its key, cannot be used.
    """
    kind = _Trio if sniffio.current_async_library() == "trio" else _Asyncio
    return kind(app, settings)


def _bound_silence(connection: Any) -> None:
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        connection.setsockopt(socket.IPPROTO_TCP, option, int(UNREAD_SECONDS_MAX * 1_000))


def _shut(connection: Any) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It is gone already.
        return
