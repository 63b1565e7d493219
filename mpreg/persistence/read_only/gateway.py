"""The way from the stores to a reader, without one to a writer."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from threading import get_ident
from typing import Any, NoReturn

from attrs import define

from mpreg.actors import Ack, Mailbox
from mpreg.errors import ReadOnlyError
from mpreg.persistence.backends.catalog import CatalogQuery
from mpreg.persistence.batch import Durability, Settled
from mpreg.persistence.gateway import READS_WAITING_MAX, StoreGateway
from mpreg.persistence.operations import Append, Operation

__all__ = ["ReadOnlyGateway"]


@define(eq=False)
class ReadOnlyGateway(StoreGateway):
    """The stores do not know it from another one: every write raises `ReadOnlyError`."""

    def open_reads(self) -> None:
        """Take reads from now on. The mailbox of the writer stays the closed one it was made."""
        self.thread = get_ident()
        self.reads = Mailbox(messages_max=READS_WAITING_MAX, bytes_max=READS_WAITING_MAX)

    def write(
        self, operation: Operation, durability: Durability, settled: Settled | None = None
    ) -> Awaitable[Any]:
        self.refuse(settled)

    def write_nowait(
        self, operation: Operation, durability: Durability, settled: Settled | None = None
    ) -> Ack[Any]:
        # Here ``settled`` is only told of what was sent.
        self.refuse()

    def send_nowait(
        self,
        operations: Sequence[Operation],
        durability: Durability,
        settled: Settled | None = None,
    ) -> Sequence[Ack[Any]]:
        self.refuse()

    def append(
        self, append: Append, durability: Durability, settled: Settled | None = None
    ) -> Awaitable[int]:
        self.refuse(settled)

    async def write_batch(
        self,
        operations: Sequence[Operation],
        acks: Sequence[Ack[Any]],
        durability: Durability,
        settled: Settled | None = None,
    ) -> None:
        self.refuse()

    async def ask(self, query: CatalogQuery) -> Any:
        """`read`, for a question that only a look from outside asks."""
        return await self.read(query)  # type: ignore[arg-type]

    def refuse(self, settled: Settled | None = None) -> NoReturn:
        if settled is not None:
            settled(None)
        raise ReadOnlyError(f"{self.config.data_dir} was opened to be read only; not written")
