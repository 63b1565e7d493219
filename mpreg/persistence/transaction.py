"""Operations of any stores in one batch."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Hashable, Sequence
from threading import get_ident
from types import TracebackType
from typing import Any, Self

from mpreg.actors import Ack
from mpreg.errors import TransactionStateError
from mpreg.persistence.batch import Durability
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.operations import Operation, OperationResult

__all__ = ["Transaction", "send_nowait"]

_log = logging.getLogger("mpreg.persistence")


class _State(enum.Enum):
    NEW = "not entered"
    """May be followed by OPEN."""
    OPEN = "open"
    """May be followed by SENT or ENDED."""
    SENT = "sent"
    """On its way to the writer, which answers its acks. Followed by ENDED where it does not get
    there."""
    ENDED = "ended without being sent"


class _TransactionAck(Ack[Any], kw_only=True):
    """An ack that says so when it is awaited inside its own block, where it would never come."""

    transaction: Transaction

    async def wait(self) -> Any:
        if self.transaction.is_open:
            raise TransactionStateError(
                "this ack is answered when the transaction's block has ended; await it after it"
            )
        return await super().wait()


class Transaction:
    """One batch, durable at the end of the ``async with`` block, or nothing of it.

    The stores' ``*_nowait`` methods add to it with ``transaction=``. It is sent when the block
    ends; leaving the block by an exception sends nothing. Conditions (``expected_version``) are
    held against the state at the commit: where one fails, nothing is written and the block raises
    `VersionConflictError`.

    Cancelled at the end of the block: while it waits for room in the mailbox, nothing was sent;
    later it may still be committed, all of it, and its acks tell.
    """

    def __init__(self, gateway: StoreGateway, durability: Durability) -> None:
        self._gateway = gateway
        self._durability = durability
        self._operations: list[Operation] = []
        self._acks: list[Ack[Any]] = []
        self._listeners: list[Callable[[bool], None]] = []
        self._conditions: dict[tuple[Callable[..., None], tuple[Hashable, ...]], None] = {}
        self._state = _State.NEW

    @property
    def is_open(self) -> bool:
        return self._state is _State.OPEN

    def add(self, operation: Operation) -> Ack[Any]:
        """Add an operation; its ack is answered with the whole batch.

        Raises:
            TransactionStateError: outside the block.
        """
        self._check_open()
        ack = _TransactionAck(transaction=self)
        self._operations.append(operation)
        self._acks.append(ack)
        return ack

    def on_settled(self, listener: Callable[[bool], None]) -> None:
        """Have ``listener`` told whether the transaction was committed, exactly once.

        It is told when the acks are answered and before any other task runs, in the order of the
        commits: so what a subsystem keeps in memory can follow what is on disk. It must not raise.
        False also where the block was left without sending, and where it cannot be told
        (`CommitUnknownError`): the writer is gone then.

        Raises:
            TransactionStateError: outside the block; it will not be told.
        """
        self._check_open()
        self._listeners.append(listener)

    def require(self, condition: Callable[..., None], *args: Hashable) -> None:
        """Have ``condition(*args)`` called when the block ends, before anything is sent, also where
        there is nothing to be sent.

        Where it raises, nothing is sent, and the block raises that. For what must still be so then
        and is known in memory: that a queue added to was not deleted meanwhile, say. The same
        condition is called once, however often it is required; and before a wait for room in the
        mailbox, where there is one.

        Raises:
            TransactionStateError: outside the block; it will not be called.
        """
        self._check_open()
        self._conditions[condition, args] = None

    def check_gateway(self, gateway: StoreGateway) -> None:
        """Raises `TransactionStateError` where it is of another registry."""
        if self._gateway is not gateway:
            raise TransactionStateError(
                "the transaction is of another registry than the store; nothing was added"
            )

    def _check_open(self) -> None:
        if get_ident() != self._gateway.thread:
            self._gateway.check_thread("a transaction")
        if self._state is not _State.OPEN:
            raise TransactionStateError(
                f"the transaction is {self._state.value}; nothing was added"
            )

    async def __aenter__(self) -> Self:
        self._gateway.check_thread("a transaction")
        if self._state is not _State.NEW:
            raise TransactionStateError("a transaction is used once; make a new one")
        self._state = _State.OPEN
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self._end(exc)
            return
        try:
            for condition, args in self._conditions:
                condition(*args)
            if not self._operations:
                self._state = _State.ENDED
                self._tell(())
                return
            # Before it waits for room: what another task added now would be in no batch.
            self._state = _State.SENT
            await self._gateway.write_batch(
                self._operations, self._acks, self._durability, self._tell
            )
        except BaseException as error:
            self._end(error)
            raise
        await self._acks[-1].wait()

    def _end(self, cause: BaseException | None) -> None:
        self._state = _State.ENDED
        for ack in self._acks:
            error = TransactionStateError("the transaction was not sent; nothing was written")
            error.__cause__ = cause
            ack.reject(error)
        self._tell(None)

    def _tell(self, results: Sequence[OperationResult] | None) -> None:
        for listener in self._listeners:
            try:
                listener(results is not None)
            except Exception:  # noqa: BLE001
                # A bug of one listener: the others are told all the same.
                _log.exception("what follows a transaction has failed")


def send_nowait(
    gateway: StoreGateway,
    operation: Operation,
    durability: Durability,
    transaction: Transaction | None,
) -> Ack[Any]:
    """Add an operation to the transaction, or send it at once as a batch of its own."""
    if transaction is not None:
        transaction.check_gateway(gateway)
        return transaction.add(operation)
    return gateway.write_nowait(operation, durability)
