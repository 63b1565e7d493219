"""What is sent comes back exactly so, or is refused before anything is sent."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mpreg.persistence import InvalidArgumentError, ValueTooLargeError
from tests.integration.queues.support import open_queue, open_queues, take

pytestmark = pytest.mark.anyio


def nested(depth: int) -> Any:
    value: Any = "innermost"
    for level in range(depth):
        value = [value] if level % 2 else {"next": value}
    return value


EXACT: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**53 + 1,
    0.0,
    -0.0,
    1.0,
    5e-324,
    1.7976931348623157e308,
    0.1,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "plain",
    "\x00",
    "😀\U0010ffff\uffff\ufeff\u202e",
    "a\u0308",
    "x" * 100_000,
    b"",
    bytes(range(256)),
    b"\xff" * 100_000,
    [],
    {},
    [None, True, 1, 1.0, "1", b"1", [], {}],
    {"": "", "\x00": [{"a": {"b": [b"", "", 0]}}], "😀": None},
    {"z": 1, "a": 2, "m": 3},
    nested(64),
    [1, 1.0, True],
]

KINDS = (bool, int, float, str, bytes, list, dict, type(None))


def assert_exact(found: Any, sent: Any) -> None:
    assert type(found) is type(sent)
    assert type(found) in KINDS
    if isinstance(sent, float):
        assert repr(found) == repr(sent)
    elif isinstance(sent, list):
        assert len(found) == len(sent)
        for one, other in zip(found, sent, strict=True):
            assert_exact(one, other)
    elif isinstance(sent, dict):
        assert list(found) == list(sent)
        for key, value in sent.items():
            assert_exact(found[key], value)
    else:
        assert found == sent


async def test_payloads_come_back_exactly_also_after_a_restart(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(EXACT)
        for sent in EXACT:
            message = await take(jobs)
            assert_exact(message.payload, sent)
    async with open_queue(data_dir) as jobs:
        for sent in EXACT:
            message = await take(jobs)
            assert_exact(message.payload, sent)
            await message.ack()


class Number(int):
    pass


class Text(str):
    __slots__ = ()


class Data(bytes):
    pass


class Real(float):
    pass


class Pair(NamedTuple):
    a: int


class Kind(enum.IntEnum):
    ONE = 1


class Items(list[int]):
    pass


REFUSED: dict[str, Any] = {
    "a tuple": (1, 2),
    "a named tuple": Pair(1),
    "a set": {1},
    "a frozen set": frozenset(),
    "an int over 64 bits": 2**63,
    "an int below 64 bits": -(2**63) - 1,
    "a subclass of int": Number(1),
    "an enum": Kind.ONE,
    "a subclass of str": Text("x"),
    "a subclass of bytes": Data(b"x"),
    "a subclass of float": Real(1.0),
    "a subclass of list": Items([1]),
    "a subclass of dict": OrderedDict(a=1),
    "a bytearray": bytearray(b"x"),
    "a memoryview": memoryview(b"x"),
    "a complex number": 1j,
    "a decimal": Decimal(1),
    "an object": object(),
    "a class": int,
    "a function": print,
    "a key that is no str": {1: 2},
    "a key that is None": {None: 1},
    "a key that is bytes": {b"a": 1},
    "a key of a subclass": {Text("a"): 1},
    "a lone surrogate": "\ud800",
    "a lone surrogate as a key": {"\udfff": 1},
    "one level too deep": nested(65),
    "very deep": nested(100_000),
}


async def test_what_would_not_come_back_is_refused_with_nothing_sent(data_dir: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        before = (await registry.stats()).commits
        for name, payload in (REFUSED | {"a circle": circle}).items():
            for wrapped in (payload, [1, payload], {"a": {"b": payload}}):
                with pytest.raises(InvalidArgumentError):
                    await jobs.send(wrapped)
            with pytest.raises(InvalidArgumentError):
                await jobs.send_many([1, payload, 2])
            assert jobs.statistics().sent == 0, name
        assert (await registry.stats()).commits == before


async def test_what_is_too_large_is_refused_with_nothing_sent(data_dir: Path) -> None:
    async with open_queue(data_dir, value_bytes_max=10_000, batch_bytes_max=30_000) as jobs:
        # A quarter, at most 4 KiB, is for what a dead letter has beside it.
        with pytest.raises(ValueTooLargeError, match="at most 7500"):
            await jobs.send(bytes(7_501))
        with pytest.raises(ValueTooLargeError, match="at most 7500"):
            await jobs.send(bytes(7_000), headers={"h": "x" * 1_000})
        with pytest.raises(ValueTooLargeError, match="30000"):
            await jobs.send_many([bytes(7_000)] * 5)
        assert jobs.statistics().sent == 0
        await jobs.send(bytes(7_400))
        await jobs.send_many([bytes(7_000)] * 3)
        assert len((await take(jobs)).payload) == 7_400


async def test_headers_and_topics_are_text_and_come_back_exactly(data_dir: Path) -> None:
    headers = {"": "", "a\x00": "😀", "x": "y" * 10_000}
    topics = ["", ".", "a..b", "😀.*.#", "x" * 1_024]
    async with open_queue(data_dir) as jobs:
        for topic in topics:
            await jobs.send(None, topic=topic, headers=headers)
    async with open_queue(data_dir) as jobs:
        for topic in topics:
            message = await take(jobs)
            assert (message.topic, message.headers) == (topic, headers)
        wrong: list[Any] = [
            {"a": 1},
            {1: "a"},
            {"a": b"a"},
            {"a": Text("a")},
            {"a": "\ud800"},
            {"\udfff": "a"},
            [("a", "b")],
            "a",
            {str(n): "" for n in range(257)},
        ]
        for headers_ in wrong:
            with pytest.raises(InvalidArgumentError):
                await jobs.send(None, headers=headers_)
        bad_topics: list[Any] = [1, None, b"a", "x" * 1_025, "\ud800"]
        for topic in bad_topics:
            with pytest.raises(InvalidArgumentError):
                await jobs.send(None, topic=topic)
        assert jobs.statistics().sent == len(topics)
