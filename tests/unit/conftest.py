"""One Hypothesis profile for the pure tests: many small examples, and no clock among the judges."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit",
    # The same examples each time: what fails, fails for everyone.
    derandomize=os.environ.get("MPREG_HYPOTHESIS") != "random",
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("unit")
