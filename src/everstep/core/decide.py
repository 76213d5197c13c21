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
  (`Plan.advance`).  A key whose runs are all paused behind it has none.
* The same group may be decided twice, when its transaction is repeated: what
  the batches hold is changed only by `committed`.

Floor 1.  May import: core, floor 0.  Imported by: store.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from everstep.codec import codec_for
from everstep.core.batch import (
    APPLIED,
    Applied,
    Asked,
    Batch,
    Begin,
    Begun,
    Change,
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
from everstep.core.snapshot import Cell, Plan, Promise, Snapshot
from everstep.core.status import Status, WrongStatus, advance
from everstep.core.updates import apply as apply_ops
from everstep.core.working import Working
from everstep.errors import NotEncodable, UpdateError

CRASH_LIMIT = 5  # claims without a new entry, then the run is set aside
_JSON = codec_for(Any)


class _Refusal(Exception):
    """Stops a batch; never leaves this module."""

    def __init__(self, why: str, current: Any = None) -> None:
        self.outcome = Refused(why, current)


class Decider:
    """Judges the batches of one group, one after the other."""

    def __init__(self, snapshot: Snapshot, worker: int | None, now: int) -> None:
        self._work = Working(snapshot, now)
        self._snap = snapshot
        self._worker = worker
        self._kept: list[tuple[Entry, Entry]] = []
        self.plan = self._work.plan

    def decide(self, batch: Batch) -> Outcome:
        """Apply one batch to the working copy and the plan, or refuse it without a trace."""
        run: Run | None = None
        if batch.run:
            run = self._snap.runs.get(batch.run)
            if run is None or run.epoch != batch.epoch or run.status != Status.RUNNING:
                return Refused("run_epoch", run.epoch if run is not None else None)
        results: list[Any] | None = None
        if batch.guards or batch.changes:
            mark = self._work.mark()
            try:
                for guard in batch.guards:
                    self._guard(guard)
                results = [self._apply(change, run) for change in batch.changes]
            except _Refusal as refusal:
                self._work.take_back(mark)
                return refusal.outcome
            except WrongStatus as error:
                self._work.take_back(mark)
                return Refused("status", error)
        if run is not None and batch.entries:
            self._remember(run, batch.entries, results)
        return Applied(results) if results else APPLIED

    def _remember(self, run: Run, entries: Sequence[Entry], results: Sequence[Any] | None) -> None:
        if results:
            entries = self._with_results(entries, results)
        add = self.plan.entries.append
        row, generation = run.id, run.generation
        for entry in entries:
            add((row, generation, entry))
        if run.claims > 1 and run.status == Status.RUNNING:
            self._work.edit(run).claims = 1

    def _with_results(self, entries: Sequence[Entry], results: Sequence[Any]) -> list[Entry]:
        """
        Keep the result of the n-th change in the n-th entry that waits for one.

        In copies: a group that is rolled back is decided again, with other
        results. A message whose entry named it beforehand waits for nothing.
        """
        known = {entry.value for entry in entries if entry.state == OK}
        values = iter(
            [
                _as_value(result)
                for result in results
                if not isinstance(result, Published) or _JSON.encode(result.mid) not in known
            ]
        )
        kept = list(entries)
        for number, entry in enumerate(entries):
            if entry.state == RESULT:
                kept[number] = replace(entry, state=OK, value=next(values, None))
                self._kept.append((entry, kept[number]))
        return kept

    def committed(self) -> None:
        """The group is durable: entries that waited for a result have it from now on."""
        for entry, recorded in self._kept:
            entry.state, entry.value = recorded.state, recorded.value

    # ---- guards

    def _guard(self, guard: PromiseOpen | KvVersion) -> None:
        if isinstance(guard, PromiseOpen):
            run = self._known(guard.rid)
            settled = self._snap.promises.get((run.id, guard.name))
            if settled is not None:
                raise _Refusal("promise", settled)
        else:
            cell = self._snap.cells.get((guard.group, guard.key)) or Cell()
            version = cell.version if cell.value is not None else 0
            if version != guard.version:
                raise _Refusal("kv_version", version)

    def _known(self, rid: str) -> Run:
        run = self._snap.rids.get(rid)
        if run is None:
            raise _Refusal("unknown_run", rid)
        return run

    # ---- changes

    def _apply(self, change: Change, run: Run | None) -> Any:
        kind = type(change)
        if kind in _BY_ANYBODY:
            return _BY_ANYBODY[kind](self, change)
        if run is None:
            raise _Refusal("unknown_run", kind.__name__)
        return _BY_ITS_TURN[kind](self, change, run)

    def _begin(self, begin: Begin) -> Begun:
        taken = self._snap.rids.get(begin.rid)
        if taken is not None:
            if not begin.attach:
                raise _Refusal("id_taken", taken)
            return Begun(taken, created=False)
        run = self._work.new_run(begin.rid, begin.handler, begin.mode, begin.input)
        run.topic = begin.topic
        run.trace = begin.trace
        run.priority = begin.priority
        run.hops = begin.hops
        run.parent = begin.parent
        run.fp = begin.fp
        run.key = begin.key
        if begin.delay > 0:
            run.due_at = self._work.now + begin.delay
        else:
            me = self._worker if begin.claim else None
            self._work.enter(run, taken=me is not None)
            if me is not None and run.status == Status.READY:
                claim(run, me, self._work.now)
        return Begun(run, created=True)

    def _publish(self, message: Publish) -> Published:
        subscribers = self._snap.subscribers.get(message.topic, ())
        if not subscribers:
            self.plan.unrouted.append(message)
            return Published(message.mid, ())
        for number, sub in enumerate(subscribers):
            if sub.fifo and message.group is None:
                raise _Refusal("group_missing", (message.topic, sub.handler))
            rid = f"r_{message.mid[2:]}-{number}" if number else f"r_{message.mid[2:]}"
            if rid in self._snap.rids:
                raise _Refusal("id_taken", self._snap.rids[rid])
            run = self._work.new_run(rid, sub.handler, Mode.RETRY, message.data)
            run.topic = message.topic
            run.trace = message.trace
            run.priority = message.priority
            run.hops = message.hops
            if sub.fifo:
                run.key = message.group
            delay = sub.delay if message.delay is None else message.delay
            if delay > 0:
                run.due_at = self._work.now + delay
            else:
                self._work.enter(run)
        return Published(message.mid, tuple(sub.handler for sub in subscribers))

    def _due(self, due: Due) -> None:
        run = self._snap.runs.get(due.run)
        if run is None or run.due_at is None or run.due_at > self._work.now:
            return
        if run.status == Status.PARKED:
            self._work.wake(run, "promote")
        elif run.status == Status.SCHEDULED:
            self._work.edit(run)
            self._work.enter(run)

    def _finish(self, end: Finish, run: Run) -> None:
        self._work.edit(run)
        run.output = end.output
        run.error = end.error
        if end.event == "fail":
            run.attempt += 1
        self._work.end(run, end.event)

    def _release(self, release: Release, run: Run) -> None:
        self._work.edit(run)
        run.worker = None
        run.claims = 0
        run.error = release.error if release.error is not None else run.error
        if release.failed:
            run.attempt += 1
        # What was asked while the turn was ending counts more than what it wanted:
        # a cancel is taken to the next claim at once, a pause is done here.
        cancel, pause = run.asked == Asked.CANCEL, run.asked == Asked.PAUSE
        if release.event == "attention":
            self._work.move(run, "attention")
        elif not cancel and (pause or release.event is not None):
            self._work.move(run, release.event or "pause")
        elif release.delay and not cancel:
            self._work.move(run, "backoff")
            run.due_at = self._work.now + release.delay
        else:
            self._work.move(run, "release")
            self._work.note(self.plan.ready, run.handler)
        if pause:
            run.asked = Asked.NOTHING

    def _park(self, park: Park, run: Run) -> None:
        if run.wakes != park.wakes:
            raise _Refusal("wakes", run.wakes)
        if run.asked:
            # Asked of a turn that had nothing left to do: its worker may not get
            # to tell it before it is gone, and then nobody would.
            self._release(Release(), run)
            return
        self._work.edit(run)
        self._work.move(run, "park")
        run.worker = None
        run.claims = 0
        run.parked_wakes = park.wakes
        run.waits = park.waits
        run.due_at = park.due_at

    def _settle(self, settle: Settle) -> Promise:
        run = self._known(settle.rid)
        settled = self._snap.promises.get((run.id, settle.name))
        if settled is not None:
            if (settled.state, settled.value) == (settle.state, settle.value):
                return settled
            raise _Refusal("promise", settled)
        if Status(run.status).ended:
            raise _Refusal("status", Status(run.status))
        promise = Promise(run.id, settle.name, settle.state, settle.value, settle.by, self._work.now)
        self._work.put(self._snap.promises, (run.id, settle.name), promise)
        self.plan.promises.append(promise)
        self._work.wake(run)
        return promise

    # ---- state

    def _cell(self, change: KvSet | KvUpdate | KvDelete) -> Any:
        name = (change.group, change.key)
        old = self._snap.cells.get(name) or Cell()
        new: bytes | None
        if isinstance(change, KvSet):
            new = change.value
        elif isinstance(change, KvDelete):
            new = None
        else:
            new = _updated(old.value, change)
        self._work.put(self._snap.cells, name, Cell(new, max(old.version + 1, self._work.now)))
        self._work.note(self.plan.cells, name)
        keys = self._snap.groups.get(change.group)
        if keys is not None:
            keys = keys - {change.key} if new is None else keys | {change.key}
            self._work.put(self._snap.groups, change.group, keys)
        return (old.value, new) if isinstance(change, KvUpdate) else old.value

    def _clear(self, change: KvClear) -> int:
        keys = self._snap.groups.get(change.group, frozenset())
        for key in keys:
            self._cell(KvDelete(change.group, key))
        return len(keys)

    # ---- control from outside

    def _control(self, control: Control) -> Run:
        run = self._known(control.rid)
        self._work.edit(run)
        getattr(self, f"_do_{control.action}")(run, control)
        return copy.copy(run)

    def _do_cancel(self, run: Run, control: Control) -> None:
        if run.status == Status.RUNNING:
            self._ask(run, Asked.CANCEL)
        elif run.mode == Mode.REPLAY and run.started_at is not None and not run.state.ended:
            # The body must see the cancel, so that what it began is compensated.
            run.asked = Asked.CANCEL
            run.wakes += 1
            run.claims = 0
            if run.status not in (Status.READY, Status.QUEUED):
                self._work.enter(run, "rouse")
        else:
            run.error = control.error
            self._work.end(run, "cancel")

    def _do_pause(self, run: Run, control: Control) -> None:
        if run.asked == Asked.CANCEL:
            raise WrongStatus("pause", run.state, "being cancelled")
        if run.status == Status.RUNNING:
            self._ask(run, Asked.PAUSE)
        else:
            self._work.move(run, "pause")
            run.due_at = None

    def _ask(self, run: Run, what: Asked) -> None:
        run.asked = what
        run.wakes += 1
        self.plan.asked.append(run.id)

    def _do_resume(self, run: Run, control: Control) -> None:
        self._work.enter(run, "resume")
        run.claims = 0
        run.attempt = 0

    def _do_redrive(self, run: Run, control: Control) -> None:
        self._work.enter(run, "redrive")
        run.asked = Asked.NOTHING
        run.attempt = 0
        run.claims = 0
        run.epoch += 1
        run.finished_at = None
        run.output = None
        if control.input is not None:
            run.input = control.input

    def _do_redrive_new(self, run: Run, control: Control) -> None:
        self._do_redrive(run, control)
        run.generation += 1  # what earlier attempts remembered belongs to the old one

    def _do_discard(self, run: Run, control: Control) -> None:
        if run.state.ended:
            self._work.move(run, "discard")
        else:
            self._work.end(run, "discard")


_BY_ANYBODY: dict[type, Callable[[Decider, Any], Any]] = {
    Publish: Decider._publish,
    KvSet: Decider._cell,
    KvUpdate: Decider._cell,
    KvDelete: Decider._cell,
    KvClear: Decider._clear,
    Begin: Decider._begin,
    Settle: Decider._settle,
    Control: Decider._control,
    Due: Decider._due,
}
_BY_ITS_TURN: dict[type, Callable[[Decider, Any, Run], Any]] = {
    Finish: Decider._finish,
    Release: Decider._release,
    Park: Decider._park,
}


def _updated(value: bytes | None, change: KvUpdate) -> bytes:
    if value is not None and value[:1] == b"\x00":
        where = f"{change.group}/{change.key}"
        raise _Refusal("update", UpdateError(op=0, type="update", path=where, expected="JSON", found="bytes"))
    try:
        return _JSON.encode(apply_ops(None if value is None else _JSON.decode(value), change.ops))
    except UpdateError as error:
        raise _Refusal("update", error.of(change.group, change.key)) from None
    except NotEncodable as error:
        raise _Refusal("update", error) from None


def _as_value(result: Any) -> bytes | None:
    """The result of a change as an entry keeps it."""
    match result:
        case None | bytes():
            return result
        case (old, new):
            return b"[%b,%b]" % (old if old is not None else b"null", new)
        case Published():
            return _JSON.encode(result.mid)
        case Begun():
            return _JSON.encode(result.run.rid)
        case Run():
            return _JSON.encode(result.rid)
        case Promise():
            return result.value
        case _:
            return _JSON.encode(result)


def claim(run: Run, worker: int, now: int) -> bool:
    """
    Hand a ready run to a worker; False when it is set aside instead as a worker crasher.

    Changes the row, which the caller writes.
    """
    if run.claims >= CRASH_LIMIT:
        run.status = advance(run.status, "attention")
        why = f"crashes its worker: claimed {run.claims} times without a new journal entry"
        run.error = _JSON.encode({"type": "WorkerCrash", "message": why})
        return False
    run.status = advance(run.status, "claim")
    run.worker = worker
    run.epoch += 1
    run.claims += 1
    if run.started_at is None:
        run.started_at = now
    return True


def claim_born(plan: Plan, worker: int, room: Mapping[str, int], total: int, now: int) -> list[Run]:
    """
    Hand out ready runs of this very group, before they are written, in the order of any claim.

    Changes the rows.  The caller has made sure that nobody waits longer: *room*
    names only handlers of which no other run is ready.
    """
    ready = [run for run in plan.created if run.status == Status.READY and room.get(run.handler, 0) > 0]
    ready.sort(key=lambda run: (-run.priority, run.id))
    left = dict(room)
    claimed: list[Run] = []
    for run in ready:
        if len(claimed) < total and left[run.handler] > 0 and claim(run, worker, now):
            left[run.handler] -= 1
            claimed.append(run)
    return claimed


def still_ready(plan: Plan) -> set[str]:
    """The handlers that this group leaves ready runs to."""
    ready = {run.handler for run in plan.created if run.status == Status.READY}
    ready |= {run.handler for run in plan.changed.values() if run.status == Status.READY}
    return ready | {handler for handler, _ in plan.advance}
