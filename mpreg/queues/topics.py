"""Topics and the patterns that choose among them, as in the topic exchanges of AMQP.

The rules are those of AMQP 0-9-1, section 3.1.3.3: segments are joined by ``.``, ``*`` matches
exactly one segment, ``#`` any number of them, none too. Unlike there a segment may have any
characters, and may be empty: ``a..b`` has three. The empty topic has no segment at all.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from mpreg.errors import InvalidArgumentError, ValueTooLargeError

__all__ = ["TOPIC_BYTES_MAX", "TopicPattern", "checked_topic"]

TOPIC_BYTES_MAX: Final = 1_024
"""Of a topic and of a pattern, in UTF-8."""

_ONE: Final = "*"
_ANY: Final = "#"


def checked_topic(topic: str) -> str:
    """The topic itself. ``*`` and ``#`` are ordinary characters in it.

    Raises `InvalidArgumentError` for another type, `ValueTooLargeError` over `TOPIC_BYTES_MAX`.
    """
    return _checked("topic", topic)


@frozen
class TopicPattern:
    """Which topics are meant: ``jobs.*.done``, ``jobs.#``, ``#``. Equal where the text is equal.

    Raises `InvalidArgumentError` for another type and where ``*`` or ``#`` is only a part of a
    segment, `ValueTooLargeError` over `TOPIC_BYTES_MAX`.
    """

    text: str
    _segments: tuple[str, ...] = field(init=False, eq=False, repr=False)
    _literal: bool = field(init=False, eq=False, repr=False)
    """Whether the text itself is the only topic that it matches."""

    def __attrs_post_init__(self) -> None:
        segments = _split(_checked("topic pattern", self.text))
        for segment in segments:
            if len(segment) > 1 and (_ONE in segment or _ANY in segment):
                raise InvalidArgumentError(
                    f"topic pattern {self.text!r:.80}: in the segment {segment!r:.80} a wildcard is"
                    f" beside other characters; {_ONE} and {_ANY} stand alone between the dots"
                )
        object.__setattr__(self, "_segments", tuple(segments))
        object.__setattr__(self, "_literal", _ONE not in segments and _ANY not in segments)

    def matches(self, topic: str) -> bool:
        """Whether the topic, which should be a `checked_topic`, is one of those meant."""
        if self._literal:
            return topic == self.text
        # As with globs: each `#` takes as few segments as it can, and where that fails only the
        # latest takes one more. An earlier one never has to: whatever it could still take, the
        # latest can take as well. So the time is at most the product of the two lengths.
        wanted, found = self._segments, _split(topic)
        at, position = 0, 0
        retry_at, retry_position = -1, 0
        while position < len(found):
            segment = wanted[at] if at < len(wanted) else None
            if segment == _ANY:
                at += 1
                if at == len(wanted):
                    return True
                retry_at, retry_position = at, position
            elif segment is not None and segment in (_ONE, found[position]):
                at += 1
                position += 1
            elif retry_at < 0:
                return False
            else:
                retry_position += 1
                at, position = retry_at, retry_position
        return all(segment == _ANY for segment in wanted[at:])


def _split(text: str) -> list[str]:
    return text.split(".") if text else []


def _checked(what: str, text: str) -> str:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"a {what} is str, not {type(text).__name__}: {text!r:.80}")
    size_bytes = len(text.encode("utf-8", "surrogatepass"))
    if size_bytes > TOPIC_BYTES_MAX:
        raise ValueTooLargeError(f"a {what} of {size_bytes} bytes; at most {TOPIC_BYTES_MAX}")
    return text
