"""W9: how long a run that left memory takes to come back."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from bench.bounds import Group, bare, entry_row
from bench.engines import Running, replayed, running
from bench.figure import Figure, middle
from bench.lap import Lap
from bench.place import Place, settle
from bench.programs import note
from bench.works import Wish
from everstep.codec import return_codec
from everstep.core.batch import Applied, Batch, Run, Settle
from everstep.core.journal import OK, Entry
from everstep.core.status import Status


async def replay(wish: Wish) -> Figure:
    """
    From the commit that settles a promise to the end of the run, its journal read and replayed between.

    The bound is to read the same entries by a bare query and decode them.
    """
    lengths = (10, 1_000, 10_000) if not wish.quick else (10, 50)
    longest = lengths[-1]
    waits: dict[int, list[float]] = {n: [] for n in lengths}
    bounds, cpus, growths = list[float](), list[float](), list[float]()
    entries: list[Entry] = []
    cpu, journal = 0.0, 0
    marks: dict[int, list[float]] = {n: [] for n in lengths}
    for _ in range(wish.rounds):
        async with (
            wish.place.fresh() as url,
            running(
                url, *(replayed(f"long-{n}", _body(n, marks[n])) for n in lengths), evict="always"
            ) as run,
        ):
            for length in lengths:
                for _ in range(1 if length > 1000 else 5):
                    marks[length].clear()
                    rid = await _parked(run, f"long-{length}")
                    await settle()
                    with Lap() as lap:
                        ended = await _woken(run, rid)
                    waits[length].append(lap.seconds)
                    cpu = lap.cpu / length * 1000
                    journal = ended.id
            cpus.append(cpu)  # of the longest
            growths.append(_growth(marks[longest]))
            entries = entries or await run.engine.store.entries(journal, 0)
        bounds.append(await _bare(wish.place, entries))
    seconds = {n: middle(times) for n, times in waits.items()}
    details = {
        "wake_ms": {str(n): s * 1e3 for n, s in seconds.items()},
        "entries_per_s": {str(n): n / s for n, s in seconds.items()},
        "cost_of_last_calls_to_first": middle(growths),
    }
    return Figure(
        "W9", wish.place.kind, longest / seconds[longest], "entries/s", middle(bounds), middle(cpus), details
    )


def _body(length: int, marks: list[float]) -> Any:
    async def marked(number: int) -> dict[str, Any]:
        marks.append(time.perf_counter())  # only when it is called, not when it is replayed
        return await note(number)

    async def body(ctx: Any, given: Any) -> int:
        for number in range(length):
            await ctx.run(marked, number)
        await ctx.promise("go")
        return length

    return body


def _growth(marks: list[float]) -> float:
    """What the last calls of a run cost, against its first after the very first."""
    some = max(len(marks) // 10, 2)
    gaps = [after - before for before, after in itertools.pairwise(marks)]
    return middle(gaps[-some:]) / middle(gaps[:some])


async def _parked(run: Running, handler: str) -> str:
    rid = (await run.engine.begin(handler, b"null")).run.rid
    while True:
        found = await run.engine.store.run(rid)
        assert found is not None
        if found.status == Status.PARKED:
            return rid
        if Status(found.status).ended:
            raise RuntimeError(f"{handler} ended instead of waiting: {found.error!r}")
        await asyncio.sleep(0.002)


async def _woken(run: Running, rid: str) -> Run:
    outcome = await run.engine.worker.committer.commit(Batch(changes=[Settle(rid, "go", OK, b"1")]))
    assert isinstance(outcome, Applied), outcome
    ended = await run.engine.result(rid)
    assert ended.status == Status.DONE, ended
    return ended


async def _bare(place: Place, entries: list[Entry]) -> float:
    """Entries a second, read by a bare query and decoded."""
    decode = return_codec(note).decode
    async with place.fresh() as url, bare(url) as connection:
        await connection.write(Group(entries=[entry_row(1, e) for e in entries if e.kind == "run"]))
        start = time.perf_counter()
        for value in await connection.read_entries():
            decode(value)
        return len(entries) / (time.perf_counter() - start)
