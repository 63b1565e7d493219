"""What is sent, by how many connections, and to whom: the same for every contender."""

from __future__ import annotations

from typing import Final

from attrs import frozen

#: 200 bytes.
BODY: Final = bytes(ord("a") + number % 26 for number in range(200))

#: Sends and life cycles have a queue each, so that neither finds what the other has left.
SENDS: Final = "sends"
CYCLES: Final = "cycles"
PHASES: Final = (SENDS, CYCLES)

REDIS: Final = "redis"
NATS: Final = "nats"
PEERS: Final = (REDIS, NATS)
EMBEDDED: Final = ("mpreg embedded asyncio", "mpreg embedded trio")
CLIENT: Final = ("mpreg client asyncio", "mpreg client trio")
PLAIN: Final = ("mpreg plain asyncio", "mpreg plain trio")
KEYED: Final = ("mpreg plain, key asyncio",)
NODES: Final = (*CLIENT, *KEYED, *PLAIN)
CONTENDERS: Final = (*PEERS, *EMBEDDED, *NODES)

NOTES: Final = {
    REDIS: "XADD, XREADGROUP by a consumer group, XACK with XDEL; appendonly yes, appendfsync "
    "always. What one turn of its loop has taken is one write and one sync before any of the "
    "replies: group commit. All three are on disk when they are answered. A send that is tried "
    "again is sent twice. A message stays with its consumer until somebody asks for it "
    "(XAUTOCLAIM). All messages are in memory",
    NATS: "JetStream, one replica in a file, sync_interval always; publish and its PubAck, a pull "
    "consumer's fetch, ack_sync. A message is on disk when it is answered, with a sync of its own; "
    "so is its removal by an ack, as this is a work queue. Which messages are with consumers, and "
    "how often they were, is written some ten times a second, after the answer. A send that is "
    "tried again is sent twice; with a Nats-Msg-Id, which is not given here, once in two minutes",
    "mpreg embedded": "the same queue in the process of its senders and consumers: no HTTP",
    "mpreg client": "`mpreg serve` and mpreg.client. Send, receive and ack are on disk when they "
    "are answered, the attempt of a delivery too; sends and acks have an Idempotency-Key, "
    "whose answer is in the same commit, so that one that is tried again for a day is made once",
    "mpreg plain, key": "the same requests from an HTTP/1.1 client that does nothing else: "
    "what the node takes when its client is not in the way",
    "mpreg plain": "without the Idempotency-Key: a send that is tried again is sent twice",
}

#: Each is a worker that has one of its own, and does one thing after the other.
CONNECTIONS: Final = (1, 64, 512)

#: Processes that share the connections: one can be slower than what it measures.
GENERATORS: Final = {1: 1, 64: 2, 512: 2}

#: Each phase is timed for so long; a part of it is run beforehand, untimed.
SECONDS: Final = 4.0
WARM_UP: Final = 4


def generators(contender: str, connections: int) -> int:
    """A directory has one process, so an embedded queue has one as well."""
    return 1 if contender in EMBEDDED else GENERATORS[connections]


def loop_of(contender: str) -> str:
    """The event loop of mpreg: in the node, or where there is none, around the queue."""
    return "trio" if contender.endswith(" trio") else "asyncio"


def kind_of(contender: str) -> str:
    """Its name without the loop."""
    return contender.removesuffix(" asyncio").removesuffix(" trio")


@frozen
class PhaseResult:
    """One phase of one contender, timed."""

    per_second: float
    p50: float | None
    """Seconds of one operation, of a sample of the workers."""
    p99: float | None
    server_ms: float | None
    """Milliseconds of CPU that the server took for an operation; None where there is none."""
    client_ms: float
    """Of all load generators."""


@frozen
class LoadResult:
    sends: PhaseResult
    cycles: PhaseResult
