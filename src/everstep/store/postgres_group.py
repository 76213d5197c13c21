"""One group of batches as one PostgreSQL transaction.

READ COMMITTED suffices, because everything a decision rests on is locked
before it is read, always in the same order: the worker's row (which fences),
keys, runs, values of state; and each lock is followed by a statement of its
own that reads, so that it sees what the one who held the lock before has
written.  What cannot be locked because it is not there yet is made first
(keys, values) or is caught by its unique index (ids of runs, promises under
their run), and then the group is decided again.  The subscriptions are read
under a shared lock that `subscribe` takes exclusively.

Floor 2.  May import: core, store.base, floor 0.  Imported by: store.postgres.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from everstep.core.batch import Batch, Due, Outcome, Publish, Refused, Run
from everstep.core.decide import Decider, claim
from everstep.core.snapshot import Cell, Key, Needs, Plan, Promise, Snapshot, created_at_most, needs_of
from everstep.store import rows
from everstep.store.base import Claim, Committed, Subscription, WorkerRef
from everstep.store.postgres_link import Connection, Place
from everstep.store.queries import load
from everstep.store.rows import BORN, MUTABLE, RUN, answered, blob_of

ADOPT = 1_000  # messages that get their runs in one transaction
_BIG = ("id", "created_at", "parent", "fp", "key_pos", "worker", "wakes", "parked_wakes")
_TYPES = {
    **dict.fromkeys(("rid", "handler", "topic", "trace", "key"), "text"),
    **dict.fromkeys((*_BIG, "due_at", "started_at", "finished_at"), "bigint"),
    **dict.fromkeys(("mode", "status", "asked"), "smallint"),
    **dict.fromkeys(("priority", "hops", "epoch", "generation", "waits", "attempt", "claims"), "int"),
    **dict.fromkeys(("input", "output", "error"), "bytea"),
}


def _arrays(names: Iterable[str]) -> str:
    return ", ".join(f"${n}::{_TYPES[column]}[]" for n, column in enumerate(names, 1))


def _names(names: Iterable[str], form: str = '"{}"') -> str:
    return ", ".join(form.format(name) for name in names)


SQL = {
    name: text.format(
        run=_names(RUN),
        found=_names(RUN, 'found."{}"'),
        born=_names(BORN),
        born_arrays=_arrays(BORN),
        mutable=", ".join(f'"{c}" = u."{c}"' for c in MUTABLE),
        mutable_arrays=_arrays((*MUTABLE, "id")),
        mutable_names=_names((*MUTABLE, "id")),
    )
    if "{run}" in text or "{born}" in text or "{mutable}" in text
    else text
    for name, text in load("postgres").items()
}


class Fenced(Exception):
    """The worker's row does not take this commit."""


class Named(NamedTuple):
    """What never changes of a run."""

    id: int
    rid: str
    handler: str
    key: str | None
    parent: int | None


