"""One group of batches as one SQLite transaction.

Runs in the writer thread.  Reads what the batches need, lets `core.decide`
judge them, writes the plan set by set, then claims.  `BEGIN IMMEDIATE` makes
it the only writer, so nothing it has read can change under it.

Floor 2.  May import: core, store.base, floor 0.  Imported by: store.sqlite.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest

from everstep.core.batch import Batch, Due, Outcome, Publish, Refused, Run
from everstep.core.decide import Decider, claim, claim_born, still_ready
from everstep.core.snapshot import Cell, Key, Needs, Plan, Promise, Snapshot, needs_of
from everstep.core.status import Status
from everstep.store import rows
from everstep.store.base import Claim, Committed, Subscription, WorkerRef
from everstep.store.queries import load
from everstep.store.rows import BORN, MUTABLE, RUN

ADOPT = 1_000  # messages that get their runs in one transaction
SQL = {
    name: text.format(
        run=", ".join(f'"{c}"' for c in RUN),
        born=", ".join(f'"{c}"' for c in BORN),
        born_marks=", ".join("?" for _ in BORN),
        mutable=", ".join(f'"{c}" = ?' for c in MUTABLE),
    )
    if "{" in text
    else text
    for name, text in load("sqlite").items()
}


class GroupWriter:
    """Writes groups on one connection; remembers the subscriptions while they do not change."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._subscribers: dict[str, Sequence[Subscription]] = {}
        self._subscribers_version = -1

    def write(
        self,
        worker: WorkerRef | None,
        batches: Sequence[Batch],
        wanted: Claim | None,
        now: int,
        complete: Callable[[Committed], None],
    ) -> Committed:
        """
        Apply a group and claim; an exception means that nothing was written.

        Args:
            complete: Reads what the answer lacks. Before the COMMIT: if it
                failed after that, the group would be committed again.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            if (
                worker is not None
                and db.execute(SQL["fence_worker"], (worker.id, worker.epoch)).rowcount == 0
            ):
                current = db.execute(SQL["worker_epoch"], (worker.id,)).fetchone()
                db.execute("ROLLBACK")
                return Committed([Refused("worker_epoch", current and current[0])] * len(batches))
            decider, done = self._group(worker, batches, wanted, now)
            complete(done)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._subscribers_version = -1
            raise
        decider.committed()
        return done

    def anything(self, wanted: Claim, now: int) -> bool:
        """Look, without a lock, whether there is anything to claim or to promote."""
        due = self._db.execute(SQL["next_due"]).fetchone()[0]
        if due is not None and due <= now:
            return True
        return self._db.execute(SQL["any_ready"], (json.dumps(list(wanted.handlers)),)).fetchone() is not None

    def _group(
        self, worker: WorkerRef | None, batches: Sequence[Batch], wanted: Claim | None, now: int
    ) -> tuple[Decider, Committed]:
        light: set[int] = set()
        heavy: list[Batch] = []
        for batch in batches:
            if batch.changes or batch.guards:
                heavy.append(batch)
            else:
                light.add(batch.run)
        due = self._due(now) if wanted is not None else []
        snapshot = self._snapshot(heavy + due, light)
        decider = Decider(snapshot, worker.id if worker is not None else None, now)
        for batch in due:
            decider.decide(batch)
        outcomes: list[Outcome] = [decider.decide(batch) for batch in batches]
        plan = decider.plan
        claimed: list[Run] = []
        if wanted is not None and worker is not None:
            claimed = claim_born(plan, worker.id, self._nobody_waits(plan, wanted), wanted.total, now)
            wanted = _less(wanted, claimed)
            plan.ready -= {run.handler for run in claimed} - still_ready(plan)
        self._write(plan, snapshot, now)
        if wanted is not None and worker is not None:
            claimed += self._claim(worker, wanted, now)
        return decider, Committed(outcomes, claimed, plan.ready, plan.ended, plan.asked, plan.due)

    def _due(self, now: int) -> list[Batch]:
        rows = self._db.execute(SQL["due_runs"], (now,)).fetchall()
        return [Batch(changes=[Due(row[0])]) for row in rows]

    # ---- reading what must be known

    def _snapshot(self, heavy: Sequence[Batch], light: set[int]) -> Snapshot:
        snap = Snapshot()
        needs = needs_of(heavy)
        light -= needs.runs
        if light:
            self._light(light, needs, snap)
        if not heavy and not needs.runs:
            return snap
        if needs.topics:
            self._load_subscribers()
            snap.subscribers = self._subscribers
        self._runs(needs, snap)
        self._rest(needs, snap)
        last: int | None = self._db.execute("SELECT max(id) FROM run").fetchone()[0]
        snap.new_ids = itertools.count((last or 0) + 1)
        return snap

    def _light(self, light: set[int], needs: Needs, snap: Snapshot) -> None:
        """Of a run that only adds entries, what its guard asks about is enough."""
        for row in self._db.execute(SQL["light_runs"], (json.dumps(list(light)),)).fetchall():
            number, epoch, status, claims, generation = row
            if claims > 1:  # will be written back: read it whole
                needs.runs.add(number)
            else:
                snap.runs[number] = Run(
                    number, "", "", 0, status, b"", 0, epoch=epoch, claims=claims, generation=generation
                )

    def _runs(self, needs: Needs, snap: Snapshot) -> None:
        read = self._by_id(needs.runs)
        known = {run.id for run in read}
        for rid in needs.rids:
            # One by one: json_each would cut a name at a NUL.
            row = self._db.execute(SQL["run_by_rid"], (rid,)).fetchone()
            if row is not None and row[0] not in known:
                read.append(Run(*row))
        needs.more(read, snap.subscribers)
        read += self._by_id(needs.runs - {run.id for run in read})
        for run in read:
            snap.runs[run.id] = run
            snap.rids[run.rid] = run

    def _by_id(self, numbers: Iterable[int]) -> list[Run]:
        listed = list(numbers)
        if not listed:
            return []
        return [Run(*row) for row in self._db.execute(SQL["runs_by_id"], (json.dumps(listed),)).fetchall()]

    def _rest(self, needs: Needs, snap: Snapshot) -> None:
        db = self._db
        for name in needs.keys:
            for row in db.execute(SQL["key"], name).fetchall():
                snap.keys[name] = Key(*row)
        for group in needs.groups:
            keys = frozenset(row[0] for row in db.execute(SQL["group_keys"], (group,)))
            snap.groups[group] = keys
            needs.cells.update((group, key) for key in keys)
        for name in needs.cells:
            for row in db.execute(SQL["cell"], name).fetchall():
                snap.cells[name] = Cell(*row)
        for rid, name_ in needs.promises:
            run = snap.rids.get(rid)
            if run is not None:
                for row in db.execute(SQL["promise"], (run.id, name_)).fetchall():
                    snap.promises[run.id, name_] = Promise(*row)

    def _load_subscribers(self) -> None:
        version: int = self._db.execute(SQL["subscriptions_version"]).fetchone()[0]
        if version == self._subscribers_version:
            return
        found: dict[str, list[Subscription]] = {}
        for topic, handler, fifo, delay in self._db.execute(SQL["subscriptions"]):
            found.setdefault(topic, []).append(Subscription(topic, handler, bool(fifo), delay))
        self._subscribers = dict(found)
        self._subscribers_version = version

    # ---- writing the plan

    def _write(self, plan: Plan, snap: Snapshot, now: int) -> None:
        db = self._db
        if plan.created:
            db.executemany(SQL["insert_run"], map(rows.born, plan.created))
        if plan.changed:
            db.executemany(SQL["update_run"], map(rows.mutable, plan.changed.values()))
        if plan.entries:
            db.executemany(SQL["insert_entry"], [(run, gen, *rows.entry(e)) for run, gen, e in plan.entries])
        if plan.promises:
            db.executemany(
                SQL["insert_promise"], [(p.run, p.name, p.state, p.value, p.by, p.at) for p in plan.promises]
            )
        if plan.cells:
            self._write_cells(plan.cells, snap)
        if plan.unrouted:
            db.executemany(
                SQL["insert_unrouted"],
                [
                    (m.mid, m.topic, m.data, m.group, m.delay, m.priority, m.hops, m.trace, now)
                    for m in plan.unrouted
                ],
            )
        if plan.keys:
            self._write_keys(plan, snap)

    def _write_cells(self, names: Iterable[tuple[str, str]], snap: Snapshot) -> None:
        put, drop = [], []
        for name in names:
            cell = snap.cells[name]
            if cell.value is None:
                drop.append(name)
            else:
                put.append((*name, cell.value, cell.version))
        self._db.executemany(SQL["put_cell"], put)
        self._db.executemany(SQL["drop_cell"], drop)

    def _write_keys(self, plan: Plan, snap: Snapshot) -> None:
        db = self._db
        for name in plan.keys:
            key = snap.keys[name]
            if key.length == 0:
                db.execute(SQL["drop_key"], name)
                continue
            if key.head == 0 and name in plan.advance:
                following = db.execute(SQL["next_of_key"], name).fetchone()
                if following is not None:
                    key.head = following[0]
                    db.execute(SQL["make_ready"], following)
            db.execute(SQL["put_key"], (key.handler, key.key, key.head, key.tail, key.length))

    # ---- claiming

    def _nobody_waits(self, plan: Plan, wanted: Claim) -> dict[str, int]:
        """The handlers of new runs that may be claimed before they are written: none is ready before them."""
        born = {run.handler for run in plan.created if run.status == Status.READY}
        born -= {run.handler for run in plan.changed.values() if run.status == Status.READY}
        rooms = {name: room for name in born if (room := wanted.handlers.get(name, 0)) > 0}
        return {n: r for n, r in rooms.items() if not self._db.execute(SQL["ready_runs"], (n, 1)).fetchall()}

    def _claim(self, worker: WorkerRef, wanted: Claim, now: int) -> list[Run]:
        """The most urgent, then the oldest, over all handlers that have room."""
        db = self._db
        found: list[tuple[int, int]] = []
        for handler, room in wanted.handlers.items():
            limit = min(room, wanted.total)
            if limit > 0:
                found += db.execute(SQL["ready_runs"], (handler, limit)).fetchall()
        if not found:
            return []
        if len(found) > wanted.total:
            found = nsmallest(wanted.total, found)
        runs = {run.id: run for run in self._by_id(number for _, number in found)}
        claimed = [run for _, number in sorted(found) if claim(run := runs[number], worker.id, now)]
        db.executemany(SQL["claim_run"], map(rows.claimed, runs.values()))
        return claimed

    # ---- messages that waited for a subscriber

    def adopt(self, topics: Iterable[str], after: int, now: int) -> int | None:
        """
        Give runs to messages of these topics, inside a transaction; at most `ADOPT` of them.

        Returns the number of the last one looked at, None when there are no more.
        """
        db = self._db
        waiting = [
            row for topic in topics for row in db.execute(SQL["waiting"], (topic, after, ADOPT)).fetchall()
        ]
        waiting = nsmallest(ADOPT, waiting)
        if not waiting:
            return None
        batches = []
        for _, mid, topic, data, group, delay, priority, hops, trace, at in waiting:
            rest = None if delay is None else max(0, at + delay - now)
            batches.append(Batch(changes=[Publish(mid, topic, data, group, rest, priority, hops, trace)]))
        snapshot = self._snapshot(batches, set())
        decider = Decider(snapshot, None, now)
        outcomes = [decider.decide(batch) for batch in batches]
        # One without a group, now that a FIFO Step subscribed, stays where people see it.
        adopted = [(row[0],) for row, o in zip(waiting, outcomes, strict=True) if not isinstance(o, Refused)]
        self._write(decider.plan, snapshot, now)
        db.executemany("DELETE FROM unrouted WHERE id = ?", adopted)
        last: int = waiting[-1][0]
        return last


def _less(wanted: Claim, claimed: Sequence[Run]) -> Claim:
    """What is still wanted after some were claimed."""
    if not claimed:
        return wanted
    taken = Counter(run.handler for run in claimed)
    return Claim(wanted.total - len(claimed), {n: room - taken[n] for n, room in wanted.handlers.items()})
