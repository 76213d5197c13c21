"""What the engine itself costs: turns over a host whose commits are durable at once.

``python -m bench.turn`` prints microseconds a call of `ctx.run` in runs of ten
calls, one after another and a hundred in flight; the cost of the 10,000th call of a
run against its 10th; and how many entries a second are replayed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from everstep.codec import codec_for
from everstep.core.batch import APPLIED, Batch, Mode, Outcome, Run
from everstep.core.journal import Entry
from everstep.engine.context import Context
from everstep.engine.faults import Limits
from everstep.engine.registry import Handler
from everstep.engine.turn import Turn

START = 1_700_000_000_000_000
RUN = Run(id=1, rid="r_1", handler="body", mode=Mode.REPLAY, status=3, input=b"null", created_at=START)


class Instant:
    """A host whose store is a list."""

    evict_always = False

    def __init__(self, entries: list[Entry] | None = None, *, keeps: bool = False) -> None:
        self.keeps = keeps
        self.recorded = entries if entries is not None else []
        self.written: list[Entry] = []
        self._due: list[tuple[Callable[[Outcome], None], Batch]] = []
        self._loop = asyncio.get_running_loop()

    @property
    def store(self) -> Any:
        return self

    async def entries(self, run: int, generation: int) -> list[Entry]:
        return self.recorded

    async def promises(self, run: int) -> list[Any]:
        return []

    def now(self) -> int:
        return time.time_ns() // 1000

    def commit(self, batch: Batch, done: Callable[[Outcome], None]) -> None:
        if not self._due:
            self._loop.call_soon(self._group)
        self._due.append((done, batch))

    def _group(self) -> None:
        due, self._due = self._due, []
        for done, batch in due:
            if self.keeps:
                self.written += batch.entries
            done(APPLIED)

    def at(self, due_us: int, fn: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(max(0.0, due_us / 1e6 - time.time()), fn)


async def step(i: int) -> int:
    return i


async def page(i: int) -> dict[str, Any]:
    return {"i": i, "pad": "x" * 80}


async def ten(ctx: Context, _: Any) -> int:
    for i in range(10):
        await ctx.run(page, i)
    return 1


def many(count: int) -> Callable[..., Awaitable[Any]]:
    async def body(ctx: Context, _: Any) -> int:
        for i in range(count):
            await ctx.run(step, i)
        return count

    return body


def handler(call: Callable[..., Awaitable[Any]]) -> Handler:
    return Handler("body", Mode.REPLAY, call, input=codec_for(Any), output=codec_for(Any))


async def in_flight(width: int, runs: int) -> float:
    """Microseconds of a call, with so many runs in flight."""
    host, found = Instant(), handler(ten)
    left = iter(range(runs))

    async def worker() -> None:
        for _ in left:
            await Turn(host, replace(RUN), found).drive()

    began = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(width)])
    return (time.perf_counter() - began) / (runs * 10) * 1e6


async def growth(calls: int) -> float:
    """How much dearer the last thousand calls of one run are than its second thousand."""
    marks: list[float] = []

    async def body(ctx: Context, _: Any) -> None:
        for i in range(calls):
            if i % 1000 == 0:
                marks.append(time.perf_counter())
            await ctx.run(step, i)
        marks.append(time.perf_counter())

    await Turn(Instant(), replace(RUN), handler(body)).drive()
    spans = [after - before for before, after in pairwise(marks)]
    return spans[-1] / spans[1]


async def replayed(calls: int) -> float:
    """Entries replayed in a second."""
    first = Instant(keeps=True)
    await Turn(first, replace(RUN), handler(many(calls))).drive()
    best = 0.0
    for _ in range(5):
        turn = Turn(Instant(first.written), replace(RUN), handler(many(calls)))
        began = time.perf_counter()
        await turn.drive()
        best = max(best, calls / (time.perf_counter() - began))
    return best


async def main() -> None:
    Limits.most_entries = Limits.warn_entries = 1_000_000
    for width in (1, 100):
        best = min([await in_flight(width, 1_000) for _ in range(5)])
        print(f"ctx.run, {width:3} in flight: {best:6.2f} us a call")
    print(f"10,000th call against the 10th: {min([await growth(10_000) for _ in range(3)]):.2f}")
    for calls in (10, 1_000, 10_000):
        print(f"replay of {calls:6,} entries: {await replayed(calls):10,.0f} entries/s")


if __name__ == "__main__":
    asyncio.run(main())
