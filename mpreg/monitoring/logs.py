"""Logs of a node: what `mpreg` says with `logging`, rendered by structlog as text or as JSON.

The library itself only uses `logging`, so that a program that embeds it decides what becomes of it;
a node decides so. Nothing global of structlog's is configured.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

from mpreg.clock import Clock

__all__ = ["LOGGERS", "configure_logs", "get_logger", "request_context"]

#: Loggers that are taken over, with all below them.
LOGGERS: Final = ("mpreg", "hypercorn")

_SECRET_KEY: Final = re.compile(
    r"(token|secret|password|passwd|authorization|cookie|api_?key|credential)", re.IGNORECASE
)
_SECRET_TEXT: Final = re.compile(r"\b(Bearer|Basic)\s+[^\s,;\"']+", re.IGNORECASE)
_HIDDEN: Final = "…"


def configure_logs(
    clock: Clock,
    stream: TextIO,
    *,
    format: str = "console",
    level: str = "info",
    colors: bool = False,
) -> Callable[[], None]:
    """Send the records of `LOGGERS`, from ``level`` on, to ``stream``: ``"console"``, a line for
    people; or ``"json"``, an object in each line. Times are ``clock``'s, in UTC. Returns what puts
    everything back as it was.
    """
    renderer: list[Processor]
    if format == "json":
        renderer = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    else:
        renderer = [
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                _timestamps(clock),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                hide_secrets,
                *renderer,
            ],
        )
    )
    undo = [_take_over(logging.getLogger(name), handler, level) for name in LOGGERS]

    def put_back() -> None:
        for one in undo:
            one()

    return put_back


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes what it is to say as keywords: ``log.info("sent", queue="jobs")``."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger


def request_context(**about: str) -> AbstractContextManager[None]:
    """What stands in each record of this task, and of those it starts, while the block runs: the
    id of a request, say."""
    return structlog.contextvars.bound_contextvars(**about)


def _take_over(logger: logging.Logger, handler: logging.Handler, level: str) -> Callable[[], None]:
    handlers, before, propagates = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level.upper())

    def put_back() -> None:
        logger.handlers, logger.propagate = handlers, propagates
        logger.setLevel(before)

    return put_back


def _timestamps(clock: Clock) -> Processor:
    def stamp(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        at = datetime.fromtimestamp(clock.wall(), UTC)
        event["timestamp"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return event

    return stamp


def hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What is under a name that says that it is secret, and credentials inside any text."""
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = _HIDDEN
        elif isinstance(value, str):
            event[key] = _SECRET_TEXT.sub(rf"\1 {_HIDDEN}", value)
    return event
