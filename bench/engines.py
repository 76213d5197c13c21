"""An engine as an application has it, and what can be seen of it from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.place import store_at
from everstep.core.batch import Batch, Mode, Run
from everstep.core.status import Status
from everstep.engine.engine import Engine
from everstep.engine.registry import Handler, Registry
from everstep.settings import Settings
from everstep.store.base import Claim, Committed, Store, Subscription, WorkerRef

FLIGHT = 100  # runs at a time, which is also everstep's default


@dataclass(slots=True)
class Commits:
    """What went through `Store.commit`: groups with something to write, and their batches."""

    groups: int = 0
    batches: int = 0
    seconds: float = 0.0

    def clear(self) -> None:
        """Count from here."""
        self.groups = self.batches = 0
        self.seconds = 0.0

    @property
    def average(self) -> float:
        """Batches a group."""
        return self.batches / self.groups if self.groups else 0.0


@dataclass(slots=True)
class Running:
    """A started engine under observation."""

    engine: Engine
    commits: Commits
    ended: int = 0
    _awaited: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)

    def heard(self, run: Run) -> None:
        """One more run has ended."""
        self.ended += 1
        for wanted, future in self._awaited:
            if self.ended >= wanted and not future.done():
                future.set_result(None)

    async def until_ended(self, count: int) -> None:
        """Wait until so many runs have ended here, in all."""
        if self.ended < count:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited.append((count, future))
            await future

    async def do(self, handler: str, data: bytes = b"null") -> Run:
        """Begin a run and wait for its end, as a client does."""
        begun = await self.engine.begin(handler, data)
        run = await self.engine.result(begun.run.rid)
        if run.status != Status.DONE:
            raise RuntimeError(f"{handler} ended as {Status(run.status).name}: {run.error!r}")
        return run


@asynccontextmanager
async def running(
    url: str,
    *handlers: Handler,
    concurrency: int = FLIGHT,
    evict: Literal["lru", "always"] = "lru",
    work: bool = True,
) -> AsyncIterator[Running]:
    """Start an engine on a store; stop it at the end of the block."""
    registry = Registry()
    for handler in handlers:
        registry.add(handler)
    store = store_at(url)
    commits = observe(store)
    engine = Engine(store, registry, Settings(store=url, concurrency=concurrency, evict=evict))
    await engine.start(work=work)
    watched = Running(engine, commits)
    told = engine.worker.ended

    def ended(run: Run) -> None:
        told(run)
        watched.heard(run)

    engine.worker.ended = ended
    try:
        yield watched
    finally:
        await engine.stop()


def observe(store: Store) -> Commits:
    """Count what is committed to a store from now on."""
    commits = Commits()
    commit = store.commit

    async def counted(
        worker: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        start = time.perf_counter()
        done = await commit(worker, batches, claim)
        if batches:
            commits.groups += 1
            commits.batches += len(batches)
            commits.seconds += time.perf_counter() - start
        return done

    store.commit = counted  # type: ignore[method-assign]  # seen from outside, without a store of our own
    return commits


def replayed(name: str, body: Callable[..., Awaitable[Any]]) -> Handler:
    """A handler in replay mode, as a workflow is one."""
    return Handler(name, Mode.REPLAY, body, timeout=None)


def retried(name: str, call: Callable[..., Awaitable[Any]], *topics: str, fifo: bool = False) -> Handler:
    """A handler in retry mode that reads topics, as a Step does."""
    subscriptions = tuple(Subscription(topic, name, fifo) for topic in topics)
    return Handler(name, Mode.RETRY, call, subscriptions=subscriptions)


async def crowd(count: int, work: Callable[[int], Awaitable[object]], width: int = FLIGHT) -> None:
    """Do *work* for 0, 1, … count-1, so many at a time."""
    numbers = iter(range(count))

    async def one() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(width, count)):
            group.create_task(one())
