"""Logs of a node: one line for each record, with the given clock, and no secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from attrs import define, field

from mpreg.monitoring import configure_logs, request_context
from mpreg.monitoring.logs import get_logger

#: 2001-09-09T01:46:40Z.
WALL = 1_000_000_000.25


@define
class StillClock:
    def wall(self) -> float:
        return WALL


@define
class Logs:
    stream: io.StringIO = field(factory=io.StringIO)

    def configure(self, **options: str) -> Iterator[Logs]:
        put_back = configure_logs(StillClock(), self.stream, **options)  # type: ignore[arg-type]
        yield self
        put_back()

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def logs() -> Iterator[Logs]:
    yield from Logs().configure(format="json", level="info")


@pytest.fixture
def console() -> Iterator[Logs]:
    yield from Logs().configure(format="console", level="warning")


def test_what_the_library_says_becomes_json_with_the_clock_that_was_given(logs: Logs) -> None:
    logging.getLogger("mpreg.queues").info("queue %r: %d dead letters dropped", "jobs", 3)
    assert logs.records() == [
        {
            "event": "queue 'jobs': 3 dead letters dropped",
            "level": "info",
            "logger": "mpreg.queues",
            "timestamp": "2001-09-09T01:46:40.250Z",
        }
    ]


def test_a_record_tells_of_its_request_and_of_what_it_was_given(logs: Logs) -> None:
    with request_context(request_id="r1"):
        get_logger("mpreg.server").warning("slow", seconds=1.5)
        logging.getLogger("mpreg.server").info("plain", extra={"queue": "jobs"})
    get_logger("mpreg.server").info("after")
    first, second, third = logs.records()
    assert (first["request_id"], first["seconds"], first["level"]) == ("r1", 1.5, "warning")
    assert (second["request_id"], second["queue"]) == ("r1", "jobs")
    assert "request_id" not in third


def test_no_secret_gets_into_the_log(logs: Logs) -> None:
    get_logger("mpreg.server").info("refused", authorization="Bearer abc", write_token="abc")
    logging.getLogger("mpreg.server").info("header was 'Authorization: Bearer abc'")
    text = logs.stream.getvalue()
    assert "refused" in text
    assert "abc" not in text


def test_an_error_comes_with_its_traceback_in_one_line_of_json(logs: Logs) -> None:
    try:
        raise ValueError("the cause")
    except ValueError as error:
        logging.getLogger("mpreg.persistence").warning("failed", exc_info=error)
    (record,) = logs.records()
    assert "ValueError: the cause" in str(record["exception"])


def test_text_for_people_has_no_colors_and_nothing_below_its_level(console: Logs) -> None:
    logging.getLogger("mpreg.persistence").info("not said")
    logging.getLogger("mpreg.persistence").warning("said")
    (line,) = console.lines()
    assert "said" in line
    assert "\x1b" not in line


def test_everything_is_put_back_as_it_was() -> None:
    logger = logging.getLogger("mpreg")
    before = (list(logger.handlers), logger.level, logger.propagate)
    put_back = configure_logs(StillClock(), io.StringIO())
    assert (logger.handlers, logger.propagate) != (before[0], before[2])
    put_back()
    assert (logger.handlers, logger.level, logger.propagate) == before
