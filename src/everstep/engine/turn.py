"""One drive of a run in replay mode: from a claim until it ended, parked or was given back.

The body runs on a loop of its own (`body`); its functions run on the process's
loop.  What finished is queued; whenever no batch of this run is in flight, all
of it becomes one batch, and once that is durable the body is handed the
answers one at a time, in the order of their `seq`.  The hot path is callbacks
only (``succeeded, _send, _landed, hand_over, _begin``); the coroutine `drive`
sleeps until there is nothing in flight.

Floor 3.  May import: store.base, core, floor 0.  Imported by: engine.worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from everstep.core.batch import Applied, Asked, Batch, Change, Finish, Outcome, Park, Refused, Release, Run
from everstep.core.failure import encode_error
from everstep.core.journal import Entry
from everstep.engine import faults
from everstep.engine.body import FAR, Body, ending
from everstep.engine.calls import Call, Running
from everstep.engine.context import Context
from everstep.engine.operations import LoopTimer, Operation, PromiseWait, Sleep
from everstep.engine.promises import Promises
from everstep.engine.registry import Handler
from everstep.engine.timers import Clockwork, Timers
from everstep.errors import EverstepError, NotEncodable, TerminalError
from everstep.log import Logger
from everstep.store.base import Store

NEAR_US = 1_000_000  # a timer due within this is waited for in memory
BREATH = 2_000  # entries replayed before the process's loop gets its turn

_log = Logger("everstep.turn")


class TurnEnd(Enum):
    """How a drive ended."""

    ENDED = "ended"  # done, failed or cancelled
    PARKED = "parked"  # waits; may be resumed in memory
    RELEASED = "released"  # given back to whoever claims it next
    SET_ASIDE = "set_aside"  # paused, or needs attention
    LOST = "lost"  # somebody else has it: nothing was committed


class Host(Clockwork, Protocol):
    """What a turn needs of its worker."""

    @property
    def store(self) -> Store: ...
    @property
    def evict_always(self) -> bool: ...

    def commit(self, batch: Batch, done: Callable[[Outcome], None]) -> None:
        """Group commit; *done* is called on this loop, batches of one run in the order given."""


class Turn:
    """
    Drives one claimed run.

    Args:
        host: The worker.
        run: The run as it was claimed.
        handler: Its code; ``call(ctx, input)``.
        accept_args: Go on with recorded results although their arguments differ now.
    """

    def __init__(self, host: Host, run: Run, handler: Handler, *, accept_args: bool = False) -> None:
        self.run = run
        self._host = host
        self._handler = handler
        self._accept_args = accept_args
        self._body: Body | None = None
        self._loop: asyncio.AbstractEventLoop
        self._live = False  # the journal was replayed
        self._count = 0  # entries of this generation
        self._seq = 0  # of the last entry that has one
        self._at = 0  # time of the last entry
        self._running = Running(f"{run.rid}+{run.generation}" if run.generation else run.rid, self)
        self._finished: list[Operation] = []  # waits for the batch in flight to land
        self._flight: list[Operation] | None = None  # to be handed over when it has
        self._timers = Timers(host, self._ring)
        self._promises = Promises()
        self._looking: asyncio.Task[None] | None = None
        self._wakes = run.wakes
        self._to_cancel = False
        self._leaving: tuple[Release, TurnEnd] | None = None
        self._closing = TurnEnd.ENDED  # what the batch in flight makes of it, once it has landed
        self._end: TurnEnd | None = None
        self._defect: BaseException | None = None
        self._quiet = False  # nothing is in flight and nothing finished
        self._waiter: asyncio.Future[None] | None = None

    # ---- asked from outside

    async def drive(self) -> TurnEnd:
        """Replay the journal, then go on until the run ended, parked or was given back."""
        self._loop = asyncio.get_running_loop()
        run = self.run
        # Claimed for the first time ever: nothing can have been written.
        newborn = run.epoch == 1 and run.generation == 0
        entries = [] if newborn else await self._host.store.entries(run.id, run.generation)
        if self._end is None:
            try:
                await self._recall(entries)
            except BaseException:
                self.evict()
                raise
        return await self._go_on()

    async def resume(self, run: Run) -> TurnEnd:
        """Go on with a parked turn whose run was claimed again, by this worker and nobody between."""
        self.run = run
        self._wakes = run.wakes
        self._promises.unread = True
        self._end = None
        self.ask(Asked(run.asked))
        return await self._go_on()

    def ask(self, what: Asked) -> None:
        """Somebody wants the run cancelled or paused."""
        if self._end is not None:
            return
        if what is Asked.CANCEL:
            self._to_cancel = True
            self._cancel()
        elif what is Asked.PAUSE:
            self._leave(Release(event="pause"), TurnEnd.SET_ASIDE)
        self._advance()

    def wake(self) -> None:
        """A promise of this run may have been settled while its functions run."""
        self._promises.unread = True
        if self._live and self._end is None and self._looking is None:
            self._looking = self._loop.create_task(self._look())

    def drain(self) -> None:
        """The worker shuts down: let the functions in flight end, record them, give the run back."""
        if self._end is None:
            self._leave(Release(), TurnEnd.RELEASED)
            self._advance()

    def fence(self) -> None:
        """The run is no longer ours: commit nothing more, throw everything away."""
        if self._end is None:
            self._over(TurnEnd.LOST)
        self.evict()

    def evict(self) -> None:
        """Leave memory, in the middle of whatever the body waits for (`Body.evict`)."""
        self._timers.close()
        self._running.stop()
        if self._body is not None:
            self._body.evict()

    # ---- replay

    async def _recall(self, entries: list[Entry]) -> None:
        run, handler = self.run, self._handler
        self._count = len(entries)
        body = self._body = Body(run, entries, accept_args=self._accept_args, on_fault=self._advance)
        try:
            given = handler.input.decode(run.input)
        except ValueError as error:
            body.fail(faults.unfit(run, error))
            return
        ctx = Context(body, step=handler.name, run=run.rid)
        body.start(lambda: _main(handler, ctx, given))
        order = body.replay.order if body.replay is not None else []
        for start in range(0, len(order), BREATH):
            body.recall(order[start : start + BREATH])
            if body.fault is not None:
                return
            await asyncio.sleep(0)
            if self._end is not None:
                return
        if order:
            self._seq, self._at = order[-1].seq or 0, order[-1].at
        if body.done:
            body.end()
        if body.fault is None:
            body.recalled()

    # ---- live

    async def _go_on(self) -> TurnEnd:
        try:
            if self._end is None:
                self._live = True
                self._begin()
                self._cancel()
                self._advance()
            while self._end is None:
                if not self._quiet:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                else:
                    self._quiet = False
                    await self._rest()
        except BaseException as error:
            self._defect = self._defect or error
            self._end = self._end or TurnEnd.LOST
        end = self._end
        assert end is not None
        if end is not TurnEnd.PARKED or self._host.evict_always:
            self.evict()
        if self._defect is not None:
            raise self._defect
        return end

    def _signal(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _over(self, end: TurnEnd) -> None:
        self._end = end
        self._timers.silence()
        self._signal()

    def _advance(self) -> None:
        """Do what can be done now: write what finished, end, or say that all is quiet."""
        body = self._body
        if self._flight is not None or self._end is not None or not self._live or body is None:
            return
        if body.fault is None and body.done:
            body.end()
        if body.fault is not None and self._leaving is None:
            self._set_aside(body.fault)
        if not self._running and (self._leaving is not None or body.done):
            self._close(body)
        elif self._finished:
            self._send()
        elif not self._running:
            self._quiet = True
            self._signal()
        elif self._timers:
            self._timers.set_alarm()

    def _begin(self) -> None:
        """Begin the work that the body asked for."""
        body = self._body
        assert body is not None
        if not body.fresh or self._leaving is not None or body.fault is not None:
            return
        for op in body.begin():
            if type(op) is Call:
                self._running.begin(op, self._loop)
            elif isinstance(op, PromiseWait):
                self._promises.add(op)
            elif isinstance(op, LoopTimer | Sleep):
                self._timers.add(op)

    # ---- functions

    def succeeded(self, call: Call, result: object) -> None:
        """A function answered."""
        if self._end is not None:
            return
        self._running.ended(call)
        try:
            call.succeed(result)
        except Exception as error:
            # Calling it again would do again what it does, and fail again.
            self._set_aside(error)
        else:
            self._finished.append(call)
        self._advance()

    def failed(self, call: Call, error: BaseException, again: int | None) -> bool:
        """An attempt failed; answers whether to make another one."""
        if self._end is not None:
            return False
        if again is not None and self._leaving is None and call.wanted():
            _log.warning(
                f"{call.name} failed; trying again",
                {"run": self.run.rid, "attempt": call.number, "error": repr(error)},
            )
            self._running.pauses(call, error)
            return True
        self._running.ended(call)
        if isinstance(error, TerminalError):
            call.fail(error)
            self._finished.append(call)
        elif again is None and call.retry is None and call.wanted():
            self._set_aside(call.gave_up(error))
        elif again is None or not call.wanted():
            call.fail(call.gave_up(error))
            self._finished.append(call)
        self._advance()
        return False

    def broke(self, error: Exception) -> None:
        """A defect of ours: whoever drives us hears of it."""
        if self._end is None:
            self._defect = error
            self._over(TurnEnd.LOST)

    # ---- batches

    def _send(self, change: Change | None = None) -> None:
        """Make one batch of everything that finished; the order here is the order for ever."""
        host, run = self._host, self.run
        finished = self._finished
        self._finished = []
        entries: list[Entry] = []
        flight: list[Operation] = []
        size = len(change.output or b"") if type(change) is Finish else 0
        if finished:
            now = host.now()
            at = self._at = max(self._at, now)
            for op in finished:
                seq = None
                if op.wanted():
                    seq = self._seq = self._seq + 1
                    flight.append(op)
                elif not op.kept_late:
                    continue
                value = op.value
                if value is not None:
                    size += len(value)
                entries.append(Entry(op.lane, op.pos, op.kind, op.name, op.fp, seq, at, op.state, value))
            if change is None:
                self._grown(len(entries))
        if not entries and change is None:
            self._advance()  # nothing of it counts any more
            return
        self._flight = flight
        batch = Batch(run.id, run.epoch, entries, [] if change is None else [change], [], size)
        try:
            host.commit(batch, self._landed if change is None else self._closed)
        except EverstepError:  # the worker commits nothing any more
            self._over(TurnEnd.LOST)

    def _landed(self, outcome: Outcome) -> None:
        """The batch is durable: hand over its answers, one at a time."""
        flight, self._flight = self._flight, None
        if self._end is not None or self._refused(outcome):
            return
        try:
            body = self._body
            assert body is not None
            assert flight is not None
            if self._leaving is None and not body.done:
                body.hand_over(flight, self._at)
                self._finished += self._running.give_up_pauses(wanted_too=False)
                self._begin()
            self._advance()
        except Exception as defect:
            self.broke(defect)

    def _refused(self, outcome: Outcome) -> bool:
        if type(outcome) is Applied:
            return False
        self._over(TurnEnd.LOST)
        return True

    def _grown(self, by: int) -> None:
        before = self._count
        self._count = count = before + by
        if count > faults.Limits.most_entries:
            self._set_aside(faults.full(self.run, count))
        elif before < faults.Limits.warn_entries <= count:
            _log.warning(
                "a journal grows long; go on in a new one with ctx.continue_as",
                {"run": self.run.rid, "entries": count},
            )

    # ---- the end

    def _leave(self, release: Release, end: TurnEnd) -> None:
        """Stop going on: as soon as no function is in flight, commit this instead."""
        if self._leaving is not None:
            return
        self._leaving = release, end
        self._finished += self._running.give_up_pauses(wanted_too=True)

    def _set_aside(self, error: BaseException) -> None:
        if self._leaving is None:
            _log.error("a run needs attention", {"run": self.run.rid, "error": str(error)})
        self._leave(Release(event="attention", error=encode_error(error)), TurnEnd.SET_ASIDE)

    def _close(self, body: Body) -> None:
        """Nothing is in flight: commit how this turn ends."""
        leaving = self._leaving
        # A body that has ended need not be given back, nor paused.
        if body.fault is None and body.done and (leaving is None or leaving[0].event != "attention"):
            try:
                finish = ending(body, self._handler)
            except NotEncodable as unfit:
                self._set_aside(unfit)
            else:
                self._closing = TurnEnd.ENDED
                self._send(finish)
                return
        assert self._leaving is not None
        release, self._closing = self._leaving
        self._send(release)

    def _closed(self, outcome: Outcome) -> None:
        self._flight = None
        if self._end is None and not self._refused(outcome):
            self._over(self._closing)

    # ---- waiting

    async def _rest(self) -> None:
        """Nothing is in flight: see what came from outside, or wait, or park."""
        if self._promises.unread:
            await self._look()
        if self._flight is not None or self._running or self._end is not None:
            return  # it came meanwhile
        self._take_due()
        if self._finished or self._leaving is not None or self._promises.unread:
            self._advance()
            return
        body = self._body
        assert body is not None
        if (error := body.waits_in_vain()) is not None:
            self._set_aside(error)
            self._advance()
            return
        due = self._timers.next_due()
        if due is not None and not self._host.evict_always and due - self._host.now() <= NEAR_US:
            self._timers.set_alarm()
            return
        self._park(due)

    async def _look(self) -> None:
        """See which promises were settled."""
        try:
            settled = await self._promises.settled(self._host.store, self.run)
        except EverstepError as error:
            self._set_aside(error)
        else:
            self._finished += settled
        finally:
            self._looking = None
        self._advance()

    def _park(self, due: int | None) -> None:
        run = self.run
        self._flight = []
        park = Park(self._wakes, None if due == FAR else due)
        try:
            self._host.commit(Batch(run.id, run.epoch, [], [park]), self._parked)
        except EverstepError:
            self._over(TurnEnd.LOST)

    def _parked(self, outcome: Outcome) -> None:
        self._flight = None
        if self._end is not None:
            return
        if isinstance(outcome, Refused) and outcome.why == "wakes":
            self._wakes = outcome.current
            self._promises.unread = True
            self._advance()
        elif not self._refused(outcome):
            self._over(TurnEnd.PARKED)

    def _cancel(self) -> None:
        """Make an entry of the cancel that was asked for, once."""
        body = self._body
        if not self._to_cancel or not self._live or self._leaving is not None or body is None:
            return
        self._to_cancel = False
        if body.fault is None and not body.done and not body.cancelled:
            self._finished.append(body.cancel())

    def _ring(self) -> None:
        """A timer may be due."""
        if self._end is None:
            self._take_due()
            self._advance()

    def _take_due(self) -> None:
        if self._leaving is None:
            self._finished += self._timers.take_due()


async def _main(handler: Handler, ctx: Context, given: object) -> object:
    return await handler.call(ctx, given)
