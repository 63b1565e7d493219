"""How large a directory is, how far it has come, and who holds it."""

from __future__ import annotations

from mpreg.cli.decoding import printable, size
from mpreg.cli.output import Output
from mpreg.cli.runs.inspect.names import log_row, namespace_row
from mpreg.cli.runs.inspect.selection import COUNTED_MAX, Selection, telling
from mpreg.cli.runs.queue.looking import show_one
from mpreg.cli.settings import Settings
from mpreg.cli.times import moment
from mpreg.errors import CorruptDataError
from mpreg.persistence import DirectoryStatistics, Holder, open_read_only
from mpreg.persistence.own_names import ACKED_NAME
from mpreg.queues.view import queue_names

__all__ = ["show_stats"]


async def show_stats(settings: Settings, output: Output, *, is_exact: bool, is_all: bool) -> None:
    async with open_read_only(settings.data_dir) as registry:
        try:
            _directory(await registry.stats(), output)
        except CorruptDataError as damage:
            output.damage(damage.message, damage.where)
        selection = Selection(is_all=is_all)
        output.heading("namespaces")
        async for name in registry.namespaces(on_damaged=telling(output)):
            if selection.shows(name):
                count = await registry.count_keys(name, None if is_exact else COUNTED_MAX)
                output.row(*namespace_row(name, count, "namespace"))
        output.heading("logs")
        async for log in registry.logs(on_damaged=telling(output)):
            if selection.shows(log.name):
                output.row(*log_row(log, "log"))
        output.heading("queues")
        try:
            for queue in await queue_names(registry):
                await show_one(registry, output, queue, "queue")
        except CorruptDataError as damage:
            output.damage(damage.message, damage.where)


def _directory(stats: DirectoryStatistics, output: Output) -> None:
    fields = {
        "kind": "directory",
        "path": str(stats.path),
        "backend": stats.backend,
        "held": stats.holder is not None,
        "pid": None if stats.holder is None else stats.holder.pid,
        "host": None if stats.holder is None else stats.holder.host,
        "since": None if stats.holder is None else stats.holder.since,
        "generation": stats.generation,
        "commit_sequence": stats.commit_sequence,
        "acked_sequence": stats.acked_sequence,
        "last_version": stats.last_version,
        "files": stats.files,
    }
    lines = [
        f"directory        {printable(str(stats.path))}",
        f"held by          {_holder(stats.holder)}",
        f"backend          {stats.backend}",
        f"commit sequence  {stats.commit_sequence}",
        f"acked up to      {_acked(stats)}",
        f"generation       {stats.generation}",
        f"last version     {stats.last_version}",
        *(
            f"file             {name:<29} {size(length):>12}"
            for name, length in stats.files.items()
        ),
    ]
    output.row(fields, "\n".join(lines))
    if stats.is_acked_damaged:
        output.damage("both slots are damaged: what was acknowledged is not known", ACKED_NAME)
    elif stats.acked_sequence is not None and stats.acked_sequence > stats.commit_sequence:
        output.damage(
            f"commits {stats.commit_sequence + 1} to {stats.acked_sequence} were acknowledged as "
            "durable and are missing",
            ACKED_NAME,
        )


def _acked(stats: DirectoryStatistics) -> str:
    if stats.acked_sequence is not None:
        return str(stats.acked_sequence)
    if stats.generation == 0:
        # Each opening gives itself one before it takes anything.
        return "nothing: the first opening did not come to its end, and nothing was acknowledged"
    return "unknown"


def _holder(holder: Holder | None) -> str:
    if holder is None:
        return "nobody"
    if holder.pid is None:
        return "a process that left no pid"
    host = "" if holder.host is None else f" on {printable(holder.host)}"
    since = "" if holder.since is None else f" since {moment(holder.since)}"
    return f"pid {holder.pid}{host}{since}"
