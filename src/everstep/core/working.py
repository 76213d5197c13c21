"""The working copy of a group: rows that change, and how to take a change back.

Every change of a row is announced (`edit`, `put`), so that `take_back` can
leave a refused batch without a trace.  The moves all changes are made of are
here too: entering and leaving a key, waking, ending.

Floor 1.  May import: core.  Imported by: core.decide.
"""

from __future__ import annotations

import copy
from typing import Any

from everstep.core.batch import Asked, Run
from everstep.core.snapshot import Key, Plan, Snapshot
from everstep.core.status import Status


class Working:
    """The rows of a snapshot while a group is decided, and the plan that grows."""

    def __init__(self, snapshot: Snapshot, now: int) -> None:
        self.snap = snapshot
        self.plan = Plan()
        self.now = now
        self._undo: list[tuple[Any, Any, Any]] = []
        self._new: set[int] = set()

    # ---- changing, and taking back

    def mark(self) -> tuple[int, ...]:
        """Begin a batch; what `take_back` returns to."""
        self._undo = []
        plan = self.plan
        return (
            len(plan.created),
            len(plan.promises),
            len(plan.unrouted),
            len(plan.ended),
            len(plan.asked),
        )

    def edit(self, run: Run) -> Run:
        """Announce that a run's row will change; answers the row to change."""
        self._undo.append((run, None, copy.copy(run)))
        if run.id not in self.plan.changed and run.id not in self._new:
            self._undo.append((self.plan.changed, run.id, None))
            self.plan.changed[run.id] = run
        return run

    def put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Set an item of a table of the snapshot."""
        self._undo.append((table, key, table.get(key)))
        table[key] = value

    def take_back(self, before: tuple[int, ...]) -> None:
        """Make everything as it was at the mark."""
        for target, key, old in reversed(self._undo):
            if isinstance(target, dict):
                if old is None:
                    target.pop(key, None)
                else:
                    target[key] = old
            else:  # a row: every field as it was
                for name in target.__slots__:
                    setattr(target, name, getattr(old, name))
        plan = self.plan
        lists: tuple[list[Any], ...] = (
            plan.created,
            plan.promises,
            plan.unrouted,
            plan.ended,
            plan.asked,
        )
        for items, length in zip(lists, before, strict=True):
            del items[length:]

    def new_run(self, **fields: Any) -> Run:
        """Add a run."""
        run = Run(id=next(self.snap.new_ids), created_at=self.now, **fields)
        self._new.add(run.id)
        self.put(self.snap.rids, run.rid, run)
        self.put(self.snap.runs, run.id, run)
        self.plan.created.append(run)
        return run

    # ---- keys

    def enter(self, run: Run) -> None:
        """A new or due run: ready at once, or at the end of its key."""
        run.due_at = None
        if run.key is None:
            run.status = Status.READY
            self.plan.ready.add(run.handler)
        else:
            self.join(run)

    def join(self, run: Run) -> None:
        """Place a run at the end of its key."""
        assert run.key is not None
        key = self.key(run)
        key.tail += 1
        key.length += 1
        run.key_pos = key.tail
        if key.length == 1:
            key.head = run.id
            run.status = Status.READY
            self.plan.ready.add(run.handler)
        else:
            run.status = Status.QUEUED

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
                self.plan.advance.add((run.handler, run.key))
                self.plan.ready.add(run.handler)

    def key(self, run: Run) -> Key:
        """The row of a run's key, to change."""
        assert run.key is not None
        name = (run.handler, run.key)
        key = self.snap.keys.get(name)
        if key is None:
            key = Key(run.handler, run.key)
            self.put(self.snap.keys, name, key)
        else:
            self._undo.append((key, None, copy.copy(key)))
        self.plan.keys.add(name)
        return key

    # ---- waking and ending

    def end(self, run: Run) -> None:
        """Let go of all an ended run had, and tell who waits for it."""
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
            self.edit(parent)
            if parent.waits > 1:
                parent.waits -= 1
            else:
                parent.waits = 0
                self.wake(parent)

    def wake(self, run: Run) -> None:
        """One of the run's waits is true now, whatever its status."""
        self.edit(run)
        run.wakes += 1
        if run.status == Status.PARKED:
            run.status = Status.READY
            run.due_at = None
            self.plan.ready.add(run.handler)

    def again(self, run: Run) -> None:
        """Make a set-aside or ended run ready, or put it in its place in its key."""
        if run.key is None or run.key_pos is None:
            self.enter(run)
            return
        key = self.key(run)
        if key.head in (0, run.id):
            key.head = run.id
            run.status = Status.READY
            self.plan.ready.add(run.handler)
        else:
            run.status = Status.QUEUED
        run.due_at = None
