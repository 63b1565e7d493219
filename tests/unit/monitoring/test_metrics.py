"""A scrape: what is in it, how it is named, and how much of it there can be."""

from __future__ import annotations

import re

import attrs
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from mpreg.cache import NamespaceStatistics
from mpreg.monitoring.http import ROUTES_MAX, HTTPRecorder
from mpreg.monitoring.metrics import CACHE_NAMESPACES_MAX, METRICS, Kind, render
from mpreg.monitoring.snapshot import NodeSnapshot
from tests.unit.monitoring.snapshots import CACHE, QUEUE, REGISTRY, snapshot


def scraped(of: NodeSnapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, _ = render(of)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(of: NodeSnapshot, name: str, **labels: str) -> float | None:
    return scraped(of).get((name, frozenset(labels.items())))


def test_every_metric_is_in_a_scrape_as_the_table_says() -> None:
    text, content_type = render(snapshot())
    families = {one.name: one for one in text_string_to_metric_families(text.decode())}
    assert content_type.startswith("text/plain; version=")
    for spec in METRICS:
        found = families[spec.name.removesuffix("_total")]
        assert (found.type, found.documentation) == (spec.kind.value, spec.help)
        assert found.samples, f"{spec.name} has no samples"
        assert set(found.samples[0].labels) - {"le"} == set(spec.labels)


def test_who_asks_for_openmetrics_gets_it() -> None:
    text, content_type = render(snapshot(), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in open_metrics_families(text.decode())}  # type: ignore[no-untyped-call]
    assert "mpreg_commits" in names


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_names_follow_the_conventions(spec: object) -> None:
    assert isinstance(spec, type(METRICS[0]))
    assert re.fullmatch(r"mpreg_[a-z_]+", spec.name)
    assert spec.name.endswith("_total") is (spec.kind is Kind.COUNTER)
    assert spec.help.endswith(".")


def test_the_figures_are_those_of_the_snapshot() -> None:
    of = snapshot()
    assert value(of, "mpreg_commits_total") == REGISTRY.commits
    assert value(of, "mpreg_durable_lag_commits") == 2
    assert value(of, "mpreg_actor_restarts_total", actor="writer") == 1
    assert value(of, "mpreg_queue_oldest_message_seconds", queue="jobs") == QUEUE.oldest_seconds
    assert value(of, "mpreg_commit_group_batches_bucket", le="4.0") == 7
    assert value(of, "mpreg_commit_group_batches_bucket", le="2.0") == 0
    assert value(of, "mpreg_ack_seconds_sum") == pytest.approx(0.021)
    assert value(of, "mpreg_ack_seconds_count") == 7
    reads = {"cache": "default", "namespace": "users"}
    assert value(of, "mpreg_cache_reads_total", **reads, result="L1") == CACHE.memory_hits
    assert value(of, "mpreg_restore_seconds", participant="queues") == 0.25
    assert value(of, "mpreg_fabric_peers", state="away") == 1
    assert value(of, "mpreg_fabric_nodes", state="alive") == 3
    assert value(of, "mpreg_fabric_announcements_total", result="known") == 50
    assert value(of, "mpreg_fabric_forwarded_total", result="answered") == 7


def test_what_is_not_known_is_left_out_and_an_empty_queue_has_an_age_of_nothing() -> None:
    registry = attrs.evolve(REGISTRY, checkpointed_at=None)
    empty = attrs.evolve(QUEUE, size=0, oldest_seconds=None)
    unknown = attrs.evolve(QUEUE, oldest_seconds=None)
    of = snapshot(registry=registry, queues={"empty": empty, "unknown": unknown})
    assert value(of, "mpreg_checkpoint_timestamp_seconds") is None
    assert value(of, "mpreg_queue_oldest_message_seconds", queue="empty") == 0
    assert value(of, "mpreg_queue_oldest_message_seconds", queue="unknown") is None


def test_namespaces_beyond_the_bound_are_counted_together() -> None:
    one = NamespaceStatistics(memory_hits=1, disk_hits=2, misses=3)
    names = ["other", *(f"n{number}" for number in range(CACHE_NAMESPACES_MAX + 5))]
    # Of some reads the namespaces were forgotten.
    cache = attrs.evolve(
        CACHE,
        namespaces=dict.fromkeys(names, one),
        memory_hits=len(names),
        disk_hits=2 * len(names),
        misses=3 * len(names) + 50,
    )
    of = snapshot(caches={"c": cache})
    reads = {"cache": "c", "result": "miss"}
    assert value(of, "mpreg_cache_reads_total", **reads, namespace="n0") == 3
    assert value(of, "mpreg_cache_reads_total", **reads, namespace="other") == 6 * 3 + 50
    found = [labels for name, labels in scraped(of) if name == "mpreg_cache_reads_total"]
    assert len(found) == 3 * (CACHE_NAMESPACES_MAX + 1)


def test_requests_are_counted_by_what_a_server_knows_and_not_by_what_clients_send() -> None:
    http = HTTPRecorder()
    for number in range(ROUTES_MAX + 20):
        http.begin()
        http.end(f"/{number}", f"M{number}", 200, 0.01)
    http.begin()
    http.end(None, "GET", 404, 0.01)
    http.begin()
    of = snapshot(http=http.observed())
    other = {"route": "other", "method": "other", "status": "200"}
    assert value(of, "mpreg_http_requests_total", **other) == 20
    unknown = {"route": "other", "method": "GET", "status": "404"}
    assert value(of, "mpreg_http_requests_total", **unknown) == 1
    assert value(of, "mpreg_http_requests_in_flight") == 1


def test_names_of_queues_are_told_whatever_is_in_them() -> None:
    name = 'a "queue"\\\nof {all} ünïcode'
    assert value(snapshot(queues={name: QUEUE}), "mpreg_queue_dead_letters", queue=name) == 1
