"""The cursors of queues, held against the logs of their messages.

A cursor that has come further than its log reaches is what is left of messages that were lost: the
offsets will be given again, and whoever gets one of them is taken for finished already.
"""

from __future__ import annotations

from mpreg.errors import CorruptDataError, QueueNotFoundError
from mpreg.persistence import ReadOnlyRegistry
from mpreg.persistence.maintenance import Finding, FindingKind
from mpreg.queues.view import QueueView, queue_names

__all__ = ["examine_queues"]


async def examine_queues(registry: ReadOnlyRegistry) -> list[Finding]:
    """What is wrong with the queues of a store, beyond what the checksums of their records tell.

    Beside a process that goes on with them, each is looked at as it is at some moment meanwhile.
    """
    found: list[Finding] = []
    for name in await queue_names(registry):
        try:
            view = await QueueView.open(registry, name)
        except QueueNotFoundError:
            # Deleted meanwhile.
            continue
        except CorruptDataError as damage:
            where = damage.where or f"queue {name!r}"
            found.append(Finding(FindingKind.CURSOR, where, damage.message))
            continue
        found += [
            Finding(FindingKind.CURSOR, f"queue {name!r}, {where}", message)
            for where, message in view.checked_cursors()
        ]
    return found
