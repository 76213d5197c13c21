"""How many runs a process drives at a time: in all, and of each handler.

A run takes a slot when it is claimed and leaves it once its handler has ended,
while the commit of its end is still to come.  So that very commit can claim
who is next, and a backlog costs one commit for so many runs instead of two.

Floor 3.  May import: core, floor 0.  Imported by: engine.worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from everstep.core.batch import Batch, Finish, Release, Run
from everstep.engine.registry import Registry


class Slots:
    """
    The slots of one process.

    Args:
        most: How many there are for all handlers together; those that have a
            limit of their own (`Handler.concurrency`) have it besides.
    """

    def __init__(self, most: int, registry: Registry) -> None:
        self._most = most
        self._registry = registry
        # Of one claim, not of one run: a run that is given back may be claimed
        # again before whoever drove it has noticed that it is over.
        self._taken: dict[tuple[int, int], str] = {}
        self._busy: Counter[str] = Counter()
        self._reserved = 0  # numbers below those of any run

    @property
    def free(self) -> int:
        """How many are left for all handlers together."""
        return self._most - len(self._taken)

    def room(self, handler: str) -> int:
        """How many are left for one handler; none if it is not of this process."""
        found = self._registry.get(handler)
        if found is None:
            return 0
        free = self.free
        if found.concurrency is not None:
            free = min(free, found.concurrency - self._busy[handler])
        return max(free, 0)

    def reserve(self, handler: str) -> int:
        """Hold a slot for a run that is about to be begun; leave it by this number, at epoch 0."""
        self._reserved -= 1
        self._taken[self._reserved, 0] = handler
        self._busy[handler] += 1
        return self._reserved

    def take(self, run: Run) -> None:
        """A run was claimed."""
        self._taken[run.id, run.epoch] = run.handler
        self._busy[run.handler] += 1

    def leave(self, run: int, epoch: int) -> None:
        """It is over; once is enough, more does no harm."""
        handler = self._taken.pop((run, epoch), None)
        if handler is not None:
            self._busy[handler] -= 1

    def leave_with(self, batches: Iterable[Batch]) -> None:
        """Leave those whose end is in these batches."""
        for batch in batches:
            if batch.changes and isinstance(batch.changes[-1], Finish | Release):
                self.leave(batch.run, batch.epoch)
