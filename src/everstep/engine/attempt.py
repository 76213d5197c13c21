"""Retry mode: one attempt of a handler, from its top to its end.

The handler runs on the process's own loop (or a thread).  When it ends well
the run is finished; when it fails it is released until its next attempt, or
ends in the dead letters.  An attempt that outlives its timeout is left behind:
its run is given back first, so that whatever the straggler still tries to
commit is refused by the run's epoch.

Floor 3.  May import: store.base, core, floor 0.  Imported by: engine.worker.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from everstep.core import journal
from everstep.core.batch import Applied, Asked, Batch, Finish, Outcome, Refused, Release, Run
from everstep.core.failure import encode_error
from everstep.core.journal import Entry
from everstep.core.retry import next_delay
from everstep.durations import show
from everstep.engine.committer import Committer
from everstep.engine.effects import Effects, size_of
from everstep.engine.outcomes import refusal
from everstep.engine.registry import Ended, Handler
from everstep.errors import EverstepError, Fenced, TerminalError
from everstep.log import Logger
from everstep.settings import Settings
from everstep.store.base import Store

HISTORY = "!"  # the lane of the failed attempts
_log = Logger("everstep.attempt")
_stragglers: set[asyncio.Task[None]] = set()  # or the collector could take them, half way


class HandlerTimeout(EverstepError, TimeoutError):
    """A handler took longer than its timeout; it is tried again like any failure."""


@dataclass(slots=True)
class Attempt:
    """What a retry-mode handler gets: its run, its effects, and which attempt this is (from 1)."""

    run: Run
    effects: Effects
    number: int


class Host(Protocol):
    """What an attempt needs of its worker."""

    @property
    def store(self) -> Store: ...
    @property
    def committer(self) -> Committer: ...
    @property
    def settings(self) -> Settings: ...


class AttemptRun:
    """
    Drives one attempt; the worker can ask it to stop.

    Callbacks all the way: one task, which is the handler's, and a timer.

    Args:
        over: Told once, with what went wrong on our side or None: how it ended
            is durable, or somebody else has the run.
    """

    def __init__(
        self,
        host: Host,
        run: Run,
        handler: Handler,
        over: Callable[[AttemptRun, Exception | None], None],
    ) -> None:
        self._host = host
        self.run = run
        self._handler = handler
        self._over = over
        self._effects: Effects | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False
        self._left_behind = False
        self._asked = Asked(run.asked)
        self._drained = False
        self._history = 0  # failed attempts in the journal, also those before a redrive
        self._fenced = False
        self._again = False  # its end was refused once

    # ---- asked from outside

    def ask(self, what: Asked) -> None:
        """Somebody wants the run cancelled or paused; told again and again until it has ended."""
        if what is not self._asked:  # once, or what it does to clean up would be cut short
            self._asked = what
            self._stop()

    def drain(self) -> None:
        """The worker leaves: give the run back instead of going on."""
        self._drained = True
        self._stop()

    def fence(self) -> None:
        """The run is no longer ours: commit nothing."""
        self._fenced = True
        self._stop()

    def _stop(self) -> None:
        # A task that is cancelled before its first step never takes it, and
        # nobody would hear of the end: before that, the word is enough.
        if self._begun and self._task is not None:
            self._task.cancel()

    # ---- driving

    def start(self) -> None:
        """Run the handler once and commit how it ended."""
        self._task = asyncio.get_running_loop().create_task(self._drive())

    async def _drive(self) -> None:
        self._begun = True
        run = self.run
        try:
            # Claimed for the first time ever: nothing can have been written.
            newborn = run.epoch == 1 and run.generation == 0
            remembered = [] if newborn else await self._host.store.entries(run.id, run.generation)
        except BaseException as error:
            self._end(self._stopped() if self._told() else None, error)
            return
        self._history = max((e.pos for e in remembered if e.lane == HISTORY), default=0)
        effects = self._effects = Effects(
            self._host.store,
            self._host.committer,
            run=run,
            remembered=[e for e in remembered if e.lane != HISTORY],
            gather=self._handler.gather,
        )
        if self._told():
            self._end(self._stopped())
            return
        timeout = self._handler.timeout
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout / 1e6, self._late, effects)
        try:
            ended = await self._handler.call(Attempt(run, effects, run.attempt + 1))
        except BaseException as error:
            self._returned(effects, None, error)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
        else:
            self._returned(effects, ended, None)

    def _told(self) -> bool:
        return self._drained or self._fenced or self._asked is not Asked.NOTHING

    def _late(self, effects: Effects) -> None:
        """The handler takes too long: give its run back first, whatever it does from now on."""
        timeout, task = self._handler.timeout, self._task
        assert timeout is not None
        assert task is not None
        self._left_behind = True
        effects.close("its handler took longer than its timeout")
        task.cancel()
        _stragglers.add(task)
        task.add_done_callback(_stragglers.discard)
        late = HandlerTimeout(f"{self._handler.name} took longer than its timeout of {show(timeout / 1e6)}")
        self._end(self._failed(late))

    def _returned(self, effects: Effects, ended: Ended | None, error: BaseException | None) -> None:
        if self._left_behind:
            return  # whatever it says is no longer asked for
        if self._timer is not None:
            self._timer.cancel()
        try:
            if ended is not None:
                batch: Batch | None = self._ended(ended, effects)
            elif isinstance(error, asyncio.CancelledError):
                batch = self._stopped()
            elif isinstance(error, Exception) and not isinstance(error, Fenced):
                batch = self._failed(error)
            else:
                batch = None
            effects.close("its attempt has ended; await every ctx call before the handler returns")
        except Exception as defect:
            self._end(None, defect)
        else:
            self._end(batch)

    # ---- its end

    def _end(self, batch: Batch | None, defect: BaseException | None = None) -> None:
        if batch is None or self._fenced:
            self._over(self, defect if isinstance(defect, Exception) else None)
            return
        try:
            self._host.committer.submit(batch, self._heard)
        except Fenced:  # this process commits nothing any more
            self._over(self, None)

    def _heard(self, outcome: Outcome) -> None:
        if (
            isinstance(outcome, Refused)
            and outcome.why not in ("run_epoch", "worker_epoch")
            and not self._again
        ):
            # What it gathered could not be applied, so it did not end well after all.
            self._again = True
            self._end(self._failed(refusal(outcome)))
            return
        if not isinstance(outcome, Applied):
            _log.warning(
                "an attempt ended after its run was taken from it; nothing of its end was written",
                {"run": self.run.rid, "handler": self.run.handler, "outcome": repr(outcome)},
            )
        self._over(self, None)

    def _batch(self) -> Batch:
        notes = self._effects.notes() if self._effects is not None else []
        return Batch(self.run.id, self.run.epoch, notes)

    def _ended(self, ended: Ended, effects: Effects) -> Batch:
        changes, entries, guards = effects.take()
        size = size_of(changes, entries) + len(ended.output or b"")
        changes.append(Finish("skip" if ended.skipped else "finish", ended.output))
        return Batch(self.run.id, self.run.epoch, entries, changes, guards, size)

    def _stopped(self) -> Batch | None:
        if self._fenced:
            return None
        batch = self._batch()
        if self._asked is Asked.CANCEL:
            batch.changes.append(Finish("cancel"))
        elif self._asked is Asked.PAUSE:
            batch.changes.append(Release(event="pause"))
        elif self._drained:
            batch.changes.append(Release())
        else:  # the handler cancelled itself
            return self._failed(RuntimeError("the handler was cancelled from inside"))
        return batch

    def _failed(self, error: Exception) -> Batch:
        run = self.run
        number = run.attempt + 1
        pause = next_delay(self._handler.policy(run), number, error, random.random())
        encoded = encode_error(error)
        batch = self._batch()
        batch.entries.append(
            Entry(
                HISTORY,
                self._history + 1,
                "attempt",
                type(error).__name__,
                0,
                None,
                self._host.store.now(),
                journal.ERROR,
                encoded,
            )
        )
        facts = {"run": run.rid, "step": run.handler, "attempt": number, "error": repr(error)}
        facts["trace"] = run.trace
        if pause is None:
            if self._host.settings.dev or _log.debugging:
                _log.failure(_for_good(run, error), error, facts)
            else:
                _log.error(_for_good(run, error), facts)
            batch.changes.append(Finish("fail", error=encoded))
        else:
            _log.warning("failed; tried again in " + show(pause / 1e6), facts)
            batch.changes.append(Release(delay=max(pause, 1), failed=True, error=encoded))
        return batch


def _for_good(run: Run, error: Exception) -> str:
    """What is said of a run that is not tried again by itself, and where to look."""
    if run.topic is None:
        return f"failed for good; see everstep runs show {run.rid}"
    if " /" not in run.topic:
        return f"failed for good; see everstep dlq show {run.rid}"
    then = (
        "its Idempotency-Key gets this answer from now on"
        if isinstance(error, TerminalError)
        else "the next request with its Idempotency-Key tries again"
    )
    return f"a request failed; see everstep runs show {run.rid}; {then}"
