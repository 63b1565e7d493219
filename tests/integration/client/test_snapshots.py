"""Snapshots up and down, while connections break, pieces are damaged, and things are in the way."""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel
import httpx
import pytest
from attrs import define, field

from mpreg.client import MPREGClient, RemoteSnapshotStore, uploads
from mpreg.client.uploads import PIECE_BYTES
from mpreg.errors import (
    CorruptDataError,
    InvalidArgumentError,
    MailboxFullError,
    NodeUnreachableError,
    SnapshotNotFoundError,
    UnauthorizedError,
)
from mpreg.persistence import SnapshotRetention
from mpreg.persistence.snapshots.chunks import CHUNK_BYTES
from tests.integration.client.support import Hasty, Way, open_client
from tests.integration.server.test_connections import Serving, serving

pytestmark = pytest.mark.anyio

DATA = array("I", range(CHUNK_BYTES)).tobytes()


@define(eq=False)
class Cutting(httpx.AsyncBaseTransport):
    """The network, on which connections break."""

    downs: list[int] = field(factory=list)
    """Of the answers to come with a body: after so many bytes of it."""
    ups: list[int] = field(factory=list)
    """The same of requests."""
    changed: bytes | None = None
    """What answers have in place of their bytes."""
    ranges: list[str | None] = field(factory=list)
    takes_ranges: bool = True
    _network: httpx.AsyncBaseTransport = field(factory=httpx.AsyncHTTPTransport)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.ranges.append(request.headers.get("range"))
        if not self.takes_ranges:
            request.headers.pop("range", None)
        if self.ups and request.method == "PUT":
            request.stream = _Cut(request.stream, self.ups.pop(0), httpx.WriteError)
        answer = await self._network.handle_async_request(request)
        if self.downs and request.method == "GET":
            answer.stream = _Cut(answer.stream, self.downs.pop(0), httpx.ReadError, self.changed)
        return answer

    async def aclose(self) -> None:
        await self._network.aclose()


@define(eq=False)
class _Cut(httpx.AsyncByteStream, AsyncIterator[bytes]):
    _stream: Any
    _left: int
    _error: type[httpx.TransportError]
    _changed: bytes | None = None
    _parts: Any = None

    def __aiter__(self) -> Self:
        self._parts = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        if self._left <= 0:
            if self._error is httpx.ReadError:
                await self._break()
            raise self._error("cut")
        part = (await anext(self._parts))[: self._left]
        self._left -= len(part)
        return part if self._changed is None else (self._changed * len(part))[: len(part)]

    async def _break(self) -> None:
        """Deep inside, as a connection does."""
        with anyio.CancelScope() as scope:
            scope.cancel()
            async for _ in self._parts:
                pass

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def at_a_node(
    data_dir: Path, *, backend: str = "memory", **options: Any
) -> AsyncIterator[tuple[RemoteSnapshotStore, Cutting, Serving]]:
    way = Cutting()
    async with serving(data_dir, backend=backend) as server:
        url = server.state.url
        async with MPREGClient(url, transport=way, randomness=Hasty(1), **options) as node:
            yield node.snapshot_store("images"), way, server


async def pieces(count: int = 40, size: int = 70_000) -> AsyncGenerator[bytes, None]:
    for number in range(count):
        yield bytes([number]) * size


ALL = b"".join(bytes([number]) * 70_000 for number in range(40))


# --- up ---


@pytest.mark.parametrize("is_iterable", [False, True])
async def test_a_save_that_breaks_off_is_made_once(data_dir: Path, is_iterable: bool) -> None:
    async with at_a_node(data_dir) as (images, way, _):
        way.ups += [0, 1, 100_000, len(ALL) - 1]
        version = await images.save(pieces() if is_iterable else ALL)
        assert not way.ups
        assert [one.version for one in await images.versions()] == [version]
        loaded = await images.load()
        assert loaded is not None
        assert loaded.data == ALL


