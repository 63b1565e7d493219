"""Names, conditions, leases, fingerprints: what only decides."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import (
    InvalidArgumentError,
    LeaseLostError,
    NotFoundError,
    RequestRefusedError,
)
from mpreg.queues import Message
from mpreg.server.answers import Answer
from mpreg.server.calls import Call, Endpoint
from mpreg.server.idempotency import fingerprint
from mpreg.server.leases import SETTLED_ENDS_MAX, Leases
from mpreg.server.names import checked_name, checked_path
from mpreg.server.routes.conditions import EXISTS, Condition, condition_of, is_unchanged
from mpreg.server.routing import Router


@given(text=st.text(max_size=300))
def test_a_name_is_taken_as_it_is_or_refused(text: str) -> None:
    try:
        assert checked_name("queue", text) == text
    except InvalidArgumentError:
        assert not 0 < len(text) <= 200 or not text.isprintable()


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x00", "a\x7f", "\x85", "\ud800"])
def test_an_impossible_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="queue"):
        checked_name("queue", name)


@pytest.mark.parametrize("name", ["a", "x" * 200, "Größe", "a b", "a/b", "日本語", "..", "%"])
def test_a_name_may_be_in_any_script(name: str) -> None:
    assert checked_name("queue", name) == name


def test_a_path_that_is_no_text_is_refused() -> None:
    assert checked_path(b"/v1/queues/Gr%C3%B6%C3%9Fe%2Fa") == "/v1/queues/Größe/a"
    with pytest.raises(RequestRefusedError):
        checked_path(b"/v1/queues/%FF")


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({}, Condition(None)),
        ({"if-match": '"7"'}, Condition(7)),
        ({"if-match": ' "7" '}, Condition(7)),
        ({"if-match": "*"}, EXISTS),
        ({"if-none-match": "*"}, Condition(0)),
    ],
)
def test_conditions(headers: dict[str, str], condition: Condition) -> None:
    assert condition_of(headers) == condition


@pytest.mark.parametrize(
    "headers",
    [
        {"if-match": "7"},
        {"if-match": 'W/"7"'},
        {"if-match": '"7", "8"'},
        {"if-match": '"seven"'},
        {"if-match": '"\u0667"'},
        {"if-none-match": '"7"'},
        {"if-match": "*", "if-none-match": "*"},
    ],
)
def test_a_condition_that_is_not_understood_is_refused_and_not_passed_over(
    headers: dict[str, str],
) -> None:
    with pytest.raises(InvalidArgumentError):
        condition_of(headers)


def test_a_reader_says_which_versions_it_has() -> None:
    assert is_unchanged({"if-none-match": '"7"'}, 7)
    assert is_unchanged({"if-none-match": '"6", W/"7"'}, 7)
    assert is_unchanged({"if-none-match": "*"}, 7)
    assert not is_unchanged({"if-none-match": '"77"'}, 7)
    assert not is_unchanged({}, 7)


async def nothing(call: Call) -> Answer:
    return Answer()


def an_endpoint(method: str, path: str) -> Endpoint:
    return Endpoint(method=method, path=path, handler=nothing, role=None, summary="Nothing")


def test_a_path_leads_to_its_route_with_its_parts() -> None:
    one = an_endpoint("GET", "/v1/keys/{namespace}")
    deep = an_endpoint("PUT", "/v1/keys/{namespace}/{key:path}")
    page = an_endpoint("GET", "/")
    file = an_endpoint("GET", "/assets/{file}")
    router = Router.of([one, deep, page, file])
    assert router.find("GET", "/v1/keys/n") == (one, {"namespace": "n"})
    assert router.find("HEAD", "/v1/keys/n") == (one, {"namespace": "n"})
    assert router.find("PUT", "/v1/keys/n/a/b") == (deep, {"namespace": "n", "key": "a/b"})
    assert router.find("PUT", "/v1/keys/n/") == (deep, {"namespace": "n", "key": ""})
    assert router.find("GET", "/") == (page, {})
    assert router.find("GET", "/assets/a.js") == (file, {"file": "a.js"})
    for path in ("", "/v1", "/v1/keys", "/v1/keys/", "/v2/keys/n", "//", "/v1/none/n", "v1/keys/n"):
        with pytest.raises(NotFoundError):
            router.find("GET", path)
    with pytest.raises(RequestRefusedError) as caught:
        router.find("POST", "/v1/keys/n")
    assert (caught.value.status, caught.value.allowed) == (405, "GET, HEAD")


@given(method=st.text(max_size=5), path=st.text(max_size=20))
def test_any_path_leads_somewhere_or_is_refused(method: str, path: str) -> None:
    router = Router.of([an_endpoint("GET", "/v1/q/{a}/{b:path}"), an_endpoint("PUT", "/v1/q/{a}")])
    with suppress(NotFoundError, RequestRefusedError):
        router.find(method, f"/v1/q/{path}")


def leases() -> Leases:
    numbers = itertools.count()
    return Leases(lambda: f"t{next(numbers)}")


def a_message() -> Message:
    return cast(Message, object())


def test_a_token_stands_for_its_message_in_its_queue() -> None:
    held, message = leases(), a_message()
    token = held.add("jobs", message, 30.0, 0.0)
    assert held.find("jobs", [token]) == [message]
    for queue, wrong in (("other", token), ("jobs", "t9")):
        with pytest.raises(LeaseLostError, match="nothing was changed"):
            held.find(queue, [wrong])
    held.forget([token])
    with pytest.raises(LeaseLostError):
        held.find("jobs", [token])


def test_what_is_over_is_forgotten_and_what_was_made_longer_is_not() -> None:
    held = leases()
    short = held.add("jobs", a_message(), 10.0, 0.0)
    long = held.add("jobs", a_message(), 10.0, 0.0)
    held.extend("jobs", long, 50.0)
    held.add("jobs", a_message(), 100.0, 20.0)
    with pytest.raises(LeaseLostError):
        held.find("jobs", [short])
    assert held.find("jobs", [long])
    held.add("jobs", a_message(), 100.0, 51.0)
    assert len(held) == 2


def test_memory_follows_what_is_out_and_not_what_was_settled() -> None:
    held = leases()
    for _ in range(5 * SETTLED_ENDS_MAX):
        held.forget([held.add("jobs", a_message(), 1e9, 0.0)])
    assert len(held) == 0
    assert len(held._ends) <= SETTLED_ENDS_MAX + 2


PART = st.binary(max_size=4)


@given(one=st.tuples(PART, PART), other=st.tuples(PART, PART))
def test_two_requests_have_one_fingerprint_where_they_are_the_same(
    one: tuple[bytes, bytes], other: tuple[bytes, bytes]
) -> None:
    first, second = (fingerprint("POST", target, {}, body) for target, body in (one, other))
    assert (first == second) is (one == other)
