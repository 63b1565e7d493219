"""Under which key the results of a function are cached."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache import GlobalCacheKey, GlobalCacheManager, cached
from mpreg.errors import ConfigurationError, InvalidArgumentError
from mpreg.persistence import PersistenceConfig, PersistenceRegistry

CACHE = GlobalCacheManager(PersistenceRegistry(PersistenceConfig(backend="memory")))


@cached(CACHE, namespace="f")
async def f(a: Any, b: Any = 2, *rest: Any, c: Any = None, **more: Any) -> str:
    return "result"


def test_the_same_arguments_are_one_key_however_they_are_given() -> None:
    keys = {f.key(1), f.key(1, 2), f.key(a=1), f.key(b=2, a=1), f.key(1, c=None)}
    assert len(keys) == 1
    assert f.key(1, 2, x=1, y=2) == f.key(1, 2, y=2, x=1)
    assert f.key({"x": 1, "y": [{"a": 1, "b": 2}]}) == f.key({"y": [{"b": 2, "a": 1}], "x": 1})
    assert f.key(1).namespace == "f"


@pytest.mark.parametrize(
    "options",
    [{"tags": "eu"}, {"tags": [""]}, {"ttl_seconds": -1}, {"stale_seconds": -1},
     {"negative_ttl_seconds": "1"}, {"mode": "relaxed"}, {"cost": -1}],
)  # fmt: skip
def test_what_cannot_be_is_told_where_the_function_is_defined(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        cached(CACHE, namespace="f", **options)


async def plain(a: Any, b: Any) -> str:
    return "result"


def test_a_function_without_a_name_is_told_as_what_it_is() -> None:
    with pytest.raises(InvalidArgumentError, match=r"functools\.partial.* make no key"):
        cached(CACHE, namespace="f")(functools.partial(plain, 1)).key(b=object())


scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, "1", b"1"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from("ab"), inner)
    ),
    max_leaves=4,
)


def shape(value: object) -> object:
    """What tells values apart whose types differ: ``1 == True == 1.0``."""
    if isinstance(value, list | tuple):
        return type(value)(shape(item) for item in value)
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return type(value), value


@given(st.lists(values, min_size=1, max_size=4), st.lists(values, min_size=1, max_size=4))
def test_other_arguments_are_another_key(one: list[Any], other: list[Any]) -> None:
    # Two arguments are always bound; the others are ``*rest``.
    one, other = (arguments + [2] * (len(arguments) == 1) for arguments in (one, other))
    assert (f.key(*one) == f.key(*other)) == (shape(one) == shape(other))


def test_arguments_do_not_run_into_one_another() -> None:
    assert f.key("a", "b,c") != f.key("a,b", "c")
    assert f.key(1, 2, 3) != f.key(1, 2, [3])
    assert f.key(1, c={"x": 1}) != f.key(1, x=1)
    assert f.key((1,)) != f.key([1])
    assert f.key([0, 1]) != f.key([1])
    assert f.key([(1,)]) != f.key([[1]])


class Point(NamedTuple):
    x: int


class Names(list[str]):
    pass


@pytest.mark.parametrize(
    "argument",
    [object(), {1: 2, "a": 3}, {"s"}, 2**70, "\ud800", f, Point(1), [Names("a")], Counter("a")],
)
def test_an_argument_that_makes_no_key_is_refused_with_what_to_do(argument: object) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        f.key(argument)
    assert str(caught.value).startswith("the arguments of f make no key: ")
    assert "say with key= what they are to be told apart by" in str(caught.value)


def test_wrong_arguments_are_told_as_python_tells_them() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        f.key()  # type: ignore[call-arg]


def test_a_key_of_ones_own_makes_the_parts() -> None:
    @cached(CACHE, namespace="g", key=lambda user, **_: (user["id"], "v2"))
    async def g(user: Any, verbose: bool = False) -> str:
        return ""

    @cached(CACHE, namespace="h", key=len)
    async def h(items: list[Any]) -> str:
        return ""

    assert g.key({"id": 7}, verbose=True) == GlobalCacheKey("g", 7, "v2")
    assert h.key([object(), object()]) == GlobalCacheKey("h", 2)


def test_what_it_is_made_of_is_checked_at_once_and_it_looks_like_its_function() -> None:
    def sync() -> None: ...

    with pytest.raises(ConfigurationError, match="cached is for async functions; <function "):
        cached(CACHE, namespace="f")(sync)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="a namespace cannot be empty"):
        cached(CACHE, namespace="")
    assert f.__name__ == "f"  # type: ignore[attr-defined]
    assert f.cache is CACHE