async def test_what_goes_up_and_comes_down_is_never_held(data_dir: Path) -> None:
    """By the client, nor by the node, which is in this process as well."""
    size = 20 << 20

    async def large() -> AsyncIterator[bytes]:
        for number in range(20):
            yield bytes([number]) * (1 << 20)

    async with at_a_node(data_dir, backend="sqlite") as (images, way, _):
        tracemalloc.start()
        try:
            way.ups.append(size // 2)
            await images.save(large())
            way.downs.append(size // 2)
            async with images.open() as reader:
                taken = sum([len(piece) async for piece in reader])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert taken == reader.size_bytes == size
        assert peak < size // 2


@pytest.mark.parametrize("is_iterable", [False, True])
async def test_a_save_whose_answer_is_lost_is_made_once(data_dir: Path, is_iterable: bool) -> None:
    async with open_client(data_dir) as (node, way, _):
        keep_all = SnapshotRetention(versions_max=None)
        images = node.snapshot_store("images", retention=keep_all)
        way.troubles.append("its answer is lost")
        version = await images.save(pieces() if is_iterable else ALL)
        assert [one.version for one in await images.versions()] == [version]


async def test_what_is_too_large_to_be_kept_is_saved_but_not_sent_again(data_dir: Path) -> None:
    async with at_a_node(data_dir, resend_bytes_max=PIECE_BYTES) as (images, way, server):
        await images.save(pieces())
        before = await images.versions()
        way.ups.append(len(ALL) - 1)
        with pytest.raises(NodeUnreachableError, match="more has gone than is kept") as raised:
            await images.save(pieces())
        assert (raised.value.may_have_been_made, raised.value.data_state) == (False, "not written")
        while server.state.requests:
            await anyio.sleep(0.001)
        assert await images.versions() == before
        # What has not gone beyond what is held can be sent again all the same.
        way.ups.append(1)
        await images.save(pieces(2))


async def test_what_was_sent_as_a_whole_and_not_answered_may_have_been_saved(
    data_dir: Path,
) -> None:
    async with open_client(data_dir, resend_bytes_max=0) as (node, way, _):
        images = node.snapshot_store("images")
        way.troubles.append("its answer is lost")
        with pytest.raises(NodeUnreachableError) as raised:
            await images.save(pieces())
        assert (raised.value.may_have_been_made, raised.value.data_state) == (True, "unknown")
        assert len(await images.versions()) == 1


async def test_where_there_is_no_room_to_keep_it_it_is_sent_all_the_same(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(uploads, "_write", refuse)
    async with at_a_node(data_dir) as (images, way, _):
        await images.save(pieces())
        way.ups.append(len(ALL) - 1)
        with pytest.raises(NodeUnreachableError):
            await images.save(pieces())


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadError("of another connection"),
        NodeUnreachableError("of another connection", False),
        MailboxFullError("of another connection"),
    ],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("size", [4, PIECE_BYTES + 1])
async def test_an_error_of_the_iterable_is_its_callers_whatever_it_is(
    data_dir: Path, error: Exception, size: int
) -> None:
    """One of httpx, or of the client of another node, is not taken for one of the connection to the
    node: the iterable would be asked again, say that it has ended, and half of a snapshot would be
    saved."""

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(size)
        raise error

    async with at_a_node(data_dir) as (images, _, server):
        with pytest.raises(type(error), match="of another connection") as raised:
            await images.save(broken())
        assert raised.value is error
        while server.state.requests:
            await anyio.sleep(0.001)
        assert await images.versions() == []


async def test_a_save_that_is_cancelled_leaves_nothing_and_closes_its_generator(
    data_dir: Path,
) -> None:
    closed = False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield bytes(PIECE_BYTES)
                if server.state.requests:
                    scope.cancel()
        finally:
            closed = True

    async with at_a_node(data_dir) as (images, _, server):
        with anyio.CancelScope() as scope:
            await images.save(endless())
        assert scope.cancelled_caught
        assert closed
        while server.state.requests:
            await anyio.sleep(0.001)
        assert await images.versions() == []


async def test_a_save_that_is_refused_is_told_though_it_is_large(data_dir: Path) -> None:
    token = data_dir.parent / "token"
    token.write_text("right-token-of-enough-characters\n")
    token.chmod(0o600)
    async with (
        serving(data_dir, write_token_file=token) as server,
        MPREGClient(server.state.url, "wrong") as node,
    ):
        with pytest.raises(UnauthorizedError):
            await node.snapshot_store("images").save(pieces())


async def test_an_attempt_has_time_for_each_piece_and_the_iterable_has_any_time() -> None:
    seen: list[float] = []

    async def source() -> AsyncIterator[bytes]:
        for _ in range(2):
            seen.append(scope.deadline)
            yield b"x"

    async with uploads.Upload.of(source(), 100) as upload:
        with anyio.CancelScope() as scope:
            async for _ in upload.attempt(scope, 7.0):
                assert 0.0 < scope.deadline - anyio.current_time() <= 7.0
            assert 0.0 < scope.deadline - anyio.current_time() <= 7.0
    assert seen == [float("inf")] * 2


async def test_an_attempt_that_is_over_does_not_ask_the_iterable() -> None:
    """Cancelled in its midst, a generator would have ended, and half of a snapshot would be all."""

    async def source() -> AsyncIterator[bytes]:
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
            yield b"x"

    async with uploads.Upload.of(source(), 100) as upload:
        with anyio.CancelScope() as scope:
            attempt = aiter(upload.attempt(scope, 7.0))
            assert await anext(attempt) == b"x"
            scope.cancel()
            await anext(attempt)
        assert upload.failure is None
        with anyio.CancelScope() as scope:
            again = b"".join([piece async for piece in upload.attempt(scope, 7.0)])
    assert again == b"xx"


async def test_bytes_whose_last_piece_broke_off_may_have_been_saved() -> None:
    async with uploads.Upload.of(bytes(PIECE_BYTES + 1), 0) as upload:
        with anyio.CancelScope() as scope:
            attempt = aiter(upload.attempt(scope, 7.0))
            assert not upload.was_sent
            await anext(attempt)
            assert not upload.was_sent
            await anext(attempt)
            assert upload.was_sent


async def test_what_is_kept_no_more_is_closed_also_where_that_is_cancelled() -> None:
    async with (
        aclosing(pieces(3, PIECE_BYTES)) as source,
        uploads.Upload.of(source, PIECE_BYTES) as upload,
    ):
        await upload.next(0)
        await upload.next(PIECE_BYTES)
        file = upload._file
        assert file is not None
        with anyio.CancelScope() as scope:
            scope.cancel()
            await upload.next(2 * PIECE_BYTES)
        assert file.closed


# --- down ---


async def test_a_read_that_breaks_off_goes_on_where_it_stopped_in_the_same_version(
    data_dir: Path,
) -> None:
    keep_two = SnapshotRetention(versions_max=2)
    async with at_a_node(data_dir) as (images, way, server):
        embedded = server.state.registry.snapshot_store("images", retention=keep_two)
        version = await embedded.save(DATA)
        way.downs += [100, 1, CHUNK_BYTES, len(DATA) - CHUNK_BYTES - 102, 99]
        got = b""
        async with images.open() as reader:
            async for piece in reader:
                if not got:
                    await embedded.save(b"newer")
                got += piece
        assert (reader.version, got == DATA) == (version, True)
        assert not way.downs
        assert way.ranges[1:3] == ["bytes=100-", "bytes=101-"]


async def test_a_version_that_is_gone_when_a_read_would_go_on_is_told(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (images, way, _):
        version = await images.save(DATA)
        way.downs.append(100)
        async with images.open() as reader:
            await anext(reader)
            await images.save(b"newer")
            with pytest.raises(SnapshotNotFoundError) as raised:
                await anext(reader)
        assert (raised.value.name, raised.value.version) == ("images", version)


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_damage_is_told_after_all_that_is_before_it(data_dir: Path, number: int) -> None:
    async with at_a_node(data_dir) as (images, _, server):
        await images.save(DATA)
        inside = server.state.registry.reserved("snapshot").key_value_store("images")
        chunk = DATA[number * CHUNK_BYTES :][:CHUNK_BYTES]
        [key] = [entry.key async for entry in inside.scan() if entry.value == chunk]
        await inside.delete(key)
        got = bytearray()
        with pytest.raises(CorruptDataError, match="snapshot 'images'"):
            await read(images, got)
        assert got == DATA[: number * CHUNK_BYTES]
        with pytest.raises(CorruptDataError):
            await images.load()


async def read(images: RemoteSnapshotStore, got: bytearray) -> None:
    async with images.open() as reader:
        async for piece in reader:
            got += piece


async def test_what_was_changed_on_its_way_is_told_at_the_end(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (images, way, _):
        await images.save(DATA)
        way.downs.append(len(DATA) + 1)
        way.changed = b"x"
        with pytest.raises(CorruptDataError, match="does not match the checksum of the whole"):
            await images.load()


async def test_a_read_that_gets_no_further_ends(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (images, way, _):
        await images.save(DATA)
        way.downs += [1_000, *[0] * 10_000]
        async with images.open() as reader:
            # Not before: to save and to open may take a slow machine longer.
            reader._tries._patience_seconds = 0.2
            got = await anext(reader)
            assert got == DATA[:1_000]
            with pytest.raises(NodeUnreachableError):
                await anext(reader)
            # It may be gone on with.
            way.downs.clear()
            async for piece in reader:
                got += piece
        assert got == DATA


async def test_a_read_goes_on_where_something_between_knows_of_no_parts(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (images, way, _):
        await images.save(DATA)
        way.takes_ranges = False
        way.downs += [CHUNK_BYTES + 7, 100, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES]
        loaded = await images.load()
        assert loaded is not None
        assert loaded.data == DATA
        assert not way.downs


async def test_a_read_leaves_its_connection_to_be_used_again(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (images, way, _):
        await images.save(DATA)
        for _ in range(3):
            await images.load()
        assert len(way._network._pool.connections) == 1  # type: ignore[attr-defined]


async def test_a_read_that_is_cancelled_between_two_pieces_goes_on(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (images, _, _):
        await images.save(DATA)
        got = b""
        async with images.open() as reader:
            while len(got) < len(DATA):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    got += await anext(reader)
                got += await anext(reader)
        assert got == DATA


async def test_a_read_that_is_left_ends_at_the_node(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (images, _, server):
        await images.save(DATA * 8)
        async with images.open() as reader:
            async for _ in reader:
                break
        while server.state.requests:
            await anyio.sleep(0.001)


async def test_names_are_looked_at_before_anything_is_sent() -> None:
    way = Way()
    node = MPREGClient("http://x", transport=way)
    for make in (node.snapshot_store, node.log_store):
        for name in ("", "a/b"):
            with pytest.raises(InvalidArgumentError):
                make(name)
