"""What the guides name is there: metrics to look at, and settings to change."""

from __future__ import annotations

import re
from typing import Final

import attrs

from mpreg.cache import CacheConfiguration
from mpreg.monitoring.metrics import METRICS
from mpreg.persistence import PersistenceConfig
from mpreg.queues import QueueConfiguration
from mpreg.settings import ServerSettings
from tests.docs.pages import PAGES

TUNE: Final = PAGES["docs/howto/tune.md"]

#: What Prometheus makes of a histogram.
_PART: Final = re.compile(r"_(bucket|sum|count)$")

#: What a request and a call take, and no setting.
ARGUMENTS: Final = {"consume", "prefetch", "wait_seconds"}


def test_every_metric_that_a_page_mentions_is_there() -> None:
    known = {one.name for one in METRICS}
    mentioned = {
        (page.name, _PART.sub("", name))
        for page in PAGES.values()
        for name in re.findall(r"\bmpreg_\w+", page.text)
    }
    assert len(mentioned) > 50
    assert {one for one in mentioned if one[1] not in known} == set()


def test_the_settings_that_the_guide_to_tuning_changes_are_there() -> None:
    kinds = (PersistenceConfig, CacheConfiguration, QueueConfiguration, ServerSettings)
    known = {attribute.name for kind in kinds for attribute in attrs.fields(kind)}
    headings = re.findall(
        r"^## .*(?=\n\n(?:[^#]*\n)?\| (?:you see|what) \|)", TUNE.text, re.MULTILINE
    )
    cells = [
        row.get("change", "") + row.get("setting", "")
        for heading in headings
        for row in TUNE.table(heading)
    ]
    named = {name for cell in cells for name in re.findall(r"`((?!mpreg)[a-z_]+)`", cell)}
    assert len(headings) == 6
    assert len(named) > 15
    assert named - known - ARGUMENTS == set()
