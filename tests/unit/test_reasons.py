"""An error without words is told with those of what it came from."""

from __future__ import annotations

import ssl

import pytest

from mpreg.reasons import reason


def raised(error: OSError, cause: Exception) -> Exception:
    with pytest.raises(OSError) as found:
        raise error from cause
    return found.value


def test_an_error_is_told_by_its_class_and_its_words() -> None:
    assert reason(OSError("no such host")) == "OSError no such host"


def test_one_without_words_has_those_of_its_cause() -> None:
    deep = raised(OSError(), ssl.SSLError(1, "wrong version number"))
    assert "wrong version number" in reason(raised(OSError(), deep))
    assert reason(raised(OSError(), deep)).startswith("OSError ")


def test_one_that_came_while_another_was_handled_has_the_words_of_that() -> None:
    error = OSError()
    error.__context__ = ValueError("first")
    assert reason(error) == "OSError first"


def test_where_nobody_has_words_the_class_is_all_there_is() -> None:
    one, other = OSError(), ValueError()
    assert reason(one) == "OSError"
    one.__cause__, other.__cause__ = other, one
    assert reason(one) == "OSError"
