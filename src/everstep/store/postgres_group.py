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
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from everstep.core.batch import Batch, Due, Outcome, Publish, Refused, Run
from everstep.core.decide import Decider, claim
from everstep.core.snapshot import Cell, Key, Needs, Plan, Promise, Snapshot, created_at_most, needs_of
from everstep.core.status import Status
from everstep.store import rows
from everstep.store.base import Claim, Committed, Subscription, WorkerRef
from everstep.store.postgres_link import Connection, Place
from everstep.store.queries import load
from everstep.store.rows import ENTRY, MUTABLE, RUN, answered, blob_of

ADOPT = 1_000  # messages that get their runs in one transaction
_BIG = ("id", "created_at", "parent", "fp", "key_pos", "worker", "wakes", "parked_wakes")
_TYPES = {
    **dict.fromkeys(("rid", "handler", "topic", "trace", "key", "lane", "kind", "name"), "text"),
    **dict.fromkeys((*_BIG, "due_at", "started_at", "finished_at", "run", "seq", "at"), "bigint"),
    **dict.fromkeys(("mode", "status", "asked", "state"), "smallint"),
    **dict.fromkeys(("priority", "hops", "epoch", "generation", "waits", "attempt", "claims", "pos"), "int"),
    **dict.fromkeys(("input", "output", "error", "value"), "bytea"),
}
_CHANGED = (*MUTABLE, "id")
_ENTRY = ("run", "generation", *ENTRY)


def _arrays(names: Sequence[str], after: int = 0) -> str:
    return ", ".join(f"${number}::{_TYPES[name]}[]" for number, name in enumerate(names, after + 1))


def _names(names: Sequence[str], form: str = '"{}"') -> str:
    return ", ".join(form.format(name) for name in names)


_WORDS = {
    "{run}": _names(RUN),
    "{found}": _names(RUN, 'found."{}"'),
    "{run_arrays}": _arrays(RUN),
    "{mutable}": ", ".join(f'"{c}" = u."{c}"' for c in MUTABLE),
    "{mutable_arrays}": _arrays(_CHANGED, len(RUN)),
    "{mutable_names}": _names(_CHANGED),
    "{entry}": _names(_ENTRY),
    "{entry_arrays}": _arrays(_ENTRY, len(RUN) + len(_CHANGED)),
}


def _complete(text: str) -> str:
    for word, meaning in _WORDS.items():
        text = text.replace(word, meaning)
    return text


SQL = {name: _complete(text) for name, text in load("postgres").items()}
_run = attrgetter(*RUN)


class Fenced(Exception):
    """The worker's row does not take this commit."""


class Named(NamedTuple):
    """What never changes of a run."""

    id: int
    rid: str
    handler: str
    key: str | None
    parent: int | None


@dataclass(slots=True)
class Seen:
    """What a look without locks found."""

    light: dict[int, Run] = field(default_factory=dict)
    named: list[Named] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    due: list[int] = field(default_factory=list)


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
            *columns(kept.values(), len(_ENTRY)),
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
        snapshot, due = await self._snapshot(heavy, light, worker, now if wanted is not None else None)
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
        said = await self._db.execute("COMMIT")
        assert said == "COMMIT", said
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

    # ---- locking and reading what must be known

    async def _snapshot(
        self, heavy: Sequence[Batch], light: set[int], worker: WorkerRef | None, now: int | None
    ) -> tuple[Snapshot, list[Batch]]:
        """What must be known of a group; and with *now*, what is due besides."""
        snap = Snapshot()
        self._held_keys, self._held_cells = set(), set()
        needs = needs_of(heavy)
        seen = await self._look(heavy, needs, light - needs.runs, worker, now)
        snap.subscribers = self._subscribers
        snap.runs = seen.light
        named = seen.named
        due = [Batch(changes=[Due(number)]) for number in seen.due]
        if due:  # and runs that are not light after all
            named = named + await self._named([number for number in seen.due if number not in needs.runs])
            needs.runs.update(seen.due)
        needs.more(named, snap.subscribers)
        if needs.keys:
            await self._hold_keys(needs.keys, snap)
        ids = needs.runs | {run.id for run in named}
        if ids:
            for row in await self._db.fetch(SQL["hold_runs"], list(ids)):
                run = Run(*row)
                snap.runs[run.id] = run
                snap.rids[run.rid] = run
        await self._hold_state(needs, snap)
        promises = [(snap.rids[rid].id, name) for rid, name in needs.promises if rid in snap.rids]
        if promises:
            for row in await self._db.fetch(SQL["settled"], *columns(promises, 2)):
                snap.promises[row[0], row[1]] = Promise(*row)
        more = created_at_most(heavy, snap.subscribers) - len(seen.ids)
        if more > 0:
            seen.ids += [row[0] for row in await self._db.fetch(SQL["new_ids"], more)]
        snap.new_ids = iter(seen.ids)
        return snap, due

    async def _look(
        self, heavy: Sequence[Batch], needs: Needs, light: set[int], worker: WorkerRef | None, now: int | None
    ) -> Seen:
        """Read, without locks, what leads to the rows to lock."""
        if worker is None:
            needs.runs |= light
            light = set()
        seen = Seen()
        for kind, number, a, b, c, rid, handler, key in await self._db.fetch(
            SQL["look"],
            list(light),
            worker.id if worker is not None else 0,
            list(needs.runs),
            list(needs.rids),
            created_at_most(heavy, self._subscribers),
            now,
            self._place.key("promote"),
        ):
            if kind == 1 and b <= 1:  # more claims than one will be written back
                seen.light[number] = Run(
                    number, "", "", 0, Status.RUNNING, b"", 0, epoch=a, claims=b, generation=c
                )
            elif kind == 2:
                seen.named.append(Named(number, rid, handler, key, a))
            elif kind == 3:
                seen.ids.append(number)
            elif kind == 4:
                seen.due.append(number)
            elif kind == 5 and needs.topics and number != self._subscribers_version:
                await self._load_subscribers(number)
        others = light - seen.light.keys()
        if others:
            seen.named += await self._named(list(others))
            needs.runs |= others
        return seen

    async def _named(self, numbers: list[int]) -> list[Named]:
        found = await self._db.fetch(SQL["look"], [], 0, numbers, [], 0, None, 0)
        return [Named(row[1], row[5], row[6], row[7], row[2]) for row in found if row[0] == 2]

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

    async def _load_subscribers(self, version: int) -> None:
        found: dict[str, list[Subscription]] = {}
        for row in await self._db.fetch(SQL["subscriptions"]):
            found.setdefault(row[0], []).append(Subscription(*row))
        self._subscribers = dict(found)
        self._subscribers_version = version

    # ---- writing the plan

    async def _write(self, plan: Plan, snap: Snapshot, now: int) -> None:
        db = self._db
        if plan.created or plan.changed or plan.entries:
            born = {run.id for run in plan.created}
            changed = [run for run in plan.changed.values() if run.id not in born]
            last = {(run, gen, e.lane, e.pos): (run, gen, *rows.entry(e)) for run, gen, e in plan.entries}
            await db.execute(
                SQL["write"],
                *columns(map(_run, plan.created), len(RUN)),
                *columns(map(rows.mutable, changed), len(_CHANGED)),
                *columns(last.values(), len(_ENTRY)),
            )
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
        snapshot, _ = await self._snapshot(batches, set(), None, None)
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
