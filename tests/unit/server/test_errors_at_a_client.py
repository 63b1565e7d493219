"""What a node tells of its errors, a client raises as the same ones."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from mpreg.client.problems import error_of
from mpreg.errors import (
    AckedDataLostError,
    DataDirectoryError,
    MpregError,
    NodeError,
    NodeUnreachableError,
    OffsetOutOfRangeError,
    PeerUnreachableError,
    PersistenceError,
    QueueFullError,
    RequestRefusedError,
    SchemaVersionError,
    VersionConflictError,
)
from mpreg.server.answers import Answer
from mpreg.server.problems import PROBLEMS, problem_of
from tests.unit.test_errors import EXAMPLES

#: Of the files of a node: what they say is for who runs it.
OF_FILES = (AckedDataLostError, DataDirectoryError, SchemaVersionError)

MORE: list[MpregError] = [
    *(
        kind("why")
        for kind in PROBLEMS
        if "__init__" not in vars(kind)
        and kind not in OF_FILES
        and not issubclass(kind, DataDirectoryError | NodeUnreachableError)
    ),
    RequestRefusedError("why", 405, "GET"),
    NodeUnreachableError("why", True),
    NodeUnreachableError("why", False),
    PeerUnreachableError("why", True),
    PeerUnreachableError("why", False),
]


def heard(answer: Answer) -> httpx.Response:
    request = httpx.Request("GET", "http://node/")
    content = msgspec.json.encode(answer.value)
    return httpx.Response(answer.status, headers=answer.headers, content=content, request=request)


@pytest.mark.parametrize("error", [*EXAMPLES, *MORE], ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_its_class_with_the_state_of_the_data(error: MpregError) -> None:
    again = error_of(heard(problem_of(error)))
    if isinstance(error, (*OF_FILES, OffsetOutOfRangeError)):
        assert isinstance(again, PersistenceError)
        assert isinstance(error, type(again))
    else:
        assert type(again) is type(error)
    assert again.data_state == error.data_state
    assert str(again)


def test_what_the_answer_knows_the_error_knows() -> None:
    for may_have_been_made in (True, False):
        told = PeerUnreachableError("its node is away", may_have_been_made)
        away = error_of(heard(problem_of(told)))
        assert isinstance(away, PeerUnreachableError)
        assert away.may_have_been_made is may_have_been_made
        assert str(away).count("carried out") == 1
    conflict = error_of(heard(problem_of(VersionConflictError("n", "k", 3, 4))))
    assert isinstance(conflict, VersionConflictError)
    assert conflict.found_version == 4
    refused = error_of(heard(problem_of(RequestRefusedError("no", 405, "GET"))))
    assert isinstance(refused, RequestRefusedError)
    assert (refused.status, refused.allowed) == (405, "GET")
    assert "no room at all" in str(error_of(heard(problem_of(QueueFullError("no room at all")))))


def test_an_error_of_a_newer_node_is_one_all_the_same() -> None:
    answer = Answer(
        value={"error": "FutureError", "data_state": "frozen", "title": "?"}, status=499
    )
    error = error_of(heard(answer))
    assert (type(error), error.data_state) == (NodeError, "frozen")
