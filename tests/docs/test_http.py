"""The page about HTTP and the server say the same."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from mpreg.server.problems import PROBLEMS
from mpreg.server.routes import ENDPOINTS
from tests.docs.pages import PAGES

HTTP: Final = PAGES["docs/reference/http.md"]


def test_the_routes_are_those_of_the_server() -> None:
    said = [tuple(row.values()) for row in HTTP.table("## Routes")]
    assert said == [
        (
            one.method,
            f"`{one.path.replace(':path', '')}`",
            "" if one.role is None else one.role.name.lower(),
            "yes" if one.takes_key else "",
            f"{one.summary}.",
        )
        for one in ENDPOINTS
    ]


def test_every_error_has_the_status_that_is_said() -> None:
    statuses = defaultdict(set)
    for kind, problem in PROBLEMS.items():
        statuses[problem.status].add(f"`{kind.__name__}`")
    said = {int(row["status"]): set(row["errors"].split()) for row in HTTP.table("## Errors")}
    assert said == statuses


def test_no_two_routes_are_the_same_and_each_says_what_it_does() -> None:
    assert len({(one.method, one.path) for one in ENDPOINTS}) == len(ENDPOINTS)
    for one in ENDPOINTS:
        assert one.summary[0].isupper()
        assert one.handler.__doc__, one.path
