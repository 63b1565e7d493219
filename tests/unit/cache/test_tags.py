"""Tags, as callers give them."""

from __future__ import annotations

import pytest

from mpreg.cache.invalidation import target_row
from mpreg.cache.requests import TAG_BYTES_MAX, Details, checked_tag
from mpreg.codec import encode_key
from mpreg.errors import ValueTooLargeError


def test_every_tag_that_an_entry_may_have_can_be_invalidated() -> None:
    longest = "é" * (TAG_BYTES_MAX // 2) + "e"
    assert Details(tags=(longest,)).checked_tags == (longest,)
    encode_key(target_row(checked_tag(longest)))  # what is stored then


def test_a_tag_too_long_to_be_invalidated_is_refused_when_it_is_given() -> None:
    with pytest.raises(ValueTooLargeError, match=f"at most {TAG_BYTES_MAX}"):
        Details(tags=("e" * (TAG_BYTES_MAX + 1),))
