"""The tests that every storage backend must pass, also one that is not ours.

::

    import pytest

    pytest.register_assert_rewrite("mpreg.testing.contract")

    from mpreg.testing.contract import StorageBackendContract

    class TestMyBackend(StorageBackendContract):
        def make_backend(self, directory):
            return MyBackend(directory / "store")

They are anyio tests: they run on the event loops that the ``anyio_backend`` fixture names.
"""

from __future__ import annotations

from mpreg.testing.contract.base import ContractStore, make_batch
from mpreg.testing.contract.conditions import ConditionsContract
from mpreg.testing.contract.entries import EntriesContract
from mpreg.testing.contract.logs import LogsContract
from mpreg.testing.contract.opening import OpeningContract
from mpreg.testing.contract.reading import ReadingContract
from mpreg.testing.contract.scans import ScansContract
from mpreg.testing.contract.sweeps import SweepsContract
from mpreg.testing.contract.upkeep import UpkeepContract

__all__ = ["ContractStore", "StorageBackendContract", "make_batch"]


class StorageBackendContract(
    OpeningContract,
    UpkeepContract,
    ConditionsContract,
    SweepsContract,
    EntriesContract,
    ScansContract,
    LogsContract,
    ReadingContract,
):
    """Derive from it, name the class ``Test…``, and say how the backend is made."""
