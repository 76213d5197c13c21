"""The engine of one process: a store, handlers, a worker, and the doors to them.

Everything that comes from outside a run (HTTP, the CLI, tests, user code at
start-up) begins runs, publishes messages, changes state and controls runs
here.  What returned is durable.

Floor 3.  May import: store.base, core, floor 0.  Imported by: floors 5 to 8.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from everstep import clock as clocks
from everstep.core.batch import (
    Applied,
    Batch,
    Begin,
    Begun,
    Change,
    Control,
    KvClear,
    KvDelete,
    KvSet,
    KvUpdate,
    Outcome,
    Publish,
    Published,
    Refused,
    Run,
)
from everstep.core.status import Status, WrongStatus
from everstep.core.updates import validate_ops
from everstep.engine import executors
from everstep.engine.committer import Done
from everstep.engine.effects import Effects
from everstep.engine.outcomes import refusal
from everstep.engine.registry import Registry
from everstep.engine.unrouted import Unrouted
from everstep.engine.worker import Worker
from everstep.errors import EverstepError, Fenced, IdTaken
from everstep.ids import new_id, new_trace
from everstep.settings import Settings
from everstep.store.base import Store

T = TypeVar("T")


class Engine:
    """One process's part of the system."""

    def __init__(
        self, store: Store, registry: Registry, settings: Settings, *, clock: clocks.Clock = clocks.system
    ) -> None:
        self.store = store
        self.registry = registry
        self.settings = settings
        self._clock = clock
        self._worker: Worker | None = None
        self._works = False
        self._waiters: dict[str, list[asyncio.Future[Run]]] = {}

    # ---- life

    async def start(self, *, work: bool = True) -> None:
        """
        Open the store, enter as a worker, begin to claim (unless *work* is False).

        Raises:
            StoreError: The store cannot be used; nothing was started.
        """
        await self.store.open()
        name = f"{socket.gethostname()}:{os.getpid()}"
        worker = Worker(self.store, self.registry, self.settings, self._clock, name)
        worker.ended = self._heard
        worker.committer.heard = Unrouted(self.registry).heard
        try:
            await worker.start(work=work)
        except BaseException:
            await worker.abandon()
            await self.store.close()
            raise
        self._works = work
        self._worker = worker

    def drain(self) -> None:
        """Claim nothing more from now on; `not_ready` says so.  What runs goes on until `stop`."""
        if self._worker is not None:
            self._worker.stop_claiming()

    async def stop(self) -> None:
        """Stop claiming, drain, release the rest at once, close."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            await worker.stop()
        finally:
            gone = EverstepError("everstep is stopping in this process; the run goes on in another")
            for waiters in self._waiters.values():
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(gone)
            await self.store.close()

    @property
    def worker(self) -> Worker:
        """The worker; an error with the remedy before `start`."""
        if self._worker is None:
            raise EverstepError(
                "everstep has not been started in this process (or is stopped already); "
                "use `async with app:`, or FastAPI(lifespan=app.lifespan)"
            )
        return self._worker

    @property
    def not_ready(self) -> str:
        """Why no work is taken now; empty when it is."""
        if self._worker is None:
            return "not started"
        if self._worker.draining:
            return "draining"
        if self._worker.lost:
            return f"the store takes no writes: {self._worker.lost}"
        return ""

    @property
    def ready(self) -> bool:
        """True while requests and runs are taken."""
        return not self.not_ready

    # ---- doing

    def effects(self, *, trace: str, gather: bool = False) -> Effects:
        """The effects of one request."""
        return Effects(self.store, self.worker.committer, trace=trace, gather=gather)

    async def _one(self, change: Change, size: int = 256, landed: Done | None = None) -> Any:
        outcome = await self.worker.committer.commit(Batch(changes=[change], size=size), landed)
        if isinstance(outcome, Applied):
            return outcome.results[0]
        if isinstance(outcome, Refused):
            if outcome.why == "id_taken":
                raise IdTaken(outcome.current.rid)
            if outcome.why == "unknown_run":
                raise LookupError(f"no run has the id '{outcome.current}'")
        raise refusal(outcome)

    async def _ring(self) -> None:
        """Wake workers elsewhere when this process does not work itself."""
        if not self._works:
            await self.worker.ring_all()

    async def begin(
        self,
        handler: str,
        input: bytes,
        *,
        rid: str | None = None,
        topic: str | None = None,
        fp: int = 0,
        trace: str = "",
        delay: int = 0,
        priority: int = 0,
        claim: bool = True,
        attach: bool = True,
    ) -> Begun:
        """
        Begin a run of a handler; durable when it returns.

        Args:
            rid: Its id; one that is taken attaches to that run, or with
                *attach* False raises `IdTaken`.
            delay: Microseconds before it may start.
            priority: Higher goes first among those that are ready.
            claim: Start it here at once when there is room.
        """
        found = self.registry.find(handler)
        worker = self.worker
        here = claim and delay == 0 and worker.room(handler) > 0
        slot = worker.slots.reserve(handler) if here else 0

        def landed(outcome: Outcome) -> None:
            # Before anybody is woken: who waits may be cancelled, and the run is ours all the same.
            worker.slots.leave(slot, 0)
            if isinstance(outcome, Applied):
                begun: Begun = outcome.results[0]
                if here and begun.created and begun.run.status == Status.RUNNING:
                    worker.take(begun.run)

        change = Begin(
            rid=rid if rid is not None else new_id("r"),
            handler=handler,
            mode=found.mode,
            input=input,
            topic=topic,
            trace=trace or new_trace(),
            fp=fp,
            priority=priority,
            delay=delay,
            claim=here,
            attach=attach,
        )
        try:
            begun: Begun = await self._one(change, 256 + len(input), landed)
        except Fenced:  # nothing was submitted
            worker.slots.leave(slot, 0)
            raise
        if begun.run.status != Status.RUNNING:
            await self._ring()
        return begun

    async def publish(
        self,
        topic: str,
        data: bytes,
        *,
        group: str | None = None,
        delay: int | None = None,
        priority: int = 0,
        trace: str = "",
    ) -> Published:
        """Give every Step on *topic* a copy, in any process; with none it is kept as unrouted."""
        change = Publish(new_id("m"), topic, data, group, delay, priority, 0, trace or new_trace())
        published: Published = await self._one(change, 256 + len(data))
        await self._ring()
        return published

    async def control(self, rid: str, action: str, *, input: bytes | None = None) -> Run:
        """
        Cancel, pause, resume, redrive, redrive_new or discard a run; answers its row after.

        Raises:
            LookupError: No run has that id.
            WrongStatus: Its status does not allow it.
        """
        run: Run = await self._one(Control(rid, action, input=input))
        # Its worker may be another process, also when this one works.
        await self.worker.ring_all()
        return run

    async def result(self, rid: str, *, timeout: float | None = None) -> Run:
        """
        Wait until a run has ended, in whatever process, and answer it.

        Raises:
            LookupError: No run has that id.
            TimeoutError: It did not end within *timeout* seconds.
            EverstepError: This process is stopping.
        """
        async with asyncio.timeout(timeout):
            waiter: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(rid, []).append(waiter)
            try:
                pause = 0.02
                if self._worker is not None and self._worker.drives(rid):
                    pause = 1.0  # its end will be heard; look only in case another takes it over
                    await asyncio.wait({waiter}, timeout=pause)
                while not waiter.done():
                    run = await self.store.run(rid)
                    if run is None:
                        raise LookupError(f"no run has the id '{rid}'")
                    if Status(run.status).ended:
                        return run
                    await asyncio.wait({waiter}, timeout=pause)
                    pause = min(pause * 1.5, 1.0)
                return waiter.result()
            finally:
                waiters = self._waiters[rid]
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[rid]

    def _heard(self, run: Run) -> None:
        for waiter in self._waiters.get(run.rid, ()):
            if not waiter.done():
                waiter.set_result(run)

    # ---- state from outside any run

    async def kv_set(self, group: str, key: str, value: bytes) -> bytes | None:
        """Write one value; answers the old one."""
        old: bytes | None = await self._one(KvSet(group, key, value), 64 + len(value))
        return old

    async def kv_update(
        self, group: str, key: str, ops: Sequence[Mapping[str, Any]]
    ) -> tuple[bytes | None, bytes]:
        """Apply relative operations; answers (old, new)."""
        validate_ops(ops)
        result: tuple[bytes | None, bytes] = await self._one(KvUpdate(group, key, ops))
        return result

    async def kv_delete(self, group: str, key: str) -> bytes | None:
        """Remove one value; answers it."""
        old: bytes | None = await self._one(KvDelete(group, key))
        return old

    async def kv_clear(self, group: str) -> int:
        """Remove a group; answers how many keys went."""
        return int(await self._one(KvClear(group)))

    # ---- work outside the loop

    async def in_thread(self, fn: Callable[..., T], *args: Any) -> T:
        """Run a blocking function in the engine's threads, with this task's context."""
        return await executors.in_thread(fn, *args)

    async def in_process(self, fn: Callable[..., T], *args: Any) -> T:
        """Run a function that keeps a core busy in a process of its own."""
        return await executors.in_process(fn, *args)


__all__ = ["Engine", "WrongStatus"]
