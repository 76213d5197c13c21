"""The rules of a commit, with plain values: any groups, any order, any refusal."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from everstep.core.batch import (
    Applied,
    Batch,
    Begin,
    Change,
    Control,
    Finish,
    KvSet,
    KvUpdate,
    Mode,
    Publish,
    Refused,
    Release,
    Run,
    Settle,
)
from everstep.core.decide import CRASH_LIMIT, Decider, claim
from everstep.core.journal import OK, RESULT, Entry
from everstep.core.snapshot import Plan, Snapshot, created_at_most, needs_of
from everstep.core.status import TABLE, Status
from everstep.store.base import Subscription
from tests.core.pictures import gist, picture
from tests.core.rows import Rows, faults
from tests.store import random_groups
from tests.store.making import SECOND
from tests.store.random_groups import SUBSCRIPTIONS, Spec, batches

PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
thorough = settings(max_examples=150, deadline=None, phases=PHASES)


def empty() -> Rows:
    subscribers: dict[str, list[Subscription]] = {}
    for subscription in SUBSCRIPTIONS:
        subscribers.setdefault(subscription.topic, []).append(subscription)
    return Rows(subscribers=subscribers)


def check(rows: Rows) -> None:
    assert faults(list(rows.runs.values()), list(rows.keys.values())) == []


def play(rows: Rows, specs: Sequence[list[Spec]], *, together: bool) -> list[object]:
    """Commit the groups, as groups or batch by batch; between them, claims and a second of time."""
    seen: list[object] = []
    for number, group in enumerate(specs):
        made = batches(group, rows.by_rid(), number)
        for part in [made] if together else [[batch] for batch in made]:
            outcomes, _ = rows.commit(part)
            seen += map(gist, outcomes)
            check(rows)
        if number % 2:
            rows.skip(SECOND)
        rows.claim()
        check(rows)
    return seen


@thorough
@given(random_groups.groups)
def test_a_group_does_what_its_batches_do_one_by_one(specs: list[list[Spec]]) -> None:
    """To travel together changes nothing: the same outcomes, the same rows, none that must never be."""
    together, apart = empty(), empty()
    seen = play(together, specs, together=True)

    assert seen == play(apart, copy.deepcopy(specs), together=False)
    assert picture(together) == picture(apart)


@thorough
@given(random_groups.groups)
def test_a_refused_batch_leaves_no_trace(specs: list[list[Spec]]) -> None:
    """A group with refused batches writes just what it writes without them, to the last set of the plan."""
    rows = empty()
    for number, group in enumerate(specs):
        made = batches(group, rows.by_rid(), number)
        without = copy.deepcopy(rows)
        outcomes, plan = rows.commit(made)
        applied = [b for b, o in zip(made, outcomes, strict=True) if isinstance(o, Applied)]
        for batch in applied:  # what `committed` put into them is taken out again
            for entry in batch.entries:
                if entry.pos % 10:
                    entry.state, entry.value = RESULT, None
        again, plan_without = without.commit(applied)

        assert [gist(o) for o in again] == [gist(o) for o in outcomes if isinstance(o, Applied)]
        assert shape(plan) == shape(plan_without)
        assert picture(rows) == picture(without)
        rows.claim()


def shape(plan: Plan) -> object:
    """A plan without row ids."""
    return (
        [run.rid for run in plan.created],
        {run.rid for run in plan.changed.values()},
        len(plan.entries),
        plan.keys,
        plan.advance,
        plan.cells,
        len(plan.promises),
        [m.mid for m in plan.unrouted],
        plan.ready,
        [run.rid for run in plan.ended],
        len(plan.asked),
    )


@thorough
@given(random_groups.groups)
def test_every_change_of_status_is_in_the_table(specs: list[list[Spec]]) -> None:
    """However batches meet, a run goes only where the table leads."""
    steps = {(before, after) for event in TABLE.values() for before, after in event.items()}
    rows = empty()
    for number, group in enumerate(specs):
        for batch in batches(group, rows.by_rid(), number):
            before = {run.rid: run.state for run in rows.runs.values()}
            rows.commit([batch])
            for run in rows.runs.values():
                path = reach(before.get(run.rid, Status.SCHEDULED), steps, len(batch.changes) + 3)
                assert run.state in path
        rows.claim()


def reach(start: Status, steps: set[tuple[Status, Status]], most: int) -> set[Status]:
    seen = {start}
    for _ in range(most):
        seen |= {after for before, after in steps if before in seen}
    return seen


@thorough
@given(random_groups.groups)
def test_a_group_can_be_decided_again(specs: list[list[Spec]]) -> None:
    """A transaction that is rolled back and repeated finds its batches as they were."""
    rows = empty()
    for number, group in enumerate(specs):
        made = batches(group, rows.by_rid(), number)
        before = copy.deepcopy(made)
        snap = Snapshot(runs=copy.deepcopy(rows.runs), subscribers=rows.subscribers)
        decider = Decider(snap, 1, rows.now)
        for batch in made:
            decider.decide(batch)

        assert made == before
        rows.commit(made)
        rows.claim()


@thorough
@given(random_groups.groups)
def test_needs_name_everything_a_group_touches(specs: list[list[Spec]]) -> None:
    """A snapshot of just what is named leads to the same outcomes as one of everything."""
    rows = empty()
    for number, group in enumerate(specs):
        made = batches(group, rows.by_rid(), number)
        needs = needs_of(made)
        runs = [run for run in rows.runs.values() if run.id in needs.runs or run.rid in needs.rids]
        needs.more(runs, rows.subscribers)
        _, plan = rows.commit(made)

        named = {run.rid for run in runs} | {run.rid for run in plan.created}
        named |= {run.rid for run in rows.runs.values() if run.id in needs.runs}
        assert {run.rid for run in plan.changed.values()} <= named
        assert plan.keys <= needs.keys
        assert plan.cells <= needs.cells | {(g, k) for g in needs.groups for k in "xy"}
        assert len(plan.created) <= created_at_most(made, rows.subscribers)
        rows.claim()


actions = st.tuples(st.sampled_from(random_groups.ACTIONS), st.integers(0, 4))


@thorough
@given(
    st.lists(
        st.one_of(
            actions,
            st.sampled_from([("claim", 0), ("skip", 0)]),
            st.tuples(st.just("end"), st.integers(0, 7)),
        )
    )
)
def test_controls_keep_what_must_hold(script: list[tuple[str, int]]) -> None:
    """Five runs of one key, controlled in any order while workers claim and end them."""
    rows = empty()
    rows.commit(
        [
            Batch(changes=[Begin(f"r{n}", "h", n % 2, b"", key="k" if n < 4 else None, delay=n == 3)])
            for n in range(5)
        ]
    )
    ways: list[Finish | Release] = [
        Finish("finish"),
        Finish("fail"),
        Finish("cancel"),
        Release(),
        Release(delay=5),
        Release(event="pause"),
        Release(event="attention"),
        Release(delay=5, failed=True),
    ]
    for what, number in script:
        if what == "claim":
            rows.claim()
        elif what == "skip":
            rows.skip(10)
        elif what == "end":
            running = [run for run in rows.runs.values() if run.status == Status.RUNNING]
            rows.commit([Batch(run.id, run.epoch, changes=[ways[number]]) for run in running[:1]])
        else:
            rows.commit([Batch(changes=[Control(f"r{number}", what)])])
        check(rows)
    # Whatever happened, nothing is stuck: with everybody resumed, all come to an end.
    for _ in range(8):
        rows.commit([Batch(changes=[Control(f"r{n}", "resume")]) for n in range(5)])
        rows.skip(10)
        rows.claim()
        running = [run for run in rows.runs.values() if run.status == Status.RUNNING]
        rows.commit([Batch(run.id, run.epoch, changes=[Finish("finish")]) for run in running])
        check(rows)
    assert all(run.state.ended for run in rows.runs.values())


def test_a_crasher_is_set_aside_at_the_limit() -> None:
    """Claims without a new entry count up to the limit; then the error says why."""
    run = Run(1, "r", "h", Mode.REPLAY, Status.READY, b"", 0)
    for number in range(1, CRASH_LIMIT + 1):
        assert claim(run, 7, 5)
        assert (run.claims, run.epoch, run.worker, run.started_at) == (number, number, 7, 5)
        run.status = Status.READY
    assert not claim(run, 7, 5)

    assert run.status == Status.NEEDS_ATTENTION
    assert run.error is not None


def test_results_go_to_the_entries_that_wait_for_them() -> None:
    """In order, past entries that need none; an entry that named its message takes no result."""
    rows = empty()
    rows.commit([Batch(changes=[Begin("r", "h", 0, b"", claim=True), KvSet("g", "k", b"5")])])

    def entry(pos: int, state: int = RESULT, value: bytes | None = None) -> Entry:
        return Entry("0", pos, "x", "x", 0, pos, 0, state, value)

    entries = [entry(1, OK, b"7"), entry(2), entry(3, OK, b'"m_1"'), entry(4), entry(5), entry(6)]
    changes: list[Change] = [
        KvSet("g", "k", b"6"),
        Publish("m_1", "nobody", b""),
        KvUpdate("g", "k", [{"type": "increment", "path": "", "by": 1}]),
        Publish("m_2", "nobody", b""),
    ]
    run = rows.by_rid()["r"]
    rows.commit([Batch(run.id, run.epoch, entries, changes)])

    assert [e.value for e in entries] == [b"7", b"5", b'"m_1"', b"[6,7]", b'"m_2"', None]
    assert {e.state for e in entries} == {OK}


def test_a_settlement_of_an_unknown_run_is_refused_by_name() -> None:
    """The id is in the refusal, whoever asked."""
    outcomes, _ = empty().commit([Batch(changes=[Settle("nobody", "p", OK, b"")])])

    assert outcomes == [Refused("unknown_run", "nobody")]


@pytest.mark.parametrize("change", [Finish("finish"), Release(), object()])
def test_a_turns_change_without_a_run_is_refused(change: Any) -> None:
    """What speaks for a run needs one."""
    outcomes, _ = empty().commit([Batch(changes=[change])])

    assert isinstance(outcomes[0], Refused)
    assert outcomes[0].why == "unknown_run"
