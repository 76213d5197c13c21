"""What must be true of a store and a ledger, whatever happened on the way there.

`journaled` is asked between two deaths; `Inquest` when all is done.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from everstep.app import open_store
from everstep.codec import codec_for
from everstep.core.batch import Mode, Run
from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.store.base import PromiseRow, Store
from tests.torture import steps
from tests.torture.killer import Killer
from tests.torture.ledger import Ledger
from tests.torture.replayed import replayed
from tests.torture.replays import CANCELLED, PROGRAMS, RETRIED, Replays

_ANY = codec_for(Any)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """A store, for somebody who only looks."""
    store = open_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def all_runs(store: Store) -> list[Run]:
    """Every run there is, oldest first."""
    found: list[Run] = []
    before = None
    while page := await store.runs(before=before, limit=1000):
        found += page
        before = page[-1].id
    return found[::-1]


def journaled(url: str) -> frozenset[str]:
    """The keys of all calls whose results are in the journal now."""

    async def read() -> frozenset[str]:
        async with opened(url) as store:
            return await _journaled(store)

    return asyncio.run(read())


async def _journaled(store: Store) -> frozenset[str]:
    keys = set()
    for run in await all_runs(store):
        for entry in await store.entries(run.id, run.generation):
            if entry.kind == "run":
                keys.add(f"{run.rid}:{entry.lane}.{entry.pos}")
    return frozenset(keys)


class Inquest:
    """Looks at everything once all is done."""

    def __init__(
        self,
        url: str,
        ledger: Ledger,
        programs: list[list[Any]],
        killed: set[int],
        journaled_before: Mapping[int, frozenset[str]],
        *,
        froze: bool = False,
    ) -> None:
        """
        Args:
            programs: Replay-mode runs: id, handler, n.
            killed: Processes that may have been cut short in a function.
            journaled_before: What was in the journal when a process began.
            froze: Runs may have been taken from a process that lives, and come back to it.
        """
        self._url = url
        self._ledger = ledger
        self._programs = programs
        self._killed = killed
        self._before = journaled_before
        self._froze = froze

    def hold(self) -> dict[str, int]:
        """Assert all of it; answers how much was looked at."""
        return asyncio.run(self._hold())

    async def _hold(self) -> dict[str, int]:
        async with opened(self._url) as store:
            runs = await all_runs(store)
            entries = {run.rid: await store.entries(run.id, run.generation) for run in runs}
            promises = {run.rid: await store.promises(run.id) for run in runs}
            assert await store.sweep(10**15) == (0, 0), "the sweep found something to repair"
            assert not await store.unrouted()
            await self._hold_steps(store, runs)
            journal = await _journaled(store)
        self._hold_ends(runs)
        self._hold_calls(runs, journal)
        self._hold_repairs()
        for run in runs:
            if run.mode == Mode.REPLAY and run.started_at is not None:
                self._hold_journal(run, entries[run.rid])
                await self._hold_replay(run, entries[run.rid], promises[run.rid])
        return {"runs": len(runs), "entries": sum(map(len, entries.values())), "calls": len(journal)}

    # ---- runs

    def _hold_ends(self, runs: Iterable[Run]) -> None:
        wrong = [
            f"{r.rid} {r.handler} {r.state.label} {message_of_error(r)}"
            for r in runs
            if r.state is not (Status.CANCELLED if r.handler == CANCELLED else Status.DONE)
        ]
        assert not wrong, wrong
        assert all(r.worker is None and r.due_at is None and r.asked == 0 for r in runs)
        begun = {r.rid: r for r in runs if r.mode == Mode.REPLAY}
        assert set(begun) == {rid for rid, _, _ in self._programs}
        for rid, name, n in self._programs:
            if name != CANCELLED:
                result = _ANY.decode(begun[rid].output or b"null")
                assert PROGRAMS[name](result, n), f"{name}({n}) answered {result}"

    async def _hold_steps(self, store: Store, runs: list[Run]) -> None:
        of: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            of[run.handler].append(run)
        first = of[steps.IN]
        accepted = {f"r_{rest[1][2:]}" for _, rest in self._ledger.said("accepted")}
        assert accepted <= {r.rid for r in first}, "a message that was accepted is lost"
        n = len(first)
        sizes = {topic: len(of[topic]) for topic in (steps.LINE, steps.NOTES, steps.LEAF)}
        assert sizes == {steps.LINE: n, steps.NOTES: n, steps.LEAF: 3 * n}
        counts = {row.key: json.loads(row.value)["n"] for row in await store.kv_list("count")}
        assert counts == steps.expected_counts(n)
        rids = sorted(r.rid for r in first)
        everybody = await store.kv_get("all", "rids")
        assert sorted(json.loads(everybody.value) if everybody else []) == rids
        assert [row.key for row in await store.kv_list("marker")] == rids
        assert {row.key: row.value for row in await store.kv_list("absolute")} == dict.fromkeys(rids, b"1")
        assert not await store.kv_list("gone")
        noted = sorted(r.rid for r in of[steps.NOTES])
        mine = {row.key: json.loads(row.value) for row in await store.kv_list("mine")}
        assert mine == {rid: {"n": 2} for rid in noted}
        self._hold_order(of[steps.LINE], {r.key: json.loads(r.value) for r in await store.kv_list("order")})

    def _hold_order(self, runs: list[Run], order: Mapping[str, list[str]]) -> None:
        sent: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            sent[str(run.key)].append(run.rid)
        assert dict(order) == dict(sent), "a FIFO group was not handled in the order it was sent"
        handled: dict[str, list[str]] = defaultdict(list)
        for _, (key, rid) in self._ledger.said("line"):
            if rid not in handled[key][-1:]:
                handled[key].append(rid)
        assert dict(handled) == dict(sent), "a FIFO group was begun out of order"

    # ---- functions of ctx.run

    def _hold_calls(self, runs: list[Run], journal: frozenset[str]) -> None:
        handler = {r.rid: r.handler for r in runs}
        calls: dict[str, list[int]] = defaultdict(list)
        for who, (key,) in self._ledger.said("run"):
            calls[key].append(who)
        for key, by in calls.items():
            per_process = Counter(by)
            if handler[key.partition(":")[0]] not in RETRIED and not self._froze:
                assert max(per_process.values()) == 1, f"{key} ran twice in one process: {by}"
            for who in per_process:
                assert key not in self._before.get(who, ()), f"{key} ran again after it was journaled: {by}"
            cut_short = set(by) - {by[-1]}
            assert cut_short <= self._killed, f"{key} ran again although nobody was killed in it: {by}"
        never = journal - set(calls)
        assert not never, f"in the journal, and never run: {never}"

    def _hold_repairs(self) -> None:
        repaired = [rest for _, rest in self._ledger.said("repairs") if rest != ["0"]]
        assert not repaired, "a worker's sweep repaired something"

    # ---- journals

    def _hold_journal(self, run: Run, entries: list[Entry]) -> None:
        seqs = [e.seq for e in entries if e.seq is not None]
        assert seqs == list(range(1, len(seqs) + 1)), f"{run.rid}: the order of delivery has a hole"

    async def _hold_replay(self, run: Run, entries: list[Entry], promises: list[PromiseRow]) -> None:
        """The whole journal, handed to a fresh body, leads to the same end."""
        if run.started_at is None:
            return  # cancelled before there was room for it: no body ever saw it
        handlers = {h.name: h for h in Replays(self._ledger, Killer()).handlers()}
        finish = await replayed(run, handlers[run.handler], entries, promises)
        if run.handler == CANCELLED:
            assert finish.event == "cancel"
        else:
            assert finish.event == "finish", finish
            assert finish.output == run.output, f"{run.rid}: a replay of the whole has another result"


def message_of_error(run: Run) -> str:
    """The error of a run, as text."""
    return "" if run.error is None else run.error.decode("utf-8", "replace")[:2000]


__all__ = ["Inquest", "all_runs", "journaled", "opened"]
