"""A store of plain values: what a group of batches does to rows, without SQL and without time."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from everstep.core.batch import Batch, Due, Outcome, Publish, Run
from everstep.core.decide import Decider, claim
from everstep.core.journal import Entry
from everstep.core.snapshot import Cell, Key, Plan, Promise, Snapshot, needs_of
from everstep.core.status import HOLDS_KEY, Status
from everstep.store.base import Subscription


@dataclass
class Rows:
    """The whole content of a store."""

    runs: dict[int, Run] = field(default_factory=dict)
    keys: dict[tuple[str, str], Key] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    promises: dict[tuple[int, str], Promise] = field(default_factory=dict)
    entries: dict[tuple[int, int, str, int], Entry] = field(default_factory=dict)
    unrouted: list[Publish] = field(default_factory=list)
    subscribers: dict[str, list[Subscription]] = field(default_factory=dict)
    now: int = 1_000_000_000
    worker: int = 1

    def commit(self, batches: Sequence[Batch]) -> tuple[list[Outcome], Plan]:
        """Decide a group and write what was decided."""
        self.now += 1
        snap = Snapshot(
            runs={number: copy.copy(run) for number, run in self.runs.items()},
            keys={name: copy.copy(key) for name, key in self.keys.items()},
            cells=dict(self.cells),
            promises=dict(self.promises),
            subscribers=self.subscribers,
            new_ids=itertools.count(max(self.runs, default=0) + 1),
        )
        snap.rids = {run.rid: run for run in snap.runs.values()}
        for group in needs_of(batches).groups:
            snap.groups[group] = frozenset(key for other, key in self.cells if other == group)
        decider = Decider(snap, self.worker, self.now)
        outcomes = [decider.decide(batch) for batch in batches]
        self._write(decider.plan, snap)
        decider.committed()
        return outcomes, decider.plan

    def _write(self, plan: Plan, snap: Snapshot) -> None:
        for run in [*plan.created, *plan.changed.values()]:
            self.runs[run.id] = run
        for row, generation, entry in plan.entries:
            self.entries[row, generation, entry.lane, entry.pos] = entry
        for promise in plan.promises:
            self.promises[promise.run, promise.name] = promise
        for name in plan.cells:
            if snap.cells[name].value is None:
                self.cells.pop(name, None)
            else:
                self.cells[name] = snap.cells[name]
        self.unrouted += plan.unrouted
        for name in plan.keys:
            key = snap.keys[name]
            if key.length == 0:
                self.keys.pop(name, None)
                continue
            self.keys[name] = key
            if key.head == 0 and name in plan.advance:
                queued = [r for r in self.members(key) if r.status == Status.QUEUED]
                if queued:
                    first = min(queued, key=lambda run: run.key_pos or 0)
                    first.status = Status.READY
                    key.head = first.id

    def claim(self) -> None:
        """Hand every ready run out."""
        for run in self.runs.values():
            if run.status == Status.READY:
                claim(run, self.worker, self.now)

    def skip(self, us: int) -> None:
        """Let time pass, and make ready what is due."""
        self.now += us
        due = [run.id for run in self.runs.values() if run.due_at is not None and run.due_at <= self.now]
        self.commit([Batch(changes=[Due(run)]) for run in due])

    def by_rid(self) -> dict[str, Run]:
        return {run.rid: run for run in self.runs.values()}

    def members(self, key: Key) -> list[Run]:
        """The runs that have a place in a key."""
        return [
            run
            for run in self.runs.values()
            if (run.handler, run.key) == (key.handler, key.key) and run.key_pos is not None
        ]


def faults(runs: Sequence[Run], keys: Sequence[Key]) -> list[str]:
    """What must never be, in words; empty when all is well."""
    found = []
    members: dict[tuple[str, str | None], list[Run]] = {}
    for run in runs:
        found += [f"{run.rid} ({run.state.label}): {fault}" for fault in _faults_of_run(run)]
        if run.key_pos is not None:
            members.setdefault((run.handler, run.key), []).append(run)
    for name in members.keys() - {(key.handler, key.key) for key in keys}:
        found.append(f"{name}: runs without a row of their key")
    for key in keys:
        found += [f"{key}: {fault}" for fault in _faults_of_key(key, members.get((key.handler, key.key), []))]
    return found


def _faults_of_run(run: Run) -> list[str]:
    state = run.state
    rules = {
        "parked past a wake": state == Status.PARKED and run.wakes != run.parked_wakes,
        "waits for children while not parked": state != Status.PARKED and run.waits > 0,
        "a worker holds it": (run.worker is not None) != (state == Status.RUNNING),
        "has a due time": run.due_at is not None and state not in (Status.SCHEDULED, Status.PARKED),
        "scheduled for never": state == Status.SCHEDULED and run.due_at is None,
        "ended without a time": state.ended != (run.finished_at is not None),
        "ended with a place in its key": state.ended and run.key_pos is not None,
        "queued nowhere": state == Status.QUEUED and run.key_pos is None,
        "runs without a place": run.key is not None
        and state in (Status.READY, Status.RUNNING, Status.PARKED)
        and run.key_pos is None,
        "still asked": state.ended and run.asked != 0,
    }
    return [words for words, wrong in rules.items() if wrong]


def _faults_of_key(key: Key, members: list[Run]) -> list[str]:
    going = (Status.SCHEDULED, Status.READY, Status.RUNNING, Status.PARKED)
    active = [run for run in members if run.state in going]
    head = next((run for run in members if run.id == key.head), None)
    places = [run.key_pos for run in members]
    rules = {
        "a row without runs": not members,
        f"length is not {len(members)}": key.length != len(members),
        "two runs at one place": len(set(places)) != len(places),
        "a place beyond the tail": any((place or 0) > key.tail for place in places),
        "its head is not in it": key.head != 0 and head is None,
        "its head does not hold it": head is not None and head.state not in HOLDS_KEY,
        "somebody goes who is not the head": any(run is not head for run in active),
        "queued behind nobody": head is None and any(run.state == Status.QUEUED for run in members),
    }
    return [words for words, wrong in rules.items() if wrong]
