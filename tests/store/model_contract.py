"""Promises of every store: whatever is sent to it, it is what the rules say, and nothing gets stuck."""

import asyncio
import os
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from everstep.core.batch import Applied, Batch, Control, Finish, Outcome, Publish, Run
from everstep.core.snapshot import Cell, Key, Promise
from everstep.core.status import Status
from everstep.store.base import Claim, Store, WorkerRef
from tests.core.pictures import gist, picture
from tests.core.rows import Rows, faults
from tests.store import random_groups
from tests.store.making import SECOND, Execute, ManualClock
from tests.store.random_groups import HANDLERS, SUBSCRIPTIONS, Spec, batches

EVERYTHING = Claim(100, dict.fromkeys(HANDLERS, 100))
some = settings(
    max_examples=1_000 if os.environ.get("EVERSTEP_TORTURE") else 20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a race shows itself once, and not again smaller
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
        HealthCheck.too_slow,
    ],
)


async def empty(execute: Execute) -> None:
    for table in ("run", "entry", "key", "promise", "kv", "unrouted"):
        await execute(f"DELETE FROM {table}")


async def rows_of(store: Store, execute: Execute) -> Rows:
    """Everything a store keeps, as plain values."""
    rows = Rows()
    runs = await store.runs(limit=10_000)
    rows.runs = {run.id: run for run in runs}
    for run in runs:
        for generation in range(run.generation + 1):
            for entry in await store.entries(run.id, generation):
                rows.entries[run.id, generation, entry.lane, entry.pos] = entry
    found = await execute('SELECT run, name, state, value, "by", at FROM promise')
    rows.promises = {(row[0], row[1]): Promise(*row) for row in found}
    found = await execute("SELECT handler, key, head, tail, length FROM key")
    rows.keys = {(row[0], row[1]): Key(*row) for row in found}
    found = await execute("SELECT grp, key, value, version FROM kv")
    rows.cells = {(row[0], row[1]): Cell(row[2], row[3]) for row in found}
    found = await execute("SELECT mid, topic, data FROM unrouted ORDER BY id")
    rows.unrouted = [Publish(*row) for row in found]
    return rows


async def healthy(store: Store, execute: Execute) -> Rows:
    rows = await rows_of(store, execute)
    assert faults(list(rows.runs.values()), list(rows.keys.values())) == []
    return rows


class ModelContract:
    @some
    @given(specs=random_groups.groups, together=st.booleans(), turns=st.lists(st.booleans(), min_size=6))
    async def test_a_store_does_what_the_rules_say(
        self,
        store: Store,
        second: Store | None,
        worker: WorkerRef,
        clock: ManualClock,
        execute: Execute,
        specs: list[list[Spec]],
        together: bool,
        turns: list[bool],
    ) -> None:
        """Any groups, sent through one process or two in turns: the outcomes and rows of plain values."""
        await empty(execute)
        await store.subscribe(SUBSCRIPTIONS, HANDLERS)
        model = Rows(worker=worker.id)
        for subscription in SUBSCRIPTIONS:
            model.subscribers.setdefault(subscription.topic, []).append(subscription)
        for number, group in enumerate(specs):
            here = second if second is not None and turns[number] else store
            mine = batches(group, {run.rid: run for run in await store.runs(limit=10_000)}, number)
            theirs = batches(group, model.by_rid(), number)
            for part, same in (
                [(mine, theirs)] if together else [([m], [t]) for m, t in zip(mine, theirs, strict=True)]
            ):
                outcomes = (await here.commit(worker, part)).outcomes
                expected, _ = model.commit(same)
                assert list(map(gist, outcomes)) == list(map(gist, expected))
            if number % 2:
                clock.skip(SECOND)
                model.skip(SECOND)
            await here.commit(worker, [], EVERYTHING)
            model.claim()

            assert picture(await healthy(store, execute)) == picture(model)

    @some
    @given(left=random_groups.groups, right=random_groups.groups)
    async def test_two_processes_at_once_leave_nothing_torn(
        self,
        store: Store,
        other: Store,
        worker: WorkerRef,
        clock: ManualClock,
        execute: Execute,
        left: list[list[Spec]],
        right: list[list[Spec]],
    ) -> None:
        """Any groups of two workers at the same moments: nothing that must never be, and nothing stuck."""
        await empty(execute)
        await store.subscribe(SUBSCRIPTIONS, HANDLERS)
        theirs = await other.register("w2", "", HANDLERS)

        async def send(store: Store, me: WorkerRef, specs: Sequence[list[Spec]], first: int) -> None:
            for number, group in enumerate(specs):
                runs = {run.rid: run for run in await store.runs(limit=10_000)}
                await store.commit(
                    me, batches(group, runs, first + number), EVERYTHING if number % 2 else None
                )

        await asyncio.gather(send(store, worker, left, 0), send(other, theirs, right, 100))
        await healthy(store, execute)
        await self._finish_all(store, worker, theirs, clock)
        await healthy(store, execute)
        await other.retire(theirs)

    async def _finish_all(self, store: Store, mine: WorkerRef, theirs: WorkerRef, clock: ManualClock) -> None:
        """Resume, claim and finish until nothing is left."""
        for _ in range(60):
            runs = [run for run in await store.runs(limit=10_000) if not run.state.ended]
            if not runs:
                return
            parked = [run for run in runs if run.status == Status.PARKED]
            aside = [run for run in runs if run.status in (Status.PAUSED, Status.NEEDS_ATTENTION)]
            batches = [Batch(changes=[Control(run.rid, "resume")]) for run in aside]
            batches += [Batch(changes=[Control(run.rid, "cancel")]) for run in parked]
            await store.commit(None, batches)
            clock.skip(2 * SECOND)
            await store.commit(mine, [], EVERYTHING)
            for me in (mine, theirs):
                running = await store.runs(statuses=[Status.RUNNING])
                await self._finish(store, me, [run for run in running if run.worker == me.id])
        left = [(run.rid, run.state.label) for run in await store.runs() if not run.state.ended]
        raise AssertionError(f"stuck: {left}")

    async def _finish(self, store: Store, me: WorkerRef, running: list[Run]) -> None:
        done = await store.commit(me, [Batch(run.id, run.epoch, [], [Finish("finish")]) for run in running])
        outcomes: list[Outcome] = done.outcomes
        assert all(isinstance(outcome, Applied) for outcome in outcomes)
