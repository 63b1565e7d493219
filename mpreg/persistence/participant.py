"""What a subsystem tells a registry of itself, and what the registry tells of it."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import attrs
from attrs import field, frozen

from mpreg.errors import ConfigurationError
from mpreg.validation import found, seconds

__all__ = [
    "CLOSE_SECONDS_MAX",
    "Participant",
    "ParticipantState",
    "ParticipantStatistics",
    "ReportProgress",
    "RestoreOrder",
]

CLOSE_SECONDS_MAX: Final = 5.0


class RestoreOrder(enum.IntEnum):
    """The places of the known parts of a server in the order of the restore.

    Any other number is a place as well; the lower one comes first.
    """

    QUEUES = 100
    CACHE = 200
    ROUTES = 300
    """Route keys and policies."""
    CATALOG = 400
    LATER = 500


class ReportProgress(Protocol):
    """Tells how far a restore has come. Cheap: call it for every item."""

    def __call__(self, done: int, total: int | None = None, unit: str = "") -> None:
        """``total`` is None while it is not known."""
        ...


def _name(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value:
        raise found(attribute.name, "a str that is not empty", value)


def _order(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise found(attribute.name, "a whole number", value)


def _hook(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise found(attribute.name, "an async function, or None", value)


@frozen(kw_only=True, eq=False)
class Participant:
    """A subsystem that takes part in the life of a registry: see `PersistenceRegistry.register`.

    Raises:
        ConfigurationError: a field has the wrong type.
    """

    name: str = field(validator=_name)
    """Names it in errors, in the log and in statistics. Each is there once in a registry."""

    order: int = field(default=RestoreOrder.LATER, validator=_order)
    """The lower is restored first; those that have the same, in the order of registration."""

    restore: Callable[[ReportProgress], Awaitable[None]] | None = field(
        default=None, validator=_hook
    )
    """Reads its state back. The stores can be used, and all participants before it are restored.
    Cancelled where the opening is: it then has to leave nothing behind."""

    snapshot: Callable[[], Awaitable[None]] | None = field(default=None, validator=_hook)
    """Saves its state, so that the next restore is short. Called on demand and at close, one call
    at a time; at close, it has ``close_seconds_max`` and is then cancelled."""

    before_close: Callable[[], Awaitable[None]] | None = field(default=None, validator=_hook)
    """Its last call: the stores can still be used. It has ``close_seconds_max``, and is then
    cancelled; nothing else cancels it."""

    required: bool = field(default=True)
    """Whether the registry is not opened where ``restore`` fails."""

    close_seconds_max: float = field(default=CLOSE_SECONDS_MAX, validator=seconds(zero=False))
    """How long ``snapshot`` may take at close, and ``before_close``; each of them."""

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.required, bool):
            raise ConfigurationError(f"required: True or False is expected, not {self.required!r}")


class ParticipantState(enum.Enum):
    REGISTERED = "registered"
    """May be followed by RESTORING."""
    RESTORING = "restoring"
    """Followed by READY, or FAILED; or by REGISTERED where the opening was cancelled."""
    READY = "ready"
    """Followed by CLOSED."""
    FAILED = "failed"
    """It could not be restored. None of its hooks is called any more."""
    CLOSED = "closed"


@frozen(kw_only=True)
class ParticipantStatistics:
    """Of one participant. Times are in seconds, None for what has not happened."""

    name: str
    order: int
    required: bool
    state: ParticipantState
    done: int
    """As its restore has reported it last."""
    total: int | None
    unit: str
    restore_seconds: float | None
    """Also of a restore that failed."""
    snapshots: int
    """How often it has saved its state."""
    snapshot_seconds: float | None
    """Of the last time."""
    close_seconds: float | None
    failed_step: str | None
    """``"restore"``, ``"snapshot"`` or ``"before_close"``: the last one that failed."""
    error: Exception | None
    """What that one raised; `TimeoutError` where it was cut short."""
