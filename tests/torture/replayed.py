"""Drive a finished run once more from its whole journal, with nothing else in the world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from everstep.core.batch import Applied, Batch, Finish, Outcome, Run
from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.engine.registry import Handler
from everstep.engine.turn import Turn, TurnEnd
from everstep.store.base import PromiseRow


class _Alarm:
    def cancel(self) -> None:
        """It never rings."""


class _Host:
    """A worker that has a journal, and keeps what the turn wants to commit."""

    evict_always = False

    def __init__(self, run: Run, entries: list[Entry], promises: list[PromiseRow]) -> None:
        self._run = run
        self._entries = entries
        self._promises = promises
        self.committed: list[Batch] = []

    @property
    def store(self) -> Any:
        return self

    async def entries(self, run: int, generation: int) -> list[Entry]:
        return self._entries

    async def promises(self, run: int) -> list[PromiseRow]:
        return self._promises

    def now(self) -> int:
        return self._run.finished_at or 0

    def at(self, due_us: int, fn: Callable[[], None]) -> _Alarm:
        return _Alarm()

    def commit(self, batch: Batch, done: Callable[[Outcome], None]) -> None:
        self.committed.append(batch)
        done(Applied([]))


async def replayed(run: Run, handler: Handler, entries: list[Entry], promises: list[PromiseRow]) -> Finish:
    """
    How the run ends according to its journal; nothing new may be asked on the way.

    Args:
        run: As its row says now that it has ended.
    """
    host = _Host(run, entries, promises)
    again = replace(run, status=Status.RUNNING, epoch=run.epoch + 1, output=None)
    end = await Turn(host, again, handler).drive()
    assert end is TurnEnd.ENDED, f"its journal leads to {end}"
    (batch,) = host.committed
    assert not batch.entries, f"a replay of the whole did something new: {batch.entries}"
    (finish,) = batch.changes
    assert isinstance(finish, Finish), finish
    return finish
