"""How soon an idle consumer has a message whose send has been acknowledged."""

from __future__ import annotations

from rich.table import Table

from benchmarks.figures import console, median_ms
from benchmarks.processes import Plan, fresh
from benchmarks.queues.processes import measure
from benchmarks.queues.workload import PEERS, SINGLE, LatencyResult

MESSAGES = 500


def compare_latencies(plan: Plan) -> None:
    table = Table(title="From a send's ack to the waiting consumer, nothing else going on")
    for column in ("contender", "p50 ms", "p99 ms", "worst ms"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    rounds = _measure_rounds(plan)
    for name, results in rounds.items():
        table.add_row(
            name,
            median_ms(result.p50 for result in results),
            median_ms(result.p99 for result in results),
            median_ms([max(result.worst for result in results)]),
        )
    console.print(table)
    console.print(
        "  What lies between is the durable receive. Peers are told by a semaphore of ours that "
        "there is a message; by themselves litequeue and huey only poll."
    )


def _measure_rounds(plan: Plan) -> dict[str, list[LatencyResult]]:
    messages = plan.count(MESSAGES, least=100)
    rounds: dict[str, list[LatencyResult]] = {name: [] for name in (*SINGLE, *PEERS)}
    for _ in range(plan.rounds):
        for name in rounds:
            with fresh(plan.path(name)) as directory:
                rounds[name].append(LatencyResult(**measure("latency", name, directory, messages)))
    return rounds
