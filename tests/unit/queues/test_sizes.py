"""What fits: limits that leave room for what comes later, and things put together in batches."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import ConfigurationError
from mpreg.persistence import PersistenceConfig
from mpreg.queues.records import (
    DeadLetterRecord,
    HandedOut,
    MessageRecord,
    encode,
    encode_letter,
)
from mpreg.queues.sizes import (
    BATCH_BYTES_MIN,
    LETTER_BYTES,
    OPERATION_BYTES,
    OPERATIONS_BYTES,
    VALUE_BYTES_MIN,
    SizeLimits,
    batches,
)

# --- batches ---


@given(st.lists(st.integers(0, 40)), st.integers(1, 6), st.integers(0, 700))
def test_batches_keep_the_order_lose_nothing_and_stay_within_both_bounds(
    sizes: list[int], count_max: int, bytes_max: int
) -> None:
    items = list(enumerate(sizes))
    found = list(batches(items, lambda item: item[1], count_max=count_max, bytes_max=bytes_max))
    assert [item for batch in found for item in batch] == items
    totals = [sum(OPERATION_BYTES + size for _, size in batch) for batch in found]
    for batch, total in zip(found, totals, strict=True):
        assert 1 <= len(batch) <= count_max
        assert total <= bytes_max or len(batch) == 1
    # And they are no smaller than they must be.
    for batch, total, (following, *_) in zip(found, totals, found[1:], strict=False):
        assert len(batch) == count_max or total + OPERATION_BYTES + following[1] > bytes_max


def test_batches_are_made_as_they_are_asked_for() -> None:
    found = batches(itertools.count(), lambda _: 1, count_max=3, bytes_max=10_000)
    assert [next(found), next(found)] == [[0, 1, 2], [3, 4, 5]]


# --- limits ---


def limits_of(config: PersistenceConfig) -> SizeLimits:
    return SizeLimits.within(
        value_bytes_max=config.value_bytes_max, batch_bytes_max=config.batch_bytes_max
    )


SIZES = st.one_of(st.integers(BATCH_BYTES_MIN, 40_000), st.integers(BATCH_BYTES_MIN, 1 << 28))


@pytest.mark.parametrize(
    ("value", "batch"),
    [(VALUE_BYTES_MIN - 1, BATCH_BYTES_MIN), (VALUE_BYTES_MIN, BATCH_BYTES_MIN - 1)],
)
def test_a_queue_does_not_begin_where_nothing_fits(value: int, batch: int) -> None:
    config = PersistenceConfig(backend="memory", value_bytes_max=value, batch_bytes_max=batch)
    with pytest.raises(ConfigurationError, match="a queue needs"):
        limits_of(config)


@given(SIZES | st.integers(VALUE_BYTES_MIN, 20_000), SIZES)
def test_whatever_is_taken_in_also_fits_with_what_is_written_beside_it(
    one: int, other: int
) -> None:
    config = PersistenceConfig(
        backend="memory", value_bytes_max=min(one, other), batch_bytes_max=max(one, other)
    )
    limits = limits_of(config)
    beside = limits.letter - limits.message
    assert 0 <= beside <= LETTER_BYTES
    assert limits.letter <= config.value_bytes_max
    # A dead letter, its event, its key, and the message sent again, each in one transaction.
    assert limits.letter + beside + OPERATIONS_BYTES <= config.batch_bytes_max
    assert 4 * limits.subscription_name <= beside
    assert limits.batch <= config.batch_bytes_max
    assert limits.message >= VALUE_BYTES_MIN // 2
    # Each place of an event: two offsets, an attempt and a size, with what goes around them.
    event = HandedOut("", [(255, 2**62, 2**62, 2**62, 2**31)] * limits.places)
    assert len(encode(event)) + limits.subscription_name <= config.value_bytes_max


def test_by_default_a_message_is_almost_as_large_as_a_value() -> None:
    config = PersistenceConfig(backend="memory")
    limits = limits_of(config)
    assert limits.letter == config.value_bytes_max
    assert limits.message == config.value_bytes_max - LETTER_BYTES


# --- dead letters ---

TEXTS = st.text(st.sampled_from("ax\x00é€😀"), max_size=400)


def letter(reason: str, last_error: str, payload: bytes = b"payload") -> DeadLetterRecord:
    message = MessageRecord("1-1", 1.0, "topic", 0.0, None, {"h": "1"}, payload)
    return DeadLetterRecord("default", 0, 1, 5, reason, last_error, 2.0, message)


@given(TEXTS, TEXTS, st.integers(0, 3_000))
def test_a_letters_texts_are_cut_so_that_it_fits_and_nothing_else_is(
    reason: str, last_error: str, bytes_max: int
) -> None:
    whole = letter(reason, last_error)
    encoded = encode_letter(whole, bytes_max)
    found = msgspec.msgpack.decode(encoded, type=DeadLetterRecord)
    bare = len(encode(letter("", "")))
    assert len(encoded) <= max(bytes_max, bare)
    assert reason.startswith(found.reason)
    assert last_error.startswith(found.last_error)
    assert msgspec.structs.replace(found, reason=reason, last_error=last_error) == whole
    # What the consumer said goes before what the queue says.
    assert found.reason == reason or found.last_error == ""
    if len(encode(whole)) <= bytes_max:
        assert found == whole


@pytest.mark.parametrize("text", ["x" * 4_096, "😀" * 4_096])
def test_as_much_of_a_text_is_kept_as_there_is_room_for(text: str) -> None:
    bare = len(encode(letter("why", "")))
    encoded = encode_letter(letter("why", text), bare + 100)
    found = msgspec.msgpack.decode(encoded, type=DeadLetterRecord)
    assert found.reason == "why"
    # All but the length's own bytes, and a part of a character.
    assert bare + 100 - 8 <= len(encoded) <= bare + 100
