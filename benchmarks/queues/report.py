"""The parts of the queue benchmark, and its figures beside their targets."""

from __future__ import annotations

from typing import Final

from benchmarks.figures import console
from benchmarks.processes import Plan
from benchmarks.queues.backlog import show_backlog
from benchmarks.queues.cycles import compare_cycles
from benchmarks.queues.latency import compare_latencies
from benchmarks.queues.restart import compare_restarts
from benchmarks.verdicts import Verdict, verdict_table

PARTS: Final = ("queue-cycles", "queue-restart", "queue-latency", "queue-backlog")


def compare_queues(parts: set[str], plan: Plan) -> None:
    """Run these parts, print their tables, and what became of the targets."""
    verdicts: list[Verdict] = []
    if "queue-cycles" in parts:
        verdicts.extend(compare_cycles(plan))
    if "queue-restart" in parts:
        verdicts.extend(compare_restarts(plan))
    if "queue-latency" in parts:
        compare_latencies(plan)
    if "queue-backlog" in parts:
        show_backlog(plan)
    if verdicts:
        console.print(verdict_table(verdicts))
