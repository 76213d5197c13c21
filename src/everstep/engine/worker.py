"""The worker of one process: claims what it has room for, drives it, and hands it back.

It claims with the commits it makes anyway, never more than its free slots, in
all and for each handler.  It proves that it lives by a counter and a lock,
and takes over from others that do neither: a free lock is a dead process, at
once; a counter that stood still for a lease, judged on the observer's own
clock, is one that hangs.  Whoever was taken from commits nothing more.

Floor 3.  May import: store.base, core, floor 0.  Imported by: engine.engine.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from everstep.clock import Clock
from everstep.core.batch import Asked, Batch, Mode, Outcome, Publish, Release, Run, Unknown
from everstep.core.failure import encode_error
from everstep.core.status import Status
from everstep.engine.attempt import AttemptRun
from everstep.engine.committer import Committer, Done
from everstep.engine.doorbell import Doorbell
from everstep.engine.peers import LOOK, Peers
from everstep.engine.registry import Registry
from everstep.engine.slots import Slots
from everstep.engine.timers import Earliest, StoreAlarm
from everstep.engine.turn import Turn, TurnEnd
from everstep.engine.upkeep import keep_up
from everstep.errors import EverstepError, Fenced, StoreUnavailable
from everstep.log import Logger
from everstep.settings import Settings
from everstep.store.base import Claim, Committed, Store, WorkerRef

KEPT = 10_000  # parked turns that stay in memory
_log = Logger("everstep.worker")


class Drive(Protocol):
    """A turn or an attempt, as the worker sees it."""

    def ask(self, what: Asked) -> None: ...
    def drain(self) -> None: ...
    def fence(self) -> None: ...


class Worker:
    """Owner of the committer and host of turns and attempts."""

    def __init__(self, store: Store, registry: Registry, settings: Settings, clock: Clock, name: str) -> None:
        self.store = store
        self.registry = registry
        self.settings = settings
        self.clock = clock
        self.name = name
        self.committer = Committer(store, self)
        self.evict_always = settings.evict == "always"
        self.ended: Callable[[Run], None] = lambda run: None  # set by the engine: somebody may wait for it
        self.lost: str = ""  # why the store takes no writes, "" when it does
        self.repairs = 0
        self.slots = Slots(settings.concurrency, registry)
        self._bell = Doorbell()
        self._drives: dict[int, Drive] = {}
        self._rids: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._errands: set[asyncio.Task[None]] = set()  # short questions to the store
        self._parked: OrderedDict[int, Turn] = OrderedDict()
        self._readers: dict[str, set[str]] = {}  # topic -> handlers here that get its messages
        self._maybe: set[str] = set()  # handlers that may have ready runs
        self._look = False  # something may have fallen due
        self._news = False  # somebody rang since the claim in flight was made
        self._working = False
        self._draining = False
        self._left = False  # the store is asked nothing any more
        self._peers = Peers(store, clock, self._bell, settings.lease)
        self._earliest = Earliest(self.at, self._fell_due)
        self._loops: list[asyncio.Task[None]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    # ---- life

    async def start(self, *, work: bool) -> None:
        """Register, take over from the dead, begin to claim."""
        await self._bell.hang(self._rung)
        handlers = self.registry.names if work else ()
        if work:
            for sub in self.registry.subscriptions:
                self._readers.setdefault(sub.topic, set()).add(sub.handler)
            await self.store.subscribe(self.registry.subscriptions, handlers)
        self.committer.worker = await self.store.register(
            self.name, self._bell.address if work else "", handlers
        )
        self.committer.start()
        self._working = work
        await self._observe()
        spawn = asyncio.get_running_loop().create_task
        self._loops = [spawn(self._beat(), name="everstep-beat"), spawn(self._watch(), name="everstep-watch")]
        if work:
            keep = int(self.settings.retention * 1e6)
            upkeep = keep_up(self.store, keep, self._repaired, self.store_lost)
            self._loops.append(spawn(upkeep, name="everstep-sweep"))
            if (listen := getattr(self.store, "listen", None)) is not None:
                await listen(self._rung)  # processes on other hosts have no bell we could hear
        self._rung()

    def stop_claiming(self) -> None:
        """Take no more runs; those that were taken go on."""
        self._draining = True

    async def stop(self) -> None:
        """Stop claiming, let what runs end within the drain time, give the rest back, leave."""
        self._draining = True
        for drive in list(self._drives.values()):
            if isinstance(drive, Turn):
                drive.drain()
        if not await self._idle_within(self.settings.drain):
            _log.warning("giving back what did not end in time", {"runs": len(self._drives)})
            for drive in list(self._drives.values()):
                if isinstance(drive, Turn):
                    drive.fence()
                    self._release(drive.run)
                else:
                    drive.drain()
            if not await self._idle_within(5):
                _log.error("left behind runs that would not stop", {"runs": len(self._drives)})
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for turn in self._parked.values():
            turn.evict()
        self._parked.clear()
        self._earliest.cancel()
        await self.committer.stop()
        await self._no_errands()
        if self.committer.worker is not None:
            try:
                await self.store.retire(self.committer.worker)
            except StoreUnavailable as error:
                _log.error("the store is gone; others will take over", {"error": str(error)})
        self._peers.ring()
        self._peers.close()
        self._bell.close()

    async def abandon(self) -> None:
        """Take down what a failed `start` had put up."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._no_errands()
        self._earliest.cancel()
        self._bell.close()

    async def _no_errands(self) -> None:
        """Nobody asks the store any more when it is closed, whoever rings meanwhile."""
        self._left = True
        errands = [*self._errands]
        for errand in errands:
            errand.cancel()
        await asyncio.gather(*errands, return_exceptions=True)

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @property
    def draining(self) -> bool:
        """True once `stop` began."""
        return self._draining

    @property
    def running(self) -> int:
        """How many runs are being driven here."""
        return len(self._drives)

    def drives(self, rid: str) -> bool:
        """True while the run is being driven here, so that its end will be heard."""
        return rid in self._rids

    # ---- Host: what turns and attempts need

    def now(self) -> int:
        """The store's clock."""
        return self.store.now()

    def commit(self, batch: Batch, done: Done) -> None:
        """Group commit with a callback."""
        self.committer.submit(batch, done)

    def at(self, due_us: int, fn: Callable[[], None]) -> StoreAlarm:
        """Call *fn* once the store's clock has reached *due_us*; never early."""
        return StoreAlarm(due_us, fn, self.store.now)

    # ---- Owner: what the committer asks and tells

    def room(self, handler: str) -> int:
        """Free slots for a handler."""
        return self.slots.room(handler) if self._working and not self._draining else 0

    def wanted(self, batches: Sequence[Batch]) -> Claim | None:
        """What may be claimed with these batches; runs that end in them leave room."""
        self.slots.leave_with(batches)
        free = self.slots.free
        if not self._working or self._draining or self.lost or free <= 0:
            return None
        names = self._maybe
        if self._readers and batches:  # who reads what is published here is claimed in the same commit
            topics = {c.topic for batch in batches for c in batch.changes if type(c) is Publish}
            names = names.union(*(self._readers.get(topic, ()) for topic in topics))
        handlers = {name: room for name in names if (room := self.room(name)) > 0}
        if not handlers and not self._look:
            return None
        self._look = self._news = False
        return Claim(free, handlers)

    def committed(self, done: Committed, wanted: Claim | None) -> None:
        """Start what was claimed; know what may be ready; ring for what we cannot take."""
        claimed = Counter(run.handler for run in done.claimed)
        for run in done.claimed:
            self.take(run)
        if wanted is not None and not self._news:
            for name, room in wanted.handlers.items():
                if claimed[name] < room and sum(claimed.values()) < wanted.total:
                    self._maybe.discard(name)
        if done.ready:
            self._hear(done.ready)
        for run in done.ended:
            self.ended(run)
        if done.due is not None:
            self._earliest.arm(done.due)
        if done.asked:
            self._deliver_asked()
        if done.outcomes and self.committer.worker is not None and self._is_fenced(done):
            self._fenced()

    def _is_fenced(self, done: Committed) -> bool:
        # Nobody knows what became of what we committed: whoever we were, we are not sure of it any more.
        first = done.outcomes[0]
        return isinstance(first, Unknown) or getattr(first, "why", None) == "worker_epoch"

    def _hear(self, ready: Iterable[str]) -> None:
        mine = {name for name in ready if self.registry.get(name) is not None} if self._working else set()
        self._maybe |= mine
        if any(self.room(name) > 0 for name in mine):
            self.committer.kick()
        if any(self.room(name) <= 0 for name in ready):
            self._peers.ring_later()

    def store_lost(self, error: StoreUnavailable) -> None:
        """Say it once; no claims until it is back."""
        if not self.lost:
            _log.error("the store takes no writes; waiting for it", {"error": str(error)})
        self.lost = str(error)
        self.committer.store_lost(error)

    def store_back(self) -> None:
        """Go on."""
        if self.lost:
            _log.info("the store takes writes again")
        self.lost = ""
        self._peers.begin_anew()
        self.committer.store_back()
        self._rung()

    # ---- driving

    def take(self, run: Run) -> None:
        """Drive a run that is ours."""
        if self._draining:  # claimed by a commit that was in flight when the end began
            self._release(run)
            return
        handler = self.registry.get(run.handler)
        if handler is None:  # claimed for us by nobody's mistake but a deploy's: hand it back
            self.committer.submit(self._give_back(run), _ignore)
            return
        self.slots.take(run)
        self._rids.add(run.rid)
        self._idle.clear()
        if run.mode == Mode.REPLAY:
            turn = self._parked.pop(run.id, None)
            if turn is not None and turn.run.epoch + 1 != run.epoch:
                turn.evict()
                turn = None
            resumed = turn is not None
            self._drives[run.id] = turn = turn if turn is not None else Turn(self, run, handler)
            work = asyncio.create_task(self._turn(turn, run, resumed=resumed))
            self._tasks.add(work)
            work.add_done_callback(self._tasks.discard)
        else:
            self._drives[run.id] = attempt = AttemptRun(self, run, handler, self._attempted)
            attempt.start()

    def _give_back(self, run: Run) -> Batch:
        missing = EverstepError(
            f"this process has no handler '{run.handler}'; it has {', '.join(self.registry.names) or 'none'}"
        )
        return Batch(
            run=run.id, epoch=run.epoch, changes=[Release(delay=5_000_000, error=encode_error(missing))]
        )

    async def _turn(self, turn: Turn, run: Run, *, resumed: bool) -> None:
        try:
            if run.asked:
                turn.ask(Asked(run.asked))
            end = await (turn.resume(run) if resumed else turn.drive())
            if end is TurnEnd.PARKED and not self.evict_always and not self._draining:
                self._keep(turn, run)
        except Exception as error:
            self._broken(run, error)
        finally:
            self._freed(turn, run)

    def _keep(self, turn: Turn, run: Run) -> None:
        if self._drives.get(run.id) is not turn:  # claimed again already, and begun anew
            turn.evict()
            return
        self._parked[run.id] = turn
        while len(self._parked) > KEPT:
            _, oldest = self._parked.popitem(last=False)
            oldest.evict()

    def _attempted(self, attempt: AttemptRun, defect: Exception | None) -> None:
        if defect is not None:
            self._broken(attempt.run, defect)
        self._freed(attempt, attempt.run)

    def _release(self, run: Run) -> None:
        """Give a run back as it is, for whoever claims it next."""
        try:
            self.committer.submit(Batch(run=run.id, epoch=run.epoch, changes=[Release()]), _ignore)
        except Fenced:
            pass  # this process commits nothing any more; the run is freed when its worker leaves

    def poisoned(self, batch: Batch, error: Exception) -> None:
        """A batch cannot be written: a turn could only try the same again, so its run is set aside."""
        drive = self._drives.get(batch.run)
        if isinstance(drive, Turn):
            self._broken(drive.run, error)

    def _broken(self, run: Run, error: Exception) -> None:
        """A defect of ours: set the run aside rather than lose it."""
        if isinstance(error, StoreUnavailable):  # its journal cannot be read now
            self.store_lost(error)
            self._release(run)
            return
        _log.exception("a run could not be driven", {"run": run.rid, "error": repr(error)})
        aside = Batch(
            run=run.id, epoch=run.epoch, changes=[Release(event="attention", error=encode_error(error))]
        )
        try:
            self.committer.submit(aside, _ignore)
        except Fenced:
            pass  # this process commits nothing any more; the run is freed when its worker leaves

    def _freed(self, drive: Drive, run: Run) -> None:
        self.slots.leave(run.id, run.epoch)
        # A run that was given back, or parked and woken, in one group may be
        # claimed in it again: then the next drive stands here already.
        if self._drives.get(run.id) is drive:
            del self._drives[run.id]
            self._rids.discard(run.rid)
        if not self._drives:
            self._idle.set()
        if self._maybe or self._look:
            self.committer.kick()

    # ---- time

    def _fell_due(self) -> None:
        self._look = True
        self.committer.kick()
        self._spawn(self._next_due)

    async def _next_due(self) -> None:
        due = await self.store.next_due()
        if due is not None:
            # One that is due already is being promoted: look again shortly.
            self._earliest.arm(max(due, self.store.now() + 20_000))

    def _spawn(self, ask: Callable[..., Awaitable[None]], *args: object) -> None:
        if self._left:
            return

        async def quietly() -> None:
            try:
                await ask(*args)
            except StoreUnavailable as error:
                self.store_lost(error)
            except Exception as error:
                _log.error("could not ask the store", {"error": repr(error)})

        task = asyncio.create_task(quietly())
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    # ---- other processes

    def _rung(self) -> None:
        """Somebody says there may be work."""
        self._maybe.update(self.registry.names)
        self._look = self._news = True
        self.committer.kick()
        self._deliver_asked()
        self._spawn(self._next_due)

    async def ring_all(self) -> None:
        """Ring every worker there is, also one that started a moment ago."""
        await self._peers.ring_all()

    def _deliver_asked(self) -> None:
        async def look() -> None:
            if self.committer.worker is None:
                return
            for run in await self.store.asked(self.committer.worker):
                drive = self._drives.get(run.id)
                if drive is not None and run.asked and run.status == Status.RUNNING:
                    drive.ask(Asked(run.asked))

        if self._working and self._drives:
            self._spawn(look)

    async def _beat(self) -> None:
        """Raise our counter three times a lease."""
        while True:
            await asyncio.sleep(self.settings.lease / 3)
            worker = self.committer.worker
            try:
                if worker is not None and not await self.store.beat(worker):
                    self._fenced()
            except StoreUnavailable as error:
                self.store_lost(error)
            except Exception as error:
                _log.error("no heartbeat", {"error": repr(error)})

    def _fenced(self) -> None:
        """We were declared dead, or do not know what we did: forget what we had, come back anew."""
        old, self.committer.worker = self.committer.worker, None
        if old is None:
            return
        _log.error("this worker was declared dead (it hung), or lost the store in a commit; starting anew")
        for drive in list(self._drives.values()):
            drive.fence()
        for turn in self._parked.values():
            turn.evict()
        self._parked.clear()
        self._spawn(self._again, old)

    async def _again(self, old: WorkerRef) -> None:
        working, self._working = self._working, False
        handlers = self.registry.names if working else ()
        while self.committer.worker is None:
            try:
                await self.store.retire(old)
                self.committer.worker = await self.store.register(self.name, self._bell.address, handlers)
            except StoreUnavailable as error:
                self.store_lost(error)
                await asyncio.sleep(0.5)
            except Exception as error:  # without a name this process would idle for ever
                _log.error("could not enter as a new worker", {"error": repr(error)})
                await asyncio.sleep(0.5)
        self._working = working
        self.store_back()

    async def _watch(self) -> None:
        """Look after other workers, and for work of other processes."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self._observe()
            except StoreUnavailable as error:
                self.store_lost(error)
            except Exception as error:
                _log.error("could not look after other workers", {"error": repr(error)})
            if self._working and not self._draining:
                self._rung()

    async def _observe(self) -> None:
        """Take over from the dead and from those who stood still for a lease."""
        me = self.committer.worker.id if self.committer.worker is not None else 0
        if self.lost:
            self._peers.begin_anew()
        if await self._peers.observe(me):
            self._rung()

    def _repaired(self, repairs: int) -> None:
        self.repairs += repairs
        self._rung()


def _ignore(outcome: Outcome) -> None:
    """Nobody waits for this one."""
