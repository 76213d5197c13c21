"""The working copy of a group: rows that change, and how to take a change back.

Every change of a row is announced (`edit`, `put`, `note`), so that `take_back`
can leave a refused batch without a trace.  The moves all changes are made of
are here too: entering and leaving a key, waking, ending.

Floor 1.  May import: core.  Imported by: core.decide.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from everstep.core.batch import Asked, Run
from everstep.core.snapshot import Key, Plan, Snapshot
from everstep.core.status import Status, advance

_values = {row: attrgetter(*row.__slots__) for row in (Run, Key)}


class Working:
    """The rows of a snapshot while a group is decided, and the plan that grows."""

    def __init__(self, snapshot: Snapshot, now: int) -> None:
        self.snap = snapshot
        self.plan = Plan()
        self.now = now
        self._undo: list[tuple[Any, Any, Any]] = []

    # ---- changing, and taking back

    def mark(self) -> tuple[int, ...]:
        """Begin a batch; what `take_back` returns to."""
        self._undo = []
        p = self.plan
        return len(p.created), len(p.promises), len(p.unrouted), len(p.ended), len(p.asked)

    def edit(self, run: Run) -> Run:
        """Announce that a run's row will change; answers the row to change."""
        self._keep(run)
        if run.id not in self.plan.changed:
            self.put(self.plan.changed, run.id, run)
        return run

    def _keep(self, row: Run | Key) -> None:
        self._undo.append((row, None, _values[type(row)](row)))

    def put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Set an item of a table of the snapshot or the plan."""
        self._undo.append((table, key, table.get(key)))
        table[key] = value

    def note(self, names: set[Any], name: Any) -> None:
        """Add a name to a set of the plan."""
        if name not in names:
            self._undo.append((names, name, None))
            names.add(name)

    def take_back(self, mark: tuple[int, ...]) -> None:
        """Make everything as it was at the mark."""
        for target, name, old in reversed(self._undo):
            if isinstance(target, set):
                target.discard(name)
            elif not isinstance(target, dict):  # a row: every field as it was
                for field, value in zip(target.__slots__, old, strict=True):
                    setattr(target, field, value)
            elif old is None:
                target.pop(name, None)
            else:
                target[name] = old
        p = self.plan
        lists: tuple[list[Any], ...] = (p.created, p.promises, p.unrouted, p.ended, p.asked)
        for items, length in zip(lists, mark, strict=True):
            del items[length:]

    def new_run(self, rid: str, handler: str, mode: int, input: bytes) -> Run:
        """Add a run: scheduled, until it enters."""
        run = Run(next(self.snap.new_ids), rid, handler, mode, Status.SCHEDULED, input, self.now)
        self.put(self.snap.rids, run.rid, run)
        self.put(self.snap.runs, run.id, run)
        self.plan.created.append(run)
        return run

    # ---- becoming ready, in a key or without one

    def move(self, run: Run, event: str) -> None:
        """Change a run's status by the table."""
        run.status = advance(run.status, event)
        run.waits = 0  # counts only while it is parked; `Park` sets it after this

    def enter(self, run: Run, event: str = "promote", *, taken: bool = False) -> None:
        """
        Make a run ready by an event that says so, or put it in its place in its key.

        With *taken* somebody has it already, so that nobody need be told.

        A run that has no place yet, or lost it when it ended, gets the last one.
        """
        self.move(run, event)
        run.due_at = None
        if run.key is not None and not self._leads(run):
            self.move(run, "queue")
        elif not taken:
            self.note(self.plan.ready, run.handler)

    def _leads(self, run: Run) -> bool:
        """Whether a run holds its key now; it takes a key that has no head and nobody queued."""
        key = self.key(run)
        if run.key_pos is None:
            key.tail += 1
            key.length += 1
            run.key_pos = key.tail
        # Without a head there may be others with a place, all paused. If a head was
        # freed in this very group, the store picks the next by place, maybe this one.
        if key.head == 0 and (key.handler, key.key) not in self.plan.advance:
            key.head = run.id
        return key.head == run.id

    def leave(self, run: Run) -> None:
        """Take a run out of its key; who follows a head is picked when all is written."""
        if run.key is None or run.key_pos is None:
            return
        key = self.key(run)
        key.length -= 1
        run.key_pos = None
        if key.head == run.id:
            key.head = 0
            if key.length:
                self.note(self.plan.advance, (run.handler, run.key))
                self.note(self.plan.ready, run.handler)

    def key(self, run: Run) -> Key:
        """The row of a run's key, to change."""
        assert run.key is not None
        name = (run.handler, run.key)
        key = self.snap.keys.get(name)
        if key is None:
            key = Key(run.handler, run.key)
            self.put(self.snap.keys, name, key)
        else:
            self._keep(key)
        self.note(self.plan.keys, name)
        return key

    # ---- waking and ending

    def wake(self, run: Run, event: str = "wake") -> None:
        """One of the run's waits is true now, whatever its status."""
        self.edit(run)
        run.wakes += 1
        if run.status == Status.PARKED:
            self.move(run, event)
            run.due_at = None
            self.note(self.plan.ready, run.handler)

    def end(self, run: Run, event: str) -> None:
        """End a run: let go of all it had, and tell who waits for it."""
        self.move(run, event)
        run.worker = None
        run.asked = Asked.NOTHING
        run.due_at = None
        run.finished_at = self.now
        self.leave(run)
        self.plan.ended.append(run)
        parent = self.snap.runs.get(run.parent) if run.parent is not None else None
        if parent is not None:
            # In the same commit as the child's end: between two commits a crash
            # would leave a parent waiting for a child that is already gone.
            if parent.status == Status.PARKED and parent.waits > 1:
                self.edit(parent).waits -= 1
            else:
                self.wake(parent)
