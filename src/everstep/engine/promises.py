"""What a body waits for until somebody outside settles it.

Floor 3.  May import: store.base, core, floor 0.  Imported by: engine.turn.
"""

from __future__ import annotations

from everstep.core.batch import Run
from everstep.engine import faults
from everstep.engine.operations import PromiseWait
from everstep.store.base import Store


class Promises:
    """The promises one turn waits for.  `unread`: some may have been settled that it has not seen."""

    __slots__ = ("_waiting", "unread")

    def __init__(self) -> None:
        self._waiting: list[PromiseWait] = []
        self.unread = False

    def add(self, op: PromiseWait) -> None:
        """Wait for one more; it may be settled already."""
        self._waiting.append(op)
        self.unread = True

    async def settled(self, store: Store, run: Run) -> list[PromiseWait]:
        """
        Look into the store, if there is a reason to; answers those that were settled, in the order asked.

        Raises:
            EverstepError: One holds what cannot be read as its declared type.
        """
        if not self.unread:
            return []
        self.unread = False
        if not any(op.wanted() for op in self._waiting):
            self._waiting.clear()
            return []
        rows = {row.name: row for row in await store.promises(run.id)}
        waiting, self._waiting = self._waiting, []
        found: list[PromiseWait] = []
        for op in waiting:
            row = rows.get(op.name)
            if row is not None:
                try:
                    op.settle(row.state, row.value)
                except ValueError as error:
                    raise faults.ill_settled(run, op.name, error) from error
                found.append(op)
            elif op.wanted():
                self._waiting.append(op)
        return found
