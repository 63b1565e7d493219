"""Figures beside their targets: ratios within a round, and whether a target is met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from attrs import frozen
from rich.table import Table


@frozen
class Verdict:
    """One figure beside its target."""

    what: str
    contender: str
    figure: str
    target: str
    met: bool


def ratio(own: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios within each round: machines are noisy from minute to minute."""
    return statistics.median(one / other for one, other in zip(own, base, strict=True))


def at_least(what: str, contender: str, figure: float, least: float) -> Verdict:
    return Verdict(what, contender, f"{figure:.2f}x", f">= {least:g}x", figure >= least)


def at_most(what: str, contender: str, figure: float, most: float) -> Verdict:
    return Verdict(what, contender, f"{figure:.2f}x", f"<= {most:g}x", figure <= most)


def verdict_table(verdicts: Iterable[Verdict]) -> Table:
    table = Table(title="Targets")
    for column in ("what", "contender", "figure", "target", ""):
        table.add_column(column, justify="right" if column in {"figure", "target"} else "left")
    for verdict in verdicts:
        met = "met" if verdict.met else "MISSED"
        table.add_row(verdict.what, verdict.contender, verdict.figure, verdict.target, met)
    return table
