"""Topic patterns, against a matcher that is too simple to be wrong."""

from __future__ import annotations

from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mpreg.errors import InvalidArgumentError, ValueTooLargeError
from mpreg.queues.topics import TOPIC_BYTES_MAX, TopicPattern, checked_topic
from tests.unit.examples import examples

#: Two words, so that patterns and topics often agree for a while; "" for empty segments.
TOPICS = st.lists(st.sampled_from(["a", "b", ""]), max_size=7).map(".".join)
PATTERNS = st.lists(st.sampled_from(["a", "b", "", "*", "#", "#"]), max_size=7).map(".".join)
ANY_TEXT = st.text(st.characters(codec=None) | st.characters(categories=["Cs"]), max_size=12)


def segments(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def meant(pattern: tuple[str, ...], topic: tuple[str, ...]) -> bool:
    """The rules as they are said, trying everything."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(meant(pattern[1:], topic[taken:]) for taken in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and meant(pattern[1:], topic[1:])


@settings(max_examples=examples(500))
@given(PATTERNS, TOPICS)
def test_a_pattern_matches_what_the_rules_say(pattern: str, topic: str) -> None:
    assert TopicPattern(pattern).matches(topic) is meant(segments(pattern), segments(topic))


@settings(max_examples=examples(150))
@given(PATTERNS, st.data())
def test_a_pattern_matches_every_topic_made_from_it(pattern: str, data: st.DataObject) -> None:
    words = st.sampled_from(["a", "b", "", "*", "#"])
    topic: list[str] = []
    for segment in segments(pattern):
        if segment == "#":
            topic += data.draw(st.lists(words, max_size=3))
        else:
            topic.append(data.draw(words) if segment == "*" else segment)
    # A lone empty segment cannot be written: joined it is the topic that has none.
    assume(topic != [""])
    assert TopicPattern(pattern).matches(".".join(topic))


@pytest.mark.parametrize(
    ("pattern", "matched", "not_matched"),
    [
        # The examples of the AMQP specification, and of the brief descriptions of it.
        ("*.stock.#", ["usd.stock", "eur.stock.db"], ["stock.nasdaq", "stock"]),
        ("jobs.#", ["jobs", "jobs.a", "jobs.a.b", "jobs."], ["", "job", "jobsa", "a.jobs"]),
        ("#.done", ["done", "jobs.done", "done.done"], ["done.jobs", "undone", ""]),
        ("jobs.*", ["jobs.a", "jobs."], ["jobs", "jobs.a.b", ""]),
        ("jobs", ["jobs"], ["", "jobs.", ".jobs", "JOBS"]),
        ("#", ["", ".", "a", "a.b", "a..b"], []),
        ("*", ["a", "*", "#"], ["", "a.b", "."]),
        ("", [""], ["a", "."]),
        ("#.*", ["a", "a.b", "."], [""]),
        ("*.#.*", ["a.b", "a.b.c", "."], ["", "a"]),
        ("#.a.#.b.#", ["a.b", "x.a.x.b.x", "b.a.b"], ["b.a", "a", "b"]),
        ("a..b", ["a..b"], ["a.b", "a...b"]),
        ("a.*.b", ["a..b", "a.x.b"], ["a.b", "a...b"]),
        ("größe.*", ["größe.ü"], ["grösse.ü"]),
    ],
)
def test_patterns_mean_what_their_users_expect(
    pattern: str, matched: list[str], not_matched: list[str]
) -> None:
    compiled = TopicPattern(pattern)
    assert [topic for topic in matched if not compiled.matches(topic)] == []
    assert [topic for topic in not_matched if compiled.matches(topic)] == []


def test_wildcards_in_a_topic_are_ordinary_characters() -> None:
    assert not TopicPattern("a").matches("*")
    assert not TopicPattern("a.b").matches("#")
    assert not TopicPattern("*.a").matches("#")
    assert TopicPattern("jobs.*").matches("jobs.a*b")


@given(ANY_TEXT)
def test_a_text_without_wildcards_matches_itself_and_is_a_topic(text: str) -> None:
    assume("*" not in text and "#" not in text)
    assert TopicPattern(text).matches(checked_topic(text))
    assert TopicPattern("#").matches(text)


@pytest.mark.parametrize("ending", ["", ".b"])
def test_many_wildcards_over_a_long_topic_take_no_exponential_time(ending: str) -> None:
    # Whoever tries all ways to share 500 segments among 200 wildcards does not come back.
    pattern = TopicPattern("#.a." * 200 + "c")
    assert not pattern.matches("a." * 500 + "a" + ending)
    assert TopicPattern("#.a." * 200 + "#").matches("a." * 500 + "a" + ending)
    assert not TopicPattern("#." + "*." * 250 + "c").matches("a." * 500 + "a" + ending)


@pytest.mark.parametrize("segment", ["a*", "*a", "**", "##", "#*", "a#b", " *", "*\n"])
@pytest.mark.parametrize("around", ["{}", "jobs.{}", "{}.jobs", "#.{}.*"])
def test_a_wildcard_beside_other_characters_is_refused(segment: str, around: str) -> None:
    pattern = around.format(segment)
    with pytest.raises(InvalidArgumentError) as caught:
        TopicPattern(pattern)
    assert f"topic pattern {pattern!r}" in str(caught.value)
    assert f"segment {segment!r}" in str(caught.value)


@pytest.mark.parametrize("wrong", [b"jobs", None, 7, ["jobs"]])
def test_another_type_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"topic pattern is str, not {_kind(wrong)}"):
        TopicPattern(wrong)
    with pytest.raises(InvalidArgumentError, match=f"topic is str, not {_kind(wrong)}"):
        checked_topic(wrong)


def _kind(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("character", ["a", "ä", "\U0001f600", "\ud800"])
def test_the_limit_is_in_bytes_of_utf_8(character: str) -> None:
    size = len(character.encode("utf-8", "surrogatepass"))
    longest = character * (TOPIC_BYTES_MAX // size) + "x" * (TOPIC_BYTES_MAX % size)
    assert checked_topic(longest) == longest
    assert TopicPattern(longest).matches(longest)
    with pytest.raises(ValueTooLargeError, match=f"topic of {TOPIC_BYTES_MAX + 1} bytes"):
        checked_topic(longest + "x")
    with pytest.raises(ValueTooLargeError, match=f"pattern of {TOPIC_BYTES_MAX + 1} bytes"):
        TopicPattern(longest + "x")


@settings(max_examples=examples(150))
@given(PATTERNS, PATTERNS)
@example("#", "#.#")
def test_patterns_are_equal_where_their_text_is(one: str, other: str) -> None:
    assert (TopicPattern(one) == TopicPattern(other)) is (one == other)
    assert len({TopicPattern(one), TopicPattern(other)}) == len({one, other})
    assert TopicPattern(one).text == one


def test_a_pattern_cannot_be_changed_and_shows_its_text() -> None:
    pattern = TopicPattern("jobs.#")
    with pytest.raises(FrozenInstanceError):
        pattern.text = "other"  # type: ignore[misc]
    assert repr(pattern) == "TopicPattern(text='jobs.#')"
