"""Every error that mpreg has is told in its own way, and none tells what it should not."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import pytest

from mpreg import errors
from mpreg.errors import MpregError, RequestRefusedError, UnauthorizedError
from mpreg.server.problems import PROBLEMS, problem_of, unexpected
from tests.unit.test_errors import EXAMPLES


def all_classes(kind: type[MpregError] = MpregError) -> set[type[MpregError]]:
    return {kind}.union(*(all_classes(one) for one in kind.__subclasses__()))


def test_the_table_has_every_error_class_and_no_other() -> None:
    assert set(PROBLEMS) == {getattr(errors, name) for name in errors.__all__}
    assert {kind for kind in all_classes() if kind.__module__ == "mpreg.errors"} == set(PROBLEMS)


@pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.__name__)
def test_a_problem_has_a_status_of_an_error_and_a_title(kind: type[MpregError]) -> None:
    problem = PROBLEMS[kind]
    assert HTTPStatus(problem.status) >= HTTPStatus.BAD_REQUEST
    assert problem.title.endswith((".", "?"))
    # Whoever may ask again is told when.
    assert (problem.retry_after_seconds is not None) or problem.status not in (429, 503)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_problem_says_the_class_and_what_is_true_of_the_data(error: MpregError) -> None:
    answer = problem_of(error)
    assert answer.value["error"] == type(error).__name__
    assert answer.value["type"].endswith(type(error).__name__)
    assert answer.value["data_state"] == error.data_state
    assert answer.value["status"] == answer.status
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_the_disk_says_is_not_told() -> None:
    path = Path("/secret/place/mpreg.db")
    for kind, problem in PROBLEMS.items():
        # What is told of another node has been made for that.
        of_others = (
            errors.PeerUnreachableError,
            errors.PeersUnheardError,
            errors.ForwardingLoopError,
        )
        assert problem.shows_message is (problem.status < 500 or kind in of_others), kind
    for error in (errors.StorageIOError("it failed", path), errors.CorruptDataError("x", path)):
        assert "secret" not in str(problem_of(error).value)


def test_an_error_of_an_unknown_class_is_told_as_the_nearest_that_is_known() -> None:
    class OfAUserError(errors.StorageFullError):
        pass

    answer = problem_of(OfAUserError("full"))
    assert (answer.status, answer.value["error"]) == (507, "OfAUserError")


def test_headers_say_what_to_do() -> None:
    assert problem_of(UnauthorizedError("who")).headers["www-authenticate"] == "Bearer"
    refused = problem_of(RequestRefusedError("no", 405, "GET, HEAD"))
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert problem_of(errors.NotReadyError("starting")).headers["retry-after"] == "1"
    conflict = problem_of(errors.VersionConflictError("n", "k", 3, 4))
    assert (conflict.status, conflict.headers["x-mpreg-version"]) == (412, "4")


def test_a_bug_is_told_by_an_id_alone() -> None:
    answer = unexpected("abc123")
    assert (answer.status, answer.value["incident"]) == (500, "abc123")
    assert answer.value["data_state"] == "unknown"
    assert "detail" not in answer.value
