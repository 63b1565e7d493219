"""Nine reads to a write, misses filled, memory in front of the disk: requests a second."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.table import Table

from benchmarks.cache.processes import measure, run
from benchmarks.cache.targets import judge_mixed, shown
from benchmarks.cache.workload import (
    BEHIND,
    DISKCACHE_FULL,
    DURABLE_DISKCACHES,
    KEYS,
    MEMORY_ENTRIES,
    MIXED_CONTENDERS,
    NAIVE,
    NOTES,
    PREFILLED,
    RELAXED,
    RELAXED_DISKCACHES,
    STORES,
    THROUGH,
    WORKERS,
    FsyncResult,
    MixedResult,
    requests,
    store_of,
)
from benchmarks.figures import console
from benchmarks.processes import Plan, fresh, measure_rounds
from benchmarks.verdicts import Verdict, ratio

FIGURES = ("P", "contender", "per second", "memory", "hits", "peak MiB", "puts per fsync")

RATIOS = (
    "P",
    "contender",
    "durable,\nthreads",
    "\nbound",
    "durable,\ndirect",
    "\nbound",
    "default,\nthreads",
    "default,\ndirect",
    "naive",
)

Rounds = Mapping[str, Sequence[MixedResult]]


def compare_mixed_loads(plan: Plan) -> Iterator[Verdict]:
    """Every contender in turn, round after round, at each number of workers."""
    prefilled = plan.count(PREFILLED, least=1_000)
    figures = _make_table(
        f"Mixed load by P workers: Zipf over {KEYS:,} keys, {prefilled:,} on disk beforehand, "
        f"{MEMORY_ENTRIES:,} in memory",
        FIGURES,
    )
    ratios = _make_table("Mixed load by P workers: how many times as fast", RATIOS)
    verdicts: list[Verdict] = []
    with ExitStack() as stack:
        for store in STORES:
            run("prepare", store, stack.enter_context(fresh(_base(plan, store))), prefilled)
        for workers in WORKERS:
            rounds, fsyncs = _measure_rounds(plan, workers)
            bounds = _bounds(workers, rounds, fsyncs)
            for contender in MIXED_CONTENDERS:
                figures.add_row(*_figures(workers, contender, rounds))
                ratios.add_row(*_ratios(workers, contender, rounds, bounds))
            figures.add_section()
            ratios.add_section()
            verdicts.extend(_judge(workers, rounds, bounds))
            console.print(_explain(workers, rounds, fsyncs, bounds))
    console.print(figures)
    console.print(ratios)
    console.print(
        "  'memory', 'hits': parts of the reads. Ratios within a round. 'durable', 'default': of "
        "diskcache\n  with synchronous=FULL and with its defaults; 'threads': called through "
        "worker threads, as an event\n  loop has to; 'direct': one blocking call after the other, "
        "without an event loop; 'bound': what the\n  ratio before it would be if nothing took time "
        "but fsyncs, each for P puts."
    )
    for contender, note in NOTES.items():
        console.print(f"  {contender}: {note}.")
    yield from verdicts


def _make_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in columns:
        name = column == "contender"
        table.add_column(column, justify="left" if name else "right", no_wrap=name)
    return table


def _base(plan: Plan, store: str) -> Path:
    return plan.path(f"base {store}")


def _measure_rounds(plan: Plan, workers: int) -> tuple[Rounds, Sequence[float]]:
    """With the seconds of an fsync in each round."""
    fsyncs: list[float] = []

    def measure_one(name: str) -> MixedResult:
        count = requests(name, workers, plan.scale)
        if name == DISKCACHE_FULL:
            # Right beside the one that the bound is a ratio to.
            with fresh(plan.path("fsync")) as directory:
                fsyncs.append(FsyncResult(**measure("fsync", directory)).seconds)
        with fresh(plan.path(name), _base(plan, store_of(name))) as directory:
            return MixedResult(**measure("mixed", name, directory, workers, count))

    return measure_rounds(plan.rounds, workers, MIXED_CONTENDERS, measure_one), fsyncs


def _bounds(workers: int, rounds: Rounds, fsyncs: Sequence[float]) -> Mapping[str, float]:
    """Of durable diskcache, at most, by how it is called: every put waits for an fsync, and P
    workers share one at best. One worker shares it with nobody, so no cache can be much faster,
    however it reads."""
    share = _put_share(rounds)
    at_most = [workers / (share * seconds) for seconds in fsyncs]
    return {way: ratio(at_most, _rates(rounds, peer)) for way, peer in DURABLE_DISKCACHES.items()}


def _put_share(rounds: Rounds) -> float:
    return statistics.median(result.put_share for name in THROUGH for result in rounds[name])


def _explain(
    workers: int, rounds: Rounds, fsyncs: Sequence[float], bounds: Mapping[str, float]
) -> str:
    microseconds = statistics.median(fsyncs) * 1e6
    at_most = ", ".join(f"{shown(bound)}x of {way}" for way, bound in bounds.items())
    return (
        f"  P = {workers}: {_put_share(rounds):.2f} puts to a request, an fsync takes "
        f"{microseconds:.0f} us: at most {at_most}"
    )


def _figures(workers: int, contender: str, rounds: Rounds) -> Iterator[str]:
    own = rounds[contender]
    yield str(workers)
    yield contender
    yield f"{statistics.median(_rates(rounds, contender)):,.0f}"
    yield f"{statistics.median(result.memory_ratio for result in own):.2f}"
    yield f"{statistics.median(result.hit_ratio for result in own):.2f}"
    yield f"{max(result.peak_mib for result in own):.0f}"
    per_fsync = own[-1].puts_per_fsync
    yield f"{per_fsync:.0f}" if per_fsync is not None else ""


def _ratios(
    workers: int, contender: str, rounds: Rounds, bounds: Mapping[str, float]
) -> Iterator[str]:
    per_second = _rates(rounds, contender)
    yield str(workers)
    yield contender
    for way, peer in DURABLE_DISKCACHES.items():
        yield f"{ratio(per_second, _rates(rounds, peer)):.2f}"
        yield shown(bounds[way]) if contender in THROUGH else ""
    for peer in RELAXED_DISKCACHES.values():
        yield f"{ratio(per_second, _rates(rounds, peer)):.2f}"
    yield f"{ratio(per_second, _rates(rounds, NAIVE)):.2f}"


def _judge(workers: int, rounds: Rounds, bounds: Mapping[str, float]) -> Iterator[Verdict]:
    for way, peer in DURABLE_DISKCACHES.items():
        for contender in THROUGH:
            figure = ratio(_rates(rounds, contender), _rates(rounds, peer))
            yield judge_mixed(contender, workers, "durable", way, figure, bounds[way])
    for way, peer in RELAXED_DISKCACHES.items():
        for contender in (*RELAXED, *BEHIND):
            figure = ratio(_rates(rounds, contender), _rates(rounds, peer))
            yield judge_mixed(contender, workers, "default", way, figure, None)


def _rates(rounds: Rounds, contender: str) -> list[float]:
    return [result.per_second for result in rounds[contender]]
