"""Consumes messages of a node, and is killed by one of them: with all that it has taken ahead."""

from __future__ import annotations

import os
import signal
import sys

from mpreg.cli.loops import run
from mpreg.client import MPREGClient

POISON = "poison"


async def main(url: str, enough: str) -> None:
    async with MPREGClient(url) as node:
        jobs = await node.message_queues.get_queue("jobs")
        seen = 0
        async for message in jobs.consume(prefetch=16):
            if message.payload == POISON:
                os.kill(os.getpid(), signal.SIGKILL)
            print(message.payload, flush=True)
            await message.ack()
            seen += 1
            if seen == int(enough):
                break


if __name__ == "__main__":
    run(sys.argv[1], main, *sys.argv[2:])
