"""W5: kill -9 in the middle of W1."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.child import Child
from bench.figure import Figure, middle
from bench.place import Place, store_at
from bench.works import Wish

CALLS = 10


async def recovery(wish: Wish) -> Figure:
    """
    Seconds from the restart to the end of all runs, less the work that was left.

    The work left is what an undisturbed process needs for as many calls; that
    time is the bound.  Every call is also written to a ledger outside, so that
    one whose answer was durable at the kill and ran again would be seen.
    """
    count = wish.size(2_000, 30)
    over, lefts, repeats, violations = list[float](), list[float](), list[int](), 0
    cpu = 0.0
    for _ in range(1 if wish.quick else 3):
        undisturbed, cpu = await _undisturbed(wish.place, count)
        seconds, calls_left, again, wrong = await _killed(wish.place, count)
        work = undisturbed * calls_left / (count * CALLS)
        over.append(seconds - work)
        lefts.append(work)
        repeats.append(again)
        violations += wrong
    if violations:
        raise RuntimeError(f"{violations} calls ran again although their answer was durable")
    details = {
        "workflows": count,
        "run_again": repeats,
        "run_again_though_durable": violations,
        "rounds": over,
    }
    return Figure(
        "W5", wish.place.kind, middle(over), "s", middle(lefts), cpu / count / CALLS * 1000, details
    )


async def _undisturbed(place: Place, count: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="everstep-bench-") as folder:
        async with place.fresh() as url:
            before = os.times()
            child = await Child.start("calls", url, f"{folder}/ledger", str(count))
            seconds = float((await child.hear("done"))["seconds"])
            await child.end()
            after = os.times()
    return (
        seconds,
        after.children_user + after.children_system - before.children_user - before.children_system,
    )


async def _killed(place: Place, count: int) -> tuple[float, int, int, int]:
    with tempfile.TemporaryDirectory(prefix="everstep-bench-") as folder:
        ledger = Path(folder) / "ledger"
        async with place.fresh() as url:
            child = await Child.start("calls", url, str(ledger), str(count))
            await child.hear("began")
            await _until(ledger, int(count * CALLS * 0.437))  # not where a hundred side by side just ended
            await child.kill()
            durable = await _durable(url)
            before = len(_read(ledger))
            start = time.monotonic()
            child = await Child.start("calls", url, str(ledger), "0")
            done = await child.hear("done")
            await child.end()
            final = await _durable(url)
        lines = _read(ledger)
    if len(final) != count * CALLS or len(set(lines)) != count * CALLS:
        raise RuntimeError(f"{count * CALLS} calls asked for, {len(set(lines))} made, {len(final)} recorded")
    again = sum(number - 1 for number in Counter(lines).values())
    wrong = sum(line in durable for line in lines[before:])
    return done["at"] - start, count * CALLS - len(durable), again, wrong


async def _until(ledger: Path, calls: int) -> None:
    while len(_read(ledger)) < calls:  # noqa: ASYNC110  # another process writes it
        await asyncio.sleep(0.002)


def _read(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


async def _durable(url: str) -> set[str]:
    """The calls whose answers are in the journal."""
    store = store_at(url)
    await store.open()
    found = set()
    for run in await store.runs(handler="calls", limit=100_000):
        for entry in await store.entries(run.id, run.generation):
            if entry.kind == "run":
                found.add(f"{run.rid} {(entry.value or b'').decode()}")
    await store.close()
    return found
