"""When to start a failed actor again, and when to give up: a pure function of its failures.

The intensity rule is that of Erlang/OTP's ``supervisor`` (``intensity`` restarts in ``period``
seconds); the delay doubles with each failure in the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from attrs import field, frozen, validators

from mpreg.errors import MpregError

__all__ = ["Decision", "Failure", "GiveUp", "Restart", "RestartPolicy"]


@frozen
class Failure:
    at: float
    """Monotonic seconds."""
    error: Exception


@frozen
class Restart:
    after_seconds: float


@frozen
class GiveUp:
    first_cause: Exception
    """The oldest failure in the window: the later ones are often only its echo."""


Decision: TypeAlias = Restart | GiveUp


@frozen(kw_only=True)
class RestartPolicy:
    restarts_max: int = field(default=8, validator=validators.ge(0))
    """Restarts within the window; 0 gives up at the first failure."""
    window_seconds: float = field(default=60.0, validator=validators.gt(0))
    backoff_initial_seconds: float = field(default=0.05, validator=validators.ge(0))
    backoff_max_seconds: float = field(default=5.0, validator=validators.ge(0))

    def within_window(self, failures: Sequence[Failure], now: float) -> tuple[Failure, ...]:
        return tuple(failure for failure in failures if now - failure.at < self.window_seconds)

    def decide(self, failures: Sequence[Failure], now: float) -> Decision:
        """What to do about the last of ``failures`` (oldest first, at least one).

        An error that says of itself that no restart can mend it is given up on at once; one that
        says that it passes (a full disk) is waited out, however long it takes.
        """
        latest = failures[-1].error
        if isinstance(latest, MpregError) and not latest.may_restart:
            return GiveUp(latest)
        recent = self.within_window(failures, now) or (failures[-1],)
        counted = [failure for failure in recent if _counts(failure.error)]
        if len(counted) > self.restarts_max:
            return GiveUp(counted[0].error)
        return Restart(self._delay(len(recent)))

    def _delay(self, failures: int) -> float:
        # Bounded exponent: 2.0 ** 1100 would overflow.
        doubled = self.backoff_initial_seconds * 2.0 ** min(failures - 1, 60)
        return min(self.backoff_max_seconds, doubled)


def _counts(error: Exception) -> bool:
    return not (isinstance(error, MpregError) and error.passes)
