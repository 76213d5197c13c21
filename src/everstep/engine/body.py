"""A handler's body while it is in memory: its loop, what it asked, and what its journal still answers.

The body is driven from outside, one answer at a time.  What happens in it is
decided by the journal alone, so this is also the whole of replay: the same
entries, handed over in the same order, lead the body to the same place.

Floor 3.  May import: core, floor 0.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextvars import copy_context
from types import FrameType
from typing import Any

from everstep.core.batch import Run
from everstep.core.journal import ROOT, Entry
from everstep.core.replay import CONTROL, Replay
from everstep.engine import faults
from everstep.engine.calls import Call, inside_a_call
from everstep.engine.lines import line_of, line_of_frame
from everstep.engine.operations import Awaited, Cancel, LoopTimer, Operation, Sleep
from everstep.engine.runloop import Lane, LaneTask, RunLoop
from everstep.errors import Asked, ContextClosed, EverstepError, Evicted

FAR = 1 << 62  # microseconds: a timer without end, which still fits a store's column
THROWS = 3  # times a body is told to go before it is left alone
STUCK: list[list[LaneTask[Any]]] = []
"""Tasks that would not be evicted.  Kept for good: the collector would run their `finally` anywhere."""

_ASK_IN_BODY = "first = await ctx.run(charge, order)\n    second = await ctx.run(notify, order)"


class Body:
    """
    One pass of a handler's body.

    Args:
        run: The run it belongs to.
        entries: Its journal.
        accept_args: A recorded call may have other arguments now.
        on_fault: Called, on the process's loop, when another thread found a fault.
    """

    def __init__(
        self, run: Run, entries: Iterable[Entry], *, accept_args: bool, on_fault: Callable[[], None]
    ) -> None:
        self.run_id = run.rid
        self.seed = run.rid if not run.generation else f"{run.rid}.{run.generation}"
        self.trace_id = run.trace
        self.loop = RunLoop(self._timer_set, self.fail)  # type: ignore[abstract]  # the rest is refused
        self.loop.polls = self._waits_for_a_call
        self.loop.now_us = run.started_at if run.started_at is not None else run.created_at
        self.main: LaneTask[Any]
        self.fresh: list[Operation] = []  # asked, not known to the journal, not begun
        self.fault: BaseException | None = None
        self.cancelled = False
        self.closed = False
        replay: Replay[Operation] = Replay(run.rid, entries, accept_args=accept_args)
        self.replay: Replay[Operation] | None = replay
        self._open: dict[Operation, None] = {}  # asked and not handed over, oldest first
        self._loose: dict[Operation, tuple[Coroutine[Any, Any, Any], FrameType, int]] = {}
        self._controls = 0
        self._on_fault = on_fault
        self._real = asyncio.get_running_loop()

    # ---- driving

    def start(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Make the main task and run until it waits."""
        self.main = self.loop.start(make(), Lane(ROOT), copy_context())
        self.loop.pump()

    @property
    def done(self) -> bool:
        """True once the handler returned or raised."""
        return self.main.done()

    def hand_over(self, op: Operation, at: int) -> None:
        """Give one answer to the body and run it until it can go no further."""
        self.loop.now_us = at
        self._open.pop(op, None)
        if op.wanted():
            op.hand_over()
            self.loop.pump()

    def recall(self, entry: Entry) -> None:
        """Give the body the answer that its journal has next."""
        assert self.replay is not None
        op = self.replay.turn(entry)
        if op is None and entry.lane == CONTROL:
            op = self.cancel()
        if op is None:
            self.fail(self.replay.mismatch(entry, self._instead()))
            return
        if op.wanted() and entry.lane != CONTROL:
            try:
                op.recall(entry)
            except Exception as error:
                self.fail(faults.unreadable(self.run_id, entry, error))
                return
        self.hand_over(op, entry.at)

    def recalled(self) -> None:
        """The journal has no more answers: from here on the body is on its own."""
        replay, self.replay = self.replay, None
        assert replay is not None
        for entry, op in replay.rest():
            if op is None:
                self.fail(replay.mismatch(entry, self._instead()))
            elif op.wanted():
                self.fail(replay.mismatch(entry, Asked(op.kind, op.name, op.fp, line="and waits for it")))

    def begin(self) -> list[Operation]:
        """What was asked since the last time and is still wanted, in the order asked."""
        fresh = self.fresh
        self.fresh = []
        return [op for op in fresh if op.wanted()]

    def cancel(self) -> Operation:
        """Somebody cancelled the run: the operation that tells the body."""
        self.cancelled = True
        op = Cancel(self.main, self._controls)
        self._controls += 1
        return op

    def fail(self, error: BaseException) -> None:
        """Stop: the body must not go on, and cannot catch why."""
        if self.loop.in_its_thread:
            self._stop(error)
            return

        def tell() -> None:
            self._stop(error)
            self._on_fault()

        self._real.call_soon_threadsafe(tell)

    def _stop(self, error: BaseException) -> None:
        if self.fault is None:
            self.fault = error
        self.loop.halted = True

    # ---- asked by the body

    def operation(self, op: Operation, answer: Coroutine[Any, Any, Any], frame: FrameType) -> None:
        """A coroutine that will ask was made at *frame*; it counts as loose until it is awaited."""
        self._loose[op] = answer, frame, frame.f_lasti

    def asked(self, op: Awaited) -> asyncio.Future[Any]:
        """
        An operation is awaited: give it its address, and match it with the journal.

        Raises:
            ContextClosed: The task that asks is not one of this body.
            Evicted: The body has left memory.
        """
        self._loose.pop(op, None)
        try:
            task = asyncio.current_task()
        except RuntimeError:  # a thread
            task = None
        loop = self.loop
        if type(task) is not LaneTask or task._loop is not loop or self.closed or self.main.done():
            raise self._refusal(op.kind, task)
        op.future = asyncio.Future(loop=loop)
        self._enter(op, task.lane)
        return op.future

    def lane(self, what: str) -> Lane:
        """The lane of the task that asks, for what needs no entry."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if type(task) is not LaneTask or task._loop is not self.loop or self.closed:
            raise self._refusal(what, task)
        return task.lane

    def _timer_set(self, handle: asyncio.TimerHandle, lane: Lane) -> None:
        if self.closed or self.main.done():
            raise self._refusal("a timer", asyncio.current_task())
        when = handle.when() * 1e6
        due = round(when) if when < FAR else FAR
        self._enter(LoopTimer(handle, self.loop, due), lane)

    def _enter(self, op: Operation, lane: Lane) -> None:
        op.lane = lane.path
        op.pos = pos = lane.asked
        lane.asked = pos + 1
        op.fp = op.fingerprint()
        self._open[op] = None
        replay = self.replay
        if replay is not None:
            known = replay.lane(op.lane)
            entry = None if known is None else known.pop(pos, None)
            if entry is not None:
                if (mismatch := replay.ask(entry, op.kind, op.name, op.fp, op)) is not None:
                    self.fail(faults.with_line(mismatch, line_of_frame(sys._getframe(2))))
                return
        if type(op) is Call:
            op.context = copy_context()
        elif type(op) is Sleep:
            op.due = self.loop.now_us + op.length
        self.fresh.append(op)

    def _refusal(self, what: str, task: asyncio.Task[Any] | None) -> BaseException:
        line = line_of_frame(sys._getframe(2))
        if self.closed:
            return Evicted("this run left memory; let this pass")
        name = f"ctx.{what}"
        if task is not None and task.get_loop() is self.loop:
            error = ContextClosed(
                name,
                line=line,
                why="the body has ended",
                remedy="await every task before the handler returns",
            )
            self.fail(error)  # seen by nobody otherwise
            return error
        if inside_a_call():
            why = "inside a function of ctx.run nothing is recorded; ask for it in the body"
        elif task is None:
            why = "a replay could not tell when a thread asked; ask for it in the body"
        else:
            why = "it was asked for outside the body it belongs to"
        return ContextClosed(name, line=line, why=why, remedy=_ASK_IN_BODY)

    # ---- the end

    def left_over(self) -> EverstepError | None:
        """What the handler asked for and did not wait for, now that it has ended."""
        for op, (_, frame, lasti) in self._loose.items():
            return faults.not_awaited(op, line_of(frame.f_code, lasti))
        for op in self._open:
            if op.wanted():
                return faults.not_awaited(op, None)
        return None

    def evict(self) -> None:
        """
        Leave memory: nothing can be asked any more, and each task is told to go.

        Tasks end with `Evicted`, innermost await first, within this call; what
        they record is nothing.  One that catches it and waits again is kept in
        `STUCK`, because the collector would run its `finally` inside another run.
        """
        if self.closed:
            return
        self.closed = True
        loop = self.loop
        loop.evicting = True
        loop.halted = False
        for _ in range(THROWS):
            tasks = loop.living()
            for task in tasks:
                task.cancel()
            loop.pump()
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # nobody else will ask for it
        if left := loop.living():
            STUCK.append(left)
        for coro, _, _ in self._loose.values():
            _close_quietly(coro)
        self._loose.clear()
        self._open.clear()
        self.fresh.clear()

    # ---- details

    def _waits_for_a_call(self) -> bool:
        return any(op.kind == "run" and op.wanted() for op in self._open)

    def _instead(self) -> Asked | None:
        """What the body waits for, to be shown beside what the journal has next."""
        if self.main.done():
            return None
        waiting = [op for op in self._open if op.wanted()]
        if not waiting:
            return Asked("nothing that is recorded")
        newest = waiting[-1]
        return Asked(newest.kind, newest.name, newest.fp, line=f"at {newest.lane}.{newest.pos}")


def _close_quietly(coro: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine that never ran, without the warning that nobody awaited it: we have said so."""
    try:
        coro.throw(Evicted("never awaited"))
    except BaseException:
        pass
