"""Decide a group of batches: which apply, which are refused, what must be written.

The one place that says what a commit means.  A store reads what `Needs` asks
for, lets a `Decider` judge the batches in the order they came, and writes the
resulting `Plan`, set by set.  Nothing here awaits, reads a clock or knows SQL,
so every race of two batches in one group is tested with plain values.

Rules:

* A batch is all or nothing.  What a refused batch had begun to change in the
  working copy is taken back before the next batch is looked at.
* Later batches of a group see what earlier ones did.
* Whoever makes a wait true raises `wakes`, whatever the status of the run; a
  run parks only if nobody did since its turn last looked.
* A key has one head: the run that may be ready or further.  Everybody else of
  the key is queued.  Only here, under the key's row, is a head chosen or freed;
  who follows a freed head is picked by the store once all writes are in
  (`Plan.advance`).

Floor 1.  May import: core, floor 0.  Imported by: store.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from everstep.codec import codec_for
from everstep.core.batch import (
    APPLIED,
    Applied,
    Asked,
    Batch,
    Begin,
    Begun,
    Control,
    Due,
    Finish,
    KvClear,
    KvDelete,
    KvSet,
    KvUpdate,
    KvVersion,
    Mode,
    Outcome,
    Park,
    PromiseOpen,
    Publish,
    Published,
    Refused,
    Release,
    Run,
    Settle,
)
from everstep.core.journal import OK, RESULT, Entry
from everstep.core.status import Status, WrongStatus, advance
from everstep.core.updates import apply_ops
from everstep.errors import UpdateError

CRASH_LIMIT = 5  # claims without a new entry, then the run is set aside
_JSON = codec_for(Any)


class Subscriber(Protocol):
    """What `Publish` must know of a subscription (`store.base.Subscription`)."""

    @property
    def handler(self) -> str: ...
    @property
    def fifo(self) -> bool: ...
    @property
    def delay(self) -> int: ...


@dataclass(slots=True)
class Key:
    """The row of a FIFO group or object key: its head, its last position, its length."""

    handler: str
    key: str
    head: int = 0  # row id of the run that holds it; 0: nobody yet
    tail: int = 0  # the last position given
    length: int = 0  # runs in it, the head included


@dataclass(slots=True)
class Cell:
    """One value of state in the working copy; `value` None: it does not exist."""

    value: bytes | None = None
    version: int = 0


@dataclass(slots=True)
class Promise:
    """A settled promise."""

    run: int
    name: str
    state: int
    value: bytes
    by: str
    at: int


@dataclass(slots=True)
class Needs:
    """What must be read, and locked, before a group can be decided."""

    runs: set[int] = field(default_factory=set)
    rids: set[str] = field(default_factory=set)
    keys: set[tuple[str, str]] = field(default_factory=set)
    cells: set[tuple[str, str]] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)
    promises: set[tuple[str, str]] = field(default_factory=set)
    fifo: list[Publish] = field(default_factory=list)

    def more(self, runs: Iterable[Run], subscribers: dict[str, Sequence[Subscriber]]) -> None:
        """Add what follows from rows: the keys of runs, their parents, the keys of FIFO messages."""
        for run in runs:
            if run.key is not None:
                self.keys.add((run.handler, run.key))
            if run.parent is not None:
                self.runs.add(run.parent)
        for message in self.fifo:
            for sub in subscribers.get(message.topic, ()):
                if sub.fifo and message.group is not None:
                    self.keys.add((sub.handler, message.group))


def needs_of(batches: Sequence[Batch]) -> Needs:
    """What the batches name."""
    needs = Needs()
    for batch in batches:
        if batch.run:
            needs.runs.add(batch.run)
        for guard in batch.guards:
            if isinstance(guard, PromiseOpen):
                needs.rids.add(guard.rid)
                needs.promises.add((guard.rid, guard.name))
            else:
                needs.cells.add((guard.group, guard.key))
        for change in batch.changes:
            _name(change, needs)
    return needs


def created_at_most(batches: Sequence[Batch], subscribers: dict[str, Sequence[Subscriber]]) -> int:
    """How many run ids a group can use at the most, for stores that fetch ids beforehand."""
    return sum(
        len(subscribers.get(change.topic, ())) if isinstance(change, Publish) else 1
        for batch in batches
        for change in batch.changes
        if isinstance(change, Publish | Begin)
    )


def _name(change: object, needs: Needs) -> None:
    match change:
        case Publish():
            needs.topics.add(change.topic)
            if change.group is not None:
                needs.fifo.append(change)
        case KvSet() | KvUpdate() | KvDelete():
            needs.cells.add((change.group, change.key))
        case KvClear():
            needs.groups.add(change.group)
        case Begin():
            needs.rids.add(change.rid)
            if change.key is not None:
                needs.keys.add((change.handler, change.key))
            if change.parent is not None:
                needs.runs.add(change.parent)
        case Settle():
            needs.rids.add(change.rid)
            needs.promises.add((change.rid, change.name))
        case Control():
            needs.rids.add(change.rid)
        case Due():
            needs.runs.add(change.run)
        case _:
            pass


@dataclass(slots=True)
class Snapshot:
    """What was read, and then the working copy of the group."""

    runs: dict[int, Run] = field(default_factory=dict)
    rids: dict[str, Run] = field(default_factory=dict)
    keys: dict[tuple[str, str], Key] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=dict)
    promises: dict[tuple[int, str], Promise] = field(default_factory=dict)
    subscribers: dict[str, Sequence[Subscriber]] = field(default_factory=dict)
    new_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))


@dataclass(slots=True)
class Plan:
    """What to write.  Runs, keys and cells are final values; entries replace equal addresses."""

    created: list[Run] = field(default_factory=list)
    changed: dict[int, Run] = field(default_factory=dict)
    entries: list[tuple[int, int, Entry]] = field(default_factory=list)
    keys: set[tuple[str, str]] = field(default_factory=set)
    advance: set[tuple[str, str]] = field(default_factory=set)
    cells: set[tuple[str, str]] = field(default_factory=set)
    promises: list[Promise] = field(default_factory=list)
    unrouted: list[Publish] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)
    ended: list[Run] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    @property
    def due(self) -> int | None:
        """The earliest due time among the runs written."""
        times = [run.due_at for run in self.created if run.due_at is not None]
        times += [run.due_at for run in self.changed.values() if run.due_at is not None]
        return min(times, default=None)


class _Refusal(Exception):
    """Stops a batch; never leaves this module."""

    def __init__(self, why: str, current: Any = None) -> None:
        self.outcome = Refused(why, current)


class Decider:
    """Judges the batches of one group, one after the other."""

    def __init__(self, snapshot: Snapshot, worker: int | None, now: int) -> None:
        self.snap = snapshot
        self.plan = Plan()
        self._worker = worker
        self._now = now
        self._undo: list[tuple[Any, Any, Any]] = []
        self._new: set[int] = set()

    def decide(self, batch: Batch) -> Outcome:
        """Apply one batch to the working copy and the plan, or refuse it without a trace."""
        run: Run | None = None
        if batch.run:
            run = self.snap.runs.get(batch.run)
            if run is None or run.epoch != batch.epoch or run.status != Status.RUNNING:
                return Refused("run_epoch", run.epoch if run is not None else None)
        results: list[Any] | None = None
        if batch.guards or batch.changes:
            self._undo = undo = []
            plan = self.plan
            before = (len(plan.created), len(plan.promises), len(plan.unrouted), len(plan.ended), len(plan.asked))
            try:
                for guard in batch.guards:
                    self._guard(guard)
                results = [self._apply(change, run) for change in batch.changes]
            except _Refusal as refusal:
                self._take_back(undo, before)
                return refusal.outcome
        if run is not None and batch.entries:
            if results:
                _record(batch.entries, results)
            generation = run.generation
            add = self.plan.entries.append
            for entry in batch.entries:
                add((run.id, generation, entry))
            if run.claims > 1 and run.status == Status.RUNNING:
                self._edit(run).claims = 1
        return Applied(results) if results else APPLIED

    # ---- the working copy

    def _edit(self, run: Run) -> Run:
        """Announce that a run's row will change; answers the row to change."""
        self._undo.append((run, None, copy.copy(run)))
        if run.id not in self.plan.changed and run.id not in self._new:
            self._undo.append((self.plan.changed, run.id, None))
            self.plan.changed[run.id] = run
        return run

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((table, key, table.get(key)))
        table[key] = value

    def _take_back(self, undo: list[tuple[Any, Any, Any]], before: tuple[int, ...]) -> None:
        for target, key, old in reversed(undo):
            if isinstance(target, dict):
                if old is None:
                    target.pop(key, None)
                else:
                    target[key] = old
            else:  # a row: every field as it was
                for name in target.__slots__:
                    setattr(target, name, getattr(old, name))
        plan = self.plan
        lists: tuple[list[Any], ...] = (plan.created, plan.promises, plan.unrouted, plan.ended, plan.asked)
        for items, length in zip(lists, before, strict=True):
            del items[length:]

    # ---- guards

    def _guard(self, guard: PromiseOpen | KvVersion) -> None:
        if isinstance(guard, PromiseOpen):
            run = self._known(guard.rid)
            settled = self.snap.promises.get((run.id, guard.name))
            if settled is not None:
                raise _Refusal("promise", settled)
        else:
            cell = self.snap.cells.get((guard.group, guard.key)) or Cell()
            version = cell.version if cell.value is not None else 0
            if version != guard.version:
                raise _Refusal("kv_version", version)

    def _known(self, rid: str) -> Run:
        run = self.snap.rids.get(rid)
        if run is None:
            raise _Refusal("unknown_run", rid)
        return run

    # ---- changes

    def _apply(self, change: object, run: Run | None) -> Any:
        match change:
            case Publish():
                return self._publish(change)
            case KvSet() | KvUpdate() | KvDelete():
                return self._cell(change)
            case Begin():
                return self._begin(change)
            case Settle():
                return self._settle(change)
            case Control():
                return self._control(change)
            case KvClear():
                return self._clear(change)
            case Due():
                return self._due(self.snap.runs.get(change.run))
            case _:
                pass
        if run is None:
            raise _Refusal("unknown_run", type(change).__name__)
        match change:
            case Finish():
                return self._finish(change, run)
            case Release():
                return self._release(change, run)
            case Park():
                return self._park(change, run)
            case _:
                raise TypeError(f"no change: {change!r}")

    def _new_run(self, **fields: Any) -> Run:
        run = Run(id=next(self.snap.new_ids), created_at=self._now, **fields)
        self._new.add(run.id)
        self._put(self.snap.rids, run.rid, run)
        self._put(self.snap.runs, run.id, run)
        self.plan.created.append(run)
        return run

    def _begin(self, begin: Begin) -> Begun:
        taken = self.snap.rids.get(begin.rid)
        if taken is not None:
            if not begin.attach:
                raise _Refusal("id_taken", taken)
            return Begun(taken, created=False)
        run = self._new_run(
            rid=begin.rid,
            handler=begin.handler,
            mode=begin.mode,
            status=Status.SCHEDULED,
            input=begin.input,
            topic=begin.topic,
            trace=begin.trace,
            priority=begin.priority,
            hops=begin.hops,
            parent=begin.parent,
            fp=begin.fp,
            key=begin.key,
        )
        if begin.delay > 0:
            run.due_at = self._now + begin.delay
        else:
            self._enter(run)
            if begin.claim and self._worker is not None and run.status == Status.READY:
                claim(run, self._worker, self._now)
        return Begun(run, created=True)

    def _publish(self, message: Publish) -> Published:
        subscribers = self.snap.subscribers.get(message.topic, ())
        if not subscribers:
            self.plan.unrouted.append(message)
            return Published(message.mid, ())
        for number, sub in enumerate(subscribers):
            if sub.fifo and message.group is None:
                raise _Refusal("group_missing", (message.topic, sub.handler))
            suffix = f"-{number}" if number else ""
            run = self._new_run(
                rid=f"r_{message.mid[2:]}{suffix}",
                handler=sub.handler,
                mode=Mode.RETRY,
                status=Status.SCHEDULED,
                input=message.data,
                topic=message.topic,
                trace=message.trace,
                priority=message.priority,
                hops=message.hops,
                key=message.group if sub.fifo else None,
            )
            delay = sub.delay if message.delay is None else message.delay
            if delay > 0:
                run.due_at = self._now + delay
            else:
                self._enter(run)
        return Published(message.mid, tuple(sub.handler for sub in subscribers))

    def _enter(self, run: Run) -> None:
        """A new or due run: ready at once, or at the end of its key."""
        run.due_at = None
        if run.key is None:
            run.status = Status.READY
            self.plan.ready.add(run.handler)
        else:
            self._join(run)

    def _join(self, run: Run) -> None:
        assert run.key is not None
        key = self._key(run)
        key.tail += 1
        key.length += 1
        run.key_pos = key.tail
        if key.length == 1:
            key.head = run.id
            run.status = Status.READY
            self.plan.ready.add(run.handler)
        else:
            run.status = Status.QUEUED

    def _leave(self, run: Run) -> None:
        if run.key is None or run.key_pos is None:
            return
        key = self._key(run)
        key.length -= 1
        run.key_pos = None
        if key.head == run.id:
            key.head = 0
            if key.length:
                self.plan.advance.add((run.handler, run.key))
                self.plan.ready.add(run.handler)

    def _key(self, run: Run) -> Key:
        assert run.key is not None
        name = (run.handler, run.key)
        key = self.snap.keys.get(name)
        if key is None:
            key = Key(run.handler, run.key)
            self._put(self.snap.keys, name, key)
        else:
            self._undo.append((key, None, copy.copy(key)))
        self.plan.keys.add(name)
        return key

    def _due(self, run: Run | None) -> None:
        if run is None or run.due_at is None or run.due_at > self._now:
            return
        if run.status == Status.PARKED:
            self._wake(run)
        elif run.status == Status.SCHEDULED:
            self._edit(run)
            if run.key_pos is None:
                self._enter(run)
            else:  # the head of its key, after a pause between attempts
                run.due_at = None
                run.status = Status.READY
                self.plan.ready.add(run.handler)

    def _finish(self, end: Finish, run: Run) -> None:
        self._edit(run)
        run.status = advance(Status(run.status), end.event)
        run.output = end.output
        run.error = end.error
        self._end(run)

    def _end(self, run: Run) -> None:
        run.worker = None
        run.asked = Asked.NOTHING
        run.due_at = None
        run.finished_at = self._now
        self._leave(run)
        self.plan.ended.append(run)
        parent = self.snap.runs.get(run.parent) if run.parent is not None else None
        if parent is not None:
            # In the same commit as the child's end: between two commits a crash
            # would leave a parent waiting for a child that is already gone.
            self._edit(parent)
            if parent.waits > 1:
                parent.waits -= 1
            else:
                parent.waits = 0
                self._wake(parent)

    def _wake(self, run: Run) -> None:
        self._edit(run)
        run.wakes += 1
        if run.status == Status.PARKED:
            run.status = Status.READY
            run.due_at = None
            self.plan.ready.add(run.handler)

    def _release(self, release: Release, run: Run) -> None:
        self._edit(run)
        run.worker = None
        run.claims = 0
        run.error = release.error if release.error is not None else run.error
        if release.failed:
            run.attempt += 1
        if release.event is not None:
            run.status = advance(Status(run.status), release.event)
            run.asked = Asked.NOTHING
        elif release.delay:
            run.status = Status.SCHEDULED
            run.due_at = self._now + release.delay
        else:
            run.status = Status.READY
            self.plan.ready.add(run.handler)

    def _park(self, park: Park, run: Run) -> None:
        if run.wakes != park.wakes:
            raise _Refusal("wakes", run.wakes)
        self._edit(run)
        run.worker = None
        run.claims = 0
        run.parked_wakes = park.wakes
        run.due_at = park.due_at
        run.status = Status.PARKED

    def _settle(self, settle: Settle) -> Promise:
        run = self._known(settle.rid)
        settled = self.snap.promises.get((run.id, settle.name))
        if settled is not None:
            if (settled.state, settled.value) == (settle.state, settle.value):
                return settled
            raise _Refusal("promise", settled)
        if Status(run.status).ended:
            raise _Refusal("status", Status(run.status))
        promise = Promise(run.id, settle.name, settle.state, settle.value, settle.by, self._now)
        self._put(self.snap.promises, (run.id, settle.name), promise)
        self.plan.promises.append(promise)
        self._wake(run)
        return promise

    # ---- state

    def _cell(self, change: KvSet | KvUpdate | KvDelete) -> Any:
        name = (change.group, change.key)
        old = self.snap.cells.get(name) or Cell()
        new: bytes | None
        if isinstance(change, KvSet):
            new = change.value
        elif isinstance(change, KvDelete):
            new = None
        else:
            new = _updated(old.value, change)
        self._put(self.snap.cells, name, Cell(new, max(old.version + 1, self._now)))
        self.plan.cells.add(name)
        if change.group in self.snap.groups:
            keys = self.snap.groups[change.group]
            self._put(self.snap.groups, change.group, keys | {change.key} if new is not None else keys - {change.key})
        return (old.value, new) if isinstance(change, KvUpdate) else old.value

    def _clear(self, change: KvClear) -> int:
        keys = self.snap.groups.get(change.group, set())
        for key in keys:
            self._put(self.snap.cells, (change.group, key), Cell(None, 0))
            self.plan.cells.add((change.group, key))
        self._put(self.snap.groups, change.group, set())
        return len(keys)

    # ---- control from outside

    def _control(self, control: Control) -> Run:
        run = self._known(control.rid)
        self._edit(run)
        try:
            getattr(self, f"_do_{control.action}")(run, control)
        except WrongStatus as error:
            raise _Refusal("status", error) from None
        return copy.copy(run)

    def _do_cancel(self, run: Run, control: Control) -> None:
        started_body = run.mode == Mode.REPLAY and run.started_at is not None
        if run.status == Status.RUNNING:
            self._ask(run, Asked.CANCEL)
        elif started_body and not Status(run.status).ended:
            # The body must see the cancel, so that what it began is compensated.
            run.asked = Asked.CANCEL
            run.wakes += 1
            run.status = Status.READY
            run.due_at = None
            self.plan.ready.add(run.handler)
        else:
            run.status = advance(Status(run.status), "cancel")
            run.error = control.error
            self._end(run)

    def _do_pause(self, run: Run, control: Control) -> None:
        if run.status == Status.RUNNING:
            self._ask(run, Asked.PAUSE)
        else:
            run.status = advance(Status(run.status), "pause")
            run.due_at = None

    def _ask(self, run: Run, what: Asked) -> None:
        run.asked = what
        run.wakes += 1
        self.plan.asked.append(run.id)

    def _do_resume(self, run: Run, control: Control) -> None:
        advance(Status(run.status), "resume")
        run.claims = 0
        run.attempt = 0
        self._again(run)

    def _do_redrive(self, run: Run, control: Control) -> None:
        advance(Status(run.status), "redrive")
        run.attempt = 0
        run.claims = 0
        run.epoch += 1
        run.finished_at = None
        run.output = None
        if control.input is not None:
            run.input = control.input
        self._again(run)

    def _do_redrive_new(self, run: Run, control: Control) -> None:
        self._do_redrive(run, control)
        run.generation += 1  # what earlier attempts remembered belongs to the old one

    def _do_discard(self, run: Run, control: Control) -> None:
        before = Status(run.status)
        run.status = advance(before, "discard")
        if not before.ended:
            self._end(run)

    def _again(self, run: Run) -> None:
        """Make a set-aside or ended run ready, or put it in its place in its key."""
        if run.key is None or run.key_pos is None:
            self._enter(run)
            return
        key = self._key(run)
        if key.head in (0, run.id):
            key.head = run.id
            run.status = Status.READY
            self.plan.ready.add(run.handler)
        else:
            run.status = Status.QUEUED
        run.due_at = None


