"""What is sent, how often, and by whom: the same for every contender."""

from __future__ import annotations

from typing import Final

from attrs import frozen

#: 200 bytes that are text as well: not every peer takes bytes.
TEXT: Final = "".join(chr(ord("a") + number % 26) for number in range(200))
BODY: Final = TEXT.encode()

QUEUE: Final = "jobs"

BARE: Final = "bare sqlite3"
PIPELINED: Final = "bare, one commit"
SINGLE: Final = ("mpreg asyncio", "mpreg uvloop", "mpreg trio")
MANY: Final = ("mpreg x16 asyncio", "mpreg x16 uvloop", "mpreg x16 trio")
LOOPING: Final = ("mpreg loop asyncio", "mpreg loop uvloop", "mpreg loop trio")
OURS: Final = (*SINGLE, *LOOPING, *MANY)
PEERS: Final = ("persist-queue", "litequeue", "huey")
CONTENDERS: Final = (BARE, PIPELINED, *OURS, *PEERS)

NOTES: Final = {
    BARE: "the limit: one thread, no event loop; P sends, P receives, P acks, a commit for each P",
    "mpreg loop": "consumers run `async for message in jobs.consume(prefetch=16): await "
    "message.ack()`",
    "mpreg": "the attempt is on disk before the message is handed out; that of the next one goes "
    "with an acknowledgment",
    "mpreg x16": "consumers take up to 16 messages at a time, and acknowledge them together",
    PIPELINED: "the same, with P acks, P receives and P sends of three generations in one commit",
    "persist-queue": "SQLiteAckQueue, multithreading, own commit for each step; received messages "
    "are marked, attempts not counted; acked rows cleared every 200",
    "litequeue": "own commit for each step, synchronous=FULL set by us; attempts not counted; done "
    "rows pruned every 200",
    "huey": "SqliteStorage, fsync=True; has no acknowledgement: its dequeue deletes, so a life "
    "cycle is two commits and a crash of the consumer loses the message",
}

#: Producers, and as many consumers.
WORKERS: Final = (1, 16, 256)

#: Life cycles timed at each number of workers: one to a few seconds each.
CYCLES: Final = {
    "bare": {1: 2_000, 16: 24_000, 256: 204_800},
    "mpreg": {1: 2_000, 16: 16_000, 256: 51_200},
    # They commit each step by itself: more would take minutes, and not say more.
    "peers": {1: 1_000, 16: 2_048, 256: 2_048},
}


def cycles(contender: str, workers: int, scale: float) -> int:
    """How many life cycles to time: a multiple of the workers."""
    kind = "peers" if contender in PEERS else "mpreg" if contender in OURS else "bare"
    return max(1, int(CYCLES[kind][workers] * scale) // workers) * workers


@frozen
class CycleResult:
    """Life cycles of one contender, timed."""

    per_second: float
    send_p50: float | None
    """Seconds from the call of a send to its ack, of a sample of the senders."""
    send_p99: float | None
    peak_mib: float
    fsyncs_per_cycle: float
    """Durable commits for each life cycle."""


@frozen
class LatencyResult:
    """Seconds from a send's ack until an idle consumer has the message."""

    p50: float
    p99: float
    worst: float


@frozen
class RestartResult:
    """A start on what an earlier process left."""

    opened_seconds: float
    """Until the registry and the queue are open."""
    received_seconds: float | None
    """Until the first message is received, its attempt on disk; None where there is none."""
    first_seconds: float | None
    """Until it is acknowledged as well."""
    peak_mib: float


@frozen
class BacklogResult:
    """Room on disk while many messages go by one that stays."""

    seconds: float
    sent_bytes: int
    live_bytes: int
    """Bodies that are not acknowledged at the end."""
    database_bytes: int
    wal_bytes: int
    peak_bytes: int
    """Database and WAL together, at most, after any chunk."""
    closed_bytes: int
    """Database and WAL together after the registry is closed."""
    free_bytes: int
    """Pages of the closed database that nothing uses, and that the next messages take."""
    left: int
    """Messages that a later process finds: the first, and nothing else."""