class GroupWriter:
    """Writes groups on one connection; remembers the subscriptions while they do not change."""

    def __init__(self, connection: Connection, place: Place) -> None:
        self._db = connection
        self._place = place
        self._subscribers: dict[str, Sequence[Subscription]] = {}
        self._subscribers_version = -1
        self._held_keys: set[tuple[str, str]] = set()
        self._held_cells: set[tuple[str, str]] = set()
        # Once a COMMIT was sent its answer may be lost; then this is what it would have said.
        self.decided: tuple[Decider, Committed] | None = None
        self.light_sent = False

    # ---- groups of entries alone

    @staticmethod
    def is_light(batches: Sequence[Batch]) -> bool:
        """Whether a group does nothing but add entries to runs."""
        return all(batch.run and not batch.changes and not batch.guards for batch in batches)

    async def write_light(self, worker: WorkerRef, batches: Sequence[Batch]) -> dict[int, int]:
        """
        One statement, one commit; answers the epochs of those runs that are ours.

        Raises:
            Fenced: Nothing was written.
        """
        kept: dict[tuple[int, int, str, int], tuple[Any, ...]] = {}
        for batch in batches:
            for entry in batch.entries:
                kept[batch.run, batch.epoch, entry.lane, entry.pos] = (
                    batch.run,
                    batch.epoch,
                    *rows.entry(entry),
                )
        self.light_sent = True
        found = await self._db.fetch(
            SQL["light_group"],
            worker.id,
            worker.epoch,
            worker.commits + 1,
            list({batch.run for batch in batches}),
            *columns(kept.values(), 11),
        )
        self.light_sent = False
        if not found:
            raise Fenced
        return {row[0]: row[1] for row in found if row[0] is not None}

    async def light_epochs(self, worker: WorkerRef, batches: Sequence[Batch]) -> dict[int, int]:
        """What `write_light` answered, found out afterwards: while a worker lives nobody takes its runs."""
        numbers = list({batch.run for batch in batches})
        return {row[0]: row[1] for row in await self._db.fetch(SQL["light_runs"], numbers, worker.id)}

    # ---- any group

    async def write(
        self, worker: WorkerRef | None, batches: Sequence[Batch], wanted: Claim | None, now: int
    ) -> Committed:
        """
        Apply a group and claim, in one transaction.

        Raises:
            Fenced: Nothing was written.
        """
        self.decided = None
        heavy = [batch for batch in batches if batch.changes or batch.guards]
        light = {batch.run for batch in batches if batch.run and not batch.changes and not batch.guards}
        await self._begin(worker, publishes=any(isinstance(c, Publish) for b in heavy for c in b.changes))
        due = await self._due(now) if wanted is not None else []
        snapshot = await self._snapshot([*heavy, *due], light, worker)
        decider = Decider(snapshot, worker.id if worker is not None else None, now)
        for batch in due:
            decider.decide(batch)
        outcomes: list[Outcome] = [decider.decide(batch) for batch in batches]
        plan = decider.plan
        await self._write(plan, snapshot, now)
        claimed: list[Run] = []
        if wanted is not None and worker is not None:
            claimed = await self._claim(worker, wanted, now)
        done = Committed(outcomes, claimed, plan.ready, plan.ended, plan.asked, plan.due)
        await self._fill(answered(done))
        self.decided = (decider, done)
        await self._db.execute("COMMIT")
        self.decided = None
        decider.committed()
        return done

    async def _begin(self, worker: WorkerRef | None, *, publishes: bool) -> None:
        """One round trip: begin, hold the subscriptions still, fence."""
        begin = "BEGIN"
        if publishes:
            begin += f"; SELECT pg_advisory_xact_lock_shared({self._place.key('subscriptions')})"
        if worker is not None:
            number = worker.commits + 1
            begin += (
                f"; UPDATE worker SET commits = {number:d} WHERE id = {worker.id:d}"
                f" AND epoch = {worker.epoch:d} AND commits = {number - 1:d}"
            )
        said = await self._db.execute(begin)
        if worker is not None and said != "UPDATE 1":
            raise Fenced

    async def anything(self, wanted: Claim, now: int) -> bool:
        """Look, without a lock, whether there is anything to claim or to promote."""
        found: bool = await self._db.fetchval(SQL["any_work"], list(wanted.handlers), now)
        return found

    async def _due(self, now: int) -> list[Batch]:
        found = await self._db.fetch(SQL["due_runs"], now, self._place.key("promote"))
        return [Batch(changes=[Due(row[0])]) for row in found]

    # ---- locking and reading what must be known

    async def _snapshot(self, heavy: Sequence[Batch], light: set[int], worker: WorkerRef | None) -> Snapshot:
        snap = Snapshot()
        self._held_keys, self._held_cells = set(), set()
        needs = needs_of(heavy)
        if needs.topics:
            await self._load_subscribers()
            snap.subscribers = self._subscribers
        await self._light(light - needs.runs, needs, snap, worker)
        ids = await self._name(needs, snap)
        if needs.keys:
            await self._hold_keys(needs.keys, snap)
        if ids:
            for row in await self._db.fetch(SQL["hold_runs"], ids):
                run = Run(*row)
                snap.runs[run.id] = run
                snap.rids[run.rid] = run
        await self._hold_state(needs, snap)
        promises = [(snap.rids[rid].id, name) for rid, name in needs.promises if rid in snap.rids]
        if promises:
            for row in await self._db.fetch(SQL["settled"], *columns(promises, 2)):
                snap.promises[row[0], row[1]] = Promise(*row)
        most = created_at_most(heavy, snap.subscribers)
        if most:
            snap.new_ids = iter([row[0] for row in await self._db.fetch(SQL["new_ids"], most)])
        return snap

    async def _light(self, light: set[int], needs: Needs, snap: Snapshot, worker: WorkerRef | None) -> None:
        """Of a run that only adds entries, what its guard asks about is enough."""
        needs.runs |= light
        if worker is None or not light:
            return
        for number, epoch, status, claims, generation in await self._db.fetch(
            SQL["light_runs"], list(light), worker.id
        ):
            if claims <= 1:  # otherwise it will be written back
                needs.runs.discard(number)
                snap.runs[number] = Run(
                    number, "", "", 0, status, b"", 0, epoch=epoch, claims=claims, generation=generation
                )

    async def _name(self, needs: Needs, snap: Snapshot) -> list[int]:
        """Find the rows of what is named, and what follows from them; answers the runs to lock."""
        named: list[Named] = []
        if needs.runs or needs.rids:
            found = await self._db.fetch(SQL["names"], list(needs.runs), list(needs.rids))
            named = [Named(*row) for row in found]
        needs.more(named, snap.subscribers)
        return list(needs.runs | {run.id for run in named})

    async def _hold_keys(self, names: set[tuple[str, str]], snap: Snapshot) -> None:
        listed = columns(names, 2)
        await self._db.execute(SQL["hold_keys"], *listed)
        for row in await self._db.fetch(SQL["keys"], *listed):
            snap.keys[row[0], row[1]] = Key(*row)
        self._held_keys = names

    async def _hold_state(self, needs: Needs, snap: Snapshot) -> None:
        """Lock values; of a group that is cleared, until no value of it is left unlocked."""
        wanted = set(needs.cells)
        while True:
            if needs.groups:
                found = await self._db.fetch(SQL["group_keys"], list(needs.groups))
                keys = {(row[0], row[1]) for row in found}
                wanted |= keys
                for group in needs.groups:
                    snap.groups[group] = frozenset(key for grp, key in keys if grp == group)
            wanted -= self._held_cells
            if not wanted:
                break
            await self._db.execute(SQL["hold_cells"], *columns(wanted, 2))
            self._held_cells |= wanted
            if not needs.groups:
                break
        if self._held_cells:
            for grp, key, value, version in await self._db.fetch(SQL["cells"], *columns(self._held_cells, 2)):
                snap.cells[grp, key] = Cell(value, version)
                if value is None and grp in snap.groups:
                    snap.groups[grp] -= {key}

    async def _load_subscribers(self) -> None:
        version: int = await self._db.fetchval(SQL["subscriptions_version"])
        if version == self._subscribers_version:
            return
        found: dict[str, list[Subscription]] = {}
        for row in await self._db.fetch(SQL["subscriptions"]):
            found.setdefault(row[0], []).append(Subscription(*row))
        self._subscribers = dict(found)
        self._subscribers_version = version

    # ---- writing the plan

    async def _write(self, plan: Plan, snap: Snapshot, now: int) -> None:
        db = self._db
        if plan.created:
            await db.execute(SQL["insert_runs"], *columns(map(rows.born, plan.created), len(BORN)))
        if plan.changed:
            changed = map(rows.mutable, plan.changed.values())
            await db.execute(SQL["update_runs"], *columns(changed, len(MUTABLE) + 1))
        if plan.entries:
            last = {(run, gen, e.lane, e.pos): (run, gen, *rows.entry(e)) for run, gen, e in plan.entries}
            await db.execute(SQL["insert_entries"], *columns(last.values(), 11))
        if plan.promises:
            settled = [(p.run, p.name, p.state, p.value, p.by, p.at) for p in plan.promises]
            await db.execute(SQL["insert_promises"], *columns(settled, 6))
        if plan.unrouted:
            waiting = [
                (m.mid, m.topic, m.data, m.group, m.delay, m.priority, m.hops, m.trace, now)
                for m in plan.unrouted
            ]
            await db.execute(SQL["insert_unrouted"], *columns(waiting, 9))
        if self._held_cells:
            await self._write_cells(plan, snap.cells)
        if self._held_keys:
            await self._write_keys(plan, snap.keys)

    async def _write_cells(self, plan: Plan, cells: Mapping[tuple[str, str], Cell]) -> None:
        put = [(*name, cells[name].value, cells[name].version) for name in plan.cells]
        put = [row for row in put if row[2] is not None]
        drop = [name for name in self._held_cells if cells[name].value is None]
        if put:
            await self._db.execute(SQL["put_cells"], *columns(put, 4))
        if drop:
            await self._db.execute(SQL["drop_cells"], *columns(drop, 2))

    async def _write_keys(self, plan: Plan, keys: Mapping[tuple[str, str], Key]) -> None:
        db = self._db
        freed = [name for name in plan.advance if keys[name].head == 0 and keys[name].length]
        if freed:
            for handler, key, head in await db.fetch(SQL["next_of_keys"], *columns(freed, 2)):
                keys[handler, key].head = head
        put = [keys[name] for name in plan.keys if keys[name].length]
        if put:
            await db.execute(
                SQL["put_keys"], *columns([(k.handler, k.key, k.head, k.tail, k.length) for k in put], 5)
            )
        drop = [name for name in self._held_keys if not keys[name].length]
        if drop:
            await db.execute(SQL["drop_keys"], *columns(drop, 2))

    # ---- claiming

    async def _claim(self, worker: WorkerRef, wanted: Claim, now: int) -> list[Run]:
        rooms = {name: min(room, wanted.total) for name, room in wanted.handlers.items() if room > 0}
        if not rooms or wanted.total <= 0:
            return []
        found = await self._db.fetch(SQL["ready_runs"], list(rooms), list(rooms.values()), wanted.total)
        runs = [Run(*row) for row in found]
        claimed = [run for run in runs if claim(run, worker.id, now)]
        if runs:
            await self._db.execute(SQL["claim_runs"], *columns(map(rows.claimed, runs), 7))
        return claimed

    async def _fill(self, runs: Sequence[Run]) -> None:
        """Put large values in their places; before the commit, so that nothing can fail after it."""
        named = {blob for run in runs for blob in (blob_of(run.input), blob_of(run.output)) if blob}
        if named:
            found = await self._db.fetch(SQL["get_blobs"], list(named))
            fill(runs, {row[0]: row[1] for row in found})

    # ---- messages that waited for a subscriber

    async def adopt(self, topics: Sequence[str], after: int, now: int) -> int | None:
        """
        Give runs to messages of these topics, inside a transaction; at most `ADOPT` of them.

        Returns the number of the last one looked at, None when there are no more.
        """
        waiting = await self._db.fetch(SQL["waiting"], topics, after, ADOPT)
        if not waiting:
            return None
        batches = []
        for _, mid, topic, data, group, delay, priority, hops, trace, at in waiting:
            rest = None if delay is None else max(0, at + delay - now)
            batches.append(Batch(changes=[Publish(mid, topic, data, group, rest, priority, hops, trace)]))
        snapshot = await self._snapshot(batches, set(), None)
        decider = Decider(snapshot, None, now)
        outcomes = [decider.decide(batch) for batch in batches]
        # One without a group, now that a FIFO Step subscribed, stays where people see it.
        adopted = [row[0] for row, o in zip(waiting, outcomes, strict=True) if not isinstance(o, Refused)]
        await self._write(decider.plan, snapshot, now)
        await self._db.execute("DELETE FROM unrouted WHERE id = ANY($1::bigint[])", adopted)
        last: int = waiting[-1][0]
        return last


def fill(runs: Iterable[Run], blobs: Mapping[str, bytes]) -> None:
    """Replace the names of large values by the values."""
    for run in runs:
        name = blob_of(run.input)
        if name is not None:
            run.input = blobs.get(name, run.input)
        name = blob_of(run.output)
        if name is not None:
            run.output = blobs.get(name, run.output)


def columns(table: Iterable[Iterable[Any]], width: int) -> list[list[Any]]:
    """Rows as the arrays that travel."""
    return [list(column) for column in zip(*table, strict=True)] or [[] for _ in range(width)]
