"""Random groups of batches over a few names, so that they meet: for the rules and for every store."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from everstep.core.batch import (
    Batch,
    Begin,
    Change,
    Control,
    Finish,
    Guard,
    KvClear,
    KvDelete,
    KvSet,
    KvUpdate,
    KvVersion,
    Mode,
    Park,
    PromiseOpen,
    Publish,
    Release,
    Run,
    Settle,
)
from everstep.core.journal import OK, RESULT, Entry
from everstep.store.base import Subscription
from tests.store.making import SECOND

SUBSCRIPTIONS = [
    Subscription("fifo", "f", fifo=True),
    Subscription("plain", "a"),
    Subscription("plain", "b", delay=SECOND),
    Subscription("mixed", "a", fifo=True),
    Subscription("mixed", "c"),
]
HANDLERS = ["a", "b", "c", "f", "h"]
ACTIONS = ["cancel", "pause", "resume", "redrive", "redrive_new", "discard"]

rids = st.sampled_from(["r0", "r1", "r2", "r3", "r4"])
known = st.one_of(rids, st.builds("r_{}{}".format, st.integers(0, 9), st.sampled_from(["", "-1"])))
delays = st.sampled_from([0, 0, 0, SECOND])
values = st.sampled_from([b"1", b"2", b'{"n":1}'])
keys = st.sampled_from([None, "k", "j"])

outside_changes = st.one_of(
    st.builds(
        Begin,
        rids,
        st.just("h"),
        st.sampled_from([Mode.REPLAY, Mode.RETRY]),
        values,
        key=keys,
        delay=delays,
        claim=st.booleans(),
        attach=st.booleans(),
        priority=st.integers(0, 1),
    ),
    st.builds(
        Publish,
        st.just("m_?"),
        st.sampled_from(["fifo", "plain", "mixed", "nobody"]),
        values,
        group=keys,
        delay=st.one_of(st.none(), delays),
    ),
    st.builds(Settle, known, st.sampled_from(["p", "q"]), st.just(OK), values),
    st.builds(Control, known, st.sampled_from(ACTIONS)),
    st.builds(Control, known, st.sampled_from(ACTIONS)),
    st.builds(KvSet, st.sampled_from("gh"), st.sampled_from("xy"), values),
    st.builds(KvDelete, st.sampled_from("gh"), st.sampled_from("xy")),
    st.builds(KvClear, st.sampled_from("gh")),
    st.builds(
        KvUpdate,
        st.sampled_from("gh"),
        st.sampled_from("xy"),
        st.just([{"type": "increment", "path": "", "by": 1}]),
    ),
)
ends = st.one_of(
    st.builds(Finish, st.sampled_from(["finish", "fail", "cancel", "skip"]), values),
    st.builds(
        Release,
        st.one_of(st.none(), delays),
        st.booleans(),
        event=st.sampled_from([None, None, "attention", "pause"]),
    ),
    st.builds(Park, st.integers(0, 2), waits=st.integers(0, 2)),
)
guards = st.one_of(
    st.builds(PromiseOpen, known, st.sampled_from(["p", "q"])),
    st.builds(KvVersion, st.sampled_from("gh"), st.sampled_from("xy"), st.sampled_from([0, 0, 7])),
)

Spec = tuple[str, list[Change], list[Guard], int]  # whose turn ("" nobody's), changes, guards, entries
turns = st.tuples(
    known,
    st.tuples(st.lists(outside_changes, max_size=2), st.lists(ends, max_size=1)).map(
        lambda two: two[0] + two[1]
    ),
    st.lists(guards, max_size=1),
    st.integers(0, 3),
)
clients = st.tuples(
    st.just(""), st.lists(outside_changes, min_size=1, max_size=3), st.lists(guards, max_size=1), st.just(0)
)
group = st.lists(st.one_of(clients, turns), min_size=1, max_size=5)
groups = st.lists(group, min_size=1, max_size=6)


def batches(specs: Sequence[Spec], runs: Mapping[str, Run], number: int) -> list[Batch]:
    """Make the batches of the *number*-th group; `Park` sees the wakes of now, plus what it says past 1."""
    made = []
    messages = 0
    for rid, changes, when, entries in specs:
        run = runs.get(rid)
        batch = Batch(guards=list(when))
        if rid:
            batch.run, batch.epoch = (run.id, run.epoch) if run is not None else (999_999, 1)
            batch.entries = [
                Entry(
                    "0", number * 10 + n, "run", "x", 1, number, 0, RESULT if n else OK, None if n else b"1"
                )
                for n in range(entries)
            ]
        for change in changes:
            batch.changes.append(_fresh(change, run, number * 10 + messages))
            messages += isinstance(change, Publish)
        made.append(batch)
    return made


def _fresh(change: Change, run: Run | None, message: int) -> Change:
    match change:
        case Publish():
            fresh: Any = Publish(f"m_{message}", change.topic, change.data, change.group, change.delay)
            return fresh  # type: ignore[no-any-return]
        case Park():
            wakes = run.wakes if run is not None else 0
            return Park(wakes + max(0, change.wakes - 1), waits=change.waits)
        case _:
            return change
