"""What every store promises.  A store inherits these tests and says how it is made.

A subclass gives `database` (whatever names an empty database), `make_store`
(another store on that database, not opened) and `execute` (raw SQL, to damage
rows and to look at them).
"""

from collections.abc import AsyncIterator

import pytest

from everstep.store.base import Store, WorkerRef
from tests.store.claims_contract import ClaimsContract
from tests.store.groups_contract import GroupsContract
from tests.store.keeping_contract import KeepingContract
from tests.store.keys_contract import KeysContract
from tests.store.making import YEAR, MakeStore, ManualClock
from tests.store.model_contract import ModelContract
from tests.store.runs_contract import RunsContract
from tests.store.state_contract import StateContract
from tests.store.waits_contract import WaitsContract


class StoreContract(
    GroupsContract,
    RunsContract,
    WaitsContract,
    KeysContract,
    ClaimsContract,
    StateContract,
    KeepingContract,
    ModelContract,
):
    pytestmark = pytest.mark.anyio

    shared = True  # several stores can be open on one database

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def store(self, make_store: MakeStore) -> AsyncIterator[Store]:
        """An open store; in the end nothing in it was as it must never be."""
        store = make_store()
        await store.open()
        yield store
        repairs, _ = await store.sweep(YEAR)
        await store.close()

        assert repairs == 0

    @pytest.fixture
    async def other(self, store: Store, make_store: MakeStore) -> AsyncIterator[Store]:
        """A second process's store on the same database."""
        if not self.shared:
            pytest.skip("a store in memory belongs to one process")
        other = make_store()
        await other.open()
        yield other
        await other.close()

    @pytest.fixture
    async def second(self, store: Store, make_store: MakeStore) -> AsyncIterator[Store | None]:
        """As `other`, where there can be one."""
        other = make_store() if self.shared else None
        if other is not None:
            await other.open()
        yield other
        if other is not None:
            await other.close()

    @pytest.fixture
    async def worker(self, store: Store) -> WorkerRef:
        return await store.register("w1", "udp://127.0.0.1:1", ["h"])
