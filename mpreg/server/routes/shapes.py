"""What each route takes and answers, with examples, by the names of the operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mpreg.server.openapi import Content, Parameter, Shape
from mpreg.server.routes.cache import (
    GetManyRequest,
    IncrementRequest,
    InvalidateRequest,
    PutManyRequest,
)
from mpreg.server.routes.keys import SCAN_ENTRIES_MAX
from mpreg.server.routes.logs import READ_RECORDS_MAX, AppendRequest, TruncateRequest
from mpreg.server.routes.monitoring import ENDPOINTS as MONITORING
from mpreg.server.routes.queues import (
    DEAD_LETTERS_MAX,
    AckRequest,
    ExtendRequest,
    LettersRequest,
    NackRequest,
    OneMessage,
    PurgeRequest,
    ReceiveRequest,
    RedriveRequest,
    ReleaseRequest,
    SeveralMessages,
    SubscriptionRequest,
)

__all__ = ["SHAPES"]

_TEXT: Final = {"type": "string"}
_OFFSET: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "integer", "minimum": 1}
_FLAG: Final = {"type": "string", "enum": ["", "true", "1", "false", "0"]}
_SECONDS: Final = {"type": "number", "exclusiveMinimum": 0}


def _limit(maximum: int) -> Parameter:
    schema = {"type": "integer", "minimum": 1, "default": 100}
    return Parameter("limit", schema, f"At most so many; at most {maximum:,}.")


def _header(name: str, what: str, pattern: str | None = None) -> Parameter:
    schema = _TEXT if pattern is None else {**_TEXT, "pattern": pattern}
    return Parameter(name, schema, what, place="header")


_IF_MATCH: Final = _header("If-Match", 'Only over this version: "7".', r'^("[0-9]{1,19}"|\*)$')
_IF_NONE: Final = _header("If-None-Match", "*: only where it is not there.", r"^\*$")
_UNLESS: Final = _header("If-None-Match", "304 where it has this version.")
_AGAIN: Final = _header("Last-Event-ID", "Goes on behind this event.")
_TTL: Final = Parameter("ttl_seconds", _SECONDS, "From now on; then it is gone.")
_PREFIX: Final = Parameter("prefix", _TEXT, "Those that begin with it.")
_WATCH: Final = Parameter("watch", _FLAG, "The changes from now on, as server-sent events.")
_START: Final = Parameter("start", _OFFSET, "From this offset on.")
_VERSION: Final = Parameter("version", _NUMBER, "This one.")
_PARTS: Final = Parameter("parts", _TEXT, "A list in JSON: the parts of the key.")
_HERE: Final = Parameter("here", _FLAG, "At this node, whatever others have.")
_ONE_BY_ONE: Final = Parameter(
    "one_by_one", _FLAG, "The last attempt of a message only as the first one of the answer."
)
_SAME: Final = {304: "It still has this version."}

_PENDING: Final = {"pending": 1, "in_flight": 0, "delayed": 0, "dead": 0}
_DESCRIBED: Final = {
    "name": "jobs",
    "configuration": {"lease_seconds": 30.0, "max_deliveries": 5},
    "statistics": _PENDING,
}
_MESSAGE: Final[dict[str, Any]] = {
    "id": "0-17",
    "payload": {"resize": 17},
    "attempt": 1,
    "topic": "images.new",
    "priority": 0,
    "headers": {},
    "sent_at": 1_767_225_600.0,
    "token": "5e6d…",
    "lease_seconds": 30.0,
}
_LETTER: Final[dict[str, Any]] = {
    "key": "0-17",
    "id": "0-17",
    "payload": {"resize": 17},
    "topic": "images.new",
    "priority": 0,
    "headers": {},
    "sent_at": 1_767_225_600.0,
    "died_at": 1_767_225_900.0,
    "subscription": None,
    "attempts": 5,
    "reason": "max deliveries",
    "last_error": "",
}
_NODE_TOLD: Final[dict[str, Any]] = {
    "node": "77ac…",
    "name": "node-2",
    "url": "http://node-2:8765",
    "incarnation": 4,
    "number": 12,
    "ttl_seconds": 15.0,
    "remaining_seconds": 12.5,
    "hops": 1,
    "queues": ["jobs"],
    "caches": ["default"],
    "functions": [],
    "left_out": 0,
    "state": "alive",
    "via": "http://node-2:8765",
    "expires_at": 1_767_225_612.5,
    "heard_at": 1_767_225_597.5,
    "why": "",
}
_PEER: Final[dict[str, Any]] = {
    "url": "http://node-2:8765",
    "node": "77ac…",
    "name": "node-2",
    "state": "alive",
    "since": 1_767_225_600.0,
    "error": "",
}
_READY: Final = {"ready": True, "phase": "ready", "restore": []}

_NODE: Final = {
    "live": Shape(example={"live": True}),
    "ready": Shape(example=_READY, others={503: "It is not ready; the body is the same."}),
    "node": Shape(example={"name": "node-1", "phase": "ready", "role": "admin"}),
    "openapi": Shape(example={"openapi": "3.1.0", "paths": {}}),
    "fabric": Shape(
        parameters=(
            Parameter("revision", _TEXT, "Of an earlier answer: wait until there is another one."),
            Parameter("wait_seconds", _SECONDS, "For so long; without it, not at all."),
        ),
        example={
            "node": "5e6d…",
            "name": "node-1",
            "revision": "3-17",
            "nodes": [_NODE_TOLD],
            "shared_queues": [{"queue": "mails", "nodes": ["node-1", "node-2"]}],
            "peers": [_PEER],
        },
    ),
}

_QUEUES: Final = {
    "list_queues": Shape(example={"queues": [{"name": "jobs", "statistics": _PENDING}]}),
    "get_queue": Shape(example=_DESCRIBED),
    "put_queue": Shape(
        parameters=(_HERE,),
        body=Content.SETTINGS,
        body_example={"lease_seconds": 60.0},
        example=_DESCRIBED,
    ),
    "delete_queue": Shape(example={"deleted": True}),
    "purge": Shape(body=PurgeRequest, body_example={"dead_letters": False}, example={"removed": 3}),
    "send": Shape(
        body=(OneMessage, SeveralMessages),
        body_example={"payload": {"resize": 17}, "topic": "images.new"},
        status=201,
        example={"ids": ["0-17"]},
    ),
    "receive": Shape(
        parameters=(_ONE_BY_ONE,),
        body=ReceiveRequest,
        body_example={"messages_max": 10, "wait_seconds": 20.0},
        example={"messages": [_MESSAGE]},
    ),
    "ack": Shape(body=AckRequest, body_example={"tokens": ["5e6d…"]}, example={"acknowledged": 1}),
    "nack": Shape(
        body=NackRequest,
        body_example={"token": "5e6d…", "delay_seconds": 10.0},
        example={"returned": 1},
    ),
    "release": Shape(
        body=ReleaseRequest,
        body_example={"tokens": ["5e6d…"], "unseen": True},
        example={"released": 1},
    ),
    "extend": Shape(
        body=ExtendRequest,
        body_example={"token": "5e6d…", "lease_seconds": 60.0},
        example={"lease_seconds": 60.0},
    ),
    "put_subscription": Shape(
        body=SubscriptionRequest,
        body_example={"topic_pattern": "images.#"},
        example={"name": "thumbnails", "topic_pattern": "images.#"},
    ),
    "delete_subscription": Shape(example={"deleted": True}),
    "dead_letters": Shape(
        parameters=(Parameter("after", _TEXT, "Those behind this key."), _limit(DEAD_LETTERS_MAX)),
        example={"dead_letters": [_LETTER], "next": None},
    ),
    "redrive": Shape(body=RedriveRequest, body_example={"keys": ["0-17"]}, example={"redriven": 1}),
    "purge_dead_letters": Shape(
        body=LettersRequest, body_example={"keys": ["0-17"]}, example={"removed": 1}
    ),
}

_KEYS: Final = {
    "list_keys": Shape(
        parameters=(
            _PREFIX,
            Parameter("after", _TEXT, "Those behind this key."),
            _limit(SCAN_ENTRIES_MAX),
            _WATCH,
            _AGAIN,
        ),
        gives_events=True,
        example={
            "entries": [{"key": "ann", "value": b"hi", "version": 7, "expires_at": None}],
            "next": None,
        },
    ),
    "get_key": Shape(parameters=(_UNLESS,), answer=Content.BYTES, others=_SAME),
    "put_key": Shape(
        parameters=(_TTL, _IF_MATCH, _IF_NONE), body=Content.BYTES, example={"version": 7}
    ),
    "delete_key": Shape(parameters=(_IF_MATCH,), example={"deleted": True}),
}

_CACHE: Final = {
    "get_cache": Shape(
        parameters=(_WATCH,),
        gives_events=True,
        example={"memory_entries": 100, "disk_entries": 5_000, "memory_hits": 10},
    ),
    "get_many_cached": Shape(
        body=GetManyRequest,
        body_example={"keys": [["pages", "home"]]},
        example={
            "found": [
                {
                    "key": ["pages", "home"],
                    "value": {"title": "Home"},
                    "level": "L1",
                    "version": 7,
                    "expires_at": None,
                }
            ],
            "next": None,
        },
    ),
    "put_many_cached": Shape(
        body=PutManyRequest,
        body_example={"entries": [{"key": ["pages", "home"], "value": {"title": "Home"}}]},
        example={"version": 7},
    ),
    "get_namespace": Shape(
        parameters=(_WATCH, _PREFIX, _PARTS),
        gives_events=True,
        example={"namespace": "pages", "memory_hits": 10, "disk_hits": 2, "misses": 1},
    ),
    "get_cached": Shape(
        parameters=(_PARTS, _UNLESS),
        answer=Content.VALUE,
        example={"title": "Home"},
        others=_SAME,
    ),
    "put_cached": Shape(
        parameters=(
            _PARTS,
            _TTL,
            Parameter("tags", _TEXT, "One to invalidate it by.", is_repeated=True),
            Parameter(
                "dependencies",
                _TEXT,
                "A key, as a list in JSON, that invalidates it when it changes.",
                is_repeated=True,
            ),
            Parameter("cost", {"type": "number"}, "What it took to compute, in any unit."),
            _IF_MATCH,
            _IF_NONE,
        ),
        body=Content.VALUE,
        body_example={"title": "Home"},
        example={"version": 7},
    ),
    "delete_cached": Shape(parameters=(_PARTS,), example={"deleted": True}),
    "increment": Shape(
        parameters=(_PARTS,), body=IncrementRequest, body_example={"by": 1}, example={"value": 18}
    ),
    "invalidate": Shape(
        body=InvalidateRequest, body_example={"tag": "red"}, example={"version": 8}
    ),
}

_LOGS: Final = {
    "get_log": Shape(example={"name": "audit", "first_offset": 0, "next_offset": 2}),
    "append": Shape(
        body=AppendRequest,
        body_example={"records": [b"hi"]},
        takes_bytes=True,
        status=201,
        example={"first_offset": 1, "next_offset": 2},
    ),
    "read_records": Shape(
        parameters=(
            _START,
            Parameter("stop", _OFFSET, "Before this offset."),
            _limit(READ_RECORDS_MAX),
            Parameter("follow", _FLAG, "Those that come as well, as server-sent events."),
            _AGAIN,
        ),
        gives_events=True,
        example={"records": [{"offset": 1, "data": b"hi"}], "next": None},
    ),
    "delete_log": Shape(example={"deleted": 2}),
    "truncate": Shape(
        body=TruncateRequest, body_example={"before": 1}, example={"first_offset": 1}
    ),
}

_SNAPSHOTS: Final = {
    "put_snapshot": Shape(
        parameters=(
            Parameter("versions_max", _NUMBER, "The newest so many are kept from now on."),
            Parameter("seconds_max", _SECONDS, "Those that are younger are kept from now on."),
        ),
        body=Content.BYTES,
        example={"version": 3},
    ),
    "get_snapshot": Shape(
        parameters=(
            _VERSION,
            _UNLESS,
            _header("Range", "Only these bytes: bytes=100-199, or from one on: bytes=100-."),
            _header("If-Range", "All of it where it has another version."),
        ),
        answer=Content.BYTES,
        others={**_SAME, 206: "Only the bytes that were asked for."},
    ),
    "list_versions": Shape(
        example={"versions": [{"version": 3, "size_bytes": 2, "saved_at": 1_767_225_600.0}]}
    ),
    "delete_snapshot": Shape(parameters=(_VERSION,), example={"deleted": True}),
}

_PAGE: Final = Shape(
    parameters=(_UNLESS,), answer=Content.OTHER, others={304: "It is still the same."}
)

_MONITORING: Final = {
    "metrics": Shape(answer=Content.OTHER),
    "persistence": Shape(answer=Content.VALUE, example={"backend": "sqlite"}),
    "status": Shape(answer=Content.VALUE, example={"node": {"name": "node-1"}}),
    **{one.name: _PAGE for one in MONITORING if one.role is None},
}

SHAPES: Final[Mapping[str, Shape]] = {
    **_NODE,
    **_QUEUES,
    **_KEYS,
    **_CACHE,
    **_LOGS,
    **_SNAPSHOTS,
    **_MONITORING,
}
