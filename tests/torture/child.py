"""One process of a schedule: works on a store until all is done, or until it is killed.

`publisher` begins the runs, sends the messages, settles the promises and
cancels what is to be cancelled, all of which may be cut short at any point;
whoever is started after it does what is not noted as done.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everstep.app import open_store
from everstep.core import journal
from everstep.core.batch import Applied, Batch, Refused, Settle
from everstep.core.status import Status, WrongStatus
from everstep.engine.engine import Engine
from everstep.engine.registry import Registry
from everstep.settings import Settings
from everstep.store.sqlite import SqliteStore
from everstep.store.sqlite_group import GroupWriter
from tests.torture.killer import Killer
from tests.torture.ledger import Ledger
from tests.torture.replays import CANCELLED, PROMISED, PROMISES, Replays
from tests.torture.steps import IN, Steps

PUBLISHED = "published"
DRAINED = 3  # exit code


@dataclass(frozen=True)
class Orders:
    """What one child is to do."""

    who: int
    store: str
    ledger: str
    programs: list[list[Any]]  # rid, handler, n
    messages: int = 0
    kill: list[Any] = field(default_factory=list)  # kind, number
    evict: str = "lru"
    concurrency: int = 20
    publisher: bool = True
    lease: float = 15.0
    drain: float = 5.0


def main(orders: dict[str, Any]) -> int:
    """Do as ordered; answers 0 when everything in the store has ended, `DRAINED` when told to end before."""
    return asyncio.run(_Child(Orders(**orders)).work())


class _Child:
    def __init__(self, orders: Orders) -> None:
        random.seed()
        self.orders = orders
        self.killer = Killer(*orders.kill)
        self.ledger = Ledger(orders.ledger, orders.who)
        self._install()
        registry = Registry()
        for maker in (Replays(self.ledger, self.killer), Steps(self.ledger, self.killer)):
            for handler in maker.handlers():
                registry.add(handler)
        settings = Settings(
            store=orders.store,
            concurrency=orders.concurrency,
            evict="always" if orders.evict == "always" else "lru",
            drain=orders.drain,
            lease=orders.lease,
        )
        self.engine = Engine(open_store(orders.store), registry, settings)

    def _install(self) -> None:
        store: type[Any] = SqliteStore
        if not self.orders.store.startswith("sqlite"):
            from everstep.store.postgres import PostgresStore

            store = PostgresStore
        inside = (GroupWriter, "_group") if store is SqliteStore else None
        self.killer.install(store, inside=inside)

    async def work(self) -> int:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        self.killer.end = lambda: loop.call_soon_threadsafe(told.set)  # type: ignore[assignment]
        self.ledger.note("start")
        await self.engine.start()
        working = asyncio.ensure_future(self._work())
        ending = asyncio.ensure_future(told.wait())
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        finished = working.done()
        working.cancel()
        ending.cancel()
        repairs = self.engine.worker.repairs
        await self.engine.stop()
        await asyncio.gather(ending, return_exceptions=True)
        if finished:
            await working
        self.ledger.note("events", json.dumps(self.killer.seen, separators=(",", ":")))
        self.ledger.note("repairs", repairs)
        self.ledger.close()
        return 0 if finished else DRAINED

    async def _work(self) -> None:
        if self.orders.publisher:
            await self._publish()
        await self._until_all_is_done()

    # ---- from outside any run

    async def _publish(self) -> None:
        engine, orders = self.engine, self.orders
        accepted = {int(rest[0]) for _, rest in self.ledger.said("accepted")}
        if not self._published.exists():
            sending = [self._send(n) for n in range(orders.messages) if n not in accepted]
            beginning = [self._begin(*program) for program in orders.programs]
            await asyncio.gather(*sending, *beginning)
            self._published.touch()
        for rid, handler, _ in orders.programs:
            if handler == PROMISED:
                await self._settle(rid)
            elif handler == CANCELLED:
                await asyncio.sleep(random.random() * 0.02)
                try:
                    await engine.control(rid, "cancel")
                except WrongStatus:
                    pass  # it has ended: an earlier process had it cancelled

    async def _send(self, n: int) -> None:
        await asyncio.sleep(random.random() * 0.01)
        sent = await self.engine.publish(IN, json.dumps({"n": n}).encode())
        assert sent.handlers == (IN,), sent
        self.ledger.note("accepted", n, sent.mid)

    async def _begin(self, rid: str, handler: str, n: int) -> None:
        await self.engine.begin(handler, json.dumps(n).encode(), rid=rid)

    async def _settle(self, rid: str) -> None:
        for number, name in enumerate(random.sample(PROMISES, len(PROMISES))):
            await asyncio.sleep(random.random() * 0.01)
            value = json.dumps(PROMISES.index(name) + 1).encode()
            batch = Batch(changes=[Settle(rid, name, journal.OK, value)])
            outcome = await self.engine.worker.committer.commit(batch)
            known = isinstance(outcome, Refused) and outcome.why == "status"
            assert isinstance(outcome, Applied) or known, (number, outcome)

    # ---- the end

    @property
    def _published(self) -> Path:
        return Path(self.orders.ledger).with_name(PUBLISHED)

    async def _until_all_is_done(self) -> None:
        while True:
            counts = await self.engine.store.counts()
            aside = {key: n for key, n in counts.items() if key[1] in (Status.NEEDS_ATTENTION, Status.FAILED)}
            assert not aside, f"set aside: {aside}"
            if self._published.exists() and all(Status(status).ended for _, status in counts):
                return
            await asyncio.sleep(0.01)
