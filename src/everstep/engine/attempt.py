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
from dataclasses import dataclass
from typing import Protocol

from everstep.core import journal
from everstep.core.batch import Applied, Asked, Batch, Finish, Outcome, Refused, Release, Run
from everstep.core.failure import encode_error
from everstep.core.journal import Entry
from everstep.core.retry import next_delay
from everstep.durations import show
from everstep.engine.committer import Committer
from everstep.engine.effects import Effects
from everstep.engine.outcomes import refusal
from everstep.engine.registry import Ended, Handler
from everstep.errors import EverstepError, Fenced
from everstep.log import Logger
from everstep.store.base import Store

HISTORY = "!"  # the lane of the failed attempts
_log = Logger("everstep.attempt")


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


class AttemptRun:
    """Drives one attempt; the worker can ask it to stop."""

    def __init__(self, host: Host, run: Run, handler: Handler) -> None:
        self._host = host
        self.run = run
        self._handler = handler
        self._task: asyncio.Task[Ended] | None = None
        self._asked = Asked(run.asked)
        self._drained = False
        self._history = 0  # failed attempts in the journal, also those before a redrive
        self._fenced = False

    # ---- asked from outside

    def ask(self, what: Asked) -> None:
        """Somebody wants the run cancelled or paused."""
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
        if self._task is not None:
            self._task.cancel()

    # ---- driving

    async def drive(self) -> None:
        """Run the handler once and commit how it ended."""
        run = self.run
        again = run.epoch > 1
        remembered = await self._host.store.entries(run.id, run.generation) if again else []
        self._history = max((e.pos for e in remembered if e.lane == HISTORY), default=0)
        effects = Effects(
            self._host.store,
            self._host.committer,
            run=run,
            remembered=[e for e in remembered if e.lane != HISTORY],
            gather=self._handler.gather,
        )
        if self._asked is Asked.NOTHING:
            batch = await self._attempt(Attempt(run, effects, run.attempt + 1), effects)
        else:
            batch = self._stopped()
        effects.close("its attempt has ended; await every ctx call before the handler returns")
        if batch is not None and not self._fenced:
            outcome = await self._host.committer.commit(batch)
            if isinstance(outcome, Refused) and outcome.why not in ("run_epoch", "worker_epoch"):
                # What it gathered could not be applied, so it did not end well after all.
                outcome = await self._host.committer.commit(self._failed(refusal(outcome), None))
            self._heard(outcome)

    def _heard(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Applied):
            _log.warning(
                "an attempt ended after its run was taken from it; nothing of its end was written",
                {"run": self.run.rid, "handler": self.run.handler, "outcome": repr(outcome)},
            )

    async def _attempt(self, attempt: Attempt, effects: Effects) -> Batch | None:
        call = self._handler.call(attempt)
        self._task = asyncio.ensure_future(call)
        timeout = self._handler.timeout
        try:
            await asyncio.wait({self._task}, timeout=None if timeout is None else timeout / 1e6)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if not self._task.done():
            effects.close("its handler took longer than its timeout")
            self._task.cancel()
            self._task.add_done_callback(_forget)
            assert timeout is not None
            late = HandlerTimeout(
                f"{self._handler.name} took longer than its timeout of {show(timeout / 1e6)}"
            )
            return self._failed(late, effects)
        if self._task.cancelled():
            return self._stopped()
        error = self._task.exception()
        if error is None:
            return self._ended(self._task.result(), effects)
        if isinstance(error, Fenced):
            return None
        if not isinstance(error, Exception):
            raise error
        return self._failed(error, effects)

    def _batch(self) -> Batch:
        return Batch(run=self.run.id, epoch=self.run.epoch)

    def _ended(self, ended: Ended, effects: Effects) -> Batch:
        batch = self._batch()
        batch.changes, batch.entries, batch.guards = effects.take()
        batch.changes.append(Finish("skip" if ended.skipped else "finish", ended.output))
        batch.size = (
            len(ended.output or b"")
            + 256 * len(batch.changes)
            + sum(len(e.value or b"") for e in batch.entries)
        )
        return batch

    def _stopped(self) -> Batch | None:
        batch = self._batch()
        if self._asked is Asked.CANCEL:
            batch.changes.append(Finish("cancel"))
        elif self._asked is Asked.PAUSE:
            batch.changes.append(Release(event="pause"))
        elif self._drained:
            batch.changes.append(Release())
        else:  # the handler cancelled itself
            return self._failed(RuntimeError("the handler was cancelled from inside"), None)
        return batch

    def _failed(self, error: Exception, effects: Effects | None) -> Batch:
        run = self.run
        number = run.attempt + 1
        pause = next_delay(self._handler.policy(run), number, error, random.random())
        encoded = encode_error(error)
        batch = self._batch()
        if effects is not None:
            batch.entries = effects.take()[1] if not self._handler.gather else []
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
        if pause is None:
            _log.error("failed for good; see everstep dlq", facts)
            batch.changes.append(Finish("fail", error=encoded))
        else:
            _log.warning("failed; tried again in " + show(pause / 1e6), facts)
            batch.changes.append(Release(delay=max(pause, 1), failed=True, error=encoded))
        return batch


def _forget(task: asyncio.Task[Ended]) -> None:
    """A straggler ended: whatever it says is no longer asked for."""
    if not task.cancelled():
        task.exception()
