"""A handler's body while it is in memory: its loop, what it asked, and what its journal still answers.

The body is driven from outside, one answer at a time.  What happens in it is
decided by the journal alone, so this is also the whole of replay: the same
entries, handed over in the same order, lead the body to the same place.

Floor 3.  May import: core, floor 0.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from threading import get_ident
from types import FrameType
from typing import Any

from everstep.core.batch import Finish, Run
from everstep.core.failure import encode_error
from everstep.core.journal import ROOT, Entry
from everstep.core.replay import CONTROL, Replay
from everstep.engine import faults
from everstep.engine.calls import inside_a_call, outside_calls
from everstep.engine.lines import line_of, line_of_awaiting, line_of_frame
from everstep.engine.operations import Awaited, Cancel, LoopTimer, Operation
from everstep.engine.registry import Handler
from everstep.engine.runloop import STUCK, Lane, LaneTask, RunLoop
from everstep.errors import Asked, ContextClosed, EverstepError, Evicted

FAR = 1 << 62  # microseconds: a timer without end, which still fits a store's column
THROWS = 3  # times a body is told to go before it is left alone

IN_MEMORY: set[Body] = set()
"""Every body that was begun and has not left memory.

Held here, so that one whose turn was dropped stays where it is: the collector
would run its `finally` inside whatever runs then.
"""

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
        self, run: Run, entries: Sequence[Entry], *, accept_args: bool, on_fault: Callable[[], None]
    ) -> None:
        self.run_id = run.rid
        self.seed = run.rid if not run.generation else f"{run.rid}.{run.generation}"
        self.trace_id = run.trace
        self._real = asyncio.get_running_loop()
        self.loop = RunLoop(self._real, self._timer_set, self.fail)  # type: ignore[abstract]  # the rest is refused
        self.loop.polls = self._waits_for_a_call
        self.loop.now_us = run.started_at if run.started_at is not None else run.created_at
        self.main: LaneTask[Any]
        self.fresh: list[Operation] = []  # asked, not known to the journal, not begun
        self.fault: BaseException | None = None
        self.cancelled = False
        self.closed = False
        self.replay: Replay[Operation] | None = None  # none: nothing was recorded yet, or all was handed over
        if entries:
            self.replay = Replay(run.rid, entries, accept_args=accept_args)
        self._open: dict[Operation, None] = {}  # asked and not handed over, oldest first
        # Operations that were made and not awaited: the coroutine, and the line that made it.
        self.loose: dict[Operation, tuple[Coroutine[Any, Any, Any], FrameType, int]] = {}
        self._controls = 0
        self._on_fault = on_fault
        self._root = Lane(ROOT)
        self._tidy_at = 64
        IN_MEMORY.add(self)

    # ---- driving

    def start(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Make the main task and run until it waits."""
        loop = self.loop
        loop.enter()
        try:
            self.main = loop.start(make(), self._root, outside_calls())
            loop.run()
        finally:
            loop.leave()

    @property
    def done(self) -> bool:
        """True once the handler returned or raised."""
        return self.main.done()

    def hand_over(self, ops: Iterable[Operation], at: int) -> None:
        """Give answers to the body, one at a time: each time it runs until it can go no further."""
        loop = self.loop
        loop.enter()
        try:
            loop.now_us = at
            for op in ops:
                if self.fault is not None or self.main.done():
                    return
                self._open.pop(op, None)
                if op.wanted():
                    op.hand_over()
                    loop.run()
        finally:
            loop.leave()

    def recall(self, entries: Iterable[Entry]) -> None:
        """Give the body the answers that its journal has next, in the same way."""
        loop = self.loop
        loop.enter()
        try:
            for entry in entries:
                if self.fault is not None:
                    return
                op = self._recalled(entry)
                loop.now_us = entry.at
                if op is not None and op.wanted():
                    op.hand_over()
                    loop.run()
        finally:
            loop.leave()

    def _recalled(self, entry: Entry) -> Operation | None:
        """Who gets the answer of an entry; it may be that nobody wants it any more."""
        assert self.replay is not None
        op = self.replay.turn(entry)
        if op is not None:
            if self.main.done():
                return None  # it stays open: the body left it behind, and will be told so again
            self._open.pop(op, None)
            if op.wanted():
                try:
                    op.recall(entry)
                except Exception as error:
                    self.fail(faults.unreadable(self.run_id, entry, error))
                    return None
        elif entry.lane == CONTROL:
            op = self.cancel()
        else:
            self.fail(self.replay.mismatch(entry, self._instead()))
        return op

    def recalled(self) -> None:
        """The journal has no more answers: from here on the body is on its own."""
        replay, self.replay = self.replay, None
        if replay is None:
            return
        for entry, op in replay.rest():
            if op is None:
                self.fail(replay.mismatch(entry, self._instead()))
            elif op.wanted():
                self.fail(replay.mismatch(entry, Asked(op.kind, op.name, op.fp, self._line_of(op))))

    def waits_in_vain(self) -> EverstepError | None:
        """The error that says so if the body waits, and for nothing that will ever come."""
        if any(op.wanted() for op in self._open):
            return None
        return faults.in_vain(self.run_id, line_of_awaiting(self.main.get_coro()))

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
        """Stop: the body must not go on, and cannot catch why.  For any thread."""
        if get_ident() == self.loop.thread:
            self._stop(error)
            return
        try:
            self._real.call_soon_threadsafe(self._stop, error)
        except RuntimeError:
            pass  # the process ends

    def _stop(self, error: BaseException) -> None:
        if self.closed or self.fault is not None:
            return
        self.fault = error
        self.loop.halted = True
        if not self.loop.is_running():
            self._on_fault()  # nobody is driving the body who would look

    # ---- asked by the body

    def asked(self, op: Awaited) -> asyncio.Future[Any]:
        """
        An operation is awaited: give it its address, and match it with the journal.

        Raises:
            ContextClosed: The task that asks is not one of this body.
            Evicted: The body has left memory.
        """
        self.loose.pop(op, None)
        lane = self._lane_now()
        if lane is None:
            raise self._refusal(f"ctx.{op.kind}")
        future = op.future = asyncio.Future(loop=self.loop)
        self._enter(op, lane)
        return future

    def lane(self, what: str) -> Lane:
        """The lane of the task that asks, for what needs no entry."""
        lane = self._lane_now()
        if lane is None:
            raise self._refusal(f"ctx.{what}")
        return lane

    def _lane_now(self) -> Lane | None:
        """The lane of the task that runs now, if it may ask for anything."""
        lane = self.loop.current
        if lane is None or self.closed or get_ident() != self.loop.thread:
            return None
        return lane if lane is self._root or not self.main.done() else None

    def _timer_set(self, handle: asyncio.TimerHandle, lane: Lane) -> None:
        if self.closed or self.main.done():
            raise self._refusal("a timer")
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
        op.begins(self.loop.now_us)
        self.fresh.append(op)
        if len(self._open) > self._tidy_at:
            self._open = {op: None for op in self._open if op.wanted()}
            self._tidy_at = 64 + 2 * len(self._open)

    def _refusal(self, what: str) -> BaseException:
        line = line_of_frame(sys._getframe(2))
        if self.closed:
            return Evicted("this run left memory; let this pass")
        here = get_ident() == self.loop.thread
        if here and self.loop.current is not None:
            remedy = "await every task before the handler returns"
            error = ContextClosed(what, line=line, why="the body has ended", remedy=remedy)
            if self._returned():
                self.fail(error)  # seen by nobody otherwise
            return error
        if inside_a_call():
            why = "inside a function of ctx.run nothing is recorded; ask for it in the body"
        elif not here:
            why = "a replay could not tell when a thread asked; ask for it in the body"
        else:
            why = "it was asked for outside the body it belongs to"
        return ContextClosed(what, line=line, why=why, remedy=_ASK_IN_BODY)

    # ---- the end

    def end(self) -> None:
        """The handler ended: nothing more is handed over; what it left unfinished leaves memory."""
        if self.closed:
            return
        if self._returned() and (loose := self._left_over()) is not None:
            self.fault = self.fault or loose
        else:
            self.evict()

    def _returned(self) -> bool:
        main = self.main
        return not main.cancelled() and main.exception() is None

    def _left_over(self) -> EverstepError | None:
        """What the handler asked for and did not wait for."""
        for op, (_, frame, lasti) in self.loose.items():
            return faults.not_awaited(op, line_of(frame.f_code, lasti))
        for op in self._open:
            if op.wanted():
                return faults.not_awaited(op, self._line_of(op))
        return None

    def _line_of(self, op: Operation) -> str | None:
        for task in self.loop.living():
            if task.lane.path == op.lane:
                return line_of_awaiting(task.get_coro())
        return None

    def evict(self) -> None:
        """
        Leave memory: nothing can be asked any more, and each task is told to go.

        Tasks end with `Evicted`, innermost await first, within this call; what
        they record is nothing.  One that catches it and waits again is kept
        in `runloop.STUCK`, because the collector would run its `finally` anywhere.
        """
        if self.closed:
            return
        self.closed = True
        IN_MEMORY.discard(self)
        loop = self.loop
        if living := loop.living():
            self._throw(living)
        for coro, _, _ in self.loose.values():
            _close_quietly(coro)
        for kept in (self.loose, self._open, self.fresh):
            kept.clear()
        self._on_fault = _nobody
        loop.close()

    def _throw(self, tasks: list[LaneTask[Any]]) -> None:
        loop = self.loop
        loop.evicting = True
        loop.halted = False
        loop.outer = asyncio._get_running_loop()  # the worker may be past its own loop
        loop.enter()
        try:
            for _ in range(THROWS):
                for task in tasks:
                    task.cancel()
                loop.run()
                for task in tasks:
                    if task.done() and not task.cancelled():
                        task.exception()  # nobody else will ask for it
                if not (tasks := loop.living()):
                    return
        finally:
            loop.leave()
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # at exit, it is no news
            STUCK.append(task)

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
        return Asked(newest.kind, newest.name, newest.fp, line=self._line_of(newest))


def ending(body: Body, handler: Handler) -> Finish:
    """
    How the run ends, now that its body has.

    Raises:
        NotEncodable: Its result cannot be kept.
        MemoryError: The process is not fit to say how it ended; nor after KeyboardInterrupt, SystemExit.
    """
    main = body.main
    if main.cancelled():
        if body.cancelled:
            return Finish("cancel")
        return Finish("fail", error=encode_error(EverstepError("the body was cancelled from inside")))
    error = main.exception()
    if error is None:
        return Finish("finish", handler.output.encode(main.result(), f"the result of {handler.name}"))
    if isinstance(error, MemoryError | KeyboardInterrupt | SystemExit):
        raise error
    return Finish("fail", error=encode_error(error))


def _nobody() -> None:
    """Told of a fault after the end."""


def _close_quietly(coro: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine that never ran, without the warning that nobody awaited it: we have said so."""
    try:
        coro.throw(Evicted("never awaited"))
    except BaseException:
        pass
