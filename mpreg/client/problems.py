"""An answer that is no success, as the error that the node had: one table for all classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import msgspec

from mpreg import errors
from mpreg.errors import MpregError, NodeUnreachableError

__all__ = ["error_in", "error_of", "is_of_a_node"]

#: Of all answers of a node.
API_HEADER: Final = "x-mpreg-api"

#: Said by what stands between, when the node is not there.
GATEWAY_STATUSES: Final = (502, 503, 504)

#: Said by a node of what it cannot read as a request at all, without more words.
UNREADABLE_STATUSES: Final = (400, 431)

_Build = Callable[[str, httpx.Response], MpregError]

#: Classes that are made of more than a message. What is about the files of a node is told as its
#: nearest base that is not: their paths are not told.
_OF_MORE: Final[Mapping[str, _Build]] = {
    "RequestRefusedError": lambda message, answer: errors.RequestRefusedError(
        message, answer.status_code, answer.headers.get("allow", "")
    ),
    "VersionConflictError": lambda _, answer: errors.VersionConflictError(
        "", "", 0, int(answer.headers.get("x-mpreg-version", "-1"))
    ),
    # What the node says to do is said of HTTP.
    "QueueNotFoundError": lambda message, _: errors.QueueNotFoundError(
        message, "make it with create_queue, or with subscription"
    ),
    "NodeUnreachableError": lambda message, _: NodeUnreachableError(message, True),
    "OffsetOutOfRangeError": lambda _, answer: errors.OffsetOutOfRangeError(
        "", 0, int(answer.headers.get("x-mpreg-next-offset", "0"))
    ),
    "SnapshotNotFoundError": lambda _, __: errors.SnapshotNotFoundError(""),
    "NotANodeError": lambda message, answer: errors.NotANodeError(message, answer.status_code),
    "PeerUnreachableError": lambda message, answer: errors.PeerUnreachableError(
        message, b'"data_state":"unknown"' in answer.content
    ),
    "CorruptDataError": lambda message, _: errors.CorruptDataError(message),
    "StorageIOError": lambda message, _: errors.StorageIOError(message),
    "ConfigurationError": lambda message, _: errors.ConfigurationError(message),
}


def is_of_a_node(answer: httpx.Response) -> bool:
    """Whoever else answers there, says that all is well, and knows nothing of it."""
    return API_HEADER in answer.headers


def error_of(answer: httpx.Response) -> MpregError:
    """What the node says that is true of the data is true of the error, too."""
    problem = None if answer.is_success else _problem(answer)
    return _of_no_node(answer) if problem is None else error_in(problem, answer)


def error_in(problem: dict[str, Any], answer: httpx.Response) -> MpregError:
    """``answer`` is what it came with."""
    name = problem["error"]
    # The title is a sentence with its full stop.
    message = " ".join(
        str(problem[part]) for part in ("title", "detail", "incident") if problem.get(part)
    )
    error = _OF_MORE[name](message, answer) if name in _OF_MORE else _plain(name)(message)
    if isinstance(state := problem.get("data_state"), str) and state != error.data_state:
        vars(error)["data_state"] = state
    return error


def _problem(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        problem = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return problem if isinstance(problem.get("error"), str) else None


def _plain(name: str) -> type[MpregError]:
    """The class of this name, or its nearest base that is made of a message. One of a newer node:
    `NodeError`."""
    if name not in errors.__all__:
        return errors.NodeError
    found: type[MpregError] = getattr(errors, name)
    return next(kind for kind in found.__mro__ if _takes_a_message(kind))


def _takes_a_message(kind: type) -> bool:
    maker = next(base for base in kind.__mro__ if "__init__" in vars(base))
    return maker.__module__ == "builtins"


def _of_no_node(answer: httpx.Response) -> MpregError:
    status = answer.status_code
    message = f"{answer.request.url.netloc.decode()} answered {status}, and not as a node does"
    if status in GATEWAY_STATUSES:
        return NodeUnreachableError(message, True)
    if status in UNREADABLE_STATUSES:
        return errors.RequestRefusedError(message, status)
    hint = f"; is the url right? What stands between must pass on the header {API_HEADER}"
    return errors.NotANodeError(message + hint, status)
