"""W1, W2, W4: calls of ctx.run."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.bounds import Rows, grouped, time_groups
from bench.engines import FLIGHT, crowd, replayed, running
from bench.figure import Figure, middle, percentile
from bench.lap import Lap
from bench.place import settle
from bench.programs import note, one_call, ten_calls, ten_typed_calls
from bench.works import NotYet, Wish

CALLS = 10
BODIES = {"plain": ten_calls, "pydantic": ten_typed_calls}


async def throughput(wish: Wish) -> Figure:
    """W1: many workflows side by side, each of ten calls."""
    body = BODIES.get(wish.variant)
    if body is None:
        raise NotYet(f"W1 has the variants {', '.join(BODIES)}")
    count = wish.size(2_000, 20)
    rates, bounds, cpus, sizes = list[float](), list[float](), list[float](), list[float]()
    rows = Rows()
    for _ in range(wish.rounds):
        async with wish.place.fresh() as url, running(url, replayed("calls", body)) as run:
            await crowd(wish.size(200, 2), lambda _: run.do("calls"))
            await settle()
            run.commits.clear()
            with Lap() as lap:
                await crowd(count, lambda _: run.do("calls"))
            rates.append(count * CALLS / lap.seconds)
            cpus.append(lap.cpu / count / CALLS * 1000)
            sizes.append(run.commits.average)
            if not rows.runs:
                rows = await Rows.of(run.engine.store, "calls", count)
        async with wish.place.fresh() as url:
            # A workflow is ten entries, its birth and its end.
            times = await time_groups(url, grouped(rows.interleaved(FLIGHT), sizes[-1]))
            bounds.append(count * CALLS / sum(times))
    name = "W1" if wish.variant == "plain" else f"W1-{wish.variant}"
    details = {"workflows": count, "in_flight": FLIGHT, "batches_per_group": middle(sizes), "rounds": rates}
    return Figure(name, wish.place.kind, middle(rates), "calls/s", middle(bounds), middle(cpus), details)


async def latency(wish: Wish) -> Figure:
    """W2: a small workflow, alone."""
    count = wish.size(300, 5)
    p50s, p99s, bounds, cpus, commits = list[float](), list[float](), list[float](), list[float](), 0.0
    for _ in range(wish.rounds):
        async with wish.place.fresh() as url, running(url, replayed("call", one_call)) as run:
            for _ in range(wish.size(30, 1)):
                await run.do("call")
            await settle()
            run.commits.clear()
            times = []
            with Lap() as lap:
                for _ in range(count):
                    start = time.perf_counter()
                    await run.do("call")
                    times.append((time.perf_counter() - start) * 1e3)
            p50s.append(middle(times))
            p99s.append(percentile(times, 0.99))
            cpus.append(lap.cpu / count * 1000)
            commits = run.commits.groups / count
            rows = await Rows.of(run.engine.store, "call", count)
        async with wish.place.fresh() as url:
            # The same commits, bare and one row each.
            bare = await time_groups(url, grouped(rows.interleaved(1), 1))
            bounds.append(middle(bare) * 1e3 * commits)
    details = {"p99_ms": middle(p99s), "commits_each": commits, "workflows": count, "rounds": p50s}
    return Figure("W2", wish.place.kind, middle(p50s), "ms", middle(bounds), middle(cpus), details)


async def fan_out(wish: Wish) -> Figure:
    """W4: many calls at once in one workflow."""
    width = wish.size(1_000, 20)

    async def body(ctx: Any, given: Any) -> int:
        answers = await asyncio.gather(*(ctx.run(note, number) for number in range(width)))
        return len(answers)

    seconds, bounds, cpus, groups = list[float](), list[float](), list[float](), 0
    for _ in range(wish.rounds):
        async with wish.place.fresh() as url, running(url, replayed("fan", body)) as run:
            await run.do("fan")
            await settle()
            run.commits.clear()
            with Lap() as lap:
                await run.do("fan")
            seconds.append(lap.seconds)
            cpus.append(lap.cpu / width * 1000)
            groups = run.commits.groups
            rows = await Rows.of(run.engine.store, "fan", 1)
        async with wish.place.fresh() as url:
            bounds.append(sum(await time_groups(url, grouped(rows.interleaved(1), (width + 2) / groups))))
    details = {"calls": width, "groups": groups, "rounds": seconds}
    return Figure("W4", wish.place.kind, middle(seconds), "s", middle(bounds), middle(cpus), details)
