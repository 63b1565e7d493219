"""What schemathesis must know of a node that is not in its description, or cannot be."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, Final

import msgspec
import schemathesis
from schemathesis import (
    Case,
    CheckContext,
    DeserializationContext,
    HookContext,
    Response,
    SerializationContext,
)
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import AllowHeaderMismatch, UnsupportedMethodResponse

from tests.e2e.fuzz import KEPT

MESSAGEPACK: Final = "application/msgpack"

#: Ask for a stream without end, of which a description cannot say when it is over. Other tests read
#: them.
STREAMS: Final = ("watch", "follow", "Last-Event-ID")

#: Under these, other routes take other methods.
SHARED_PATHS: Final = (
    *("/v1/cache/invalidate", "/v1/cache/get-many", "/v1/cache/put-many"),
    "/v1/cache/{namespace}/{key}/increment",
)

#: By queue, the tokens of messages that were received and not asked about.
OUT: Final[deque[tuple[str, str]]] = deque(maxlen=1_000)
SETTLING: Final = ("ack", "nack", "extend", "release")

#: Names of things that are there, or soon will be, by the parts of paths.
PLACES: Final = {
    "queue": itertools.cycle(("jobs", "urgent", "scarce")),
    "namespace": itertools.cycle(("a", "b")),
    "log": itertools.cycle(("a", "b")),
    "snapshot": itertools.cycle(("a", "b")),
    "subscription": itertools.cycle(("default", "a")),
}
CASES: Final = itertools.count()

_QUEUE: Final = {"queue": "$request.path.queue"}
_KEY: Final = {"namespace": "$request.path.namespace", "key": "$request.path.key"}
_VERSION: Final = {**_KEY, "If-Match": "$response.header.ETag"}

#: What may come after an answer of an operation: (operation, parameters, body). A story begins with
#: one that needs nothing.
NEXT: Final[dict[str, list[tuple[str, dict[str, str], Any]]]] = {
    "list_queues": [
        ("put_queue", {"queue": "story"}, {"max_deliveries": 2, "retry_delay_seconds": 0}),
        ("put_key", {"namespace": "story", "key": "a"}, None),
        ("put_cached", {"namespace": "story", "key": "a"}, None),
        ("append", {"log": "story"}, None),
        ("put_snapshot", {"snapshot": "story"}, None),
    ],
    "put_queue": [
        ("send", _QUEUE, None),
        ("get_queue", _QUEUE, None),
        ("delete_queue", _QUEUE, None),
        ("put_subscription", _QUEUE, None),
        ("purge", _QUEUE, None),
        ("redrive", _QUEUE, None),
        ("dead_letters", _QUEUE, None),
    ],
    "send": [("receive", _QUEUE, {"messages_max": 3}), ("get_queue", _QUEUE, None)],
    "put_subscription": [("send", _QUEUE, None), ("delete_queue", _QUEUE, None)],
    "put_key": [
        ("get_key", _KEY, None),
        ("put_key", _VERSION, None),
        ("delete_key", _VERSION, None),
        ("list_keys", {"namespace": "$request.path.namespace"}, None),
    ],
    "put_cached": [
        ("get_cached", _KEY, None),
        ("put_cached", _VERSION, None),
        ("increment", _KEY, None),
        ("delete_cached", _KEY, None),
    ],
    "append": [
        ("read_records", {"log": "$request.path.log"}, None),
        ("truncate", {"log": "$request.path.log"}, None),
    ],
    "put_snapshot": [
        ("get_snapshot", {"snapshot": "$request.path.snapshot"}, None),
        ("delete_snapshot", {"snapshot": "$request.path.snapshot"}, None),
    ],
}


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema: dict[str, Any]) -> None:
    # This node has tokens, and so nobody is asked without one.
    raw_schema["security"] = [{"token": []}]
    for methods in raw_schema["paths"].values():
        for operation in methods.values():
            operation["parameters"] = [
                one for one in operation.get("parameters", ()) if one["name"] not in STREAMS
            ]
            if following := NEXT.get(operation["operationId"]):
                done = next(one for code, one in operation["responses"].items() if code[0] == "2")
                done["links"] = {
                    f"{number} {name}": _link(name, parameters, body)
                    for number, (name, parameters, body) in enumerate(following)
                }


def _link(name: str, parameters: dict[str, str], body: Any) -> dict[str, Any]:
    link: dict[str, Any] = {"operationId": name, "parameters": parameters}
    return link if body is None else {**link, "requestBody": body}


@schemathesis.hook
def filter_case(context: HookContext, case: Case[Any]) -> bool:
    """Also where it was found in the answer to another request."""
    return KEPT not in repr((case.path_parameters, case.query, case.body))


@schemathesis.hook
def filter_failure(
    context: HookContext, failure: Failure, case: Case[Any], response: Response
) -> bool:
    """A path of one route may be a name where another route has a place for one: what may be done
    there is more than what the one route says."""
    about_methods = isinstance(failure, AllowHeaderMismatch | UnsupportedMethodResponse)
    return not (about_methods and case.operation.path in SHARED_PATHS)


# --- messages that are out ---


@schemathesis.check
def tokens_are_remembered(context: CheckContext, response: Response, case: Case[Any]) -> None:
    """No check, but told of each answer: nobody could guess a token."""
    if _name(case) == "receive" and response.status_code == 200:
        messages = _decoded(response)["messages"]
        OUT.extend((case.path_parameters["queue"], message["token"]) for message in messages)


@schemathesis.hook
def map_case(context: HookContext, case: Case[Any]) -> Case[Any]:
    """What is meant to be right is often about a thing that is there, and what is about a message
    about one that is out: made-up names seldom meet."""
    if case.meta is not None and case.meta.generation.mode.is_negative:
        return case
    name = _name(case)
    if OUT and name in SETTLING and isinstance(case.body, dict):
        case.path_parameters["queue"], token = OUT.popleft()
        if "token" in case.body:
            case.body["token"] = token
        else:
            case.body["tokens"] = [token]
    elif name == "put_queue" and next(CASES) % 2:
        # Of a queue of its own that can be made.
        case.body = {}
    elif not _is_linked(case) and next(CASES) % 4 and name != "delete_queue":
        for part in case.path_parameters.keys() & PLACES.keys():
            case.path_parameters[part] = next(PLACES[part])
    return case


def _is_linked(case: Case[Any]) -> bool:
    """Whether it is about what the one before was about."""
    return case.meta is not None and case.meta.phase.name.value == "stateful"


def _name(case: Case[Any]) -> str:
    return str(case.operation.definition.raw.get("operationId"))


# --- MessagePack ---


def _decoded(response: Response) -> Any:
    kind = response.headers["content-type"][0]
    decode = msgspec.msgpack.decode if kind == MESSAGEPACK else msgspec.json.decode
    return decode(response.content)


@schemathesis.serializer(MESSAGEPACK)
def serialize(context: SerializationContext, value: Any) -> bytes:
    try:
        return value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
    except (OverflowError, TypeError):
        # It has no such numbers: then it is something that is none at all.
        return b"\xc1"


@schemathesis.deserializer(MESSAGEPACK)
def deserialize(context: DeserializationContext, response: Response) -> Any:
    return msgspec.msgpack.decode(response.content)
