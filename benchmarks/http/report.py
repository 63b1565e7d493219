"""The parts of the benchmark over HTTP, and their tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich.table import Table

from benchmarks.figures import console
from benchmarks.http.load import measure
from benchmarks.http.servers import missing, version
from benchmarks.http.watch import STEPS, can_watch, count_syncs, watch
from benchmarks.http.workload import (
    BODY,
    CLIENT,
    CONNECTIONS,
    CONTENDERS,
    CYCLES,
    KEYED,
    NOTES,
    PEERS,
    PHASES,
    SECONDS,
    SENDS,
    LoadResult,
    PhaseResult,
    generators,
    loop_of,
)
from benchmarks.processes import Plan, fresh
from benchmarks.verdicts import ratio

PARTS: Final = ("http-load", "http-syncs")

TITLES: Final = {
    SENDS: f"Durable sends of {len(BODY)} bytes over connections that wait for each answer",
    CYCLES: f"Life cycles of {len(BODY)}-byte messages: each connection sends, receives, "
    "acknowledges",
}

COLUMNS: Final = (
    "C",
    "contender",
    "a second",
    "embedded",
    "redis",
    "nats",
    "p50 ms",
    "p99 ms",
    "server",
    "clients",
)

#: Watched: one of each server, and with its key, which is a write more.
WATCHED: Final = (*PEERS, *KEYED, *CLIENT[1:])
WATCHED_REQUESTS: Final = 100
WATCHED_CONNECTIONS: Final = 64
WATCHED_SECONDS: Final = 2.0

Rounds = Mapping[str, Sequence[LoadResult]]


def compare_http(parts: set[str], plan: Plan) -> None:
    """Run these parts, and print their tables."""
    if not parts & set(PARTS):
        return
    contenders = list(_present())
    if "http-syncs" in parts:
        _show_syncs(plan, [name for name in contenders if name in WATCHED])
    if "http-load" in parts:
        _show_load(plan, contenders)
    for name, note in NOTES.items():
        console.print(f"  {name}: {note}.")


def _present() -> Iterator[str]:
    for name in CONTENDERS:
        if (reason := missing(name)) is not None:
            console.print(f"[bold red]{name} IS LEFT OUT: {reason}[/]")
            continue
        if name in PEERS:
            console.print(f"{name}: {version(name)}")
        yield name


# --- load ---


def _show_load(plan: Plan, contenders: Sequence[str]) -> None:
    tables = {phase: _load_table(phase) for phase in PHASES}
    for connections in CONNECTIONS:
        rounds = _measure_rounds(plan, contenders, connections)
        for phase, table in tables.items():
            for name in contenders:
                table.add_row(*_load_row(connections, name, phase, rounds))
            table.add_section()
    for table in tables.values():
        console.print(table)
    console.print(
        "  C: connections. Ratios to embedded (on the same event loop), redis and nats, within a "
        "round. Server, clients:\n  milliseconds of CPU for an operation. Clients run in two "
        "processes, but for one connection and embedded;\n  where they take most of the CPUs, they "
        "are what is measured."
    )


def _load_table(phase: str) -> Table:
    table = Table(title=TITLES[phase], padding=0)
    for column in COLUMNS:
        name = column == "contender"
        table.add_column(column, justify="left" if name else "right", no_wrap=name)
    return table


def _measure_rounds(plan: Plan, contenders: Sequence[str], connections: int) -> Rounds:
    rounds: dict[str, list[LoadResult]] = {name: [] for name in contenders}
    for number in range(plan.rounds):
        for name in contenders:
            with fresh(plan.path(name)) as directory:
                result = measure(name, directory, connections, SECONDS * min(1.0, plan.scale))
            rounds[name].append(result)
            console.print(
                f"  {connections} connections in {generators(name, connections)} processes, "
                f"round {number + 1}, {name}: {result.sends.per_second:,.0f} sends, "
                f"{result.cycles.per_second:,.0f} life cycles a second"
            )
    return rounds


def _load_row(connections: int, name: str, phase: str, rounds: Rounds) -> Iterator[str]:
    own = _of_phase(rounds[name], phase)
    yield str(connections)
    yield name
    yield f"{statistics.median(result.per_second for result in own):,.0f}"
    for base in (f"mpreg embedded {loop_of(name)}", *PEERS):
        yield _ratio(own, _of_phase(rounds.get(base, ()), phase))
    yield _median((result.p50 for result in own), 1_000, ".1f")
    yield _median((result.p99 for result in own), 1_000, ".1f")
    yield _median((result.server_ms for result in own), 1, ".3f")
    yield _median((result.client_ms for result in own), 1, ".3f")


def _of_phase(results: Sequence[LoadResult], phase: str) -> list[PhaseResult]:
    return [result.sends if phase == SENDS else result.cycles for result in results]


def _ratio(own: Sequence[PhaseResult], base: Sequence[PhaseResult]) -> str:
    """Nothing where the other one was left out."""
    if not base:
        return ""
    return f"{ratio([one.per_second for one in own], [one.per_second for one in base]):.2f}"


def _median(values: Iterable[float | None], factor: float, form: str) -> str:
    known = [value for value in values if value is not None]
    return format(factor * statistics.median(known), form) if known else ""


# --- syncs ---


def _show_syncs(plan: Plan, contenders: Sequence[str]) -> None:
    if (reason := can_watch()) is not None:
        console.print(f"[bold red]WHAT IS SYNCED IS LEFT OUT: {reason}[/]")
        return
    requests = plan.count(WATCHED_REQUESTS, least=10)
    seconds = WATCHED_SECONDS * min(1.0, plan.scale)
    table = Table(title=f"Synced before the reply, of {requests} requests (and all syncs)")
    table.add_column("contender", no_wrap=True)
    for column in (*STEPS, f"{SENDS} per sync", f"{CYCLES} per sync"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in contenders:
        with fresh(plan.path(name)) as directory:
            steps = watch(name, directory, requests)
        with fresh(plan.path(name)) as directory:
            per_sync = count_syncs(name, directory, WATCHED_CONNECTIONS, seconds)
        table.add_row(
            name,
            *(f"{steps[step].synced_before} ({steps[step].syncs})" for step in STEPS),
            *(f"{per_sync[phase]:.1f}" for phase in PHASES),
        )
    console.print(table)
    console.print(
        "  System calls as strace tells them, of one connection; all syncs until a second after "
        f"the last answer. Per sync: with {WATCHED_CONNECTIONS}\n  connections, and strace in the "
        "way, which slows every sync."
    )
