"""Shows what an assertion of the contract compared, as if the tests were written here."""

import pytest

pytest.register_assert_rewrite("mpreg.testing.contract")
