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
from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter

from everstep.core.batch import Batch, Due, Outcome, Refused, Run
from everstep.core.decide import Decider, claim
from everstep.core.snapshot import Cell, Key, Needs, Plan, Promise, Snapshot, needs_of
from everstep.store.base import Claim, Committed, Subscription, WorkerRef
from everstep.store.queries import load

RUN = tuple(f.name for f in fields(Run))
MUTABLE = (
    "status input key_pos worker epoch generation wakes parked_wakes waits attempt claims asked"
    " due_at started_at finished_at output error"
).split()
BORN = (
    "id rid handler mode status input created_at topic trace priority hops parent fp key key_pos"
    " worker epoch claims due_at started_at"
).split()
_born = attrgetter(*BORN)
_mutable = attrgetter(*MUTABLE, "id")
_claimed = attrgetter("status", "worker", "epoch", "claims", "started_at", "error", "id")

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
        self._subscribers: dict[str, list[Subscription]] = {}
        self._subscribers_version = -1

    def write(self, worker: WorkerRef | None, batches: Sequence[Batch], wanted: Claim | None, now: int) -> Committed:
        """Apply a group and claim; an exception means that nothing was written."""
        db = self._db
        if not batches and (wanted is None or not self._anything(wanted, now)):
            return Committed([])
        db.execute("BEGIN IMMEDIATE")
        try:
            if worker is not None and db.execute(SQL["fence_worker"], (worker.id, worker.epoch)).rowcount == 0:
                db.execute("ROLLBACK")
                return Committed([Refused("worker_epoch", worker.epoch)] * len(batches))
            done = self._group(worker, batches, wanted, now)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._subscribers_version = -1
            raise
        return done

    def _anything(self, wanted: Claim, now: int) -> bool:
        """Look, without a lock, whether there is anything to claim or to promote."""
        due = self._db.execute(SQL["next_due"]).fetchone()[0]
        if due is not None and due <= now:
            return True
        return self._db.execute(SQL["any_ready"], (json.dumps(list(wanted.handlers)),)).fetchone() is not None

    def _group(
        self, worker: WorkerRef | None, batches: Sequence[Batch], wanted: Claim | None, now: int
    ) -> Committed:
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
        self._write(decider.plan, snapshot)
        claimed: list[Run] = []
        if wanted is not None and worker is not None:
            claimed = self._claim(worker, wanted, now)
        plan = decider.plan
        return Committed(outcomes, claimed, plan.ready, plan.ended, plan.asked, plan.due)

    def _due(self, now: int) -> list[Batch]:
        rows = self._db.execute(SQL["due_runs"], (now,)).fetchall()
        return [Batch(changes=[Due(row[0])]) for row in rows]

    # ---- reading what must be known

    def _snapshot(self, heavy: Sequence[Batch], light: set[int]) -> Snapshot:
        db = self._db
        snap = Snapshot()
        needs = needs_of(heavy)
        light -= needs.runs
        if light:
            for row in db.execute(SQL["light_runs"], (json.dumps(list(light)),)).fetchall():
                if row[3] > 1:  # its claims will be written back: read it whole
                    needs.runs.add(row[0])
                    continue
                run = Run(row[0], "", "", 0, row[2], b"", 0)
                run.epoch, run.claims, run.generation = row[1], row[3], row[4]
                snap.runs[run.id] = run
        if not heavy and not needs.runs:
            return snap
        if needs.topics:
            self._load_subscribers()
            snap.subscribers = self._subscribers  # type: ignore[assignment]  # a list is a Sequence
        known = self._runs(needs)
        needs.more(known, snap.subscribers)
        for run in itertools.chain(known, self._missing_parents(needs, known)):
            snap.runs[run.id] = run
            snap.rids[run.rid] = run
        self._rest(needs, snap)
        last: int | None = db.execute("SELECT max(id) FROM run").fetchone()[0]
        snap.new_ids = itertools.count((last or 0) + 1)
        return snap

    def _runs(self, needs: Needs) -> list[Run]:
        rows: list[tuple[object, ...]] = []
        if needs.runs:
            rows += self._db.execute(SQL["runs_by_id"], (json.dumps(list(needs.runs)),)).fetchall()
        if needs.rids:
            seen = {row[0] for row in rows}
            more = self._db.execute(SQL["runs_by_rid"], (json.dumps(list(needs.rids)),)).fetchall()
            rows += [row for row in more if row[0] not in seen]
        return [Run(*row) for row in rows]  # type: ignore[arg-type]  # the row is RUN

    def _missing_parents(self, needs: Needs, known: Sequence[Run]) -> list[Run]:
        missing = needs.runs - {run.id for run in known}
        if not missing:
            return []
        rows = self._db.execute(SQL["runs_by_id"], (json.dumps(list(missing)),)).fetchall()
        return [Run(*row) for row in rows]

    def _rest(self, needs: Needs, snap: Snapshot) -> None:
        db = self._db
        if needs.keys:
            for row in db.execute(SQL["keys"], (json.dumps(list(needs.keys)),)):
                snap.keys[row[0], row[1]] = Key(*row)
        for group in needs.groups:
            keys = frozenset(row[0] for row in db.execute(SQL["group_keys"], (group,)))
            snap.groups[group] = keys
            needs.cells.update((group, key) for key in keys)
        if needs.cells:
            for grp, key, value, version in db.execute(SQL["cells"], (json.dumps(list(needs.cells)),)):
                snap.cells[grp, key] = Cell(value, version)
        if needs.promises:
            wanted = [(run.id, name) for rid, name in needs.promises if (run := snap.rids.get(rid)) is not None]
            for row in db.execute(SQL["promises_by_name"], (json.dumps(wanted),)):
                snap.promises[row[0], row[1]] = Promise(*row)

    def _load_subscribers(self) -> None:
        version: int = self._db.execute(SQL["subscriptions_version"]).fetchone()[0]
        if version == self._subscribers_version:
            return
        found: dict[str, list[Subscription]] = {}
        for topic, handler, fifo, delay in self._db.execute(SQL["subscriptions"]):
            found.setdefault(topic, []).append(Subscription(topic, handler, bool(fifo), delay))
        self._subscribers = found
        self._subscribers_version = version

    # ---- writing the plan

    def _write(self, plan: Plan, snap: Snapshot) -> None:
        db = self._db
        if plan.created:
            db.executemany(SQL["insert_run"], map(_born, plan.created))
        if plan.changed:
            db.executemany(SQL["update_run"], map(_mutable, plan.changed.values()))
        if plan.entries:
            db.executemany(
                SQL["insert_entry"],
                [
                    (run, gen, e.lane, e.pos, e.kind, e.name, e.fp, e.seq, e.at, e.state, e.value)
                    for run, gen, e in plan.entries
                ],
            )
        if plan.promises:
            db.executemany(
                SQL["insert_promise"], [(p.run, p.name, p.state, p.value, p.by, p.at) for p in plan.promises]
            )
        if plan.cells:
            self._write_cells(plan.cells, snap)
        if plan.unrouted:
            db.executemany(
                SQL["insert_unrouted"],
                [(m.mid, m.topic, m.data, m.group, m.priority, m.hops, m.trace, 0) for m in plan.unrouted],
            )
        if plan.keys:
            self._write_keys(plan, snap)

    def _write_cells(self, names: Iterable[tuple[str, str]], snap: Snapshot) -> None:
        put, drop = [], []
        for name in names:
            cell = snap.cells.get(name)
            if cell is None or cell.value is None:
                drop.append(name)
            else:
                put.append((*name, cell.value, cell.version))
        self._db.executemany(SQL["put_cell"], put)
        self._db.executemany(SQL["drop_cell"], drop)

    def _write_keys(self, plan: Plan, snap: Snapshot) -> None:
        db = self._db
        for name in plan.keys:
            key = snap.keys.get(name)
            if key is None or key.length <= 0:
                db.execute(SQL["drop_key"], name)
                continue
            if key.head == 0 and name in plan.advance:
                following = db.execute(SQL["next_of_key"], name).fetchone()
                if following is not None:
                    key.head = following[0]
                    db.execute(SQL["make_ready"], following)
            db.execute(SQL["put_key"], (key.handler, key.key, key.head, key.tail, key.length))

    # ---- claiming

    def _claim(self, worker: WorkerRef, wanted: Claim, now: int) -> list[Run]:
        claimed: list[Run] = []
        touched: list[Run] = []
        for handler, room in wanted.handlers.items():
            limit = min(room, wanted.total - len(claimed))
            if limit <= 0:
                continue
            for row in self._db.execute(SQL["ready_runs"], (handler, limit)).fetchall():
                run = Run(*row)
                touched.append(run)
                if claim(run, worker.id, now):
                    claimed.append(run)
        if touched:
            self._db.executemany(SQL["claim_run"], map(_claimed, touched))
        return claimed

    def adopt(self, topics: Sequence[str], now: int) -> None:
        """Turn messages that waited for a subscriber of these topics into runs (inside a transaction)."""
        from everstep.core.batch import Publish

        rows = self._db.execute(SQL["routed"], (json.dumps(list(topics)),)).fetchall()
        if not rows:
            return
        batches = [
            Batch(changes=[Publish(mid, topic, data, grp, None, priority, hops, trace)])
            for _, mid, topic, data, grp, priority, hops, trace in rows
        ]
        snapshot = self._snapshot(batches, set())
        decider = Decider(snapshot, None, now)
        routed = []
        for row, batch in zip(rows, batches, strict=True):
            outcome = decider.decide(batch)
            if not isinstance(outcome, Refused):
                routed.append((row[0],))
        decider.plan.unrouted.clear()
        self._write(decider.plan, snapshot)
        self._db.executemany("DELETE FROM unrouted WHERE id = ?", routed)