def _updated(value: bytes | None, change: KvUpdate) -> bytes:
    if value is not None and value[:1] == b"\x00":
        where = f"{change.group}/{change.key}"
        raise _Refusal("update", UpdateError(op=0, type="update", path=where, expected="JSON", found="bytes"))
    try:
        new = apply_ops(None if value is None else _JSON.decode(value), change.ops)
    except UpdateError as error:
        raise _Refusal("update", error) from None
    return _JSON.encode(new)


def _record(entries: Sequence[Entry], results: Sequence[Any]) -> None:
    """Keep the result of the n-th change in the n-th entry that waits for one."""
    waiting = (entry for entry in entries if entry.state == RESULT)
    for entry, result in zip(waiting, results, strict=False):
        entry.state = OK
        if result is None or isinstance(result, bytes):
            entry.value = result
        elif isinstance(result, tuple):
            old, new = result
            entry.value = b"[%b,%b]" % (old if old is not None else b"null", new)
        elif isinstance(result, Published):
            entry.value = _JSON.encode(result.mid)
        else:
            entry.value = _JSON.encode(result)


def claim(run: Run, worker: int, now: int) -> bool:
    """
    Hand a ready run to a worker; False when it is set aside instead as a worker crasher.

    Changes the row, which the caller writes.
    """
    if run.claims >= CRASH_LIMIT:
        run.status = advance(Status(run.status), "attention")
        run.error = (
            b'{"type":"WorkerCrash","message":"crashes its worker: claimed %d times without a new journal entry"}'
            % run.claims
        )
        return False
    run.status = advance(Status(run.status), "claim")
    run.worker = worker
    run.epoch += 1
    run.claims += 1
    if run.started_at is None:
        run.started_at = now
    return True
