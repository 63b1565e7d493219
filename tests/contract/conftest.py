"""Shows what an assertion of the contract compared, as if the tests were written here."""

import pytest

from tests.in_memory import tmp_path

__all__ = ["tmp_path"]

pytest.register_assert_rewrite("mpreg.testing.contract")
