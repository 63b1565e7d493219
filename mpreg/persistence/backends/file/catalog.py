"""How a state in memory answers a `CatalogQuery`."""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from typing import Any

from mpreg.persistence.backends.catalog import (
    NAMES_PER_PAGE,
    CatalogQuery,
    Counted,
    CountEntries,
    ListLogs,
    ListNamespaces,
    LogFound,
    NamesPage,
    ReadNumbers,
    StoreNumbers,
)
from mpreg.persistence.backends.state import MemoryState

__all__ = ["answer_catalog"]


def answer_catalog(state: MemoryState, generation: int, sequence: int, query: CatalogQuery) -> Any:
    match query:
        case ReadNumbers():
            return StoreNumbers(generation, sequence, state.last_version)
        case ListNamespaces():
            names, next_after = _page(state.namespaces(), query.after)
            return NamesPage(tuple(names), next_after)
        case ListLogs():
            names, next_after = _page(state.logs(), query.after)
            found = tuple(LogFound(name, *state.log_bounds(name)) for name in names)
            return NamesPage(found, next_after)
        case CountEntries():
            return _count(state, query)


def _page(names: list[bytes], after: bytes) -> tuple[list[bytes], bytes | None]:
    start = bisect_right(names, after)
    page = names[start : start + NAMES_PER_PAGE]
    return page, page[-1] if len(page) == NAMES_PER_PAGE else None


def _count(state: MemoryState, query: CountEntries) -> Counted:
    # The least key above: counting goes on after one that was counted.
    start = query.after + b"\x00" if query.after else b""
    counted = list(islice(state.entry_sizes(query.namespace, start), query.count_max))
    is_cut = len(counted) == query.count_max
    size_bytes = sum(size for _, size in counted)
    return Counted(len(counted), size_bytes, counted[-1][0] if is_cut else None)
