"""Writes that may be sent again: the answer of the first is kept with what it did.

A client that got no answer cannot know whether its write was made. Sent again with the same
``Idempotency-Key`` it is made once: its answer was written in the same transaction, wherever the
write takes one, or directly after it. Of a write that takes none, and would be another one if it
was made again, it is noted before that it is begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from weakref import WeakValueDictionary

import anyio
import msgspec
from attrs import define, evolve, field

from mpreg.errors import (
    IdempotencyKeyReusedError,
    InvalidArgumentError,
    MpregError,
    PersistenceError,
    WriteInterruptedError,
)
from mpreg.persistence import Durability, KeyValueStore, Transaction
from mpreg.persistence.registry import PersistenceRegistry
from mpreg.server.answers import Answer

__all__ = ["Claim", "IdempotencyKeys", "fingerprint"]

KEY_CHARACTERS_MAX: Final = 255

#: In the place of a status while a write is under way.
BEGUN: Final = 0

#: Says that an answer was given before.
REPLAYED: Final = "idempotency-replayed"


#: Headers that change what a request asks for.
_MEANING: Final = ("content-type", "if-match", "if-none-match")


class _Kept(msgspec.Struct, frozen=True):
    fingerprint: bytes
    status: int
    headers: dict[str, str]
    value: Any
    is_raw: bool = False
    is_versioned: bool = False
    """The write was a put in the same transaction, directly before: its version is one less."""


def fingerprint(method: str, target: bytes, headers: Mapping[str, str], body: bytes) -> bytes:
    """Two requests that ask for the same have the same one."""
    digest = hashlib.sha256()
    meaning = (headers.get(name, "").encode() for name in _MEANING)
    for part in (method.encode(), target, *meaning, body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


@define(eq=False)
class Claim:
    """One write with a key, while it is under way."""

    _store: KeyValueStore
    _key: str
    _fingerprint: bytes
    _window_seconds: float
    is_kept: bool = False

    def keep(
        self, answer: Answer, transaction: Transaction | None, *, is_versioned: bool = False
    ) -> None:
        """Have the answer written with the transaction."""
        self._store.put_nowait(
            self._key,
            self._encoded(answer, is_versioned=is_versioned),
            ttl_seconds=self._window_seconds,
            transaction=transaction,
        )
        self.is_kept = True

    async def complete(self, answer: Answer) -> None:
        """Put what is known only after the commit into an answer that was kept with it.

        The write has been made, whatever becomes of this: where it cannot be written, or is lost
        with the machine, what was kept before is given.
        """
        encoded = self._encoded(answer, is_versioned=False)
        with suppress(PersistenceError):
            await self._store.put(
                self._key,
                encoded,
                ttl_seconds=self._window_seconds,
                durability=Durability.RELAXED,
            )

    async def begin(self) -> None:
        """Note that the write is under way: returns when that is durable."""
        kept = _Kept(self._fingerprint, BEGUN, {}, None)
        encoded = msgspec.msgpack.encode(kept)
        await self._store.put(self._key, encoded, ttl_seconds=self._window_seconds)

    async def withdraw(self) -> None:
        """It was refused, and may be made with the same key. Where that cannot be written, it is as
        if it had been cut short."""
        with suppress(PersistenceError):
            await self._store.delete(self._key)

    async def keep_alone(self, answer: Answer) -> None:
        """Of a write that takes no transaction; returns when it is durable.

        The write has been made: where this cannot be written, that is no reason to deny it.
        """
        encoded = self._encoded(answer, is_versioned=False)
        with suppress(MpregError):
            await self._store.put(self._key, encoded, ttl_seconds=self._window_seconds)

    async def find(self) -> Answer | None:
        """The answer that was given before; None where there was none.

        Raises:
            IdempotencyKeyReusedError: it was given to another request.
            WriteInterruptedError: it was begun, and nobody knows how far it has come.
        """
        entry = await self._store.get(self._key)
        if entry is None:
            return None
        kept = msgspec.msgpack.decode(entry.value, type=_Kept)
        if kept.fingerprint != self._fingerprint:
            raise IdempotencyKeyReusedError("this Idempotency-Key came with another request before")
        if kept.status == BEGUN:
            raise WriteInterruptedError(
                "a write with this Idempotency-Key was begun, and the node ended before its end"
            )
        headers = {**kept.headers, REPLAYED: "true"}
        answer = Answer(value=kept.value, status=kept.status, headers=headers, is_raw=kept.is_raw)
        return versioned(answer, entry.version - 1) if kept.is_versioned else answer

    def _encoded(self, answer: Answer, *, is_versioned: bool) -> bytes:
        return msgspec.msgpack.encode(
            _Kept(
                self._fingerprint,
                answer.status,
                dict(answer.headers),
                answer.value,
                answer.is_raw,
                is_versioned,
            )
        )


def versioned(answer: Answer, version: int) -> Answer:
    """The same, of a write that made this version."""
    return evolve(
        answer,
        value={**answer.value, "version": version},
        headers={**answer.headers, "etag": f'"{version}"'},
    )


@define(eq=False)
class IdempotencyKeys:
    """Of one node."""

    _store: KeyValueStore
    _window_seconds: float
    _busy: WeakValueDictionary[str, anyio.Lock] = field(factory=WeakValueDictionary)

    @classmethod
    def of(cls, registry: PersistenceRegistry, window_seconds: float) -> IdempotencyKeys:
        store = registry.reserved("http").key_value_store("idempotency")
        return cls(store, window_seconds)

    async def knows(self, owner: str, key: str) -> bool:
        """Whether a write of this key was made here, or is being made."""
        name = f"{owner}/{key}"
        return name in self._busy or await self._store.get(name) is not None

    @asynccontextmanager
    async def claim(self, owner: str, key: str, fingerprint: bytes) -> AsyncIterator[Claim]:
        """The right to make the write of this key: one at a time, others wait for its answer.

        Raises:
            InvalidArgumentError: the key is impossible.
        """
        if not 0 < len(key) <= KEY_CHARACTERS_MAX or not key.isprintable():
            raise InvalidArgumentError(
                f"an Idempotency-Key has 1 to {KEY_CHARACTERS_MAX} printable characters"
            )
        name = f"{owner}/{key}"
        async with self._busy.setdefault(name, anyio.Lock()):
            yield Claim(self._store, name, fingerprint, self._window_seconds)
