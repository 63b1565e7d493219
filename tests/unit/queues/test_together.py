"""`together`: reads at the same time, answers in order, the first error as itself."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from mpreg.errors import CorruptDataError, ReaderStoppedError
from mpreg.queues.together import together

pytestmark = pytest.mark.anyio


async def test_answers_come_in_the_order_of_the_reads() -> None:
    last_began = anyio.Event()

    async def read(number: int) -> int:
        if number == 3:
            last_began.set()
        # None of them ends before all have begun.
        await last_began.wait()
        return number

    with anyio.fail_after(60):
        assert await together(partial(read, number) for number in range(4)) == [0, 1, 2, 3]
    assert await together([]) == []


async def test_the_first_error_comes_out_as_itself() -> None:
    async def fail(error: Exception) -> None:
        raise error

    errors = [ReaderStoppedError("first"), CorruptDataError("second")]
    with pytest.raises(ReaderStoppedError, match="first"):
        await together(partial(fail, error) for error in errors)
