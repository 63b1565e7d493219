"""What a node tells of itself over HTTP."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mpreg.clock import SystemClock
from mpreg.monitoring import PAGE_HEADERS, configure_logs
from mpreg.settings import MonitoringSettings
from tests.integration.server.support import error_of, open_node

pytestmark = pytest.mark.anyio


async def test_requests_are_counted_by_route_and_in_the_metrics_that_tell_of_them(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:
        await node.send(1, 2)
        await node.client.get("/no/such/path")
        answer = await node.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        found = {
            (one.labels["route"], one.labels["method"], one.labels["status"]): one.value
            for family in text_string_to_metric_families(answer.text)
            for one in family.samples
            if one.name == "mpreg_http_requests_total"
        }
        assert found == {
            ("/v1/queues/{queue}/messages", "POST", "201"): 1,
            ("other", "GET", "404"): 1,
        }
        assert 'mpreg_queue_pending_messages{queue="jobs"} 2.0' in answer.text
        assert "mpreg_http_requests_in_flight 1.0" in answer.text


async def test_openmetrics_is_given_to_who_asks_for_it(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await node.client.get("/metrics", headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


async def test_the_report_and_the_status_are_json(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        report = (await node.client.get("/metrics/persistence")).json()
        assert report["mode"]["backend"] == "memory"
        status = (await node.client.get("/v1/status")).json()
        assert [one["name"] for one in status["queues"]] == ["jobs"]


async def test_all_that_the_page_names_is_there_and_nothing_may_come_from_elsewhere(
    data_dir: Path,
) -> None:
    async with open_node(data_dir, read_token="r" * 16) as node:
        page = await node.client.get("/")
        for name, value in PAGE_HEADERS.items():
            assert page.headers[name] == value
        assert "unsafe" not in page.headers["content-security-policy"]
        assert not re.search(r"<script>|\son\w+=|\sstyle=|https?:", page.text)
        named = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        assert len(set(named)) == 3
        for path in {*named, "page/charts.js"}:
            found = await node.client.get(f"/{path}")
            assert found.status_code == 200, path
            again = await node.client.get(
                f"/{path}", headers={"if-none-match": found.headers["etag"]}
            )
            assert (again.status_code, again.content) == (304, b"")


async def test_what_a_request_says_in_the_log_has_its_id_and_its_route(data_dir: Path) -> None:
    stream = io.StringIO()
    put_back = configure_logs(SystemClock(), stream, format="json", level="debug")
    try:
        async with open_node(data_dir) as node:
            await node.client.get("/v1/queues/jobs?secret=in-the-query")
    finally:
        put_back()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    (answered,) = [one for one in told if one["event"] == "answered"]
    assert (answered["route"], answered["status"]) == ("/v1/queues/{queue}", 200)
    assert answered["request_id"]
    assert "in-the-query" not in stream.getvalue()


async def test_what_is_switched_off_is_not_there(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        off = MonitoringSettings(metrics=False, status_page=False)
        node.state.settings = attrs.evolve(node.state.settings, monitoring=off)
        for path in ("/metrics", "/metrics/persistence", "/v1/status", "/", "/page/status.js"):
            assert error_of(await node.client.get(path)) == (404, "NotFoundError")
